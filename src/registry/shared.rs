//! What the registry's tasks share: the table behind a lock that is never held across a wait, and the
//! tasks that load, drain and sweep.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use kolosal_kernels::memory::release_unused;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::engine::MemoryRoom;
use crate::error::{Error, Result};
use crate::hub::Slots;

use super::config::{KeepAlive, Wait};
use super::entry::{Action, Queued, Victim};
use super::lease::{Grant, Lease, Lender};
use super::load::{Loaded, Loader, abandoned};
use super::room::Admission;
use super::table::{Effects, Leaving, Reply, Table};

/// How often a task that waits for an engine to fall idle looks again: jobs may end without anyone
/// giving back a lease.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Bounds of the pause between two sweeps.
const SWEEP_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(10));

pub(super) struct Shared {
    table: Mutex<Table>,
    loader: Arc<dyn Loader>,
    /// Loads whose files are here.
    slots: Slots,
    /// A lease was given back, or memory was freed.
    changed: Notify,
    /// The sweeper is to look now.
    sweep_now: Notify,
}

impl Shared {
    pub(super) fn new(table: Table, loader: Arc<dyn Loader>, slots: Slots) -> Self {
        let (changed, sweep_now) = (Notify::new(), Notify::new());
        Self { table: Mutex::new(table), loader, slots, changed, sweep_now }
    }

    pub(super) fn loader(&self) -> &dyn Loader {
        self.loader.as_ref()
    }

    /// The table is consistent between any two statements that can panic, so that a poisoned lock
    /// says nothing about it.
    pub(super) fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gets a lease, waiting for a load if there must be one.
    pub(super) async fn get(self: &Arc<Self>, id: &str, wait: Wait) -> Result<Lease> {
        let reply = self.request(id, wait)?;
        self.answer(id, reply).await
    }

    /// The part of [`Self::get`] under the lock.
    pub(super) fn request(&self, id: &str, wait: Wait) -> Result<Reply> {
        let mut table = self.lock();
        let now = table.config.clock.now();
        table.request(id, wait, now)
    }

    pub(super) async fn answer(self: &Arc<Self>, id: &str, reply: Reply) -> Result<Lease> {
        match reply {
            Reply::Granted(grant) => Ok(Lease::new(Arc::<Self>::clone(self), grant)),
            Reply::Queued(queued, action) => {
                self.perform(action);
                match queued {
                    Queued::Refused(error) => Err(error),
                    Queued::Waits(receiver) => {
                        let mut waiting = Waiting { shared: self, id, receiver };
                        (&mut waiting.receiver).await.unwrap_or_else(|_| Err(abandoned(id)))
                    }
                }
            }
        }
    }

    /// Waits until an engine is out of memory.
    pub(super) async fn finish_leaving(self: &Arc<Self>, leaving: Leaving) {
        self.deliver(leaving.effects);
        if let Some(gone) = leaving.gone {
            // An error means that the entry is gone altogether.
            let _ = gone.await;
        }
    }

    /// Starts what a transition asked for. Tasks of their own, so that no client's leaving stops them.
    pub(super) fn perform(self: &Arc<Self>, actions: impl IntoIterator<Item = Action>) {
        for action in actions {
            let shared = Arc::clone(self);
            match action {
                Action::Load { id, load_id, cancelled } => {
                    tokio::spawn(shared.load(id, load_id, cancelled))
                }
                Action::Drain { victim, grace } => tokio::spawn(shared.drain(victim, grace)),
            };
        }
    }

    fn deliver(self: &Arc<Self>, effects: Effects) {
        for (waiter, grant) in effects.grants {
            // A waiter that has left gives its lease back here.
            let _ = waiter.send(Ok(Lease::new(Arc::<Self>::clone(self), grant)));
        }
        for (waiter, error) in effects.refusals {
            let _ = waiter.send(Err(error));
        }
        self.perform(effects.actions);
        self.changed.notify_waiters();
    }

    async fn load(self: Arc<Self>, id: String, load_id: u64, cancelled: CancellationToken) {
        let outcome = self.try_load(&id, load_id, &cancelled).await;
        match &outcome {
            Ok(loaded) => {
                let (shared, id) = (Arc::downgrade(&self), id.clone());
                loaded.engine.set_room(Arc::new(LoadRoom { shared, id, load_id }));
                let (spec, name) = (loaded.engine.spec(), &loaded.engine.config().name);
                info!(engine = name, context = spec.context_len, "engine loaded");
            }
            Err(error) => warn!(engine = id, %error, "engine not loaded"),
        }
        let mut table = self.lock();
        let now = table.config.clock.now();
        let effects = table.finish_load((&id, load_id), outcome, now);
        drop(table);
        self.deliver(effects);
    }

    /// Steps that wait end when the load is given up; those that block a thread hold a turn until they
    /// have ended, so that there are never more of them than turns.
    async fn try_load(
        self: &Arc<Self>,
        id: &str,
        load_id: u64,
        cancelled: &CancellationToken,
    ) -> Result<Loaded> {
        let spec = Arc::clone(&self.lock().entry(id)?.spec);
        let path = until_cancelled(self.loader.locate(&spec), id, cancelled).await?;
        let place = self.slots.enter().ok_or_else(|| self.too_many_loads(id))?;
        let turn = until_cancelled(place.turn().map(Ok), id, cancelled).await?;
        let (loader, estimated, at) = (Arc::clone(&self.loader), Arc::clone(&spec), path.clone());
        let need = blocking(move || {
            let _turn = turn;
            loader.estimate(&estimated, &at)
        })
        .await?;
        until_cancelled(self.make_room(id, load_id, need), id, cancelled).await?;
        let turn = until_cancelled(place.turn().map(Ok), id, cancelled).await?;
        self.lock().begin_reading(id, load_id)?;
        let (loader, cancelled) = (Arc::clone(&self.loader), cancelled.clone());
        blocking(move || {
            let _turn = turn;
            loader.load(&spec, &path, &cancelled)
        })
        .await
    }

    fn too_many_loads(&self, id: &str) -> Error {
        let text = format!(
            "engine '{id}' cannot be loaded now: {} loads are under way or wait, the limit              (registry.max_loads and registry.max_load_queue)",
            self.slots.limit()
        );
        Error::unavailable(text, 10).with_code("too_many_loads")
    }

    /// Waits for room of `need` bytes and evicts for it.
    async fn make_room(self: &Arc<Self>, id: &str, load_id: u64, need: u64) -> Result<()> {
        let deadline = {
            let table = self.lock();
            table.config.clock.now() + table.config.room_wait
        };
        loop {
            let changed = self.changed.notified();
            let admission = {
                let mut table = self.lock();
                let now = table.config.clock.now();
                let admission = table.admit((id, load_id), need, now)?;
                if matches!(admission, Admission::Wait)
                    && (now >= deadline || !table.is_wanted(id, load_id))
                {
                    let error = table.no_room(id, need);
                    // Ended under the same lock: a request that comes now starts a load of its own
                    // instead of sharing the end of one that nobody waited for.
                    let effects = table.finish_load((id, load_id), Err(error.clone()), now);
                    drop(table);
                    self.deliver(effects);
                    return Err(error);
                }
                admission
            };
            if let Admission::Granted(victims) = admission {
                for victim in victims {
                    info!(engine = victim.id, by = id, "engine evicted");
                    // A task of its own: what was begun here is ended even if the load is given up.
                    let _ = tokio::spawn(Arc::clone(self).free(victim)).await;
                }
                return Ok(());
            }
            // Ends by time as well: either way the next turn looks again.
            let _ = tokio::time::timeout(LOOK_AGAIN, changed).await;
        }
    }

    async fn drain(self: Arc<Self>, victim: Victim, grace: Duration) {
        let clock = self.lock().config.clock.clone();
        let deadline = clock.now() + grace;
        while clock.now() < deadline {
            let changed = self.changed.notified();
            let leases =
                self.lock().entry_of(&victim.id, victim.load_id).map_or(0, |entry| entry.leases);
            if leases == 0 && victim.loaded.engine.is_idle() {
                break;
            }
            let _ = tokio::time::timeout(LOOK_AGAIN, changed).await;
        }
        self.free(victim).await;
    }

    /// Ends what still runs, frees the memory, then says so.
    async fn free(self: Arc<Self>, victim: Victim) {
        let Victim { id, load_id, loaded } = victim;
        let freed = blocking(move || {
            loaded.engine.shutdown();
            drop(loaded);
            release_unused();
            Ok(())
        });
        if let Err(error) = freed.await {
            warn!(engine = id, %error, "engine not freed in good order");
        }
        info!(engine = id, "engine unloaded");
        let mut table = self.lock();
        let now = table.config.clock.now();
        let effects = table.finish_drain(&id, load_id, now);
        drop(table);
        self.deliver(effects);
    }

    pub(super) fn sweep(self: &Arc<Self>) {
        let mut table = self.lock();
        let now = table.config.clock.now();
        let actions = table.sweep(now);
        drop(table);
        self.perform(actions);
    }

    /// Sweeps until the registry is dropped: at a quarter of the shortest idle timeout, and when told.
    pub(super) async fn sweep_forever(shared: Weak<Self>) {
        loop {
            let Some(shared) = shared.upgrade() else { return };
            shared.sweep();
            let (shortest, longest) = SWEEP_PAUSE;
            let timeout = shared.lock().shortest_timeout();
            let pause = timeout.map_or(longest, |timeout| (timeout / 4).clamp(shortest, longest));
            let _ = tokio::time::timeout(pause, shared.sweep_now.notified()).await;
        }
    }
}

impl Lender for Shared {
    fn release(&self, grant: &Grant) {
        let mut table = self.lock();
        let now = table.config.clock.now();
        let unload_now = table.release(&grant.id, grant.load_id, now);
        drop(table);
        self.changed.notify_waiters();
        if unload_now {
            self.sweep_now.notify_one();
        }
    }

    fn set_keep_alive(&self, grant: &Grant, keep_alive: KeepAlive) {
        if let Some(entry) = self.lock().entry_of(&grant.id, grant.load_id) {
            entry.keep_alive = Some(keep_alive);
        }
    }
}

/// The room of one load.
struct LoadRoom {
    shared: Weak<Shared>,
    id: String,
    load_id: u64,
}

impl MemoryRoom for LoadRoom {
    fn take(&self, bytes: u64) -> bool {
        let shared = self.shared.upgrade();
        shared.is_some_and(|shared| shared.lock().grow(&self.id, self.load_id, bytes))
    }

    fn give_back(&self, bytes: u64) {
        if let Some(shared) = self.shared.upgrade() {
            shared.lock().shrink(&self.id, self.load_id, bytes);
        }
    }
}

/// A request in line. Dropped with the request of a client that has left, it ends the load that
/// nobody else waits for.
struct Waiting<'a> {
    shared: &'a Arc<Shared>,
    id: &'a str,
    receiver: oneshot::Receiver<Result<Lease>>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.receiver.close();
        self.shared.lock().leave_line(self.id);
    }
}

/// Drops `step` when the load of `id` is given up.
async fn until_cancelled<T>(
    step: impl Future<Output = Result<T>>,
    id: &str,
    cancelled: &CancellationToken,
) -> Result<T> {
    tokio::select! {
        biased;
        () = cancelled.cancelled() => Err(abandoned(id)),
        done = step => done,
    }
}

/// Runs `work` where it may block. A panic in it is an error here.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failure) => Err(Error::internal(format!("a background task failed: {failure}"))),
    }
}
