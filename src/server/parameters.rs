//! The parameters of requests as `docs/compatibility.md` lists them.

use super::{
    anthropic::MessagesRequest,
    desk::{Request, WireParam},
    native::{
        InferenceChatRequest, InferenceCompletionRequest, InfillRequest, LlamaCompletionRequest,
        LlamaEmbeddingRequest,
    },
    ollama::{OllamaChatRequest, OllamaEmbedRequest, OllamaGenerateRequest},
    openai::{ChatCompletionRequest, CompletionRequest, CreateResponse, EmbeddingRequest},
    rerank::RerankRequest,
    score::ScoreRequest,
};
use crate::param::{Effect, Kind, Scalar};

/// What becomes of a parameter of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    pub route: &'static str,
    /// With the name of the object that it stands in: `options.min_p`.
    pub name: String,
    /// `implemented`, `no effect` or `refused`.
    pub status: &'static str,
    pub remark: String,
}

/// Every parameter of the table, by route.
#[must_use]
pub fn parameters() -> Vec<Parameter> {
    [
        of::<ChatCompletionRequest>("/v1/chat/completions"),
        of::<CreateResponse>("/v1/responses"),
        of::<InferenceCompletionRequest>("/v1/inference/completions"),
        of::<InferenceChatRequest>("/v1/inference/chat/completions"),
        of::<CompletionRequest>("/v1/completions"),
        of::<InfillRequest>("/infill"),
        of::<LlamaCompletionRequest>("/completion"),
        of::<LlamaEmbeddingRequest>("/embedding"),
        of::<EmbeddingRequest>("/v1/embeddings"),
        of::<RerankRequest>("/v1/rerank"),
        of::<ScoreRequest>("/v1/score"),
        of::<MessagesRequest>("/v1/messages"),
        of::<OllamaChatRequest>("/api/chat"),
        of::<OllamaGenerateRequest>("/api/generate"),
        of::<OllamaEmbedRequest>("/api/embed"),
    ]
    .concat()
}

fn of<R: Request>(route: &'static str) -> Vec<Parameter> {
    let mut all = Vec::new();
    collect(R::PARAMS, (route, ""), &mut all);
    all
}

/// What the table says beside the status: of what it is another name, what holds without it, and what is
/// special.
fn remark_of<T>(param: &WireParam<T>, all: &[WireParam<T>], special: &str) -> String {
    let first = all.iter().find(|other| other.key == param.key);
    let alias = first.filter(|first| first.name != param.name);
    let alias = alias.map(|first| format!("another name of `{}`", first.name));
    let default = param.default.map(|default| match default {
        Scalar::Number(value) => format!("{value} if absent"),
        Scalar::Integer(value) => format!("{value} if absent"),
    });
    let special = (!special.is_empty()).then(|| special.to_owned());
    [alias, default, special].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn collect<T>(
    params: &[WireParam<T>],
    (route, within): (&'static str, &str),
    all: &mut Vec<Parameter>,
) {
    for param in params {
        let name = format!("{within}{}", param.name);
        let (status, remark) = match param.effect {
            Effect::Decides | Effect::Serves => ("implemented", param.remark),
            Effect::Nothing(why) => ("no effect", why),
            Effect::Refused(why) => ("refused", why),
        };
        let table = format!("{name}.");
        let remark = remark_of(param, params, remark);
        all.push(Parameter { route, name, status, remark });
        if let Kind::Table { params, .. } = param.kind {
            collect(params, (route, &table), all);
        }
    }
}
