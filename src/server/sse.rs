//! Server-sent events: chunks as `data:` lines, a sign of life while nothing comes, an error event when
//! it goes wrong midway, and what the dialect ends with.

use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use poem::{IntoResponse, Response};
use poem_openapi::{
    payload::Payload,
    registry::{MetaSchemaRef, Registry},
    types::Type,
};
use serde::Serialize;

use super::{
    drain::Drain,
    error::Failure,
    streaming::{Source, response},
};
use crate::error::Error;

const CONTENT_TYPE: &str = "text/event-stream";

/// A sign of life is sent when nothing else was for so long; proxies give up on silent connections.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What a dialect's events look like; OpenAI's by default, which have no names.
pub(crate) trait Event: Serialize + Send + 'static {
    /// Sent when nothing else was for a while.
    const PATIENCE: &'static [u8] = b": keep-alive\n\n";
    /// Sent after the last event; may be empty.
    const END: &'static [u8] = b"data: [DONE]\n\n";

    fn name(&self) -> Option<&'static str> {
        None
    }

    /// The event of a failure midway.
    fn failure(error: Error) -> Vec<u8> {
        frame(None, &Failure::from(error).body()).unwrap_or_default()
    }
}

/// A stream of chunks; an error becomes an error event and the end.
pub(crate) struct Events<C>(Source<C>);

impl<C> Events<C> {
    pub(crate) fn new(
        chunks: impl Stream<Item = Result<C, Error>> + Send + 'static,
        drain: Drain,
    ) -> Self {
        Self(Source::new(chunks, drain))
    }
}

impl<C: Type> Payload for Events<C> {
    const CONTENT_TYPE: &'static str = CONTENT_TYPE;

    // The schema of one event's data; OpenAI's own document does it the same way.
    fn schema_ref() -> MetaSchemaRef {
        C::schema_ref()
    }

    fn register(registry: &mut Registry) {
        C::register(registry);
    }
}

impl<C: Event> IntoResponse for Events<C> {
    fn into_response(self) -> Response {
        let frames = futures_util::stream::unfold(Some(self), |events| async {
            Some(events?.next_frame().await)
        });
        response(CONTENT_TYPE, frames)
    }
}

impl<C: Event> Events<C> {
    /// The next bytes, and the stream unless these were the last.
    async fn next_frame(mut self) -> (Bytes, Option<Self>) {
        let Ok(chunk) = tokio::time::timeout(KEEP_ALIVE, self.0.next()).await else {
            return (Bytes::from_static(C::PATIENCE), Some(self));
        };
        match chunk {
            Some(Ok(chunk)) => match frame(chunk.name(), &chunk) {
                Ok(bytes) => (bytes.into(), Some(self)),
                Err(error) => (last_error::<C>(Error::internal(error.to_string())), None),
            },
            Some(Err(error)) => (last_error::<C>(error), None),
            None => (Bytes::from_static(C::END), None),
        }
    }
}

fn frame(name: Option<&str>, data: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut bytes = name.map(|name| format!("event: {name}\n")).unwrap_or_default().into_bytes();
    bytes.extend_from_slice(b"data: ");
    serde_json::to_writer(&mut bytes, data)?;
    bytes.extend_from_slice(b"\n\n");
    Ok(bytes)
}

fn last_error<C: Event>(error: Error) -> Bytes {
    let mut bytes = C::failure(error);
    bytes.extend_from_slice(C::END);
    bytes.into()
}
