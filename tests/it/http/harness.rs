//! A server with fake engines, and a client for it.

use std::{sync::Arc, time::Duration};

use kolosal_server::{
    registry::{EngineSpec, Loader, Registry, RegistryConfig, Status},
    server::{App, AppState, Drain, Options},
};
use poem::{
    Body, Endpoint, Request, Response,
    endpoint::{BoxEndpoint, EndpointExt},
    http::HeaderMap,
};
use serde_json::Value;

use super::{model::AlphabetLoader, script::ScriptLoader};

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
        Self::on(Arc::new(AlphabetLoader), options, extend)
    }

    /// A server of scripted models.
    pub(super) fn scripted() -> Self {
        Self::on(Arc::new(ScriptLoader), Options::default(), |app| app)
    }

    pub(super) fn on(
        loader: Arc<dyn Loader>,
        options: Options,
        extend: impl FnOnce(App) -> App,
    ) -> Self {
        let registry = Registry::new(loader, RegistryConfig::default());
        let state = Arc::new(AppState::new(Arc::clone(&registry), options));
        let drain = state.drain.clone();
        let endpoint = extend(App::new(state)).build().boxed();
        Self { registry, drain, endpoint }
    }

    /// Registers an engine without loading it.
    pub(super) async fn register(&self, id: &str) {
        self.registry.add(EngineSpec::new(id, "alphabet"), false).await.expect("registered");
    }

    /// Registers and loads an engine.
    pub(super) async fn load(&self, id: &str) {
        self.registry.add(EngineSpec::new(id, "alphabet"), true).await.expect("loaded");
    }

    /// Registers and loads an engine of a reference.
    pub(super) async fn load_from(&self, id: &str, reference: &str) {
        self.registry.add(EngineSpec::new(id, reference), true).await.expect("loaded");
    }

    /// Waits until an engine is as wanted.
    pub(super) async fn wait_for(&self, id: &str, is_so: impl Fn(&Status) -> bool) {
        wait_for(&self.registry, id, is_so).await;
    }

    pub(super) async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, "").await
    }

    /// As a browser asks.
    pub(super) async fn page(&self, path: &str) -> Reply {
        self.request("GET", path, &[("accept", "text/html,*/*;q=0.8")], "").await
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

/// Waits until an engine is as wanted, and no longer than any machine should need.
pub(super) async fn wait_for(registry: &Registry, id: &str, is_so: impl Fn(&Status) -> bool) {
    let waiting = async {
        while !registry.status(id).is_ok_and(|status| is_so(&status)) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), waiting).await.expect("the engine got there");
}
