//! Whether the server lives and serves.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use poem::web::Data;
use poem_openapi::{Object, OpenApi};
use serde::Serialize;

use super::{NativeTag, Probes, ReadyProbes};
use crate::{
    registry::State as EngineState,
    server::{
        AppState,
        auth::Access,
        body::Json,
        desk::status_word,
        drain::Drain,
        reply::{Answer, Reply},
        schema::wire_enum,
    },
};

wire_enum! {
    /// How the server is.
    pub(crate) enum HealthStatus {
        Healthy = "healthy",
    }
}

wire_enum! {
    /// What a probe is told.
    pub(crate) enum ProbeStatus {
        Ok = "ok",
    }
}

/// The server at one moment.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct Health {
    pub status: HealthStatus,
    /// Unix time in milliseconds.
    pub timestamp: u64,
    pub version: String,
    pub server: HealthServer,
    pub node_manager: HealthNodes,
    /// Empty without a valid API key, if the server has keys.
    pub engines: Vec<HealthEngine>,
}

/// The program.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct HealthServer {
    pub name: String,
    pub version: String,
    /// `running`, or `draining` while it shuts down.
    pub uptime: String,
    pub uptime_seconds: u64,
}

/// The engines, counted.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct HealthNodes {
    pub total_engines: usize,
    pub loaded_engines: usize,
    pub unloaded_engines: usize,
    /// Always `enabled`: engines load when asked and unload when idle.
    pub autoscaling: String,
}

/// One engine.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct HealthEngine {
    pub engine_id: String,
    /// `loaded`, `loading`, `unloaded`, `draining` or `failed`.
    pub status: String,
}

/// An answer to a probe.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct Probe {
    pub status: ProbeStatus,
}

/// The health route.
pub(crate) struct HealthApi(pub Arc<AppState>);

#[OpenApi]
impl HealthApi {
    /// Look at the server
    ///
    /// Answers at once, also while models load. Needs no API key.
    #[oai(path = "/health", method = "get", operation_id = "getHealth", tag = "NativeTag::Health")]
    async fn health(&self, access: Data<&Access>) -> Answer<Json<Health>, Probes> {
        let statuses = self.0.registry.list();
        let loaded = statuses.iter().filter(|status| status.state == EngineState::Ready).count();
        let engines = statuses.iter().map(|status| HealthEngine {
            engine_id: status.spec.id.clone(),
            status: status_word(&status.state).to_owned(),
        });
        let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(Reply::new(Json(Health {
            status: HealthStatus::Healthy,
            timestamp: timestamp.as_millis() as u64,
            version: version.clone(),
            server: HealthServer {
                name: "Kolosal Server".to_owned(),
                version,
                uptime: if self.0.drain.has_started() { "draining" } else { "running" }.to_owned(),
                uptime_seconds: self.0.started.elapsed().as_secs(),
            },
            node_manager: HealthNodes {
                total_engines: statuses.len(),
                loaded_engines: loaded,
                unloaded_engines: statuses.len() - loaded,
                autoscaling: "enabled".to_owned(),
            },
            engines: if *access.0 == Access::Granted { engines.collect() } else { Vec::new() },
        })))
    }
}

/// The probes of orchestrators; they have no alias below `/v1`.
pub(crate) struct ProbeApi(pub Arc<AppState>);

#[OpenApi]
impl ProbeApi {
    /// Does the process live?
    #[oai(path = "/livez", method = "get", operation_id = "getLive", tag = "NativeTag::Health")]
    async fn live(&self) -> Answer<Json<Probe>, Probes> {
        Ok(Reply::new(Json(Probe { status: ProbeStatus::Ok })))
    }

    /// Does the server take requests?
    ///
    /// No longer once it shuts down.
    #[oai(path = "/readyz", method = "get", operation_id = "getReady", tag = "NativeTag::Health")]
    async fn ready(&self) -> Answer<Json<Probe>, ReadyProbes> {
        if self.0.drain.has_started() {
            return Err(Drain::error().into());
        }
        Ok(Reply::new(Json(Probe { status: ProbeStatus::Ok })))
    }
}
