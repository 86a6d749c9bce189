//! What the registry tells about an engine. Looking never wakes an engine nor refreshes its clock.

use std::fmt;
use std::time::Duration;

use crate::engine::EngineStats;

use super::load::ModelInfo;
use super::spec::EngineSpec;

/// Where an engine is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Registered; the next request loads it.
    Unloaded,
    Loading,
    Ready,
    /// Finishes what runs and takes nothing new.
    Draining,
    /// The last load or the engine itself failed, with the reason; the next request tries again.
    Failed(String),
}

impl State {
    /// One word for the wire and for metric labels.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Unloaded => "unloaded",
            Self::Loading => "loading",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Failed(_) => "failed",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(reason) => write!(f, "failed: {reason}"),
            other => f.write_str(other.name()),
        }
    }
}

/// What an engine has done since it was registered, in all its loads together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub jobs_submitted: u64,
    pub jobs_failed: u64,
    pub prompt_tokens: u64,
    /// Prompt tokens that were found in the prefix cache.
    pub prefix_hit_tokens: u64,
    pub generated_tokens: u64,
}

impl Totals {
    /// With what a load has counted.
    #[must_use]
    pub fn plus(self, load: &EngineStats) -> Self {
        Self {
            jobs_submitted: self.jobs_submitted + load.jobs_submitted,
            jobs_failed: self.jobs_failed + load.jobs_failed,
            prompt_tokens: self.prompt_tokens + load.prompt_tokens,
            prefix_hit_tokens: self.prefix_hit_tokens + load.prefix_hit_tokens,
            generated_tokens: self.generated_tokens + load.generated_tokens,
        }
    }
}

/// One engine at one moment.
#[derive(Clone, Debug)]
pub struct Status {
    pub spec: EngineSpec,
    pub state: State,
    /// Requests that hold the engine.
    pub leases: usize,
    /// Requests that wait for it to load.
    pub waiting: usize,
    /// Bytes it is admitted with; 0 when not loaded.
    pub memory_bytes: u64,
    /// Successful loads since it was registered.
    pub loads: u64,
    /// How long the last load took.
    pub load_time: Option<Duration>,
    /// Since its last use; `None` while in use or not loaded.
    pub idle_for: Option<Duration>,
    /// Until it is unloaded for idleness; `None` = not as things are.
    pub expires_in: Option<Duration>,
    /// About the model, while it is loaded.
    pub info: Option<ModelInfo>,
    /// About the model, from its last load or a look at its file: see [`super::Registry::describe`].
    pub known: Option<ModelInfo>,
    /// What it has done, whether it is loaded or not.
    pub totals: Totals,
    /// The engine's own counters, which begin with its load; while it is loaded.
    pub stats: Option<EngineStats>,
}

impl Status {
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state == State::Ready
    }
}
