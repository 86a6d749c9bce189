//! What streamed answers of all forms share.
//!
//! The stream owns what it streams from: a client that goes away drops the response, the response drops
//! the stream, and the stream's generation ends with it.

use std::{io, panic::AssertUnwindSafe};

use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt, stream::BoxStream};
use poem::{Body, Response};

use super::drain::Drain;
use crate::error::Error;

/// Parts of an answer until it ends, goes wrong or runs into the end of a shutdown.
pub(super) struct Source<T> {
    parts: BoxStream<'static, Result<T, Error>>,
    drain: Drain,
}

impl<T> Source<T> {
    pub(super) fn new(
        parts: impl Stream<Item = Result<T, Error>> + Send + 'static,
        drain: Drain,
    ) -> Self {
        Self { parts: parts.boxed(), drain }
    }

    /// The next part; a panic while it is made is an error. May be dropped and called again.
    pub(super) async fn next(&mut self) -> Option<Result<T, Error>> {
        tokio::select! {
            biased;
            part = AssertUnwindSafe(self.parts.next()).catch_unwind() => {
                part.unwrap_or_else(|_| Some(Err(Error::internal("internal server error"))))
            }
            () = self.drain.expired() => Some(Err(Drain::error())),
        }
    }
}

/// An answer that is passed on as it comes.
pub(super) fn response(
    content_type: &str,
    pieces: impl Stream<Item = Bytes> + Send + 'static,
) -> Response {
    Response::builder()
        .content_type(content_type)
        .header("Cache-Control", "no-cache")
        // nginx would otherwise collect pieces before it passes them on.
        .header("X-Accel-Buffering", "no")
        .body(Body::from_bytes_stream(pieces.map(Ok::<_, io::Error>)))
}
