//! Limits of connections, and how many the system lets this process have.

use std::time::Duration;

/// How many connections there may be, and what each may do. Zero means: derived, as said there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Connections at the same time; 0: what the limit on open files leaves, at most 10,000.
    pub max: usize,
    /// Connections of one address; 0: three quarters of `max`.
    pub max_per_address: usize,
    /// From the first byte of a request's head to its last.
    pub header_timeout: Duration,
    /// Without any request.
    pub idle_timeout: Duration,
    /// Without the client reading anything of what waits for it.
    pub send_timeout: Duration,
    /// Requests at the same time on one HTTP/2 connection.
    pub max_streams: u32,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            max: 0,
            max_per_address: 0,
            header_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            send_timeout: Duration::from_mins(2),
            max_streams: 100,
        }
    }
}

/// Connections at most when nothing else limits them.
const MAX_CONNECTIONS: u64 = 10_000;
/// Descriptors that are not for connections: model files, downloads, logs, pipes of children.
const RESERVED_DESCRIPTORS: u64 = 128;

impl ConnectionLimits {
    /// The same with derived numbers filled in.
    #[must_use]
    pub(crate) fn resolved(self) -> Self {
        let max = match self.max {
            0 => derived(descriptor_limit()),
            given => given,
        };
        let max_per_address = match self.max_per_address {
            0 => (max - max / 4).max(1),
            given => given.min(max),
        };
        Self { max, max_per_address, ..self }
    }
}

fn derived(descriptors: Option<u64>) -> usize {
    // A small limit is shared half and half.
    let free = descriptors
        .map_or(MAX_CONNECTIONS, |limit| limit.saturating_sub(RESERVED_DESCRIPTORS).max(limit / 2));
    free.clamp(1, MAX_CONNECTIONS) as usize
}

#[cfg(unix)]
fn descriptor_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

#[cfg(not(unix))]
fn descriptor_limit() -> Option<u64> {
    None
}

/// Raises the number of files that this process may have open to what the system lets it, since each
/// connection is one. A refusal leaves the limit as it is; connections are counted against it anyway.
#[cfg(unix)]
pub fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, current = limit.current, "the limit on open files stays");
    }
}

/// Nothing is to be raised here.
#[cfg(not(unix))]
pub fn raise_descriptor_limit() {}

#[cfg(test)]
mod tests {
    use super::derived;

    #[test]
    fn connections_leave_descriptors_for_files() {
        for (descriptors, connections) in [
            (Some(12), 6),
            (Some(256), 128),
            (Some(1024), 896),
            (Some(1 << 20), 10_000),
            (None, 10_000),
        ] {
            assert_eq!(derived(descriptors), connections, "{descriptors:?}");
        }
    }
}
