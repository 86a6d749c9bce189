//! The registry's state as plain data: every transition is a method that takes the time and returns
//! what is to be done. Nothing here waits, loads or frees; [`super::shared`] does, without the lock.
//!
//! ```text
//!            request            loaded              idle, evicted, unload
//! unloaded ───────────▶ loading ──────▶ ready ────────────────────────────▶ draining ─▶ unloaded
//!     ▲                  │   │ failed     │ engine failed                        │ remove
//!     └── no room ───────┘   │            └─────────────▶ draining ─▶ failed     ▼
//!                            ▼  request after the backoff                      (gone)
//!                         failed ──────────────────────▶ loading
//! ```
//!
//! Invariants: an engine in use is never drained for idleness or for room; whoever waited for a load
//! has its lease before the engine can be seen as idle; admitted bytes never exceed the budget.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::error::{Error, Kind, Result};

use super::admit::Budget;
use super::config::{KeepAlive, RegistryConfig, Wait};
use super::entry::{Action, Entry, Leave, Phase, Queued, Room, Waiter};
use super::lease::Grant;
use super::load::{Loaded, abandoned};
use super::spec::EngineSpec;

pub(super) struct Table {
    pub(super) entries: BTreeMap<String, Entry>,
    /// Loads that wait for room, in order of arrival; only the first may evict.
    pub(super) room_queue: VecDeque<u64>,
    pub(super) config: RegistryConfig,
    pub(super) budget: Budget,
    pub(super) closing: bool,
    last_load_id: u64,
}

/// Answer to a request for an engine.
pub(super) enum Reply {
    Granted(Grant),
    /// Not ready; the action, if any, is what makes it so.
    Queued(Queued, Option<Action>),
}

/// What is to be done after the lock is released.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) grants: Vec<(Waiter, Grant)>,
    pub(super) refusals: Vec<(Waiter, Error)>,
    pub(super) actions: Vec<Action>,
}

/// Answer to the wish to remove or to unload.
pub(super) struct Leaving {
    /// Resolves when the memory is free; `None`: it is.
    pub(super) gone: Option<oneshot::Receiver<()>>,
    pub(super) effects: Effects,
}

impl Table {
    pub(super) fn new(config: RegistryConfig, budget: Budget) -> Self {
        Self {
            entries: BTreeMap::new(),
            room_queue: VecDeque::new(),
            config,
            budget,
            closing: false,
            last_load_id: 0,
        }
    }

    /// Registers an engine; `provisional` as in [`Entry`].
    pub(super) fn insert(
        &mut self,
        spec: EngineSpec,
        provisional: bool,
        now: Instant,
    ) -> Result<()> {
        if self.closing {
            return Err(closing());
        }
        if self.entries.contains_key(&spec.id) {
            let text = format!("engine '{}' exists already", spec.id);
            let error = Error::new(Kind::Conflict, text).with_param("engine_id");
            return Err(error.with_code("engine_id_exists"));
        }
        let limit = self.config.max_engines;
        if self.entries.len() >= limit {
            let text = format!("{limit} engines are registered, the limit (registry.max_engines)");
            let error = Error::new(Kind::Conflict, text).with_param("engine_id");
            return Err(error.with_code("too_many_engines"));
        }
        let id = spec.id.clone();
        let mut entry = Entry::new(spec, now);
        entry.provisional = provisional;
        self.entries.insert(id, entry);
        Ok(())
    }

    pub(super) fn entry(&mut self, id: &str) -> Result<&mut Entry> {
        self.entries.get_mut(id).ok_or_else(|| not_found(id))
    }

    /// The entry, if it is still about that load.
    pub(super) fn entry_of(&mut self, id: &str, load_id: u64) -> Option<&mut Entry> {
        self.entries.get_mut(id).filter(|entry| entry.load_id == load_id)
    }

    fn new_load_id(&mut self) -> u64 {
        self.last_load_id += 1;
        self.last_load_id
    }

    /// Someone wants to use an engine.
    pub(super) fn request(&mut self, id: &str, wait: Wait, now: Instant) -> Result<Reply> {
        if self.closing {
            return Err(closing());
        }
        let max_waiters = self.config.max_waiters;
        let load_id = self.new_load_id();
        let entry = self.entry(id)?;
        if entry.is_leaving_for_good() {
            return Err(not_found(id));
        }
        let action = match &entry.phase {
            Phase::Ready(loaded) => {
                let Some(reason) = loaded.engine.has_failed() else {
                    let loaded = Arc::clone(loaded);
                    return Ok(Reply::Granted(entry.grant(loaded, now)));
                };
                entry.drain(Leave::Fail(reason), Duration::ZERO)
            }
            Phase::Failed { error, retry_at } if now < *retry_at => {
                let left_s = retry_at.duration_since(now).as_secs_f64().ceil() as u32;
                let error = Error { retry_after_s: Some(left_s.max(1)), ..error.clone() };
                return Err(error);
            }
            Phase::Unloaded | Phase::Failed { .. } => Some(entry.start_loading(load_id, now)),
            Phase::Loading { .. } | Phase::Draining { .. } => None,
        };
        Ok(Reply::Queued(entry.enqueue(wait, max_waiters), action))
    }

    /// A lease is given back. True: the engine is to be unloaded as soon as it is idle.
    pub(super) fn release(&mut self, id: &str, load_id: u64, now: Instant) -> bool {
        let Some(entry) = self.entries.get_mut(id).filter(|entry| entry.load_id == load_id) else {
            return false;
        };
        entry.leases = entry.leases.saturating_sub(1);
        entry.last_used = now;
        entry.leases == 0 && entry.keep_alive(&self.config) == KeepAlive::After(Duration::ZERO)
    }

    /// A load came to its end.
    pub(super) fn finish_load(
        &mut self,
        (id, load_id): (&str, u64),
        outcome: Result<Loaded>,
        now: Instant,
    ) -> Effects {
        self.room_queue.retain(|queued| *queued != load_id);
        let mut effects = Effects::default();
        let (backoff, grace) = (self.config.retry_backoff, self.config.drain_grace);
        let next_load_id = self.new_load_id();
        let Some(entry) = self.entry_of(id, load_id) else { return effects };
        let Phase::Loading { leave } = &mut entry.phase else { return effects };
        entry.room.covered = 0;
        match (outcome, leave.take()) {
            (Ok(loaded), leave) => {
                effects.grants = entry.become_ready(loaded, now);
                if let Some(leave) = leave {
                    effects.actions.extend(entry.drain(leave, grace));
                }
            }
            (Err(_), Some(leave)) => {
                entry.phase = Phase::Unloaded;
                entry.room = Room::default();
                self.end(id, &leave);
            }
            // It was given up, and meanwhile somebody came who wants it after all.
            (Err(_), None) if entry.cancelled.is_cancelled() && entry.is_wanted() => {
                effects.actions.push(entry.start_loading(next_load_id, now));
            }
            (Err(error), None) => {
                effects.refusals = entry.refuse_waiters(&error);
                entry.become_failed(error, backoff, now);
                if entry.provisional {
                    self.end(id, &Leave::Remove);
                }
            }
        }
        effects
    }

    /// Someone who waited has left. Ends a load that nobody waits for, unless it is near its end.
    pub(super) fn leave_line(&mut self, id: &str) {
        let Some(entry) = self.entries.get(id) else { return };
        let is_loading = matches!(entry.phase, Phase::Loading { .. });
        if is_loading && !entry.reading && !entry.is_wanted() {
            entry.cancelled.cancel();
        }
    }

    /// A load has its turn to read the weights: from here on it goes to its end.
    ///
    /// # Errors
    /// It was given up.
    pub(super) fn begin_reading(&mut self, id: &str, load_id: u64) -> Result<()> {
        match self.entry_of(id, load_id) {
            Some(entry) if !entry.cancelled.is_cancelled() => {
                entry.reading = true;
                Ok(())
            }
            _ => Err(abandoned(id)),
        }
    }

    /// The memory of an engine is free again.
    pub(super) fn finish_drain(&mut self, id: &str, load_id: u64, now: Instant) -> Effects {
        let mut effects = Effects::default();
        let next_load_id = self.new_load_id();
        let closing = self.closing;
        let Some(entry) = self.entry_of(id, load_id) else { return effects };
        let Phase::Draining { leave } = &entry.phase else { return effects };
        let leave = leave.clone();
        let room = std::mem::take(&mut entry.room);
        entry.load_id = 0;
        entry.leases = 0;
        entry.keep_alive = None;
        entry.phase = match &leave {
            Leave::Fail(reason) => {
                let text = format!("engine '{id}' failed: {reason}");
                Phase::Failed { error: Error::internal(text), retry_at: now }
            }
            Leave::Unload | Leave::Remove => Phase::Unloaded,
        };
        entry.waiters.retain(|waiter| !waiter.is_closed());
        if !entry.waiters.is_empty() && !closing {
            effects.actions.push(entry.start_loading(next_load_id, now));
        }
        if let Some(heir) = room.heir {
            for entry in self.entries.values_mut().filter(|entry| entry.load_id == heir) {
                entry.room.covered = entry.room.covered.saturating_sub(room.bytes);
            }
        }
        self.end(id, &leave);
        effects
    }

    /// Ends an entry that holds no memory any more in the way that was asked for.
    fn end(&mut self, id: &str, leave: &Leave) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.tell_gone();
        }
        if *leave == Leave::Remove {
            self.entries.remove(id);
        }
    }

    /// Someone wants an engine out of memory, and out of the table with [`Leave::Remove`].
    pub(super) fn ask_to_leave(&mut self, id: &str, leave: Leave) -> Result<Leaving> {
        let grace = self.config.drain_grace;
        let closing_now = self.closing;
        let for_good = leave == Leave::Remove;
        let entry = self.entry(id)?;
        let mut effects = Effects::default();
        match &mut entry.phase {
            Phase::Unloaded | Phase::Failed { .. } => {
                entry.phase = Phase::Unloaded;
                entry.failures = 0;
                self.end(id, &leave);
                return Ok(Leaving { gone: None, effects });
            }
            Phase::Ready(_) => effects.actions.extend(entry.drain(leave, grace)),
            Phase::Loading { .. } if !for_good && !closing_now => {
                let text = format!("engine '{id}' is loading and cannot be unloaded yet");
                return Err(Error::new(Kind::Conflict, text).with_code("engine_loading"));
            }
            Phase::Loading { leave: wish } => {
                entry.cancelled.cancel();
                if *wish != Some(Leave::Remove) {
                    *wish = Some(leave);
                }
            }
            Phase::Draining { leave: wish } => {
                if for_good {
                    *wish = leave;
                }
            }
        }
        if for_good || closing_now {
            let refusal = if closing_now { closing() } else { not_found(id) };
            effects.refusals = entry.refuse_waiters(&refusal);
        }
        let (sender, receiver) = oneshot::channel();
        entry.gone.push(sender);
        Ok(Leaving { gone: Some(receiver), effects })
    }

    /// Frees what has been idle for long enough, and what broke.
    pub(super) fn sweep(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        for entry in self.entries.values_mut() {
            let Phase::Ready(loaded) = &entry.phase else { continue };
            if let Some(reason) = loaded.engine.has_failed() {
                actions.extend(entry.drain(Leave::Fail(reason), Duration::ZERO));
                continue;
            }
            if !entry.is_idle() {
                entry.last_used = now;
                continue;
            }
            let idle_for = now.saturating_duration_since(entry.last_used);
            if let KeepAlive::After(timeout) = entry.keep_alive(&self.config)
                && idle_for >= timeout
            {
                actions.extend(entry.drain(Leave::Unload, Duration::ZERO));
            }
        }
        actions
    }

    /// Shortest idle timeout of all engines.
    pub(super) fn shortest_timeout(&self) -> Option<Duration> {
        let timeouts = self.entries.values().map(|entry| entry.keep_alive(&self.config));
        timeouts
            .filter_map(|keep_alive| match keep_alive {
                KeepAlive::After(timeout) => Some(timeout),
                KeepAlive::Forever => None,
            })
            .min()
    }
}

pub(super) fn not_found(id: &str) -> Error {
    Error::new(Kind::NotFound, format!("model '{id}' does not exist"))
        .with_param("model")
        .with_code("model_not_found")
}

fn closing() -> Error {
    Error::unavailable("the server is shutting down", 5)
}
