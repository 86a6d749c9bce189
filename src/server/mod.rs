//! HTTP, wire JSON and dialects; nothing below knows them.
//!
//! [`App`] is the whole server as one endpoint, testable without sockets; [`run`] serves it on a
//! listener until a signal, then drains. Every route is in the generated document ([`openapi_json`]).

mod absent;
mod anthropic;
mod auth;
mod body;
mod browser;
mod coding;
mod common;
mod connection;
mod cors;
mod desk;
mod docs;
mod drain;
mod error;
mod examples;
mod followed;
mod front;
mod ignored;
mod lenient;
mod lines;
mod native;
mod observe;
mod ollama;
mod openai;
mod operations;
mod parameters;
mod reply;
mod rerank;
mod schema;
mod score;
mod span;
mod spec;
mod sse;
mod start_page;
mod streaming;

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

pub use auth::ApiKeys;
pub use body::BodyLimits;
pub use browser::Hosts;
pub use connection::{ConnectionLimits, raise_descriptor_limit};
pub use cors::Cors;
pub use desk::{Identity, OnReceipt, Outcome, Receipt};
pub use drain::Drain;
pub use error::{Dialect, ErrorBody, ErrorObject, Failure};
pub use openai::{ResponseLimits, read_chat};
pub use parameters::{Parameter, parameters};
use poem::{Endpoint, IntoEndpoint, Response, Route, get};
pub use spec::openapi_json;
use tokio::net::TcpListener;

use crate::{
    chat::TextDefaults,
    error::{Error, Result},
    hub::{Hub, Sources},
    registry::{LoadParams, Registry},
};

/// How the server behaves. The defaults are open to everyone who can reach the listener, and to no
/// page of another origin.
#[derive(Clone, Default)]
pub struct Options {
    pub body: BodyLimits,
    pub connections: ConnectionLimits,
    pub keys: ApiKeys,
    pub cors: Cors,
    /// Names by which browsers may reach the server; checked where no keys are configured.
    pub hosts: Hosts,
    /// What `POST /engines` gives an engine that does not say otherwise.
    pub engine: LoadParams,
    /// How an engine that clients register treats texts, unless they say otherwise.
    pub text: TextDefaults,
    /// What is kept of OpenAI's Responses.
    pub responses: ResponseLimits,
    /// Which models clients may name.
    pub sources: Sources,
    /// Who is told how each request ended.
    pub on_receipt: OnReceipt,
    /// Where models are fetched into; without one, clients cannot fetch any.
    pub hub: Option<Arc<Hub>>,
}

/// What all routes share.
pub struct AppState {
    pub registry: Arc<Registry>,
    pub options: Options,
    pub drain: Drain,
    pub(crate) responses: Arc<openai::ResponseStore>,
    pub(crate) bodies: connection::BodyBudget,
    started: Instant,
    started_unix_s: u64,
}

impl AppState {
    #[must_use]
    pub fn new(registry: Arc<Registry>, options: Options) -> Self {
        let responses = Arc::new(openai::ResponseStore::new(options.responses));
        Self {
            registry,
            bodies: connection::BodyBudget::new(options.body.max_bytes_in_flight),
            options,
            responses,
            drain: Drain::default(),
            started: Instant::now(),
            started_unix_s: desk::unix_time_s(),
        }
    }

    /// Whether clients may name a model. A path is looked at, which may block.
    ///
    /// # Errors
    /// As [`Sources::check`].
    pub(crate) async fn check_source(self: &Arc<Self>, reference: &str) -> Result<()> {
        let (state, reference) = (Arc::clone(self), reference.to_owned());
        let checked = tokio::task::spawn_blocking(move || state.options.sources.check(&reference));
        let failed = |error| Error::internal(format!("a source was not checked: {error}"));
        checked.await.map_err(failed)?
    }
}

/// The server as an endpoint, before it is built.
///
/// Routes of one's own are added by [`App::with_route`] and [`App::with_routes`]. They pass through the
/// same front as all others: request id, log, API keys, errors and panics as JSON.
///
/// ```
/// use kolosal_server::server::App;
/// use poem::{Route, get, handler, web::Path};
///
/// #[handler]
/// fn greet(Path(name): Path<String>) -> String {
///     format!("hello {name}")
/// }
///
/// fn extend(app: App) -> App {
///     app.with_route("/greet/:name", get(greet)).with_routes("/team", Route::new().at("/:name", greet))
/// }
/// ```
pub struct App {
    state: Arc<AppState>,
    routes: Route,
}

impl App {
    /// All routes of the server.
    #[must_use]
    pub fn new(state: Arc<AppState>) -> Self {
        let routes = Route::new()
            .at("/docs", get(docs::SwaggerPage))
            .at("/openapi.json", get(docs::Document))
            .nest_no_strip("/", docs::Home::new(&state));
        Self { state, routes }
    }

    /// Adds a route. The path has poem's syntax: `/a/:parameter`, `/a/*rest`.
    ///
    /// # Panics
    /// The path is taken.
    #[must_use]
    pub fn with_route<E>(mut self, path: &str, endpoint: E) -> Self
    where
        E: IntoEndpoint,
        E::Endpoint: 'static,
    {
        self.routes = self.routes.at(path, endpoint);
        self
    }

    /// Adds routes below a prefix, which they do not see.
    ///
    /// # Panics
    /// The prefix is taken.
    #[must_use]
    pub fn with_routes<E>(mut self, prefix: &str, routes: E) -> Self
    where
        E: IntoEndpoint,
        E::Endpoint: 'static,
    {
        self.routes = self.routes.nest(prefix, routes);
        self
    }

    /// The finished endpoint; it never fails, as failures are answers.
    pub fn build(self) -> impl Endpoint<Output = Response> + 'static {
        front::Front::new(self.routes, self.state)
    }
}

/// Registers the models that clients of an earlier server made of others.
pub async fn register_made(state: &AppState) {
    ollama::register_made(state).await;
}

/// Serves until `shutdown` is ready, then takes nothing new, lets running requests go on for most of
/// `drain_limit`, ends what is left with an error, and returns. The registry is left to the caller.
///
/// # Errors
/// The listener cannot be used.
pub async fn run(
    listener: TcpListener,
    app: App,
    shutdown: impl Future<Output = ()>,
    drain_limit: Duration,
) -> io::Result<()> {
    let drain = app.state.drain.clone();
    let signal = async {
        shutdown.await;
        drain.start();
        let drain = drain.clone();
        // Streams need the rest of the time to say that they end.
        let patience = drain_limit.mul_f64(0.9);
        tokio::spawn(async move {
            tokio::time::sleep(patience).await;
            drain.expire();
        });
    };
    let limits = app.state.options.connections;
    connection::serve(listener, app.build(), limits, signal, drain_limit).await
}
