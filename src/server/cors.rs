//! Cross-origin requests: refused by default, as no header allows them; allowed from a list.

use poem::{
    Request, Response,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
};

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, DELETE, OPTIONS");
const HEADERS: HeaderValue = HeaderValue::from_static(
    "Authorization, Content-Type, X-API-Key, X-Request-Id, Anthropic-Version",
);
const EXPOSED: HeaderValue = HeaderValue::from_static("X-Request-Id, Retry-After, Location");

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
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
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
