//! Bodies on their way: a request's, of which the rest is taken off the wire when the answer comes
//! first, and an answer's, which keeps its connection in use until it is sent.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::state::State;
use crate::server::followed::Follow;

/// A rest of at most so many bytes is read before the answer is sent, and the connection goes on.
const SMALL_REST: u64 = 64 << 10;
/// How long that may take.
const SMALL_REST_TIME: Duration = Duration::from_millis(500);
/// Bytes and time of a longer rest that is read beside the answer: a connection that is closed with
/// bytes unread is reset, and the client would lose the answer.
const LONG_REST: u64 = 64 << 20;
const LONG_REST_TIME: Duration = Duration::from_secs(5);

/// A request's body, read by the handler as long as it has it, and by [`Rest`] afterwards.
pub(super) struct Shared(Arc<Mutex<Option<Incoming>>>);

/// The other end of [`Shared`].
pub(super) struct Rest(Arc<Mutex<Option<Incoming>>>);

pub(super) fn share(body: Incoming) -> (Shared, Rest) {
    let body = Arc::new(Mutex::new(Some(body)));
    (Shared(Arc::clone(&body)), Rest(body))
}

impl Body for Shared {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let mut body = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(incoming) = body.as_mut() else { return Poll::Ready(None) };
        let frame = Pin::new(incoming).poll_frame(context).map_err(io::Error::other);
        if matches!(frame, Poll::Ready(None)) {
            // A body without a length does not say by itself that it has ended.
            *body = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        let body = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let body = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

/// What is to be done with a connection after its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Keep,
    Close,
}

impl Rest {
    /// Takes what the handler left off the wire, and says whether the connection can go on.
    /// `is_awaited`: the client sends the body only when it is asked to, and was not.
    pub(super) async fn finish(self, is_awaited: bool) -> Next {
        let left = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut body) = left.filter(|body| !body.is_end_stream()) else { return Next::Keep };
        if is_awaited {
            return Next::Close;
        }
        let small = body.size_hint().upper().is_some_and(|bytes| bytes <= SMALL_REST);
        if small
            && let Ok(true) =
                tokio::time::timeout(SMALL_REST_TIME, discard(&mut body, SMALL_REST)).await
        {
            return Next::Keep;
        }
        tokio::spawn(async move {
            let _late = tokio::time::timeout(LONG_REST_TIME, discard(&mut body, LONG_REST)).await;
        });
        Next::Close
    }
}

/// Reads and forgets; true at the end of the body.
async fn discard(body: &mut Incoming, limit: u64) -> bool {
    let mut total = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return false };
        total += frame.data_ref().map_or(0, |bytes| bytes.len() as u64);
        if total > limit {
            return false;
        }
    }
    true
}

/// Counts a request as served until it is dropped.
pub(super) struct Serving(Arc<State>);

impl Serving {
    pub(super) fn new(state: Arc<State>) -> Self {
        state.asked();
        Self(state)
    }
}

/// An answer's body: the connection is in use as long as it is there.
impl Follow for Serving {}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.answered();
    }
}
