//! What a dialect does with an answer: it writes beats in its own form.

use std::time::Instant;

use futures_util::stream::BoxStream;
use tokio_util::sync::CancellationToken;

use super::Wanted;
use crate::{
    chat::{
        SamplingDefaults,
        generation::{Collected, Step, Tally},
    },
    error::{Error, Result},
};

/// What a renderer is told of an answer that begins.
pub(crate) struct Begun {
    /// The name that was asked for, or the engine's own.
    pub model: String,
    /// Changes when the program or the model's files change.
    pub fingerprint: String,
    /// Tokens that prompt and answer may have together.
    pub context_len: usize,
    /// The token that ends an answer, if the model has one.
    pub eos: Option<u32>,
    /// How tokens are chosen, whoever said it.
    pub sampling: SamplingDefaults,
    /// Tokens of the prompt of each choice, if token ids are wanted; else empty.
    pub prompts: Vec<Vec<u32>>,
    /// When the engine was in memory.
    pub seated: Instant,
    /// When the prompts were given to the engine.
    pub began: Instant,
    pub wanted: Wanted,
}

/// Looks up what was taken so far.
pub(crate) type Now<'a> = &'a dyn Fn() -> Tally;

/// How a dialect writes an answer.
pub(crate) trait Render: Send + 'static {
    /// One piece of a stream.
    type Event: Send + 'static;
    /// The answer at once.
    type Whole;

    /// What a stream begins with.
    fn begin(&mut self, _now: Now<'_>) -> Vec<Self::Event> {
        Vec::new()
    }

    /// What a stream has for a step, which holds no failure.
    fn step(&mut self, step: Step, now: Now<'_>) -> Vec<Self::Event>;

    /// What a stream ends with when all choices are complete.
    fn end(&mut self, _now: Now<'_>) -> Vec<Self::Event> {
        Vec::new()
    }

    /// The last events of a stream that fails.
    ///
    /// # Errors
    /// The failure, where it is no event of the dialect's own.
    fn fail(&mut self, error: Error, _now: Now<'_>) -> Result<Vec<Self::Event>> {
        Err(error)
    }

    /// Ends the answer early.
    fn cancelled(&self) -> Option<CancellationToken> {
        None
    }

    fn whole(self, collected: Collected) -> Self::Whole;
}

/// The events of an answer.
pub(crate) type Streamed<R> = BoxStream<'static, Result<<R as Render>::Event>>;
