//! `POST /v1/rerank`: documents ordered by how well they answer a query.
//!
//! The request is Jina's and Cohere's with `documents`, and that of text-embeddings-inference with
//! `texts`; the answer has the form that the request asked in.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{Object, OpenApi, Tags, registry::MetaSchema};
use serde::{Deserialize, Serialize};

use super::{
    AppState,
    auth::Caller,
    body::Json,
    desk::{
        Body, Desk, Request, WireParam,
        params::{asker, tokens, truncating},
        random_id,
    },
    reply::{Answer, Outcomes, Reply},
    schema::{wire_enum, wire_type},
};
use crate::{
    chat::rerank::{RankRequest, Ranking},
    error::{Error, Result},
    param::{Given, Kind},
};

/// Heading of the document.
#[derive(Tags)]
pub(crate) enum RerankTag {
    /// Documents ordered by a query, compatible with Jina's, Cohere's and TEI's APIs.
    Rerank,
}

/// Outcomes of an operation that ranks.
pub(crate) struct Ranks;

impl Outcomes for Ranks {
    const SUCCESS: (u16, &'static str) = (200, "The documents in order");
    const FAILURES: &'static [u16] = &[400, 401, 404, 408, 413, 422, 429, 500, 503, 504];
}

wire_enum! {
    /// What kind of object this is.
    pub(crate) enum RankingKind {
        List = "list",
    }
}

/// A document with its text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct RerankText {
    pub text: String,
}

/// A document: its text, or an object with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a string or an object with `text` alone")]
pub(crate) enum RerankDocument {
    Text(String),
    Object(RerankText),
}

wire_type!(
    RerankDocument,
    "rerank_document",
    {
        let one_of = vec![String::schema_ref(), RerankText::schema_ref()];
        MetaSchema { one_of, ..MetaSchema::ANY }
    },
    RerankText
);

impl RerankDocument {
    fn into_text(self) -> String {
        match self {
            Self::Text(text) | Self::Object(RerankText { text }) => text,
        }
    }
}

/// A request to order documents. Of parameters that are not listed here, those that decide what an
/// answer is are refused by name, others are ignored and named in `x-kolosal-ignored`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields, rename = "RerankRequest")]
pub(crate) struct RerankParts {
    /// The engine to ask, by its `engine_id`; the only one if absent.
    #[oai(nullable)]
    model: Option<String>,
    /// What the documents are to answer; not empty.
    query: String,
    /// Up to 2047 documents, none of them empty. Query and document must fit the context together.
    #[oai(nullable)]
    documents: Option<Vec<RerankDocument>>,
    /// In place of `documents`, with the answer that text-embeddings-inference gives: a plain list.
    #[oai(nullable)]
    texts: Option<Vec<String>>,
}

/// How documents are read and shown.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RankOptions {
    top_n: Option<u32>,
    with_texts: bool,
    max_tokens_per_doc: Option<u32>,
    max_prompt_tokens: Option<usize>,
    truncate: bool,
    raw_scores: bool,
}

/// A request to order documents.
pub(crate) struct RerankRequest {
    parts: RerankParts,
    options: RankOptions,
}

type Row = WireParam<RankOptions>;

const COUNT: (i64, i64) = (1, u32::MAX as i64);

impl Request for RerankRequest {
    type Parts = RerankParts;
    type Target = RankOptions;
    const PARAMS: &'static [Row] = &[
        Row::integer(
            "top_n",
            "So many documents of the best; all if absent.",
            COUNT,
            |options, x| {
                options.top_n = Some(x as u32);
            },
        ),
        Row::switch("return_documents", "Put the documents into the answer.", |options, is_on| {
            options.with_texts |= is_on;
        }),
        Row::switch("return_text", "Put the texts into the answer.", |options, is_on| {
            options.with_texts |= is_on;
        }),
        Row::integer(
            "max_tokens_per_doc",
            "Tokens of each document that are read; what is longer is cut off. Without it and `truncate`, a \
             document that does not fit the context is an error.",
            COUNT,
            |options, x| options.max_tokens_per_doc = Some(x as u32),
        ),
        truncating(
            "Cut query and document together to so many tokens, from the document's end; -1: to the context.",
            |options: &mut RankOptions, x| options.max_prompt_tokens = Some(tokens(x)),
        ),
        Row::switch("truncate", "Cut documents to what the context holds.", |options, is_on| {
            options.truncate = is_on;
        }),
        Row::new(
            "truncation_direction",
            "Documents are cut at their right end.",
            Kind::Choice { words: &["right", "Right"], open: false, set: |_, _| {} },
        ),
        Row::switch(
            "raw_scores",
            "Scores as the classifier gives them, not brought to 0 to 1.",
            |options, is_on| options.raw_scores = is_on,
        ),
        asker(),
    ];

    fn new(parts: RerankParts, options: RankOptions, _: Given) -> Result<Self> {
        Ok(Self { parts, options })
    }
}

/// How an answer is to be written.
struct Form {
    is_tei: bool,
    with_texts: bool,
    raw_scores: bool,
    top_n: usize,
    model: Option<String>,
}

impl RerankRequest {
    fn into_parts(self) -> Result<(RankRequest, Form)> {
        let Self { parts, options } = self;
        let is_tei = parts.texts.is_some();
        let documents = match (parts.documents, parts.texts) {
            (Some(documents), None) => {
                documents.into_iter().map(RerankDocument::into_text).collect()
            }
            (None, Some(texts)) => texts,
            (Some(_), Some(_)) => {
                let problem = "texts: it stands in place of documents, not beside them";
                return Err(Error::invalid("texts", problem));
            }
            (None, None) => {
                let problem = "documents: this required field is missing";
                let error = Error::invalid("documents", problem);
                return Err(error.with_code("missing_required_parameter"));
            }
        };
        let form = Form {
            is_tei,
            with_texts: options.with_texts,
            raw_scores: options.raw_scores,
            top_n: options.top_n.map_or(usize::MAX, |count| count as usize),
            model: parts.model,
        };
        let request = RankRequest {
            query: parts.query,
            documents,
            max_document_tokens: options.max_tokens_per_doc.map(|count| count as usize),
            cut_to_context: options.truncate,
            max_prompt_tokens: options.max_prompt_tokens,
            field: if is_tei { "texts" } else { "documents" },
        };
        Ok((request, form))
    }
}

/// A document at its place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Object)]
pub(crate) struct RankedDocument {
    /// Which of the request's documents this is.
    pub index: usize,
    /// How well it answers the query: from 0 to 1 by a cross-encoder, the cosine of the two
    /// embeddings, from -1 to 1, by any other model.
    pub relevance_score: f32,
    /// With `return_documents`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<RerankText>,
}

/// A text at its place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Object)]
pub(crate) struct RankedText {
    pub index: usize,
    /// As `relevance_score`.
    pub score: f32,
    /// With `return_text`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// Tokens that a ranking took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, Object)]
pub(crate) struct RerankUsage {
    /// Of all that was read: the query counts once for each document that it was read with.
    pub prompt_tokens: u32,
    pub total_tokens: u32,
}

/// The API that Cohere's clients look for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Object)]
pub(crate) struct RerankApiVersion {
    pub version: String,
}

/// What Cohere bills.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, Object)]
pub(crate) struct RerankBilledUnits {
    pub search_units: u32,
}

/// About the answer, for Cohere's clients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Object)]
pub(crate) struct RerankMeta {
    pub api_version: RerankApiVersion,
    pub billed_units: RerankBilledUnits,
}

/// Documents, the best first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Object)]
pub(crate) struct RerankList {
    pub id: String,
    pub object: RankingKind,
    pub model: String,
    pub results: Vec<RankedDocument>,
    pub usage: RerankUsage,
    pub meta: RerankMeta,
}

/// The answer in the form of the request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum RerankAnswer {
    List(RerankList),
    Texts(Vec<RankedText>),
}

wire_type!(
    RerankAnswer,
    "rerank_answer",
    {
        let one_of = vec![RerankList::schema_ref(), <Vec<RankedText>>::schema_ref()];
        MetaSchema { one_of, ..MetaSchema::ANY }
    },
    RerankList,
    RankedText
);

impl RerankAnswer {
    /// `texts` are the documents if the answer is to have them.
    fn new(ranking: &Ranking, texts: Option<Vec<String>>, form: Form, model: &str) -> Self {
        let scores = if form.raw_scores { ranking.scores.clone() } else { ranking.relevance() };
        let mut order: Vec<usize> = (0..scores.len()).collect();
        // Stable: equal scores keep the order of the request.
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        order.truncate(form.top_n);
        let mut texts = texts.unwrap_or_default();
        let mut text = |index: usize| texts.get_mut(index).map(std::mem::take);
        if form.is_tei {
            let ranked = order.into_iter().map(|index| RankedText {
                index,
                score: scores[index],
                text: text(index),
            });
            return Self::Texts(ranked.collect());
        }
        let ranked = order.into_iter().map(|index| RankedDocument {
            index,
            relevance_score: scores[index],
            document: text(index).map(|text| RerankText { text }),
        });
        Self::List(RerankList {
            id: format!("rerank-{}", random_id()),
            object: RankingKind::List,
            model: model.to_owned(),
            results: ranked.collect(),
            usage: RerankUsage {
                prompt_tokens: ranking.prompt_tokens,
                total_tokens: ranking.prompt_tokens,
            },
            meta: RerankMeta {
                api_version: RerankApiVersion { version: "2".to_owned() },
                billed_units: RerankBilledUnits { search_units: 1 },
            },
        })
    }
}

/// The ranking route.
pub(crate) struct RerankApi(pub Arc<AppState>);

#[OpenApi]
impl RerankApi {
    /// Order documents by a query
    ///
    /// A cross-encoder reads the query with each document; with any other model, the documents are
    /// ordered by the cosine of their embeddings and that of the query. Nothing is cut off unless
    /// `truncate` or `max_tokens_per_doc` asks for it.
    #[oai(path = "/rerank", method = "post", operation_id = "rerank", tag = "RerankTag::Rerank")]
    async fn rerank(
        &self,
        caller: Data<&Caller>,
        request: Body<RerankRequest>,
    ) -> Answer<Json<RerankAnswer>, Ranks> {
        let (request, form) = request.0.into_parts()?;
        let texts = form.with_texts.then(|| request.documents.clone());
        let desk = Desk::new(&self.0, &caller);
        let seat = desk.seat(form.model.as_deref()).await?;
        let ranking = desk.rank(&seat, request).await?;
        Ok(Reply::new(Json(RerankAnswer::new(&ranking, texts, form, &seat.model))))
    }
}
