//! Request ids, and the end of every request: its receipt and its line in the access log. Neither
//! prompts nor answers are logged.

use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body as _, Frame};
use http_body_util::combinators::BoxBody;
use poem::{
    Body, Request, Response,
    http::{HeaderName, HeaderValue, Method},
    web::RemoteAddr,
};

use super::desk::{Identity, Ledger, OnReceipt, random_id};
use super::followed::{Follow, Followed};

/// Carries the id of a request through proxies and logs.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A longer id from a client is not taken over.
const MAX_ID_BYTES: usize = 128;

/// Status in the log of a request whose client left before there was an answer, as nginx has it.
const NOBODY_WAITED: u16 = 499;

/// A request under way. When it is dropped, with the body of its answer or before there is one, it is
/// logged and its receipt is told.
pub(crate) struct Seen {
    id: HeaderValue,
    method: Method,
    path: String,
    remote: RemoteAddr,
    began: Instant,
    /// Until there was a status.
    headers: Option<Duration>,
    status: u16,
    /// Of the body, as far as it was taken.
    bytes: u64,
    end: End,
    ledger: Ledger,
    on_receipt: OnReceipt,
}

impl Seen {
    /// Takes over the client's request id, or makes one.
    pub(crate) fn new(request: &Request, on_receipt: OnReceipt) -> Self {
        let given = request.headers().get(REQUEST_ID).filter(|id| is_plain(id)).cloned();
        let made = || HeaderValue::from_str(&format!("req_{}", random_id()));
        let remote = request.remote_addr().clone();
        let ledger = Ledger::default();
        let address = remote.as_socket_addr().map(|address| address.ip().to_canonical());
        ledger.came_from(Identity { address, ..Identity::default() });
        Self {
            id: given
                .or_else(|| made().ok())
                .unwrap_or_else(|| HeaderValue::from_static("req_unknown")),
            method: request.method().clone(),
            path: request.uri().path().chars().take(256).collect(),
            remote,
            began: Instant::now(),
            headers: None,
            status: NOBODY_WAITED,
            bytes: 0,
            end: End::Cut,
            ledger,
            on_receipt,
        }
    }

    /// The path as it was asked for.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// What is known of the request so far.
    pub(crate) fn ledger(&self) -> Ledger {
        self.ledger.clone()
    }

    /// Puts the id on the answer, and follows its body to the end.
    pub(crate) fn finish(mut self, response: &mut Response) {
        response.headers_mut().insert(REQUEST_ID, self.id.clone());
        self.status = response.status().as_u16();
        self.headers = Some(self.began.elapsed());
        let body = BoxBody::from(response.take_body());
        // Nobody takes what has no bytes.
        if self.method == Method::HEAD || body.is_end_stream() {
            self.end = End::Whole;
        }
        response.set_body(Body::from(BoxBody::new(Followed { body, by: self })));
    }
}

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Whole,
    /// The client went away, or it failed midway.
    Cut,
}

impl Drop for Seen {
    fn drop(&mut self) {
        if self.end == End::Cut {
            self.ledger.left();
        }
        let receipt = self.ledger.receipt();
        let Self { id, method, path, remote, began, headers, status, bytes, end, .. } = self;
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        tracing::info!(
            target: "kolosal_server::access",
            method = %method,
            path = %path,
            status,
            took_ms = ms(began.elapsed()),
            headers_ms = ms(headers.unwrap_or_else(|| began.elapsed())),
            bytes,
            whole = *end == End::Whole,
            request_id = id.to_str().unwrap_or_default(),
            remote = %remote,
            outcome = receipt.outcome.name(),
            dialect = receipt.dialect,
            route = receipt.route,
            engine = receipt.engine.as_deref().unwrap_or_default(),
            tenant = %format_args!("{:016x}", receipt.identity.tenant),
            prompt_tokens = receipt.usage.prompt_tokens,
            cached_tokens = receipt.usage.cached_tokens,
            completion_tokens = receipt.usage.completion_tokens,
            queue_ms = receipt.timings.queue_ms,
            prefill_ms = receipt.timings.prefill_ms,
            decode_ms = receipt.timings.decode_ms,
            draft_tokens = receipt.usage.drafts.computed,
            draft_tokens_accepted = receipt.usage.drafts.right,
            "request"
        );
        self.on_receipt.tell(&receipt);
    }
}

impl Follow for Seen {
    fn saw(&mut self, frame: Option<&io::Result<Frame<Bytes>>>, is_over: bool) {
        let data = frame.and_then(|frame| frame.as_ref().ok()?.data_ref());
        self.bytes += data.map_or(0, |data| data.len() as u64);
        self.end = if is_over { End::Whole } else { End::Cut };
    }
}

/// Printable ASCII of sane length: it goes into logs.
fn is_plain(id: &HeaderValue) -> bool {
    let bytes = id.as_bytes();
    !bytes.is_empty() && bytes.len() <= MAX_ID_BYTES && bytes.iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use futures_util::StreamExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Log {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    #[tokio::test]
    async fn a_stream_is_logged_when_it_ends() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        for (taken, expected) in [(3, "bytes=6 whole=true"), (1, "bytes=2 whole=false")] {
            let pieces = futures_util::stream::iter(["aa", "bb", "cc"]);
            let body = Body::from_bytes_stream(pieces.map(Ok::<_, io::Error>));
            let mut response = Response::builder().body(body);
            Seen::new(&Request::default(), OnReceipt::default()).finish(&mut response);
            assert!(response.headers().contains_key(REQUEST_ID));
            let mut pieces = response.into_body().into_bytes_stream();
            for _ in 0..taken {
                assert!(pieces.next().await.is_some_and(|piece| piece.is_ok()));
            }
            assert!(!log.text().contains(expected), "not before it ends: {}", log.text());
            if taken == 3 {
                assert!(pieces.next().await.is_none());
            }
            drop(pieces);
            let line = log.text();
            let parts = [expected, "took_ms=", "headers_ms=", "status=200"];
            assert!(parts.iter().all(|part| line.contains(part)), "{line}");
        }
    }
}
