//! Limits and times of the registry.

use std::time::Duration;

use super::clock::Clock;

/// How the registry behaves; the server fills it from its configuration.
#[derive(Clone, Debug)]
pub struct RegistryConfig {
    /// Unload after this long without use, for engines that do not say; zero = never.
    pub idle_timeout: Duration,
    /// Bytes that all loaded engines may take together; `None` = what
    /// [`super::admit::detect_budget`] finds, and without limit where it finds nothing.
    pub memory_budget_bytes: Option<u64>,
    /// Engines loaded at once; `None` = as many as fit.
    pub max_loaded: Option<usize>,
    /// Engines that may be registered.
    pub max_engines: usize,
    /// Requests that may wait for one engine to load.
    pub max_waiters: usize,
    /// Engines whose weights are read at the same time.
    pub max_loads: usize,
    /// Loads that may wait for their turn or for memory; more are refused with 503. Downloads are
    /// bounded by the hub and do not count.
    pub max_load_queue: usize,
    /// What a request for an engine that is not loaded does.
    pub wait_for_load: Wait,
    /// How long a load waits for busy engines to make room before it gives up.
    pub room_wait: Duration,
    /// Thrash guard: an engine that was just loaded is not evicted before it has been ready for
    /// four times as long as its load took, but at most this long. Of two models that do not fit
    /// together, each so gets a window in which its requests are served, and no more than about a
    /// fifth of the time goes into loading.
    pub min_residency: Duration,
    /// How long running jobs may go on when their engine is removed or unloaded; then they end with
    /// an error.
    pub drain_grace: Duration,
    /// After a failed load the next one waits this long, doubled by each further failure up to 30
    /// seconds; requests in between get the same error at once.
    pub retry_backoff: Duration,
    pub clock: Clock,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_mins(5),
            memory_budget_bytes: None,
            max_loaded: None,
            max_engines: 256,
            max_waiters: 256,
            max_loads: 4,
            max_load_queue: 64,
            wait_for_load: Wait::UntilLoaded,
            room_wait: Duration::from_secs(30),
            min_residency: Duration::from_secs(10),
            drain_grace: Duration::from_secs(5),
            retry_backoff: Duration::from_secs(1),
            clock: Clock::default(),
        }
    }
}

/// What a request for an engine that is not loaded does; in both cases the load begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Waits in line.
    UntilLoaded,
    /// Fails at once with 503 and `Retry-After`.
    Never,
}

/// How long an engine stays loaded without use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAlive {
    /// Zero = unload as soon as nobody uses it.
    After(Duration),
    Forever,
}

impl KeepAlive {
    /// Reads a configured timeout, in which zero means never.
    #[must_use]
    pub fn from_timeout(timeout: Duration) -> Self {
        if timeout.is_zero() { Self::Forever } else { Self::After(timeout) }
    }
}
