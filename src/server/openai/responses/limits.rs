//! How much is kept of responses, and of conversations as well.

use std::time::Duration;

/// Limits on stored responses.
#[derive(Clone, Copy, Debug)]
pub struct ResponseLimits {
    /// 0: none is stored.
    pub max_count: usize,
    /// Of all stored responses together, as JSON.
    pub max_bytes: usize,
    /// Since a response was last used.
    pub max_age: Duration,
}

impl Default for ResponseLimits {
    fn default() -> Self {
        Self { max_count: 1000, max_bytes: 64 << 20, max_age: Duration::from_hours(24) }
    }
}
