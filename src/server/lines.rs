//! Streams of JSON objects, one a line (NDJSON).
//!
//! As in [`sse`](super::sse), the stream owns what it streams from: a client that goes away ends it.

use std::{io, panic::AssertUnwindSafe};

use futures_util::{FutureExt, Stream, StreamExt, stream::BoxStream};
use poem::{Body, IntoResponse, Response};
use poem_openapi::{
    payload::Payload,
    registry::{MetaSchemaRef, Registry},
    types::Type,
};
use serde::Serialize;
use serde_json::json;

use super::drain::Drain;
use crate::error::Error;

/// A stream of objects; an error becomes a last line with the field `error`.
pub(crate) struct Lines<C> {
    objects: BoxStream<'static, Result<C, Error>>,
    drain: Drain,
}

impl<C> Lines<C> {
    pub(crate) fn new(
        objects: impl Stream<Item = Result<C, Error>> + Send + 'static,
        drain: Drain,
    ) -> Self {
        Self { objects: objects.boxed(), drain }
    }
}

impl<C: Type> Payload for Lines<C> {
    const CONTENT_TYPE: &'static str = "application/x-ndjson";

    // The schema of one line.
    fn schema_ref() -> MetaSchemaRef {
        C::schema_ref()
    }

    fn register(registry: &mut Registry) {
        C::register(registry);
    }
}

impl<C: Serialize + Send + 'static> IntoResponse for Lines<C> {
    fn into_response(self) -> Response {
        let lines = futures_util::stream::unfold(Some(self), |lines| async {
            let (line, lines) = lines?.next_line().await?;
            Some((Ok::<_, io::Error>(line), lines))
        });
        Response::builder()
            .content_type("application/x-ndjson")
            .header("Cache-Control", "no-cache")
            // nginx would otherwise collect lines before it passes them on.
            .header("X-Accel-Buffering", "no")
            .body(Body::from_bytes_stream(lines))
    }
}

impl<C: Serialize + Send + 'static> Lines<C> {
    /// The next line, and the stream unless it was the last.
    async fn next_line(mut self) -> Option<(Vec<u8>, Option<Self>)> {
        let object = tokio::select! {
            biased;
            object = AssertUnwindSafe(self.objects.next()).catch_unwind() => {
                object.unwrap_or_else(|_| Some(Err(Error::internal("internal server error"))))
            }
            () = self.drain.expired() => Some(Err(Drain::error())),
        };
        let line = object?.and_then(|object| {
            serde_json::to_vec(&object).map_err(|error| Error::internal(error.to_string()))
        });
        match line {
            Ok(mut line) => {
                line.push(b'\n');
                Some((line, Some(self)))
            }
            Err(error) => {
                let line = json!({ "error": error.message }).to_string() + "\n";
                Some((line.into_bytes(), None))
            }
        }
    }
}
