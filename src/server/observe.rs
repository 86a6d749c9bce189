//! Request ids and the access log. Neither prompts nor answers are logged.

use std::time::Duration;

use poem::{
    Request, Response,
    http::{HeaderName, HeaderValue, Method},
    web::RemoteAddr,
};

use super::openai::random_id;

/// Carries the id of a request through proxies and logs.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A longer id from a client is not taken over.
const MAX_ID_BYTES: usize = 128;

/// What the log says of a request.
pub(crate) struct Seen {
    id: HeaderValue,
    method: Method,
    path: String,
    remote: RemoteAddr,
}

impl Seen {
    /// Takes over the client's request id, or makes one.
    pub(crate) fn new(request: &Request) -> Self {
        let given = request.headers().get(REQUEST_ID).filter(|id| is_plain(id)).cloned();
        let made = || HeaderValue::from_str(&format!("req_{}", random_id()));
        Self {
            id: given
                .or_else(|| made().ok())
                .unwrap_or_else(|| HeaderValue::from_static("req_unknown")),
            method: request.method().clone(),
            path: request.uri().path().chars().take(256).collect(),
            remote: request.remote_addr().clone(),
        }
    }

    /// The path as it was asked for.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Logs the answer and puts the id on it.
    pub(crate) fn finish(self, response: &mut Response, took: Duration) {
        let status = response.status().as_u16();
        let id = self.id.to_str().unwrap_or_default();
        let took_ms = took.as_secs_f64() * 1e3;
        tracing::info!(
            target: "kolosal_server::access",
            method = %self.method,
            path = %self.path,
            status,
            took_ms,
            request_id = id,
            remote = %self.remote,
            "request"
        );
        response.headers_mut().insert(REQUEST_ID, self.id);
    }
}

/// Printable ASCII of sane length: it goes into logs.
fn is_plain(id: &HeaderValue) -> bool {
    let bytes = id.as_bytes();
    !bytes.is_empty() && bytes.len() <= MAX_ID_BYTES && bytes.iter().all(u8::is_ascii_graphic)
}
