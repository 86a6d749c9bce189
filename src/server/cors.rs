//! Cross-origin requests: refused by default, as no header allows them; allowed from a list.

use poem::{
    Request, Response,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
};

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, DELETE, OPTIONS");
const HEADERS: &str = "Authorization, Content-Type, X-API-Key, X-Request-Id, Anthropic-Version";
/// Further headers that SDKs send, by how their names begin.
const SDK_HEADERS: [&str; 7] = [
    "x-stainless-",
    "anthropic-",
    "openai-",
    "x-kolosal-",
    "user-agent",
    "idempotency-key",
    "accept",
];
/// Headers of one question that are looked at.
const MAX_ASKED_HEADERS: usize = 64;
const EXPOSED: HeaderValue =
    HeaderValue::from_static("X-Request-Id, X-Kolosal-Ignored, Retry-After, Location");

/// Origins whose pages may call this server.
#[derive(Clone, Debug, Default)]
pub struct Cors {
    origins: Vec<String>,
}

impl Cors {
    /// `*` allows every origin.
    pub fn new(origins: Vec<String>) -> Self {
        Self { origins }
    }

    /// The request's origin, if it is allowed.
    #[must_use]
    pub fn allowed(&self, request: &Request) -> Option<HeaderValue> {
        let origin = request.headers().get(header::ORIGIN)?;
        let text = origin.to_str().ok()?;
        let is_allowed = self.origins.iter().any(|allowed| allowed == "*" || allowed == text);
        is_allowed.then(|| origin.clone())
    }

    /// Answers a browser's question before a request, if that is what this is.
    #[must_use]
    pub fn preflight(&self, request: &Request) -> Option<Response> {
        let asks = request.method() == Method::OPTIONS
            && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        if !asks || self.allowed(request).is_none() {
            return None;
        }
        let mut response = Response::builder().status(StatusCode::NO_CONTENT).finish();
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed_headers(request));
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(86_400));
        Some(response)
    }

    /// Allows the origin to read the answer.
    pub fn mark(origin: Option<HeaderValue>, headers: &mut HeaderMap) {
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
        if let Some(origin) = origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
    }

    /// Whether there is anything to do at all.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.origins.is_empty()
    }
}

/// The headers that are always allowed, and those asked for that SDKs send.
fn allowed_headers(request: &Request) -> HeaderValue {
    let asked = request.header(header::ACCESS_CONTROL_REQUEST_HEADERS).unwrap_or_default();
    let names = asked.split(',').map(str::trim).take(MAX_ASKED_HEADERS);
    let known = names.filter(|name| {
        let name = name.to_ascii_lowercase();
        SDK_HEADERS.iter().any(|begin| name.starts_with(begin))
    });
    let all = std::iter::once(HEADERS).chain(known).collect::<Vec<_>>().join(", ");
    HeaderValue::from_str(&all).unwrap_or(HeaderValue::from_static(HEADERS))
}
