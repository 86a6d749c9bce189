//! Embeddings of texts: tokenized, computed by the engine, brought to length one.

use std::collections::VecDeque;
use std::sync::Arc;

use super::preparation::stopped;
use super::{Patience, Special, TextModel, Until};
use crate::engine::{EmbedRequest, Engine, Job};
use crate::error::{Error, Kind, Result};
use crate::model::Purpose;

/// Most texts of one call.
pub const MAX_INPUTS: usize = 2048;
/// Jobs of one call that the engine has at a time; the others wait here and not in its queue.
const MAX_IN_FLIGHT: usize = 32;

/// A text whose embedding is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EmbedInput {
    Text(String),
    /// Token ids, as they are.
    Tokens(Vec<u32>),
}

impl EmbedInput {
    fn num_bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Tokens(tokens) => size_of_val(tokens.as_slice()),
        }
    }
}

/// How embeddings are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EmbedForm {
    /// Keep so many leading values of each vector.
    pub dimensions: Option<usize>,
    /// Cut inputs to so many tokens, those that frame them included; otherwise one that is longer than
    /// the context is an error.
    pub max_tokens: Option<usize>,
}

/// Embeddings in the order of the inputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Embeddings {
    /// Each of length one.
    pub vectors: Vec<Vec<f32>>,
    /// Of all inputs together.
    pub prompt_tokens: u32,
}

/// Computes the embedding of each input.
///
/// # Errors
/// 400 with the field's path for an input that is empty or longer than the context, and for more
/// dimensions than the model has; the engine's failures.
pub async fn embed(
    text: &Arc<TextModel>,
    engine: &Engine,
    inputs: Vec<EmbedInput>,
    form: EmbedForm,
) -> Result<Embeddings> {
    let EmbedForm { dimensions, max_tokens } = form;
    if inputs.is_empty() || inputs.len() > MAX_INPUTS {
        let problem = format!("inputs must be from 1 to {MAX_INPUTS}, are {}", inputs.len());
        return Err(Error::invalid("input", problem));
    }
    if engine.spec().purpose == Purpose::Rank {
        let problem = "this model ranks documents (/v1/rerank); it makes no embeddings";
        return Err(Error::invalid("model", problem).with_code("model_not_embedding"));
    }
    let hidden = engine.spec().hidden;
    if let Some(wanted) = dimensions
        && (wanted == 0 || wanted > hidden)
    {
        let problem = format!("dimensions must be from 1 to {hidden}, is {wanted}");
        return Err(Error::invalid("dimensions", problem));
    }
    let (model, context) = (Arc::clone(text), engine.spec().context_len);
    let bytes = inputs.iter().map(EmbedInput::num_bytes).sum();
    let reading = move |patience: &Patience| {
        let until = Until { max_tokens: context, patience: patience.clone() };
        let cut = max_tokens.map(|max| max.min(context));
        requests(inputs, &model, (&until, cut))
    };
    let requests = text.preparations().run(bytes, reading).await?;
    let field = |i: usize| format!("input[{i}]");
    let (mut vectors, prompt_tokens) = compute(engine, requests, &field).await?;
    for vector in &mut vectors {
        vector.truncate(dimensions.unwrap_or(usize::MAX));
        normalise(vector);
    }
    Ok(Embeddings { vectors, prompt_tokens })
}

/// What the model makes of each request, in order, and the tokens of all. `field` names a request in
/// errors about it.
///
/// # Errors
/// 400 with the field of a request that is over a limit; the engine's failures.
pub(super) async fn compute(
    engine: &Engine,
    requests: Vec<EmbedRequest>,
    field: &(dyn Fn(usize) -> String + Sync),
) -> Result<(Vec<Vec<f32>>, u32)> {
    for (i, request) in requests.iter().enumerate() {
        request.validate(engine.spec()).map_err(|error| of_request(error, &field(i)))?;
    }
    let engine = engine.grouped();
    let mut vectors = Vec::with_capacity(requests.len());
    let mut prompt_tokens = 0;
    let mut jobs: VecDeque<Job> = VecDeque::new();
    for request in requests {
        while jobs.len() >= MAX_IN_FLIGHT {
            take_first(&mut jobs, &mut vectors, &mut prompt_tokens).await?;
        }
        loop {
            match engine.embed(request.clone()) {
                Ok(job) => break jobs.push_back(job),
                Err(error) if error.kind == Kind::Unavailable && !jobs.is_empty() => {
                    take_first(&mut jobs, &mut vectors, &mut prompt_tokens).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }
    while !jobs.is_empty() {
        take_first(&mut jobs, &mut vectors, &mut prompt_tokens).await?;
    }
    Ok((vectors, prompt_tokens))
}

/// Waits for the oldest job and takes its result.
async fn take_first(
    jobs: &mut VecDeque<Job>,
    vectors: &mut Vec<Vec<f32>>,
    prompt_tokens: &mut u32,
) -> Result<()> {
    let Some(job) = jobs.pop_front() else { return Ok(()) };
    let outcome = job.wait().await?;
    let vector = job.result().embedding;
    vectors.push(vector.ok_or_else(|| Error::internal("a finished job has no embedding"))?);
    *prompt_tokens += outcome.usage.prompt_tokens;
    Ok(())
}

/// `cut`: tokens that each input has at most.
fn requests(
    inputs: Vec<EmbedInput>,
    text: &TextModel,
    (until, cut): (&Until, Option<usize>),
) -> Result<Vec<EmbedRequest>> {
    let context = until.max_tokens;
    let frame = text.tokenizer.frame(Vec::new()).len();
    let request = |(i, input): (usize, EmbedInput)| {
        let field = format!("input[{i}]");
        let prompt = match input {
            EmbedInput::Text(input) if input.is_empty() => Vec::new(),
            EmbedInput::Text(input) if cut.is_some() => {
                let room = cut.unwrap_or(context).saturating_sub(frame);
                let start = text.tokenizer.encode_start(&input, room, &until.patience);
                text.tokenizer.frame(start.map_err(|why| stopped(why, &field, |_| field.clone()))?)
            }
            EmbedInput::Text(input) => {
                let read = text.tokenizer.encode_until(&input, Special::Parse, until);
                let too_long = |least| {
                    format!("{field}: at least {least} tokens exceed the context of {context}")
                };
                text.tokenizer.frame(read.map_err(|why| stopped(why, &field, too_long))?)
            }
            EmbedInput::Tokens(mut tokens) => {
                tokens.truncate(cut.unwrap_or(usize::MAX));
                tokens
            }
        };
        if prompt.is_empty() {
            let problem = format!("{field}: an input must not be empty");
            return Err(Error::invalid(field, problem));
        }
        Ok(EmbedRequest { prompt, ..EmbedRequest::default() })
    };
    inputs.into_iter().enumerate().map(request).collect()
}

/// The engine speaks of prompts.
fn of_request(error: Error, field: &str) -> Error {
    if error.param.as_deref() == Some("prompt") {
        let message = format!("{field}: {}", error.message);
        return Error { message, ..error }.with_param(field);
    }
    error
}

/// Divides a vector by its length; zeros stay zeros.
fn normalise(vector: &mut [f32]) {
    let length = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
}
