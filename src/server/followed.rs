//! Bodies of answers that somebody follows to their end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::BoxBody;

/// Follows a body; dropped with it.
pub(super) trait Follow {
    /// A frame, or the end; `is_over` if nothing comes after it.
    fn saw(&mut self, _frame: Option<&Result<Frame<Bytes>, io::Error>>, _is_over: bool) {}
}

/// A body and who follows it.
pub(super) struct Followed<F> {
    pub(super) body: BoxBody<Bytes, io::Error>,
    pub(super) by: F,
}

impl<F: Follow + Unpin> Body for Followed<F> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(frame) = &polled {
            let is_over = frame.is_none() || self.body.is_end_stream();
            self.by.saw(frame.as_ref(), is_over);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
