//! Streams of JSON objects, one a line (NDJSON).

use bytes::Bytes;
use futures_util::Stream;
use poem::{IntoResponse, Response};
use poem_openapi::{
    payload::Payload,
    registry::{MetaSchemaRef, Registry},
    types::Type,
};
use serde::Serialize;
use serde_json::json;

use super::{
    drain::Drain,
    streaming::{Source, response},
};
use crate::error::Error;

const CONTENT_TYPE: &str = "application/x-ndjson";

/// A stream of objects; an error becomes a last line with the field `error`.
pub(crate) struct Lines<C>(Source<C>);

impl<C> Lines<C> {
    pub(crate) fn new(
        objects: impl Stream<Item = Result<C, Error>> + Send + 'static,
        drain: Drain,
    ) -> Self {
        Self(Source::new(objects, drain))
    }
}

impl<C: Type> Payload for Lines<C> {
    const CONTENT_TYPE: &'static str = CONTENT_TYPE;

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
        let lines =
            futures_util::stream::unfold(Some(self), |lines| async { lines?.next_line().await });
        response(CONTENT_TYPE, lines)
    }
}

impl<C: Serialize + Send + 'static> Lines<C> {
    /// The next line, and the stream unless it was the last.
    async fn next_line(mut self) -> Option<(Bytes, Option<Self>)> {
        let line = self.0.next().await?.and_then(|object| {
            serde_json::to_vec(&object).map_err(|error| Error::internal(error.to_string()))
        });
        match line {
            Ok(mut line) => {
                line.push(b'\n');
                Some((line.into(), Some(self)))
            }
            Err(error) => {
                let line = json!({ "error": error.message }).to_string() + "\n";
                Some((line.into(), None))
            }
        }
    }
}
