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
    /// The engine's own counters, while it is loaded.
    pub stats: Option<EngineStats>,
}

impl Status {
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state == State::Ready
    }
}
