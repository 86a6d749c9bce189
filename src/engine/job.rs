//! The handle of a submitted request, and the engine's end of it.
//!
//! Both share one record of what has happened so far. The engine appends and never waits; readers
//! look as often and as late as they like, and reading takes nothing away. The record is bounded by
//! the request itself: its prompt and `max_tokens`.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::draft::Drafts;
use super::request::{Event, Outcome, TokenLogprobs};
use super::stats::Meters;
use super::tenant::Owner;
use crate::error::Error;

/// A submitted request. Dropping it cancels the sequence.
#[derive(Debug)]
pub struct Job {
    id: u64,
    shared: Arc<Shared>,
    cursor: Cursor,
}

/// What a job has produced so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobResult {
    /// Generated token ids.
    pub tokens: Vec<u32>,
    /// One for each token when the request asked for them, else empty.
    pub logprobs: Vec<TokenLogprobs>,
    /// Of the prompt from its second token on, once the prompt is done and when asked for.
    pub prompt_logprobs: Option<Vec<TokenLogprobs>>,
    /// Pooled hidden states of the prompt, (hidden), when the request was for them.
    pub embedding: Option<Vec<f32>>,
    /// Present when the job ended without a failure.
    pub outcome: Option<Outcome>,
    /// Present when the job failed.
    pub error: Option<Error>,
}

/// Which events a reader has had.
#[derive(Debug, Default)]
struct Cursor {
    prefill: u32,
    prompt_logprobs: bool,
    tokens: usize,
    end: bool,
}

#[derive(Debug, Default)]
struct Shared {
    record: Mutex<Record>,
    /// Wakes asynchronous and blocking readers.
    changed: Notify,
    ended: Condvar,
    cancelled: AtomicBool,
}

#[derive(Debug, Default)]
struct Record {
    prefill: Option<Prefill>,
    prompt_logprobs: Option<Vec<TokenLogprobs>>,
    tokens: Vec<u32>,
    logprobs: Vec<TokenLogprobs>,
    drafts: Drafts,
    embedding: Option<Vec<f32>>,
    end: Option<Result<Outcome, Error>>,
}

/// How much of a prompt is in the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prefill {
    pub(super) processed: u32,
    pub(super) cached: u32,
    pub(super) total: u32,
}

impl Shared {
    /// The record stays whole whatever panics: each change is one assignment or push.
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Job {
    /// Unique in the engine.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.shared.record().end.is_some()
    }

    /// What has been produced so far; it can be read any number of times.
    #[must_use]
    pub fn result(&self) -> JobResult {
        let record = self.shared.record();
        JobResult {
            tokens: record.tokens.clone(),
            logprobs: record.logprobs.clone(),
            prompt_logprobs: record.prompt_logprobs.clone(),
            embedding: record.embedding.clone(),
            outcome: record.end.as_ref().and_then(|end| end.as_ref().ok().copied()),
            error: record.end.as_ref().and_then(|end| end.as_ref().err().cloned()),
        }
    }

    /// Tokens that were computed ahead so far.
    #[must_use]
    pub fn drafts(&self) -> Drafts {
        self.shared.record().drafts
    }

    /// Why the job failed, if it did.
    #[must_use]
    pub fn error(&self) -> Option<Error> {
        self.shared.record().end.as_ref().and_then(|end| end.as_ref().err().cloned())
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// The job failed.
    pub async fn wait(&self) -> Result<Outcome, Error> {
        loop {
            // Created before the test, so that an end in between is not missed.
            let changed = self.shared.changed.notified();
            if let Some(end) = self.shared.record().end.clone() {
                return end;
            }
            changed.await;
        }
    }

    /// As [`Self::wait`] on a thread that may block.
    ///
    /// # Errors
    /// The job failed.
    pub fn wait_blocking(&self) -> Result<Outcome, Error> {
        let mut record = self.shared.record();
        loop {
            if let Some(end) = &record.end {
                return end.clone();
            }
            record = self.shared.ended.wait(record).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends the sequence within one step; its partial result stays.
    pub fn cancel(&self) {
        self.shared.cancelled.store(true, SeqCst);
    }

    /// The next event in order: progress of the prompt (the latest only), its log-probabilities,
    /// tokens, the end; `None` after the end. A future that is dropped loses no event.
    pub async fn next_event(&mut self) -> Option<Event> {
        loop {
            let changed = self.shared.changed.notified();
            if self.cursor.end {
                return None;
            }
            if let Some(event) = self.cursor.next(&self.shared.record()) {
                return Some(event);
            }
            changed.await;
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl Cursor {
    fn next(&mut self, record: &Record) -> Option<Event> {
        if let Some(Prefill { processed, cached, total }) = record.prefill
            && processed > self.prefill
        {
            self.prefill = processed;
            return Some(Event::Prefill { processed, cached, total });
        }
        if let Some(logprobs) = &record.prompt_logprobs
            && !self.prompt_logprobs
        {
            self.prompt_logprobs = true;
            return Some(Event::PromptLogprobs(logprobs.clone()));
        }
        if let Some(&id) = record.tokens.get(self.tokens) {
            let logprobs = record.logprobs.get(self.tokens).cloned();
            self.tokens += 1;
            return Some(Event::Token { id, logprobs });
        }
        let end = record.end.as_ref()?;
        self.end = true;
        Some(match end {
            Ok(outcome) => Event::Finished(*outcome),
            Err(error) => Event::Failed(error.clone()),
        })
    }
}

/// The engine's end of a job. Dropped without an end, it fails the job: none is ever left hanging.
#[derive(Debug)]
pub(super) struct JobWriter {
    shared: Arc<Shared>,
    meters: Arc<Meters>,
    owner: Owner,
    submitted: Instant,
    has_ended: bool,
}

/// A job and its writer; the caller has counted it in by [`Meters::enter`].
pub(super) fn job(id: u64, owner: Owner, meters: Arc<Meters>) -> (Job, JobWriter) {
    let shared = Arc::new(Shared::default());
    let job = Job { id, shared: Arc::clone(&shared), cursor: Cursor::default() };
    (job, JobWriter { shared, meters, owner, submitted: Instant::now(), has_ended: false })
}

impl JobWriter {
    pub(super) fn owner(&self) -> Owner {
        self.owner
    }

    pub(super) fn submitted(&self) -> Instant {
        self.submitted
    }

    /// Whether the reader has gone or wants no more.
    pub(super) fn is_cancelled(&self) -> bool {
        self.shared.cancelled.load(SeqCst)
    }

    pub(super) fn prefill(&self, prefill: Prefill) {
        self.shared.record().prefill = Some(prefill);
        self.shared.changed.notify_waiters();
    }

    pub(super) fn prompt_logprobs(&self, logprobs: Vec<TokenLogprobs>) {
        self.shared.record().prompt_logprobs = Some(logprobs);
        self.shared.changed.notify_waiters();
    }

    pub(super) fn embedding(&self, embedding: Vec<f32>) {
        self.shared.record().embedding = Some(embedding);
    }

    pub(super) fn token(&self, id: u32, logprobs: Option<TokenLogprobs>) {
        {
            let mut record = self.shared.record();
            record.tokens.push(id);
            record.logprobs.extend(logprobs);
        }
        self.shared.changed.notify_waiters();
    }

    pub(super) fn drafts(&self, drafts: Drafts) {
        self.shared.record().drafts = drafts;
    }

    pub(super) fn end(mut self, end: Result<Outcome, Error>) {
        self.end_once(end);
    }

    fn end_once(&mut self, end: Result<Outcome, Error>) {
        if std::mem::replace(&mut self.has_ended, true) {
            return;
        }
        if end.is_err() {
            self.meters.jobs_failed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        // Its place is free before anybody can know of the end.
        self.meters.leave(self.owner.tenant, self.submitted.elapsed());
        self.shared.record().end = Some(end);
        self.shared.ended.notify_all();
        self.shared.changed.notify_waiters();
    }
}

impl Drop for JobWriter {
    fn drop(&mut self) {
        self.end_once(Err(Error::unavailable("the engine ended before the request did", 1)));
    }
}
