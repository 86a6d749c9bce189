//! What every request passes before and after its route: identity, log, panics, origins, keys, shutdown.

use std::{borrow::Cow, panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt;
use poem::{
    Endpoint, Request, Response, Result,
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header, uri::PathAndQuery},
};

use super::{
    AppState,
    browser::check_origin,
    cors::Cors,
    desk::Ledger,
    drain::Drain,
    error::{Dialect, Failure, from_poem},
    ignored::{Ignored, takes_hints},
    observe::Seen,
    operations::{allowed_methods, check_query, purpose, route},
};
use crate::error::{Error, Kind};

/// First segments below `/v1`; every one of these paths works without the prefix as well.
const V1_SEGMENTS: [&str; 16] = [
    "chat",
    "completions",
    "embeddings",
    "inference",
    "messages",
    "models",
    "responses",
    "conversations",
    "engines",
    "health",
    "rerank",
    "score",
    "tokenize",
    "detokenize",
    "apply-template",
    "infill",
];
/// Other names of `/v1/rerank`, which llama-server and Cohere use.
pub(super) const RERANK_ALIASES: [&str; 3] = ["/reranking", "/v1/reranking", "/v2/rerank"];
/// What may follow the name of an engine.
const ENGINE_VERBS: [&str; 3] = ["status", "load", "unload"];
/// Paths that answer during a shutdown too.
const ALWAYS_ANSWERED: [&str; 4] = ["/livez", "/readyz", "/health", "/status"];

/// The outermost endpoint.
pub(crate) struct Front<E> {
    inner: E,
    state: Arc<AppState>,
}

impl<E> Front<E> {
    pub(crate) fn new(inner: E, state: Arc<AppState>) -> Self {
        Self { inner, state }
    }
}

impl<E: Endpoint<Output = Response>> Endpoint for Front<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> Result<Response> {
        let seen = Seen::new(&request, self.state.options.on_receipt.clone());
        let ledger = seen.ledger();
        let path = seen.path().to_owned();
        let cors = &self.state.options.cors;
        let origin = cors.allowed(&request);
        let ignored = Ignored::default();
        let answered = self.answer(request, ignored.clone(), &ledger);
        let answered = AssertUnwindSafe(answered).catch_unwind().await;
        let mut response = match answered {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                let failure = from_poem(&error, &path);
                ledger.failed(&failure.error);
                render(failure, &path)
            }
            Err(_) => {
                // The panic hook has told the log where.
                tracing::error!(path, "a handler panicked");
                let failure = Failure::from(Error::internal("internal server error"));
                ledger.failed(&failure.error);
                Dialect::of_path(&path).render(failure)
            }
        };
        protect(response.headers_mut());
        ignored.tell(response.headers_mut());
        if !cors.is_off() {
            Cors::mark(origin, response.headers_mut());
        }
        if response.status().is_client_error() || response.status().is_server_error() {
            let kind =
                if response.status().is_client_error() { Kind::Invalid } else { Kind::Internal };
            ledger.failed(&Error::new(kind, "the route's own failure"));
        }
        seen.finish(&mut response);
        Ok(response)
    }
}

impl<E: Endpoint<Output = Response>> Front<E> {
    async fn answer(
        &self,
        mut request: Request,
        ignored: Ignored,
        ledger: &Ledger,
    ) -> Result<Response> {
        normalise_path(&mut request)?;
        let path = request.uri().path().to_owned();
        ledger.routed(&path, route(&path));
        // A page that has another's name has no key of the server: only without keys is there a risk.
        if !self.state.options.keys.is_needed() {
            self.state.options.hosts.check(&request)?;
        }
        check_origin(&request, &self.state.options.cors)?;
        if let Some(response) = self.state.options.cors.preflight(&request) {
            return Ok(response);
        }
        let access =
            self.state.options.keys.check(&request, &path, purpose(request.method(), &path))?;
        if self.state.drain.has_started() && !ALWAYS_ANSWERED.contains(&path.as_str()) {
            return Err(Drain::error().into());
        }
        if request.method() == Method::OPTIONS
            && let Some(allow) = allowed_methods(&path)
        {
            let response = Response::builder().status(StatusCode::NO_CONTENT);
            return Ok(response.header(header::ALLOW, allow).finish());
        }
        check_query(&request, &ignored)?;
        request.set_data(access);
        let caller = self.state.options.keys.caller(&request);
        ledger.came_from(caller.identity(&request));
        request.set_data(caller.telling(ignored.clone(), ledger.clone()));
        request.set_data(if takes_hints(&path) { ignored } else { Ignored::nothing() });
        request.set_data(self.state.options.body);
        request.set_data(self.state.bodies.clone());
        self.inner.call(request).await
    }
}

/// No answer is shown in a frame of another page, or taken for another type than it says.
fn protect(headers: &mut HeaderMap) {
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

/// Writes an error, and for a wrong method the right ones.
fn render(failure: Failure, path: &str) -> Response {
    let is_wrong_method = failure.error.kind == Kind::MethodNotAllowed;
    let mut response = Dialect::of_path(path).render(failure);
    if is_wrong_method
        && let Some(allow) = allowed_methods(path)
        && let Ok(allow) = HeaderValue::from_str(&allow)
    {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

/// Brings a path into the one form that the routes have.
fn normalise_path(request: &mut Request) -> Result<()> {
    let uri = request.uri();
    // CONNECT names an authority and `OPTIONS *` nothing; the router knows paths only.
    let Some(asked) = uri.path_and_query().filter(|asked| asked.path().starts_with('/')) else {
        return Err(Error::new(Kind::Invalid, "a request must name a path").into());
    };
    let plain = plain_path(asked.path());
    let path = match (routed_path(&plain), plain) {
        (Some(path), _) => path,
        (None, Cow::Owned(path)) => path,
        (None, Cow::Borrowed(_)) => return Ok(()),
    };
    let text = match asked.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    if let Ok(routed) = PathAndQuery::try_from(text) {
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = Some(routed);
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    Ok(())
}

/// The path without slashes that clients write twice, or at its end.
fn plain_path(path: &str) -> Cow<'_, str> {
    if path == "/" || !(path.contains("//") || path.ends_with('/')) {
        return Cow::Borrowed(path);
    }
    let segments: Vec<_> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    Cow::Owned(format!("/{}", segments.join("/")))
}

/// The path without `/v1` where it works both ways, and other names by their first; `None`: as it is.
fn routed_path(path: &str) -> Option<String> {
    if path == "/status" {
        return Some("/health".to_owned());
    }
    if RERANK_ALIASES.contains(&path) {
        return Some("/rerank".to_owned());
    }
    let has_segment =
        |rest: &&str| rest.split('/').next().is_some_and(|segment| V1_SEGMENTS.contains(&segment));
    let bare = path.strip_prefix("/v1/").filter(has_segment).map(|rest| format!("/{rest}"));
    let current = bare.as_deref().unwrap_or(path);
    // The names of models may have slashes, which some clients send as they are.
    let joined = [("/models/", &[][..]), ("/engines/", &ENGINE_VERBS[..])]
        .into_iter()
        .find_map(|(begin, verbs)| Some((begin, joined(current.strip_prefix(begin)?, verbs)?)));
    match joined {
        Some((begin, rest)) => Some(format!("{begin}{rest}")),
        None => bare,
    }
}

/// A name with slashes as one segment, and the verb that may follow it; `None`: it has none.
fn joined(rest: &str, verbs: &[&str]) -> Option<String> {
    let (name, verb) = match rest.rsplit_once('/') {
        Some((name, last)) if verbs.contains(&last) => (name, Some(last)),
        _ => (rest, None),
    };
    let name = name.contains('/').then(|| name.replace('/', "%2F"))?;
    Some(verb.map_or_else(|| name.clone(), |verb| format!("{name}/{verb}")))
}

#[cfg(test)]
mod tests {
    use super::routed_path;

    #[test]
    fn paths_have_one_form() {
        let cases = [
            ("/v1/models", Some("/models")),
            ("/models", None),
            ("/v1/models/org/a", Some("/models/org%2Fa")),
            ("/models/org/a", Some("/models/org%2Fa")),
            ("/v1/engines/a/status", Some("/engines/a/status")),
            ("/engines/org/a:b/status", Some("/engines/org%2Fa:b/status")),
            ("/v1/engines/org/sub/a/unload", Some("/engines/org%2Fsub%2Fa/unload")),
            ("/engines/org/a", Some("/engines/org%2Fa")),
            ("/engines/status", None),
            ("/status", Some("/health")),
            ("/v1/health", Some("/health")),
            ("/v1/status", None),
            ("/v1", None),
            ("/v1/", None),
            ("/v1/livez", None),
            ("/v1/v1/models", None),
            ("/v1/rerank", Some("/rerank")),
            ("/v2/rerank", Some("/rerank")),
            ("/v1/reranking", Some("/rerank")),
            ("/", None),
        ];
        for (path, routed) in cases {
            assert_eq!(routed_path(path).as_deref(), routed, "{path}");
        }
    }
}
