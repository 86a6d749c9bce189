//! A server with fake engines, and a client for it.

use std::sync::Arc;

use kolosal_server::{
    error::{Error, Kind, Result},
    registry::{EngineSpec, Loaded, Loader, Registry, RegistryConfig},
    server::{App, AppState, Drain, Options},
};
use poem::{
    Body, Endpoint, Request, Response,
    endpoint::{BoxEndpoint, EndpointExt},
    http::HeaderMap,
};
use serde_json::Value;

/// Loads fakes; `model_path` says which.
struct FakeLoader;

impl Loader for FakeLoader {
    fn estimate(&self, _: &EngineSpec) -> Result<u64> {
        Ok(1)
    }

    fn load(&self, spec: &EngineSpec) -> Result<Loaded> {
        Err(Error::new(Kind::ModelLoading, format!("{} is no fake", spec.reference)))
    }
}

/// The whole server, without a socket.
pub(super) struct Server {
    pub(super) registry: Arc<Registry>,
    pub(super) drain: Drain,
    endpoint: BoxEndpoint<'static, Response>,
}

/// A response that has been read.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) text: String,
    headers: HeaderMap,
}

impl Reply {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }
}

impl Server {
    pub(super) fn new() -> Self {
        Self::with(Options::default(), |app| app)
    }

    pub(super) fn with(options: Options, extend: impl FnOnce(App) -> App) -> Self {
        let registry = Registry::new(Arc::new(FakeLoader), RegistryConfig::default());
        let state = Arc::new(AppState::new(Arc::clone(&registry), options));
        let drain = state.drain.clone();
        let endpoint = extend(App::new(state)).build().boxed();
        Self { registry, drain, endpoint }
    }

    /// Registers an engine without loading it.
    pub(super) async fn register(&self, id: &str) {
        self.registry.add(EngineSpec::new(id, "fake"), false).await.expect("registered");
    }

    pub(super) async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, "").await
    }

    pub(super) async fn post(&self, path: &str, body: impl Into<Body>) -> Reply {
        self.send("POST", path, body).await
    }

    pub(super) async fn send(&self, method: &str, path: &str, body: impl Into<Body>) -> Reply {
        self.request(method, path, &[], body).await
    }

    pub(super) async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Reply {
        let mut request = Request::builder()
            .method(method.parse().expect("a method"))
            .uri(path.parse().expect("a path"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.endpoint.get_response(request.body(body.into())).await;
        let (parts, body) = response.into_parts();
        let text = body.into_string().await.expect("a body of text");
        Reply { status: parts.status.as_u16(), text, headers: parts.headers }
    }
}
