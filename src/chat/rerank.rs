//! Documents ordered by how well they answer a query: scored in pairs by a cross-encoder, one by one by a
//! model that answers yes or no, or by the cosine of their embeddings.

use std::borrow::Cow;
use std::sync::Arc;

use super::embedding::{EmbedForm, EmbedInput, MAX_INPUTS, compute, embed};
use super::preparation::stopped;
use super::rank_template::RankTemplate;
use super::{Patience, Special, Stopped, TextModel, Until};
use crate::engine::{EmbedRequest, Engine};
use crate::error::{Error, Result};
use crate::model::Purpose;

/// Most documents of one call; the query takes a place among the inputs of an embedding model.
pub const MAX_DOCUMENTS: usize = MAX_INPUTS - 1;

/// What is to be ordered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RankRequest {
    pub query: String,
    pub documents: Vec<String>,
    /// Tokens of a document that are read; the rest is cut off.
    pub max_document_tokens: Option<usize>,
    /// Documents are cut to what the context leaves them; otherwise a longer one is an error.
    pub cut_to_context: bool,
    /// Tokens of a prompt at most, query and document together where they are read together; what is
    /// longer is cut off the document, and off a query that is read by itself.
    pub max_prompt_tokens: Option<usize>,
    /// What the caller calls the documents; errors name it.
    pub field: &'static str,
}

/// Scores in the order of the documents.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranking {
    pub scores: Vec<f32>,
    pub scale: Scale,
    /// Of all that was read.
    pub prompt_tokens: u32,
}

/// What scores mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Of a classifier, or of yes before no: any number, 0 is undecided.
    Logit,
    /// Of two vectors, -1 to 1.
    Cosine,
}

impl RankRequest {
    /// Tokens that a prompt may have.
    fn context(&self, engine: &Engine) -> usize {
        engine.spec().context_len.min(self.max_prompt_tokens.unwrap_or(usize::MAX))
    }
}

impl Ranking {
    /// From 0 to 1 for a classifier's scores; cosines as they are.
    #[must_use]
    pub fn relevance(&self) -> Vec<f32> {
        match self.scale {
            Scale::Logit => self.scores.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
            Scale::Cosine => self.scores.clone(),
        }
    }
}

/// Scores each document.
///
/// # Errors
/// 400 with the field for texts that are empty or longer than the context, and for models whose
/// classifier has several scores; the engine's failures.
pub async fn rank(text: &Arc<TextModel>, engine: &Engine, request: RankRequest) -> Result<Ranking> {
    let (count, field) = (request.documents.len(), request.field);
    if count == 0 || count > MAX_DOCUMENTS {
        let problem = format!("{field}: from 1 to {MAX_DOCUMENTS} documents, are {count}");
        return Err(Error::invalid(field, problem));
    }
    if request.query.is_empty() {
        return Err(Error::invalid("query", "query: it must not be empty"));
    }
    if let Some(i) = request.documents.iter().position(String::is_empty) {
        let field = format!("{field}[{i}]");
        let problem = format!("{field}: a document must not be empty");
        return Err(Error::invalid(field, problem));
    }
    match (engine.spec().purpose, engine.spec().hidden) {
        (Purpose::Rank, 1) => by_classifier(text, engine, request).await,
        (Purpose::Rank, scores) => {
            let problem = format!("this model's classifier has {scores} scores; ranking needs 1");
            Err(Error::invalid("model", problem))
        }
        _ => by_cosine(text, engine, request).await,
    }
}

async fn by_classifier(
    text: &Arc<TextModel>,
    engine: &Engine,
    request: RankRequest,
) -> Result<Ranking> {
    let (context, field) = (request.context(engine), request.field);
    let pairs = prepared(text, request, move |reader| match &reader.text.rank_template {
        Some(template) => reader.judgements(template, context),
        None => reader.pairs(context),
    });
    let pairs = pairs.await?;
    let (vectors, prompt_tokens) = compute(engine, pairs, &|i| format!("{field}[{i}]")).await?;
    let scores = vectors.iter().filter_map(|scores| scores.first().copied()).collect();
    Ok(Ranking { scores, scale: Scale::Logit, prompt_tokens })
}

async fn by_cosine(
    text: &Arc<TextModel>,
    engine: &Engine,
    request: RankRequest,
) -> Result<Ranking> {
    let (context, field) = (request.context(engine), request.field);
    let inputs = prepared(text, request, move |reader| {
        let tokenizer = &reader.text.tokenizer;
        let room = context.saturating_sub(tokenizer.frame(Vec::new()).len());
        let query = match reader.request.max_prompt_tokens {
            Some(_) => reader.start_of_query(room)?,
            None => reader.query(context)?,
        };
        let query = EmbedInput::Tokens(tokenizer.frame(query));
        let documents = (0..reader.request.documents.len())
            .map(|i| Ok(EmbedInput::Tokens(tokenizer.frame(reader.document(i, room)?))));
        std::iter::once(Ok(query)).chain(documents).collect::<Result<Vec<_>>>()
    });
    let inputs = inputs.await?;
    let embeddings = embed(text, engine, inputs, EmbedForm::default())
        .await
        .map_err(|error| renamed(error, field))?;
    let Some((query, documents)) = embeddings.vectors.split_first() else {
        return Err(Error::internal("no embedding of the query"));
    };
    let cosine = |document: &Vec<f32>| {
        let products = query.iter().zip(document).map(|(a, b)| f64::from(*a) * f64::from(*b));
        products.sum::<f64>() as f32
    };
    Ok(Ranking {
        scores: documents.iter().map(cosine).collect(),
        scale: Scale::Cosine,
        prompt_tokens: embeddings.prompt_tokens,
    })
}

/// Reads the texts of a request, as far as they are wanted.
struct Reader<'a> {
    text: &'a TextModel,
    request: &'a RankRequest,
    patience: &'a Patience,
}

impl Reader<'_> {
    fn query(&self, context: usize) -> Result<Vec<u32>> {
        let until = Until { max_tokens: context, patience: self.patience.clone() };
        let read = self.text.tokenizer.encode_until(&self.request.query, Special::Plain, &until);
        read.map_err(|why| {
            stopped(why, "query", |least| {
                format!("query: at least {least} tokens exceed the context of {context}")
            })
        })
    }

    fn start_of_query(&self, count: usize) -> Result<Vec<u32>> {
        let query = &self.request.query;
        let start = self.text.tokenizer.encode_start(query, count, self.patience);
        start.map_err(|why| stopped(why, "query", |_| "query".to_owned()))
    }

    /// Tokens of a document: as many as the request wants, or all if there is room.
    fn document(&self, i: usize, room: usize) -> Result<Vec<u32>> {
        let request = self.request;
        let (tokenizer, document) = (&self.text.tokenizer, &request.documents[i]);
        let field = format!("{}[{i}]", request.field);
        let told = |why| {
            stopped(why, &field, |least| {
                format!("{field}: at least {least} tokens, there is room for {room}")
            })
        };
        let wanted = request.max_document_tokens.unwrap_or(usize::MAX);
        let is_cut = request.cut_to_context || request.max_prompt_tokens.is_some();
        if is_cut || wanted <= room {
            let start = tokenizer.encode_start(document, wanted.min(room), self.patience);
            return start.map_err(told);
        }
        let until = Until { max_tokens: room, patience: self.patience.clone() };
        tokenizer.encode_until(document, Special::Plain, &until).map_err(told)
    }

    /// Query and document side by side, for a cross-encoder.
    fn pairs(&self, context: usize) -> Result<Vec<EmbedRequest>> {
        let query = self.query(context)?;
        let tokenizer = &self.text.tokenizer;
        let empty = tokenizer.pair(&query, &[]).0.len();
        if empty >= context {
            return Err(no_room(query.len(), context));
        }
        let documents = (0..self.request.documents.len()).map(|i| {
            let document = self.document(i, context - empty)?;
            let (prompt, second_from) = tokenizer.pair(&query, &document);
            Ok(EmbedRequest { prompt, second_from, ..EmbedRequest::default() })
        });
        documents.collect()
    }

    /// Prompts that ask whether a document answers the query.
    fn judgements(&self, template: &RankTemplate, context: usize) -> Result<Vec<EmbedRequest>> {
        let request = self.request;
        let num_query = self.query(context)?.len();
        let until = Until { max_tokens: usize::MAX, patience: self.patience.clone() };
        let empty = self.judgement(template, "", &until).map_err(|why| {
            stopped(why, "query", |least| format!("query: at least {least} tokens"))
        })?;
        if empty.len() >= context {
            return Err(no_room(num_query, context));
        }
        let all = context - empty.len();
        let mut prompts = Vec::with_capacity(request.documents.len());
        for i in 0..request.documents.len() {
            let mut room = all;
            let prompt = loop {
                let document = self.shortened(i, room)?;
                let prompt = self.judgement(template, &document, &until);
                let prompt =
                    prompt.map_err(|why| stopped(why, request.field, |_| String::new()))?;
                // Where texts meet, tokens may be others than by themselves.
                match prompt.len().checked_sub(context).filter(|over| *over > 0) {
                    None => break prompt,
                    Some(over) => room = room.saturating_sub(over),
                }
            };
            prompts.push(EmbedRequest { prompt, ..EmbedRequest::default() });
        }
        Ok(prompts)
    }

    fn judgement(
        &self,
        template: &RankTemplate,
        document: &str,
        until: &Until,
    ) -> std::result::Result<Vec<u32>, Stopped> {
        let tokenizer = &self.text.tokenizer;
        let (text, protected) = template.render(tokenizer, &self.request.query, document);
        let mut tokens = tokenizer.encode_except_until(&text, &protected, until)?;
        tokenizer.add_bos_to(&mut tokens);
        Ok(tokens)
    }

    /// The document as far as it is read: whole, or what so many of its tokens say.
    fn shortened(&self, i: usize, room: usize) -> Result<Cow<'_, str>> {
        let (request, whole) = (self.request, &self.request.documents[i]);
        let tokens = self.document(i, room)?;
        if !request.cut_to_context && request.max_document_tokens.is_none() {
            return Ok(Cow::Borrowed(whole));
        }
        let mut text = self.text.tokenizer.decode(&tokens);
        if !whole.ends_with(char::REPLACEMENT_CHARACTER) {
            // A character may be cut in two.
            let len = text.trim_end_matches(char::REPLACEMENT_CHARACTER).len();
            text.truncate(len);
        }
        Ok(Cow::Owned(text))
    }
}

fn no_room(num_query: usize, context: usize) -> Error {
    let problem = format!(
        "query: its {num_query} tokens leave no room for a document in a context of {context}"
    );
    Error::invalid("query", problem).with_code("context_length_exceeded")
}

/// The inputs of an embedding are the query and then the documents.
fn renamed(error: Error, field: &str) -> Error {
    let at = error
        .param
        .as_deref()
        .and_then(|param| param.strip_prefix("input[")?.strip_suffix(']')?.parse::<usize>().ok());
    let Some(at) = at else { return error };
    let name = match at.checked_sub(1) {
        None => "query".to_owned(),
        Some(i) => format!("{field}[{i}]"),
    };
    let message = error.message.replace(&format!("input[{at}]"), &name);
    Error { message, ..error }.with_param(name)
}

/// Reads texts where that may take its time.
async fn prepared<T: Send + 'static>(
    text: &Arc<TextModel>,
    request: RankRequest,
    work: impl FnOnce(&Reader<'_>) -> Result<T> + Send + 'static,
) -> Result<T> {
    let model = Arc::clone(text);
    let bytes = request.query.len() + request.documents.iter().map(String::len).sum::<usize>();
    let reading =
        move |patience: &Patience| work(&Reader { text: &model, request: &request, patience });
    text.preparations().run(bytes, reading).await
}
