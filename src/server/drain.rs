//! Shutting down in two steps: first nothing new is taken, then what still runs is ended.

use tokio_util::sync::CancellationToken;

use crate::error::Error;

/// Where a shutdown stands; cheap to clone, shared by server and streams.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    started: CancellationToken,
    expired: CancellationToken,
}

impl Drain {
    /// From now on new work is refused.
    pub fn start(&self) {
        self.started.cancel();
    }

    /// From now on running work is ended.
    pub fn expire(&self) {
        self.started.cancel();
        self.expired.cancel();
    }

    #[must_use]
    pub fn has_started(&self) -> bool {
        self.started.is_cancelled()
    }

    /// Returns when running work has to end.
    pub async fn expired(&self) {
        self.expired.cancelled().await;
    }

    /// What refused and ended requests are told.
    #[must_use]
    pub fn error() -> Error {
        Error::unavailable("the server is shutting down", 5).with_code("shutting_down")
    }
}
