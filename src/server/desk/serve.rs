//! One way through for every route that generates: engine, start, notes, answer, end.

use std::time::Instant;

use super::{
    Ask, Desk, Seat,
    head::fingerprint,
    render::{Begun, Render, Streamed},
    tale::Tale,
};
use crate::{
    chat::generation::generate_all,
    error::Result,
    server::{body::Json, drain::Drain, lines::Lines, sse::Events},
};
use futures_util::stream::BoxStream;
use poem::{IntoResponse, Response};
use poem_openapi::{
    ResponseContent,
    payload::Payload,
    registry::{MetaMediaType, Registry},
};

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
        let sampling = prompts.first().map(|first| first.defaults_on(lease.text.sampling()));
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
            eos: lease.text.tokenizer.eos(),
            sampling: sampling.unwrap_or_default(),
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
