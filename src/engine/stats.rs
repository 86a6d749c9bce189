//! Numbers about an engine that anyone may read while it runs.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::growth::{Asked, MemoryRoom};
use super::tenant::InFlight;

/// A snapshot of an engine. Counts from the start unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EngineStats {
    /// Sequences that hold KV blocks now.
    pub running: usize,
    /// Sequences that wait now.
    pub waiting: usize,
    /// Blocks of the KV pool at most: total = free + used + cached, whether free ones are there already or
    /// would have to be had.
    pub blocks_total: usize,
    pub blocks_free: usize,
    pub blocks_used: usize,
    /// Not in use, kept for reuse.
    pub blocks_cached: usize,
    /// Used blocks of all, 0 to 1.
    pub kv_usage: f64,
    /// Tokens of admitted prompts that were looked up in the prefix cache.
    pub prefix_queried_tokens: u64,
    /// Of them, those found.
    pub prefix_hit_tokens: u64,
    /// Sequences that lost their blocks to an older one.
    pub preemptions: u64,
    /// Prompt tokens of sequences whose prompt is done.
    pub prompt_tokens: u64,
    pub generated_tokens: u64,
    /// Guessed tokens that were computed, and those that were right.
    pub draft_tokens: u64,
    pub accepted_draft_tokens: u64,
    pub steps: u64,
    pub jobs_submitted: u64,
    pub jobs_failed: u64,
    /// The last submission, step or end of a job.
    pub last_activity: Instant,
}

/// Counters behind [`EngineStats`]: written by the engine thread, read by anyone.
#[derive(Debug)]
pub struct Meters {
    epoch: Instant,
    pub(super) running: AtomicU64,
    pub(super) blocks_total: AtomicU64,
    pub(super) blocks_free: AtomicU64,
    pub(super) blocks_used: AtomicU64,
    pub(super) blocks_cached: AtomicU64,
    pub(super) prefix_queried: AtomicU64,
    pub(super) prefix_hit: AtomicU64,
    pub(super) preemptions: AtomicU64,
    pub(super) prompt_tokens: AtomicU64,
    pub(super) generated_tokens: AtomicU64,
    pub(super) draft_tokens: AtomicU64,
    pub(super) accepted_draft_tokens: AtomicU64,
    pub(super) steps: AtomicU64,
    pub(super) jobs_submitted: AtomicU64,
    pub(super) jobs_failed: AtomicU64,
    /// Jobs that were accepted and have not ended.
    in_flight: Mutex<InFlight>,
    /// Running mean of a job's time in milliseconds.
    job_ms: AtomicU64,
    /// Milliseconds from `epoch`.
    last_activity_ms: AtomicU64,
    idle: Notify,
    /// Who is asked before the KV pool grows.
    pub(super) room: Asked,
}

impl Default for Meters {
    fn default() -> Self {
        Self {
            epoch: Instant::now(),
            running: AtomicU64::new(0),
            blocks_total: AtomicU64::new(0),
            blocks_free: AtomicU64::new(0),
            blocks_used: AtomicU64::new(0),
            blocks_cached: AtomicU64::new(0),
            prefix_queried: AtomicU64::new(0),
            prefix_hit: AtomicU64::new(0),
            preemptions: AtomicU64::new(0),
            prompt_tokens: AtomicU64::new(0),
            generated_tokens: AtomicU64::new(0),
            draft_tokens: AtomicU64::new(0),
            accepted_draft_tokens: AtomicU64::new(0),
            steps: AtomicU64::new(0),
            jobs_submitted: AtomicU64::new(0),
            jobs_failed: AtomicU64::new(0),
            in_flight: Mutex::default(),
            job_ms: AtomicU64::new(0),
            last_activity_ms: AtomicU64::new(0),
            idle: Notify::new(),
            room: Asked::default(),
        }
    }
}

impl Meters {
    /// The numbers now. They are written one by one, so they may be of neighbouring steps.
    #[must_use]
    pub fn snapshot(&self) -> EngineStats {
        let count = |value: &AtomicU64| value.load(Relaxed) as usize;
        let running = count(&self.running);
        let blocks_total = count(&self.blocks_total);
        let blocks_used = count(&self.blocks_used);
        EngineStats {
            running,
            waiting: self.in_flight().saturating_sub(running),
            blocks_total,
            blocks_free: count(&self.blocks_free),
            blocks_used,
            blocks_cached: count(&self.blocks_cached),
            kv_usage: blocks_used as f64 / blocks_total.max(1) as f64,
            prefix_queried_tokens: self.prefix_queried.load(Relaxed),
            prefix_hit_tokens: self.prefix_hit.load(Relaxed),
            preemptions: self.preemptions.load(Relaxed),
            prompt_tokens: self.prompt_tokens.load(Relaxed),
            generated_tokens: self.generated_tokens.load(Relaxed),
            draft_tokens: self.draft_tokens.load(Relaxed),
            accepted_draft_tokens: self.accepted_draft_tokens.load(Relaxed),
            steps: self.steps.load(Relaxed),
            jobs_submitted: self.jobs_submitted.load(Relaxed),
            jobs_failed: self.jobs_failed.load(Relaxed),
            last_activity: self.epoch + Duration::from_millis(self.last_activity_ms.load(Relaxed)),
        }
    }

    /// Names whom to ask before the KV pool grows; a second call changes nothing.
    pub fn set_room(&self, room: Arc<dyn MemoryRoom>) {
        self.room.set(room);
    }

    /// Jobs that were accepted and have not ended.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.jobs().all()
    }

    /// Nothing that is done with the counts can panic in between.
    fn jobs(&self) -> MutexGuard<'_, InFlight> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a job in unless `limit` of the tenant, or twice as many of all, are in flight: their number
    /// then.
    pub(super) fn enter(&self, tenant: u64, limit: usize) -> Result<(), usize> {
        self.jobs().enter(tenant, limit)?;
        self.jobs_submitted.fetch_add(1, Relaxed);
        self.touch();
        Ok(())
    }

    /// Counts a job out.
    pub(super) fn leave(&self, tenant: u64, took: Duration) {
        let took_ms = took.as_millis() as u64;
        let mean = self.job_ms.load(Relaxed);
        let mean = if mean == 0 { took_ms } else { (mean * 7 + took_ms) / 8 };
        self.job_ms.store(mean, Relaxed);
        self.touch();
        let was_last = self.jobs().leave(tenant);
        if was_last {
            self.idle.notify_waiters();
        }
    }

    pub(super) fn touch(&self) {
        self.last_activity_ms.store(self.epoch.elapsed().as_millis() as u64, Relaxed);
    }

    /// Seconds until one of `in_flight` jobs served `max_running` at a time has probably ended.
    pub(super) fn retry_after_s(&self, in_flight: usize, max_running: usize) -> u32 {
        let waiting = in_flight.saturating_sub(max_running) as u64 + 1;
        let ms = self.job_ms.load(Relaxed) * waiting / max_running.max(1) as u64;
        ms.div_ceil(1000).clamp(1, 60) as u32
    }

    /// Returns when no job is in flight.
    pub(super) async fn idle(&self) {
        loop {
            // Created before the test, so that an end in between is not missed.
            let notified = self.idle.notified();
            if self.in_flight() == 0 {
                return;
            }
            notified.await;
        }
    }
}
