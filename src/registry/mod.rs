//! The registry: which engines exist, which are loaded, and who has to go when memory is short.
//!
//! An engine is registered under an id and loaded when somebody asks for it, once, however many ask.
//! Whoever uses it holds a [`Lease`]; an engine without leases and running jobs is unloaded after a
//! while, or earlier when another one needs its memory. The table is plain data behind one lock that
//! is never held while something loads, drains or waits, so that other engines serve on meanwhile.

pub mod admit;
mod backend;
mod clock;
mod config;
mod entry;
mod lease;
pub mod load;
mod loading;
mod room;
mod shared;
mod spec;
mod status;
mod table;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

pub use backend::NativeBackend;
pub use clock::Clock;
pub use config::{KeepAlive, RegistryConfig, Wait};
pub use lease::Lease;
pub use load::{Backend, GgufLoader, Loaded, Loader, Locate, ModelInfo};
pub use loading::LOADING;
pub use spec::{EngineSpec, LoadParams};
pub use status::{State, Status, Totals};

use crate::error::Result;
use crate::hub::Slots;

use admit::Budget;
use entry::{Entry, Leave, Phase};
use shared::Shared;
use table::Table;

/// What a shutdown waits beyond the time that running jobs get.
const SHUTDOWN_SLACK: Duration = Duration::from_secs(5);

/// Names to engines and their states.
pub struct Registry {
    shared: Arc<Shared>,
    sweeper: std::sync::OnceLock<JoinHandle<()>>,
}

impl Registry {
    /// An empty registry. The sweeper for idle engines starts with the first call that is async.
    #[must_use]
    pub fn new(loader: Arc<dyn Loader>, config: RegistryConfig) -> Arc<Self> {
        let detected = || admit::detect_budget().unwrap_or(u64::MAX);
        let budget = Budget {
            bytes: config.memory_budget_bytes.unwrap_or_else(detected),
            engines: config.max_loaded.unwrap_or(usize::MAX),
        };
        let slots = Slots::new(config.max_loads, config.max_load_queue);
        let shared = Arc::new(Shared::new(Table::new(config, budget), loader, slots));
        Arc::new(Self { shared, sweeper: std::sync::OnceLock::new() })
    }

    /// Registers an engine and, with `load_now`, loads it before returning.
    ///
    /// # Errors
    /// 400 for a bad spec, 409 `engine_id_exists`, 503 at shutdown or for lack of memory, and what the
    /// loader says. After any of them the registry is as before.
    pub async fn add(&self, spec: EngineSpec, load_now: bool) -> Result<Status> {
        spec.validate()?;
        self.start_sweeper();
        let id = spec.id.clone();
        let reply = {
            let mut table = self.shared.lock();
            let now = table.config.clock.now();
            table.insert(spec, load_now, now)?;
            load_now.then(|| table.request(&id, Wait::UntilLoaded, now)).transpose()?
        };
        if let Some(reply) = reply {
            // Held until the status is taken, so that it says "ready".
            let _lease = self.shared.answer(&id, reply).await?;
            return self.status(&id);
        }
        self.status(&id)
    }

    /// Gets an engine for use, loading it if need be; what happens then is
    /// [`RegistryConfig::wait_for_load`].
    ///
    /// # Errors
    /// 404 `model_not_found`; 503 with `Retry-After` when too many wait, when there is no room, and
    /// at shutdown; the loader's error when loading fails.
    pub async fn get(&self, id: &str) -> Result<Lease> {
        let wait = self.shared.lock().config.wait_for_load;
        self.get_with(id, wait).await
    }

    /// As [`Self::get`], with a choice of its own.
    pub async fn get_with(&self, id: &str, wait: Wait) -> Result<Lease> {
        self.start_sweeper();
        self.shared.get(id, wait).await
    }

    /// All engines by id, as they are.
    #[must_use]
    pub fn list(&self) -> Vec<Status> {
        let table = self.shared.lock();
        table.entries.values().map(|entry| status(&table, entry)).collect()
    }

    /// One engine as it is.
    ///
    /// # Errors
    /// 404 `model_not_found`.
    pub fn status(&self, id: &str) -> Result<Status> {
        let table = self.shared.lock();
        let entry = table.entries.get(id).ok_or_else(|| table::not_found(id))?;
        Ok(status(&table, entry))
    }

    /// As [`Self::status`], after a look at the files of models that are here and were never loaded.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn describe(&self, id: &str) -> Result<Status> {
        let status = self.status(id)?;
        if status.known.is_some() {
            return Ok(status);
        }
        let (shared, spec) = (Arc::clone(&self.shared), status.spec.clone());
        let looked = tokio::task::spawn_blocking(move || shared.loader().describe(&spec)).await;
        let known = looked.ok().flatten();
        if let Some(entry) = self.shared.lock().entries.get_mut(id)
            && *entry.spec == status.spec
            && entry.known.is_none()
        {
            entry.known.clone_from(&known);
        }
        Ok(Status { known, ..status })
    }

    /// Takes an engine out: requests for it are refused from now on, what runs may go on for
    /// [`RegistryConfig::drain_grace`] and then ends with an error, then its memory is freed. Goes on
    /// in the background if the caller leaves.
    ///
    /// # Errors
    /// 404 `model_not_found`.
    pub async fn remove(&self, id: &str) -> Result<()> {
        self.leave(id, Leave::Remove).await
    }

    /// Frees an engine's memory as [`Self::remove`] does, but keeps it registered: requests wait and
    /// load it again.
    ///
    /// # Errors
    /// 404 `model_not_found`; 409 `engine_loading` while it loads.
    pub async fn unload(&self, id: &str) -> Result<()> {
        self.leave(id, Leave::Unload).await
    }

    async fn leave(&self, id: &str, leave: Leave) -> Result<()> {
        let leaving = self.shared.lock().ask_to_leave(id, leave)?;
        self.shared.finish_leaving(leaving).await;
        Ok(())
    }

    /// Unloads every engine that has been idle for long enough. A background task does so by itself;
    /// this is for those who cannot wait. Must be called within a runtime.
    pub fn sweep(&self) {
        self.shared.sweep();
    }

    /// Refuses new requests, ends loads, drains all engines, and returns when their memory is free or
    /// five seconds have passed beyond [`RegistryConfig::drain_grace`].
    pub async fn shutdown(&self) {
        let (leaving, limit): (Vec<_>, _) = {
            let mut table = self.shared.lock();
            table.closing = true;
            let ids: Vec<String> = table.entries.keys().cloned().collect();
            let leaving = ids.iter().filter_map(|id| table.ask_to_leave(id, Leave::Unload).ok());
            (leaving.collect(), table.config.drain_grace + SHUTDOWN_SLACK)
        };
        let all = leaving.into_iter().map(|leaving| self.shared.finish_leaving(leaving));
        let all = futures_util::future::join_all(all);
        if tokio::time::timeout(limit, all).await.is_err() {
            tracing::warn!("engines were still loading or busy after {limit:?}; left as they are");
        }
        if let Some(sweeper) = self.sweeper.get() {
            sweeper.abort();
        }
    }

    fn start_sweeper(&self) {
        self.sweeper
            .get_or_init(|| tokio::spawn(Shared::sweep_forever(Arc::downgrade(&self.shared))));
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if let Some(sweeper) = self.sweeper.get() {
            sweeper.abort();
        }
    }
}

fn status(table: &Table, entry: &Entry) -> Status {
    let now = table.config.clock.now();
    let loaded = match &entry.phase {
        Phase::Ready(loaded) => Some(loaded),
        _ => None,
    };
    let state = match &entry.phase {
        Phase::Unloaded => State::Unloaded,
        Phase::Loading { .. } => State::Loading,
        Phase::Ready(loaded) => loaded.engine.has_failed().map_or(State::Ready, State::Failed),
        Phase::Draining { .. } => State::Draining,
        Phase::Failed { error, .. } => State::Failed(error.message.clone()),
    };
    let idle_for = entry.is_idle().then(|| now.saturating_duration_since(entry.last_used));
    let expires_in = match (idle_for, entry.keep_alive(&table.config)) {
        (Some(idle_for), KeepAlive::After(timeout)) => Some(timeout.saturating_sub(idle_for)),
        _ => None,
    };
    Status {
        spec: (*entry.spec).clone(),
        state,
        leases: entry.leases,
        waiting: entry.waiters.iter().filter(|waiter| !waiter.is_closed()).count(),
        memory_bytes: entry.room.bytes,
        loads: entry.loads,
        load_time: entry.load_time,
        idle_for,
        expires_in,
        info: loaded.map(|loaded| loaded.info.clone()),
        known: entry.known.clone(),
        totals: entry.totals(),
        stats: loaded.map(|loaded| loaded.engine.stats()),
    }
}
