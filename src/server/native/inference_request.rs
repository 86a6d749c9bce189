//! Requests of the original server's own inference routes, and their translation.

use poem_openapi::Object;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    chat::{
        ChatInput,
        generation::{OutputRules, PromptInput, ToolUse},
        grammar::Grammar,
    },
    error::{Error, Result},
    param::{Given, Param, Scalar},
    server::{
        common::{Message, Tool, ToolChoice, ToolFields, ToolMode, conversation},
        desk::{
            Ask, Draft, Request, WireParam,
            form::{schema_of, shape},
            params, wire,
        },
        schema::{objects, wire_type},
    },
};

/// What the original's engine did where a request said nothing.
const MAX_NEW_TOKENS: u32 = 128;
const RANDOM_SEED: i64 = 42;

/// A JSON schema, or its text.
#[derive(Clone, Debug, serde::Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct SchemaOrText(Value);

wire_type!(SchemaOrText, "schema_or_text", {
    use poem_openapi::registry::MetaSchema;

    let one_of = vec![String::schema_ref(), crate::server::schema::FreeObject::schema_ref()];
    MetaSchema { one_of, ..MetaSchema::ANY }
});

/// A prompt to continue. Of parameters that are not listed here, those that decide what an answer
/// is are refused by name, others are ignored and named in `x-kolosal-ignored`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields, rename = "InferenceCompletionRequest")]
pub(crate) struct CompletionParts {
    /// The engine to ask, by its `engine_id`.
    #[oai(validator(min_length = 1))]
    model: String,
    prompt: String,
}

/// A conversation to answer. Of parameters that are not listed here, those that decide what an
/// answer is are refused by name, others are ignored and named in `x-kolosal-ignored`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[oai(deny_unknown_fields, rename_all = "camelCase", rename = "InferenceChatRequest")]
pub(crate) struct ChatParts {
    /// The engine to ask, by its `engine_id`.
    #[oai(validator(min_length = 1))]
    model: String,
    /// The conversation so far, oldest message first.
    #[oai(validator(min_items = 1, max_items = 8192))]
    #[serde(deserialize_with = "objects")]
    messages: Vec<Message>,
    /// Tools that the model may call, as the JSON text of OpenAI's list.
    #[oai(nullable)]
    tools: Option<String>,
    /// `auto`, also if absent, `none` or `required`.
    #[oai(nullable)]
    tool_choice: Option<ToolMode>,
}

/// What both requests have, by the names that the original gave it.
const SHARED: [WireParam<Draft>; 10] = [
    params::STREAM.named("streaming"),
    params::MAX_TOKENS
        .named("maxNewTokens")
        .saying("128 if absent, or as many as fit.")
        .remarking("128 if absent"),
    params::MIN_TOKENS.named("minLength"),
    params::TEMPERATURE,
    params::TOP_P.named("topP"),
    params::SEED
        .named("randomSeed")
        .within(0.0, i64::MAX as f64)
        .defaulting(Scalar::Integer(RANDOM_SEED)),
    params::GRAMMAR_TEXT,
    Param::json(
        "jsonSchema",
        "A JSON schema of the answer, or its text; empty: none.",
        wire::<SchemaOrText>(),
        |draft, value, place| {
            if value.as_str().is_none_or(|text| !text.trim().is_empty()) {
                let schema = schema_of(value, place)?;
                draft.shapes.push(shape(&place.path, Grammar::JsonSchema(schema)));
            }
            Ok(())
        },
    ),
    Param::text(
        "kvCacheFilePath",
        "Clients write no files here: must be absent, null or empty.",
        0,
        |_, _| {},
    )
    .refused("clients cannot name files of the server; prefixes are cached without"),
    Param::integer(
        "seqId",
        "Sequences are not chosen by clients: must be absent, null or -1.",
        (-1, -1),
        |_, _| {},
    )
    .refused("sequences are not chosen by clients; -1 is accepted"),
];

/// A request to continue a prompt.
pub(crate) struct InferenceCompletionRequest {
    parts: CompletionParts,
    draft: Draft,
}

/// A request to answer a conversation.
pub(crate) struct InferenceChatRequest {
    parts: ChatParts,
    draft: Draft,
}

impl Request for InferenceCompletionRequest {
    type Parts = CompletionParts;
    type Target = Draft;
    const PARAMS: &'static [WireParam<Draft>] = &SHARED;

    fn new(parts: CompletionParts, mut draft: Draft, given: Given) -> Result<Self> {
        draft.settle(&given)?;
        Ok(Self { parts, draft })
    }
}

impl Request for InferenceChatRequest {
    type Parts = ChatParts;
    type Target = Draft;
    const PARAMS: &'static [WireParam<Draft>] =
        &params::join::<{ SHARED.len() + 1 }>(&[&SHARED, &[params::RESPONSE_FORMAT]]);

    fn new(parts: ChatParts, mut draft: Draft, given: Given) -> Result<Self> {
        draft.settle(&given)?;
        Ok(Self { parts, draft })
    }
}

impl InferenceCompletionRequest {
    /// Checks everything that can be checked without the model.
    pub(super) fn into_ask(self) -> Ask {
        let Self { parts, draft } = self;
        ask(draft, parts.model, PromptInput::Text(parts.prompt), None)
    }
}

impl InferenceChatRequest {
    /// Checks everything that can be checked without the model.
    pub(super) fn into_ask(self) -> Result<Ask> {
        let Self { parts, draft } = self;
        let tools = tool_use(parts.tools.as_deref(), parts.tool_choice)?;
        let input = conversation(parts.messages, None, None)?;
        let shown = tools.as_ref().map(|tools| tools.definitions.clone());
        let prompt = PromptInput::Chat(ChatInput { tools: shown, ..input });
        Ok(ask(draft, parts.model, prompt, tools))
    }
}

fn ask(mut draft: Draft, model: String, prompt: PromptInput, tools: Option<ToolUse>) -> Ask {
    draft.request.default_max_tokens = Some(MAX_NEW_TOKENS);
    let rules = OutputRules { shape: draft.shapes.pop(), tools };
    let request = draft.request(prompt, rules);
    draft.into_ask(Some(model), vec![request])
}

/// The tools of a text; an empty one has none.
fn tool_use(text: Option<&str>, choice: Option<ToolMode>) -> Result<Option<ToolUse>> {
    let tools = match text.filter(|text| !text.trim().is_empty()) {
        None => None,
        Some(text) => Some(serde_json::from_str::<Vec<Tool>>(text).map_err(|error| {
            Error::invalid("tools", format!("tools: not the JSON text of a list of tools: {error}"))
        })?),
    };
    let tool_choice = choice.map(ToolChoice::Mode);
    ToolFields { tools, tool_choice, parallel_tool_calls: None }.into_use()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::SamplingDefaults;
    use crate::server::{desk, ignored::Ignored};

    #[test]
    fn what_is_not_about_the_model_is_the_originals_where_nothing_is_said() {
        let body = br#"{"model": "m", "prompt": "a"}"#;
        let request: InferenceCompletionRequest = desk::read(body, &Ignored::default()).unwrap();
        let ask = request.into_ask();
        let first = ask.prompts.first().unwrap();
        assert_eq!((first.said, first.seed), (SamplingDefaults::default(), Some(42)));
        assert_eq!((first.max_tokens, first.default_max_tokens), (None, Some(128)));
    }
}
