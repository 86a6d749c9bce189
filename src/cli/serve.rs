//! `kolosal serve`: engines over HTTP until a signal says otherwise.

use std::io::Write;
use std::net::TcpListener;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::App;
use super::args::ServeArgs;
use super::assembly::{self, Caller};
use super::failure::{Failure, Outcome};
use crate::config::{AuthConfig, Config, LogFormat, ModelConfig, Secret};
use crate::hub::{DEFAULT_MODEL, Hub, Reference, Sources};
use crate::registry::{EngineSpec, Registry, State};
use crate::server::{
    self, ApiKeys, AppState, BodyLimits, ConnectionLimits, Cors, OnReceipt, Options, ResponseLimits,
};
use crate::shutdown;

/// Time after the drain for engines to leave.
const LEAVING: Duration = Duration::from_secs(10);

pub(super) fn run(app: &App, args: &ServeArgs) -> Outcome {
    let config = app.configure(args)?;
    let engines = engines(&config)?;
    server::raise_descriptor_limit();
    let listener = bind(&config)?;
    kolosal_kernels::memory::keep_few_heaps();
    let runtime = App::runtime(config.server.worker_threads)?;
    let served = runtime.block_on(serve(app, config, engines, listener));
    // Downloads and loads that still run hold blocking threads; the process need not wait for them.
    runtime.shutdown_timeout(Duration::from_millis(200));
    served
}

/// Specs of the configured engines, or of the default one; the flag says whether to load it now.
fn engines(config: &Config) -> Outcome<Vec<(EngineSpec, bool)>> {
    let default = ModelConfig { reference: DEFAULT_MODEL.to_owned(), ..ModelConfig::default() };
    let models = match config.models.as_slice() {
        [] if config.server.default_model => std::slice::from_ref(&default),
        models => models,
    };
    models
        .iter()
        .map(|model| {
            let spec = assembly::engine_spec(model, &config.engine).map_err(Failure::usage)?;
            if let Reference::Path(path) = super::models::parse(&model.reference)? {
                // Said now, at the terminal, rather than to the first client.
                path.metadata()
                    .map_err(|error| Failure::failed(format!("{}: {error}", path.display())))?;
            }
            Ok((spec, model.load_immediately))
        })
        .collect()
}

fn bind(config: &Config) -> Outcome<TcpListener> {
    let (host, port) = (config.server.host.as_str(), config.server.port);
    let bound = TcpListener::bind((host, port)).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => Failure::failed(format!(
            "port {port} on {host} is in use by another program; choose another with --port"
        )),
        _ => Failure::failed(format!("cannot listen on {host} port {port}: {error}")),
    })
}

async fn serve(
    app: &App,
    config: Config,
    engines: Vec<(EngineSpec, bool)>,
    listener: TcpListener,
) -> Outcome {
    let drain_limit = Duration::from_secs(config.server.drain_timeout_s);
    let signal =
        shutdown::on_signal(drain_limit + LEAVING, crate::trace::flush).map_err(Failure::failed)?;
    let hub = Arc::new(assembly::hub(&config, Caller::Clients)?);
    let loader = assembly::loader(&config, Arc::clone(&hub), assembly::progress(app.out.quiet));
    let registry = Registry::new(Arc::new(loader), assembly::registry_config(&config));
    let address = listener.local_addr().map_err(Failure::failed)?;
    let announce = |text: String| announce(app, &config, &text);
    announce(format!("Kolosal Server {}", env!("CARGO_PKG_VERSION")));
    announce(format!("listening on http://{address} (API at /v1, documentation at /docs)"));
    let mut wanted = Vec::new();
    for (spec, load_now) in engines {
        announce(format!("engine {}: {}", spec.id, spec.reference));
        wanted.extend(load_now.then(|| spec.id.clone()));
        registry.add(spec, false).await?;
    }
    let (tell, told) = tokio::sync::oneshot::channel();
    let loading = load_all(Arc::clone(&registry), wanted, config.registry.max_loads);
    tokio::spawn(async move { tell.send(loading.await) });
    let gave_up = Arc::new(OnceLock::new());
    let stop = until_stopped(signal, (!config.server.wait).then_some(told), Arc::clone(&gave_up));
    let state = AppState::new(Arc::clone(&registry), options(&config, hub)?);
    server::register_made(&state).await;
    let listener = tokio::net::TcpListener::from_std(listener).map_err(Failure::failed)?;
    let http = server::App::new(Arc::new(state));
    server::run(listener, http, stop, drain_limit).await.map_err(Failure::failed)?;
    registry.shutdown().await;
    if let Some(why) = gave_up.get() {
        return Err(Failure::failed(why));
    }
    announce("stopped".to_owned());
    Ok(())
}

/// Until a signal, or until it is known that no model can be loaded, which is then why.
async fn until_stopped(
    signal: CancellationToken,
    loaded: Option<oneshot::Receiver<Option<String>>>,
    gave_up: Arc<OnceLock<String>>,
) {
    let failed = async {
        match loaded {
            Some(loaded) => loaded.await.ok().flatten(),
            None => None,
        }
    };
    let failed = async {
        match failed.await {
            Some(why) => why,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = signal.cancelled() => {}
        why = failed => {
            let text = format!(
                "no model could be loaded: {why}. Name another one, start empty with \
                 --no-default-model, or stay up with --wait"
            );
            // Told once: this is the only place that does.
            let _ = gave_up.set(text);
        }
    }
}

/// Says something to the person who started the server, or to the log where that is for programs.
fn announce(app: &App, config: &Config, text: &str) {
    if config.logging.format == LogFormat::Text && config.logging.file.is_none() {
        if !app.out.quiet {
            // Not to standard error itself: whoever reads it may have stopped.
            let _ = writeln!(crate::trace::writer(), "{text}");
        }
    } else {
        tracing::info!("{text}");
    }
}

/// How the server is to behave.
fn options(config: &Config, hub: Arc<Hub>) -> Outcome<Options> {
    Ok(Options {
        body: BodyLimits {
            max_bytes: config.limits.max_body_bytes,
            read_timeout: Duration::from_secs(config.limits.body_timeout_s),
            max_bytes_in_flight: config.limits.max_body_bytes_in_flight,
        },
        connections: ConnectionLimits {
            max: config.connections.max,
            max_per_address: config.connections.max_per_address,
            header_timeout: Duration::from_secs(config.connections.header_timeout_s),
            idle_timeout: Duration::from_secs(config.connections.idle_timeout_s),
            send_timeout: Duration::from_secs(config.connections.send_timeout_s),
            max_streams: config.connections.max_streams,
        },
        keys: keys(&config.auth)?,
        sources: Sources::new(config.hub.allow_sources.clone(), config.hub.allow_paths.clone()),
        cors: Cors::new(config.cors.allowed_origins.clone()),
        hosts: hosts(config),
        on_receipt: OnReceipt::default(),
        engine: assembly::load_params(&config.engine).map_err(Failure::usage)?,
        text: assembly::text_defaults(&config.engine).map_err(Failure::usage)?,
        responses: ResponseLimits {
            max_count: config.responses.max_count,
            max_bytes: config.responses.max_bytes,
            max_age: Duration::from_secs(config.responses.max_age_s),
        },
        hub: Some(hub),
    })
}

/// The keys of the configuration and of the files that it names.
fn keys(auth: &AuthConfig) -> Outcome<ApiKeys> {
    let clients = assembly::keys(&auth.api_keys, auth.api_keys_file.as_deref())?;
    let admins = assembly::keys(&auth.admin_keys, auth.admin_keys_file.as_deref())?;
    Ok(ApiKeys::new(clients.iter().map(Secret::expose))
        .with_admins(admins.iter().map(Secret::expose))
        .sharing_cache(auth.share_cache))
}

/// Names that the server may have: those configured, the one that it is bound to, and the machine's.
fn hosts(config: &Config) -> server::Hosts {
    let mut names = config.server.allowed_hosts.clone();
    names.push(config.server.host.clone());
    #[cfg(unix)]
    names.push(rustix::system::uname().nodename().to_string_lossy().into_owned());
    server::Hosts::new(names)
}

/// Loads engines in the background, `at_once` of them, so that they do not fill the queue for loads.
/// Why none could be loaded, if that is so and there is no other engine.
async fn load_all(registry: Arc<Registry>, ids: Vec<String>, at_once: usize) -> Option<String> {
    let loads = futures_util::stream::iter(ids).map(|id| load(Arc::clone(&registry), id));
    let failures: Vec<_> = loads.buffer_unordered(at_once.max(1)).collect().await;
    let failures: Option<Vec<String>> = failures.into_iter().collect();
    let failures = failures.filter(|failures| !failures.is_empty())?;
    let all_failed = registry.list().iter().all(|status| matches!(status.state, State::Failed(_)));
    all_failed.then(|| failures.join("; "))
}

/// Loads an engine in the background. A failure is logged, shown in the engine's status and told to
/// whoever asks for it.
async fn load(registry: Arc<Registry>, id: String) -> Option<String> {
    match registry.get(&id).await {
        Ok(lease) => {
            let info = &lease.info;
            tracing::info!(
                engine = id,
                architecture = info.architecture,
                context = info.context_len,
                "ready"
            );
            for warning in &info.warnings {
                tracing::warn!(engine = id, "{warning}");
            }
            None
        }
        Err(error) => {
            tracing::error!(engine = id, "cannot be loaded: {error}");
            Some(error.message)
        }
    }
}
