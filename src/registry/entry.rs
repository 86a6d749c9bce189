//! One row of the registry's table: a registered engine and where it is in its life.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::engine::stats::Meters;
use crate::error::{Error, Kind, Result};

use super::config::{KeepAlive, RegistryConfig, Wait};
use super::lease::{Grant, Lease};
use super::load::{Loaded, ModelInfo};
use super::spec::EngineSpec;
use super::status::Totals;

/// Longest pause between two tries to load a model that failed.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// Where the answer to a waiting request goes.
pub(super) type Waiter = oneshot::Sender<Result<Lease>>;

pub(super) struct Entry {
    pub(super) spec: Arc<EngineSpec>,
    pub(super) phase: Phase,
    /// Which load the phase belongs to; unique over all entries, so that a lease of a former engine
    /// is not taken for one of its successor. 0 = none.
    pub(super) load_id: u64,
    /// Leases of this `load_id`.
    pub(super) leases: usize,
    pub(super) waiters: VecDeque<Waiter>,
    /// Who wants to know when the engine is out of memory.
    pub(super) gone: Vec<oneshot::Sender<()>>,
    pub(super) last_used: Instant,
    pub(super) load_began: Instant,
    pub(super) ready_at: Instant,
    pub(super) load_time: Option<Duration>,
    /// Wish of the last request that had one; forgotten when the engine is unloaded.
    pub(super) keep_alive: Option<KeepAlive>,
    /// Added by a call that waits for the first load: leaves the table when that fails.
    pub(super) provisional: bool,
    /// The load goes on even if nobody waits for it.
    pub(super) background: bool,
    /// Ends the load of this `load_id`.
    pub(super) cancelled: CancellationToken,
    /// The weights are being read. Such a load goes on without anybody waiting: its end is near, and
    /// whoever lost patience finds the engine ready when it asks again.
    pub(super) reading: bool,
    /// Counters of the present load, or of the last.
    meters: Option<Arc<Meters>>,
    /// What was counted in the loads before.
    past: Totals,
    pub(super) room: Room,
    /// Of the model, from its last load or a look at its file.
    pub(super) known: Option<ModelInfo>,
    pub(super) loads: u64,
    pub(super) failures: u32,
}

/// The memory that an entry is admitted with.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Room {
    pub(super) admitted: bool,
    pub(super) bytes: u64,
    /// How many of `bytes` are still occupied by engines that are evicted for this one.
    pub(super) covered: u64,
    /// The load id for which this engine is evicted.
    pub(super) heir: Option<u64>,
}

pub(super) enum Phase {
    Unloaded,
    /// `leave`: what was asked for meanwhile.
    Loading {
        leave: Option<Leave>,
    },
    Ready(Arc<Loaded>),
    Draining {
        leave: Leave,
    },
    Failed {
        error: Error,
        retry_at: Instant,
    },
}

/// What follows draining.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    Unload,
    Remove,
    /// The engine broke.
    Fail(String),
}

/// Work that a transition asks for.
pub(super) enum Action {
    Load {
        id: String,
        load_id: u64,
        cancelled: CancellationToken,
    },
    /// Wait until the engine is out of use, or `grace` is over, then free it.
    Drain {
        victim: Victim,
        grace: Duration,
    },
}

/// An engine on its way out.
pub(super) struct Victim {
    pub(super) id: String,
    pub(super) load_id: u64,
    pub(super) loaded: Arc<Loaded>,
}

/// Answer to a request for an engine that is not ready.
pub(super) enum Queued {
    Waits(oneshot::Receiver<Result<Lease>>),
    Refused(Error),
}

impl Entry {
    pub(super) fn new(spec: EngineSpec, now: Instant) -> Self {
        Self {
            spec: Arc::new(spec),
            phase: Phase::Unloaded,
            load_id: 0,
            leases: 0,
            waiters: VecDeque::new(),
            gone: Vec::new(),
            last_used: now,
            load_began: now,
            ready_at: now,
            load_time: None,
            keep_alive: None,
            provisional: false,
            background: false,
            cancelled: CancellationToken::new(),
            reading: false,
            meters: None,
            past: Totals::default(),
            room: Room::default(),
            known: None,
            loads: 0,
            failures: 0,
        }
    }

    /// Ready, and neither leased nor running a job.
    pub(super) fn is_idle(&self) -> bool {
        match &self.phase {
            Phase::Ready(loaded) => self.leases == 0 && loaded.engine.is_idle(),
            _ => false,
        }
    }

    /// Requests are told that it does not exist any more.
    pub(super) fn is_leaving_for_good(&self) -> bool {
        matches!(
            &self.phase,
            Phase::Loading { leave: Some(_) } | Phase::Draining { leave: Leave::Remove }
        )
    }

    pub(super) fn keep_alive(&self, config: &RegistryConfig) -> KeepAlive {
        if self.spec.pinned {
            return KeepAlive::Forever;
        }
        let timeout = self.spec.idle_timeout.unwrap_or(config.idle_timeout);
        self.keep_alive.unwrap_or(KeepAlive::from_timeout(timeout))
    }

    /// The thrash guard; see [`RegistryConfig::min_residency`].
    pub(super) fn resident_until(&self, config: &RegistryConfig) -> Instant {
        let earned = self.load_time.unwrap_or_default().saturating_mul(4);
        self.ready_at + earned.min(config.min_residency)
    }

    pub(super) fn grant(&mut self, loaded: Arc<Loaded>, now: Instant) -> Grant {
        self.leases += 1;
        self.last_used = now;
        Grant { id: self.spec.id.clone(), load_id: self.load_id, loaded }
    }

    /// Puts a request in line. With [`Wait::Never`] it is refused, and the load goes on without it.
    pub(super) fn enqueue(&mut self, wait: Wait, max_waiters: usize) -> Queued {
        let id = &self.spec.id;
        let retry_s = self.retry_after_s();
        if wait == Wait::Never {
            self.background = true;
            let text = format!("engine '{id}' is loading");
            return Queued::Refused(Error::unavailable(text, retry_s).with_code("engine_loading"));
        }
        self.waiters.retain(|waiter| !waiter.is_closed());
        if self.waiters.len() >= max_waiters {
            let text = format!(
                "{} requests wait for engine '{id}' to load, limit {max_waiters}",
                self.waiters.len()
            );
            return Queued::Refused(Error::unavailable(text, retry_s).with_code("engine_loading"));
        }
        let (sender, receiver) = oneshot::channel();
        self.waiters.push_back(sender);
        Queued::Waits(receiver)
    }

    fn retry_after_s(&self) -> u32 {
        self.load_time.map_or(5, |time| time.as_secs_f64().ceil() as u32).clamp(1, 60)
    }

    pub(super) fn start_loading(&mut self, load_id: u64, now: Instant) -> Action {
        self.phase = Phase::Loading { leave: None };
        self.load_id = load_id;
        self.load_began = now;
        self.leases = 0;
        self.background = false;
        self.reading = false;
        self.room = Room::default();
        self.cancelled = CancellationToken::new();
        Action::Load { id: self.spec.id.clone(), load_id, cancelled: self.cancelled.clone() }
    }

    /// Whether anyone still waits for the load, or it is meant for those who come later.
    pub(super) fn is_wanted(&self) -> bool {
        self.background || self.waiters.iter().any(|waiter| !waiter.is_closed())
    }

    /// What was counted since the engine was registered.
    pub(super) fn totals(&self) -> Totals {
        self.meters.as_ref().map_or(self.past, |meters| self.past.plus(&meters.snapshot()))
    }

    /// A load succeeded: everyone who waits gets the engine, in order.
    pub(super) fn become_ready(&mut self, loaded: Loaded, now: Instant) -> Vec<(Waiter, Grant)> {
        let loaded = Arc::new(loaded);
        self.past = self.totals();
        self.meters = Some(loaded.engine.meters());
        self.known = Some(loaded.info.clone());
        self.phase = Phase::Ready(Arc::clone(&loaded));
        self.provisional = false;
        self.failures = 0;
        self.loads += 1;
        self.load_time = Some(now.saturating_duration_since(self.load_began));
        self.ready_at = now;
        self.last_used = now;
        let waiters = std::mem::take(&mut self.waiters);
        waiters.into_iter().map(|waiter| (waiter, self.grant(Arc::clone(&loaded), now))).collect()
    }

    /// A load failed. Lack of room is no fault of the model: the next request may try at once.
    pub(super) fn become_failed(&mut self, error: Error, backoff: Duration, now: Instant) {
        self.room = Room::default();
        if error.kind == Kind::Unavailable {
            self.phase = Phase::Unloaded;
            return;
        }
        let doubled = backoff.saturating_mul(1 << self.failures.min(16));
        self.failures += 1;
        self.phase = Phase::Failed { error, retry_at: now + doubled.min(MAX_BACKOFF) };
    }

    /// Lets a ready engine go; the caller runs the action.
    pub(super) fn drain(&mut self, leave: Leave, grace: Duration) -> Option<Action> {
        let Phase::Ready(loaded) = &self.phase else { return None };
        let victim =
            Victim { id: self.spec.id.clone(), load_id: self.load_id, loaded: Arc::clone(loaded) };
        self.phase = Phase::Draining { leave };
        Some(Action::Drain { victim, grace })
    }

    /// Takes everyone who waits, with one answer for all.
    pub(super) fn refuse_waiters(&mut self, error: &Error) -> Vec<(Waiter, Error)> {
        self.waiters.drain(..).map(|waiter| (waiter, error.clone())).collect()
    }

    /// Tells everyone who asked that the engine is out of memory.
    pub(super) fn tell_gone(&mut self) {
        for gone in self.gone.drain(..) {
            // Whoever asked may have left.
            let _ = gone.send(());
        }
    }
}
