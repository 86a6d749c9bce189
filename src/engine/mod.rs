//! The engine: token ids in, events out. One named OS thread owns runner, KV blocks and scheduler.
//!
//! ```text
//!   Engine::submit ──► bounded channel ──► thread: Worker { Scheduler, Runner, Sampler per job }
//!   Job ◄── record of what happened (never blocks the engine, never lost by reading) ◄──┘
//! ```
//!
//! Each step of the [`worker`] schedules rows ([`scheduler`]), assembles the flat batch ([`batch`]),
//! has the runner compute it, and samples ([`sampler`]). Results depend on the request and its seed
//! alone: not on other requests, chunk sizes, preemption or cached prefixes.

mod active;
pub mod batch;
pub mod block;
pub mod budget;
pub mod draft;
mod growth;
mod guide;
pub mod job;
pub mod logits;
mod pooler;
pub mod prefix;
pub mod request;
pub mod sampler;
pub mod sampling;
pub mod scheduler;
pub mod sequence;
pub mod snapshot;
pub mod stats;
mod tenant;
mod thread;
pub mod worker;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

pub use draft::Drafts;
pub use growth::MemoryRoom;
pub use job::{Job, JobResult};
pub use request::{
    Constraint, EmbedRequest, Event, FinishReason, LogprobsOf, Outcome, Request, Timings,
    TokenLogprobs, Usage,
};
pub use sampling::Sampling;
pub use stats::EngineStats;
pub use tenant::{Owner, Tenant};

use crate::error::Error;
use crate::model::{Runner, RunnerSpec};
use stats::Meters;
use thread::Command;
use worker::{Submission, Work, Worker};

/// How an engine serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// The engine's id, for its thread and its messages.
    pub name: String,
    /// Sequences that are computed at the same time.
    pub max_running: usize,
    /// Further requests that may wait; more are refused.
    pub max_waiting: usize,
    /// Rows of a step at most; at least `max_running`.
    pub max_batch_tokens: usize,
    /// Whether KV of equal prefixes is shared and kept.
    pub prefix_cache: bool,
    /// Wanted time of a step in which a prompt's chunk is computed beside decoding sequences, in
    /// milliseconds; 0 = chunks as large as `max_batch_tokens` allows.
    pub target_step_ms: u32,
    /// Tokens of a sequence that are guessed and computed ahead in a step at most; 0 = never.
    pub max_draft_tokens: usize,
    /// Compute every guess, whatever rows cost: slower, and the same output.
    pub drafts_always: bool,
    /// Threads that compute the masks of constraints beside the forward pass; 0 = between two passes.
    pub mask_threads: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            name: "default".to_owned(),
            max_running: 4,
            max_waiting: 256,
            max_batch_tokens: 256,
            prefix_cache: true,
            target_step_ms: 100,
            max_draft_tokens: 16,
            drafts_always: false,
            mask_threads: 1,
        }
    }
}

/// Handle of a running engine; clones are of the same one. When the last is dropped, the engine
/// ends as by [`Self::shutdown`], but nobody waits for it.
#[derive(Clone, Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    commands: Arc<SyncSender<Command>>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
    /// Whose the requests of this handle are.
    tenant: Tenant,
    /// Which request of the tenant all of them belong to; `None` = each is one of its own.
    group: Option<u64>,
}

/// What handles and thread share.
#[derive(Debug)]
struct Shared {
    config: EngineConfig,
    spec: RunnerSpec,
    meters: Arc<Meters>,
    next_id: AtomicU64,
    /// Nothing more is accepted.
    is_closed: AtomicBool,
    failed: OnceLock<String>,
}

impl Engine {
    /// Starts the thread, which takes the runner.
    ///
    /// # Errors
    /// A configuration that cannot work, or no thread can be had.
    pub fn start(runner: Box<dyn Runner>, config: EngineConfig) -> Result<Self, Error> {
        let spec = runner.spec().clone();
        let rows = config.max_batch_tokens.min(spec.max_rows);
        if config.max_running == 0 || config.max_running > rows {
            return Err(Error::invalid(
                "n_parallel",
                format!("n_parallel {} is not within 1 and n_batch {rows}", config.max_running),
            ));
        }
        let meters = Arc::new(Meters::default());
        let worker = Worker::new(runner, &config, Arc::clone(&meters));
        // Submissions are limited by count; one more place is for the shutdown.
        let (commands, receiver) = sync_channel(2 * (config.max_running + config.max_waiting) + 1);
        let name = format!("engine-{}", config.name);
        let shared = Arc::new(Shared {
            config,
            spec,
            meters,
            next_id: AtomicU64::new(1),
            is_closed: AtomicBool::new(false),
            failed: OnceLock::new(),
        });
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || thread::run(worker, &receiver, &for_thread))
            .map_err(|error| Error::internal(format!("no thread for an engine: {error}")))?;
        let thread = Arc::new(Mutex::new(Some(thread)));
        Ok(Self {
            shared,
            commands: Arc::new(commands),
            thread,
            tenant: Tenant::default(),
            group: None,
        })
    }

    /// A handle whose requests are a tenant's.
    #[must_use]
    pub fn of(&self, tenant: Tenant) -> Self {
        Self { tenant, ..self.clone() }
    }

    /// A handle whose requests are parts of one, which has a share of the places as one.
    #[must_use]
    pub fn grouped(&self) -> Self {
        Self { group: Some(self.shared.next_id.fetch_add(1, SeqCst)), ..self.clone() }
    }

    /// Queues a request. It returns at once; the job tells the rest.
    ///
    /// # Errors
    /// The request is over a limit of the model, the engine is full, or it takes nothing more.
    pub fn submit(&self, mut request: Request) -> Result<Job, Error> {
        request.validate(&self.shared.spec)?;
        request.cache_salt = self.tenant.salt(request.cache_salt);
        self.queue(request.into())
    }

    /// Queues a request for an embedding, which is in the result of the finished job.
    ///
    /// # Errors
    /// As [`Self::submit`].
    pub fn embed(&self, mut request: EmbedRequest) -> Result<Job, Error> {
        request.validate(&self.shared.spec)?;
        request.cache_salt = self.tenant.salt(request.cache_salt);
        self.queue(Work::Embed(request))
    }

    fn queue(&self, work: Work) -> Result<Job, Error> {
        self.shared.check_open()?;
        let EngineConfig { max_running, max_waiting, .. } = self.shared.config;
        let id = self.shared.next_id.fetch_add(1, SeqCst);
        let limit = max_running + max_waiting;
        let owner = Owner { tenant: self.tenant.id, group: self.group.unwrap_or(id) };
        let (job, submission) = Submission::new(id, owner, work, &self.shared.meters, limit)
            .map_err(|in_flight| self.shared.full(in_flight))?;
        match self.commands.try_send(Command::Submit(Box::new(submission))) {
            Ok(()) => Ok(job),
            Err(TrySendError::Full(_)) => Err(self.shared.full(limit)),
            Err(TrySendError::Disconnected(_)) => {
                self.shared.check_open()?;
                Err(self.shared.unloading())
            }
        }
    }

    /// Names whom to ask before the KV pool grows. Until then it grows as far as the system lets it; a
    /// second call changes nothing.
    pub fn set_room(&self, room: Arc<dyn MemoryRoom>) {
        self.shared.meters.set_room(room);
    }

    /// Numbers about the engine now.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        self.shared.meters.snapshot()
    }

    /// The counters behind [`Self::stats`], which outlive the engine.
    #[must_use]
    pub fn meters(&self) -> Arc<Meters> {
        Arc::clone(&self.shared.meters)
    }

    /// The model's limits.
    #[must_use]
    pub fn spec(&self) -> &RunnerSpec {
        &self.shared.spec
    }

    #[must_use]
    pub fn config(&self) -> &EngineConfig {
        &self.shared.config
    }

    /// Whether no job is waiting or running.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.shared.meters.in_flight() == 0
    }

    /// Why the engine failed, if it did; it serves no more.
    #[must_use]
    pub fn has_failed(&self) -> Option<String> {
        self.shared.failed.get().cloned()
    }

    /// Accepts nothing more and lets jobs finish: see [`Self::idle`].
    pub fn drain(&self) {
        self.shared.close();
    }

    /// Returns when no job is waiting or running.
    pub async fn idle(&self) {
        self.shared.meters.idle().await;
    }

    /// Ends all jobs with an error, ends the thread and drops the runner. It blocks until that is
    /// done, which takes a step at most; further calls do nothing.
    pub fn shutdown(&self) {
        self.shared.close();
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take() {
            // It fails when the thread has ended by itself.
            let _ = self.commands.send(Command::Shutdown);
            if thread.join().is_err() {
                tracing::error!(engine = self.shared.config.name, "engine thread panicked");
            }
        }
    }
}

impl Shared {
    fn close(&self) {
        self.is_closed.store(true, SeqCst);
    }

    fn check_open(&self) -> Result<(), Error> {
        let name = &self.config.name;
        if let Some(reason) = self.failed.get() {
            let message = format!("engine {name} has failed and must be loaded again: {reason}");
            return Err(Error::unavailable(message, 1).with_code("engine_failed"));
        }
        if self.is_closed.load(SeqCst) { Err(self.unloading()) } else { Ok(()) }
    }

    fn full(&self, in_flight: usize) -> Error {
        let EngineConfig { name, max_running, max_waiting, .. } = &self.config;
        let waiting = in_flight.saturating_sub(*max_running);
        Error::unavailable(
            format!(
                "engine {name} is full: {waiting} requests wait, the limit is {max_waiting} of a \
                 client beside {max_running} that run"
            ),
            self.meters.retry_after_s(in_flight, *max_running),
        )
        .with_code("queue_full")
    }
}
