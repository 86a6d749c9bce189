//! One way through for every route that generates: engine, start, notes, answer, end.

use std::time::Instant;

use futures_util::stream::BoxStream;
use poem::{IntoResponse, Response};
use poem_openapi::{
    ResponseContent,
    payload::Payload,
    registry::{MetaMediaType, Registry},
};
use tokio_util::sync::CancellationToken;

use super::{Ask, Desk, Seat, Wanted, head::fingerprint, tale::Tale};
use crate::{
    chat::generation::{Collected, Step, Tally, generate_all},
    error::{Error, Result},
    server::{body::Json, drain::Drain, lines::Lines, sse::Events},
};

/// What a renderer is told of an answer that begins.
pub(crate) struct Begun {
    /// The name that was asked for, or the engine's own.
    pub model: String,
    /// Changes when the program or the model's files change.
    pub fingerprint: String,
    /// Tokens that prompt and answer may have together.
    pub context_len: usize,
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

/// An answer in either form.
pub(crate) enum Served<W, S> {
    Whole(W),
    Stream(S),
}

impl<W, E: Send + 'static> Served<W, BoxStream<'static, Result<E>>> {
    /// JSON, or server-sent events.
    pub(crate) fn events(self, drain: &Drain) -> Served<Json<W>, Events<E>> {
        match self {
            Self::Whole(whole) => Served::Whole(Json(whole)),
            Self::Stream(events) => Served::Stream(Events::new(events, drain.clone())),
        }
    }

    /// JSON, in a stream one object a line.
    pub(crate) fn lines(self, drain: &Drain) -> Served<Json<W>, Lines<E>> {
        match self {
            Self::Whole(whole) => Served::Whole(Json(whole)),
            Self::Stream(lines) => Served::Stream(Lines::new(lines, drain.clone())),
        }
    }
}

impl<W: IntoResponse, S: IntoResponse> IntoResponse for Served<W, S> {
    fn into_response(self) -> Response {
        match self {
            Self::Whole(whole) => whole.into_response(),
            Self::Stream(stream) => stream.into_response(),
        }
    }
}

impl<W: Payload, S: Payload> ResponseContent for Served<W, S> {
    fn media_types() -> Vec<MetaMediaType> {
        W::media_types().into_iter().chain(S::media_types()).collect()
    }

    fn register(registry: &mut Registry) {
        <W as Payload>::register(registry);
        <S as Payload>::register(registry);
    }
}

/// The events of an answer.
pub(crate) type Streamed<R> = BoxStream<'static, Result<<R as Render>::Event>>;

impl Desk<'_> {
    /// Answers: with the whole when it is complete, or at once with a stream.
    ///
    /// # Errors
    /// The request is refused, in which case nothing has changed; or, without a stream, the answer
    /// fails.
    pub(crate) async fn serve<R: Render>(
        &self,
        ask: Ask,
        render: impl FnOnce(&Begun) -> R,
    ) -> Result<Served<R::Whole, Streamed<R>>> {
        let seat = self.seat(ask.model.as_deref()).await?;
        self.serve_at(seat, ask, render).await
    }

    /// As [`Self::serve`], on an engine that is there.
    ///
    /// # Errors
    /// As [`Self::serve`].
    pub(crate) async fn serve_at<R: Render>(
        &self,
        seat: Seat,
        ask: Ask,
        render: impl FnOnce(&Begun) -> R,
    ) -> Result<Served<R::Whole, Streamed<R>>> {
        let Ask { model: _, prompts, is_stream, keep_alive, wanted } = ask;
        let Seat { lease, model, taken } = seat;
        let started = self.finish(generate_all(&lease.text, &lease.engine, prompts));
        let generation = started.await?;
        self.caller.tell(generation.notes());
        if let Some(keep_alive) = keep_alive {
            lease.set_idle_timeout(keep_alive);
        }
        let choices = 0..generation.num_choices() as u32;
        let prompts = choices.filter(|_| wanted.tokens).map(|at| generation.prompt(at).to_vec());
        let begun = Begun {
            model,
            fingerprint: fingerprint(&lease),
            context_len: lease.engine.spec().context_len,
            prompts: prompts.collect(),
            seated: taken,
            began: Instant::now(),
            wanted,
        };
        let tale = Tale::new(generation, lease, render(&begun), self);
        Ok(if is_stream {
            Served::Stream(tale.events())
        } else {
            Served::Whole(tale.whole().await?)
        })
    }
}
