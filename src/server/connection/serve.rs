//! One connection from its first byte to its last.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use poem::http::{self, HeaderValue, Version, header, uri::Scheme};
use poem::web::{LocalAddr, RemoteAddr};
use poem::{Body, Endpoint, Request, RequestParts, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::ConnectionLimits;
use super::body::{Next, Serving, share};
use super::state::{Overdue, State};
use super::table::Place;
use super::watched::Watched;
use crate::server::followed::Followed;

/// How often a connection's times are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long a connection without a request may take to say goodbye.
const GOODBYE: Duration = Duration::from_millis(500);
/// Bytes of a request's head, and of what is read ahead of a body.
const MAX_HEAD_BYTES: usize = 64 << 10;
const MAX_HEADERS: usize = 128;
/// Streams that an HTTP/2 client may reset before they are taken up.
const MAX_PENDING_RESETS: usize = 20;

/// What all connections of a listener share.
pub(super) struct Shared<E> {
    pub(super) endpoint: E,
    pub(super) limits: ConnectionLimits,
    /// No new requests.
    pub(super) closing: CancellationToken,
    /// No requests at all.
    pub(super) over: CancellationToken,
}

/// The two ends of a connection.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
}

/// Serves until either side ends it. What is dropped here takes the requests of the connection along.
pub(super) async fn connection<T, E>(socket: T, ends: Ends, place: Place, shared: Arc<Shared<E>>)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    E: Endpoint<Output = Response> + 'static,
{
    let state = Arc::clone(&place.state);
    let builder = builder(&shared.limits);
    let service =
        service_fn(|request| answer(request, ends, Arc::clone(&state), Arc::clone(&shared)));
    let socket = TokioIo::new(Watched::new(socket, Arc::clone(&state)));
    let mut serving = std::pin::pin!(builder.serve_connection_with_upgrades(socket, service));
    let mut is_closing = false;
    loop {
        tokio::select! {
            // Done, or the client has gone: polling it again would run its requests on.
            _ = serving.as_mut() => return,
            () = shared.over.cancelled() => return,
            () = state.evicted.cancelled() => return,
            () = shared.closing.cancelled(), if !is_closing => {
                is_closing = true;
                serving.as_mut().graceful_shutdown();
            }
            () = tokio::time::sleep(if is_closing { GOODBYE } else { LOOK }) => {
                if is_closing && !state.is_serving() {
                    return;
                }
                match state.overdue(&shared.limits) {
                    None => {}
                    Some(Overdue::Idle) if !is_closing => {
                        is_closing = true;
                        serving.as_mut().graceful_shutdown();
                    }
                    Some(overdue) => {
                        tracing::debug!(remote = %ends.remote, ?overdue, "connection closed");
                        return;
                    }
                }
            }
        }
    }
}

fn builder(limits: &ConnectionLimits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // Our own times tell a connection that waits from one whose head does not end.
        .header_read_timeout(None)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.max_streams)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_header_list_size(MAX_HEAD_BYTES as u32)
        // A client whose machine has gone sends no end; its streams would run on.
        .keep_alive_interval(limits.idle_timeout)
        .keep_alive_timeout(limits.header_timeout);
    builder
}

async fn answer<E>(
    request: http::Request<Incoming>,
    ends: Ends,
    state: Arc<State>,
    shared: Arc<Shared<E>>,
) -> Result<http::Response<Followed<Serving>>, Infallible>
where
    E: Endpoint<Output = Response>,
{
    let serving = Serving::new(Arc::clone(&state));
    let (mut parts, body) = request.into_parts();
    parts.extensions.insert(state);
    let is_http1 = parts.version <= Version::HTTP_11;
    let expects = parts.headers.contains_key(header::EXPECT);
    let (body, rest) = share(body);
    let addresses = (LocalAddr(ends.local.into()), RemoteAddr(ends.remote.into()));
    let parts = RequestParts::from((parts, addresses.0, addresses.1, Scheme::HTTP));
    let request = Request::from_parts(parts, Body::from(body.boxed()));
    let mut response = shared.endpoint.get_response(request).await;
    // Where the body was expected and begun, the handler has asked for it.
    let refused_early = expects && !response.status().is_success();
    if rest.finish(refused_early).await == Next::Close && is_http1 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let response: http::Response<_> = response.into();
    let (parts, body) = response.into_parts();
    Ok(http::Response::from_parts(parts, Followed { body, by: serving }))
}
