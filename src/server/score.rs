//! `POST /v1/score`, in vLLM's form: how well pairs of texts fit together.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{Object, OpenApi};
use serde::{Deserialize, Serialize};

use super::{
    AppState,
    auth::Caller,
    body::Json,
    desk::{
        Body, Desk, Request, Seat, WireParam,
        params::{asker, tokens, truncating},
        random_id, unix_time_s,
    },
    reply::{Answer, Reply},
    rerank::{Ranks, RerankTag, RerankUsage},
    schema::{TextOr, wire_enum},
};
use crate::{
    chat::rerank::{MAX_DOCUMENTS, RankRequest},
    error::{Error, Result},
    param::Given,
};

wire_enum! {
    /// What kind of object this is.
    pub(crate) enum ScoreListKind {
        List = "list",
    }
}

wire_enum! {
    /// What kind of object this is.
    pub(crate) enum ScoreKind {
        Score = "score",
    }
}

/// Pairs of texts. Of parameters that are not listed here, those that decide what an answer is are
/// refused by name, others are ignored and named in `x-kolosal-ignored`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields, rename = "ScoreRequest")]
pub(crate) struct ScoreParts {
    /// The engine to ask, by its `engine_id`; the only one if absent.
    #[oai(nullable)]
    model: Option<String>,
    /// One text, or as many as there are in `text_2`; none of them empty.
    #[oai(nullable)]
    #[serde(alias = "queries")]
    text_1: Option<TextOr<String>>,
    /// One text or up to 2047, none of them empty.
    #[oai(nullable)]
    #[serde(alias = "documents")]
    text_2: Option<TextOr<String>>,
}

/// How pairs are read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ScoreOptions {
    max_prompt_tokens: Option<usize>,
}

/// A request to score pairs.
pub(crate) struct ScoreRequest {
    parts: ScoreParts,
    options: ScoreOptions,
}

impl Request for ScoreRequest {
    type Parts = ScoreParts;
    type Target = ScoreOptions;
    const PARAMS: &'static [WireParam<ScoreOptions>] = &[
        truncating(
            "Cut pairs to so many tokens, from the end of the second text; -1: to what the model takes. \
             Absent: one that is too long is an error.",
            |options: &mut ScoreOptions, x| options.max_prompt_tokens = Some(tokens(x)),
        ),
        asker(),
    ];

    fn new(parts: ScoreParts, options: ScoreOptions, _: Given) -> Result<Self> {
        Ok(Self { parts, options })
    }
}

impl ScoreRequest {
    /// Requests whose documents, one after the other, are the second texts of the pairs.
    fn into_rankings(self) -> Result<Vec<RankRequest>> {
        let ScoreOptions { max_prompt_tokens } = self.options;
        let firsts = texts("text_1", self.parts.text_1)?;
        let seconds = texts("text_2", self.parts.text_2)?;
        let ranking = |query: String, documents: Vec<String>| RankRequest {
            query,
            documents,
            max_prompt_tokens,
            field: "text_2",
            ..RankRequest::default()
        };
        if let [only] = firsts.as_slice() {
            return Ok(vec![ranking(only.clone(), seconds)]);
        }
        if firsts.len() != seconds.len() {
            let text = format!(
                "text_1 has {} texts and text_2 {}; either text_1 is one, or both are as many",
                firsts.len(),
                seconds.len()
            );
            return Err(Error::invalid("text_1", text));
        }
        let pairs = firsts.into_iter().zip(seconds);
        Ok(pairs.map(|(first, second)| ranking(first, vec![second])).collect())
    }
}

fn texts(field: &'static str, texts: Option<TextOr<String>>) -> Result<Vec<String>> {
    let texts = match texts {
        Some(TextOr::Text(text)) => vec![text],
        Some(TextOr::Items(texts)) => texts,
        None => {
            let error = Error::invalid(field, format!("{field}: this required field is missing"));
            return Err(error.with_code("missing_required_parameter"));
        }
    };
    if texts.is_empty() || texts.len() > MAX_DOCUMENTS {
        let text = format!("{field}: from 1 to {MAX_DOCUMENTS} texts, are {}", texts.len());
        return Err(Error::invalid(field, text));
    }
    Ok(texts)
}

/// The score of one pair.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct Score {
    /// Which pair this is.
    pub index: usize,
    pub object: ScoreKind,
    /// From 0 to 1 by a cross-encoder; the cosine of the two embeddings, from -1 to 1, by any other
    /// model.
    pub score: f32,
}

/// Scores in the order of the pairs.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct ScoreList {
    pub id: String,
    pub object: ScoreListKind,
    /// Unix time in seconds.
    pub created: u64,
    pub model: String,
    pub data: Vec<Score>,
    pub usage: RerankUsage,
}

/// The route for scores.
pub(crate) struct ScoreApi(pub Arc<AppState>);

#[OpenApi]
impl ScoreApi {
    /// Score pairs of texts
    ///
    /// Pairs the one text of `text_1` with each of `text_2`, or the texts of both lists in their order.
    #[oai(path = "/score", method = "post", operation_id = "score", tag = "RerankTag::Rerank")]
    async fn score(
        &self,
        caller: Data<&Caller>,
        request: Body<ScoreRequest>,
    ) -> Answer<Json<ScoreList>, Ranks> {
        let model = request.0.parts.model.clone();
        let rankings = request.0.into_rankings()?;
        let desk = Desk::new(&self.0, &caller);
        let seat = desk.seat(model.as_deref()).await?;
        let (scores, tokens) = scores(&desk, &seat, rankings).await?;
        let score = |(index, score)| Score { index, object: ScoreKind::Score, score };
        Ok(Reply::new(Json(ScoreList {
            id: format!("score-{}", random_id()),
            object: ScoreListKind::List,
            created: unix_time_s(),
            model: seat.model,
            data: scores.into_iter().enumerate().map(score).collect(),
            usage: RerankUsage { prompt_tokens: tokens, total_tokens: tokens },
        })))
    }
}

/// Scores of all pairs, and the tokens that were read for them.
async fn scores(
    desk: &Desk<'_>,
    seat: &Seat,
    rankings: Vec<RankRequest>,
) -> Result<(Vec<f32>, u32)> {
    let (mut scores, mut tokens) = (Vec::new(), 0);
    let is_paired = rankings.len() > 1;
    for (i, ranking) in rankings.into_iter().enumerate() {
        let ranked = desk.rank(seat, ranking).await;
        let ranked = ranked.map_err(|error| if is_paired { at_pair(error, i) } else { error });
        let ranked = ranked.map_err(|error| renamed(error, "query", "text_1"))?;
        tokens += ranked.prompt_tokens;
        scores.extend(ranked.relevance());
    }
    Ok((scores, tokens))
}

/// An error about the only document of a request, which is one of many here.
fn at_pair(error: Error, i: usize) -> Error {
    let error = renamed(error, "text_2[0]", &format!("text_2[{i}]"));
    renamed(error, "query", &format!("text_1[{i}]"))
}

/// The same error of a field that has another name for whoever asks.
fn renamed(error: Error, field: &str, name: &str) -> Error {
    if error.param.as_deref() != Some(field) {
        return error;
    }
    let message = error.message.replacen(field, name, 1);
    Error { message, ..error }.with_param(name)
}
