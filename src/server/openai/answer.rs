//! What a generation yields, gathered: the common ground of the answers of both dialect routes.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::timings::{PromptProgress, Timings};
use crate::{
    chat::generation::{
        Collected, FinishReason as Reason, Generation, GenerationRequest, generate_all,
    },
    error::Result,
    registry::Lease,
    server::{AppState, auth::Caller, desk::Extras, drain::Drain, lease::lease, schema::wire_enum},
};

wire_enum! {
    /// Why an answer ends.
    pub(crate) enum FinishReason {
        /// The model's end token, or a stop string or token.
        Stop = "stop",
        /// As many tokens as were allowed.
        Length = "length",
        /// The model calls tools.
        ToolCalls = "tool_calls",
    }
}

impl From<Reason> for FinishReason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Stop => Self::Stop,
            Reason::Length => Self::Length,
            Reason::ToolCalls => Self::ToolCalls,
        }
    }
}

/// What every object of one answer repeats.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub id: String,
    /// Unix time in seconds.
    pub created: u64,
    pub model: String,
    pub system_fingerprint: String,
}

impl Head {
    pub(crate) fn new(prefix: &str, model: &str, lease: &Lease) -> Self {
        Self {
            id: format!("{prefix}-{}", random_id()),
            created: unix_time_s(),
            model: model.to_owned(),
            system_fingerprint: fingerprint(lease),
        }
    }
}

/// What of an answer was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub logprobs: bool,
    /// Token counts at the end of a stream.
    pub include_usage: bool,
    pub extras: Extras,
}

/// A generation that runs, and the engine that it keeps loaded.
pub(crate) struct Running {
    pub generation: Generation,
    pub lease: Lease,
}

impl Running {
    /// Starts generating on the engine that the request names, which may have to load; all prompts
    /// or none.
    pub(crate) async fn start(
        state: &AppState,
        caller: &Caller,
        model: &str,
        requests: Vec<GenerationRequest>,
    ) -> Result<Self> {
        let lease = lease(state, model).await?.of(caller.tenant());
        let generation = tokio::select! {
            biased;
            started = generate_all(&lease.text, &lease.engine, requests) => started?,
            () = state.drain.expired() => return Err(Drain::error()),
        };
        caller.tell(generation.notes());
        Ok(Self { generation, lease })
    }

    /// Times of the answer so far.
    pub(crate) fn timings(&self) -> Timings {
        Timings::new(self.generation.usage(), &self.generation.timings())
    }

    /// Waits for everything, but not beyond a shutdown.
    pub(crate) async fn collect(self, drain: &Drain) -> Result<Collected> {
        let Self { generation, lease: _lease } = self;
        tokio::select! {
            biased;
            collected = generation.collect() => collected,
            () = drain.expired() => Err(Drain::error()),
        }
    }
}

/// How much of a prompt has been read.
pub(crate) fn progress(began: Instant, total: u32, cache: u32, processed: u32) -> PromptProgress {
    let time_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    PromptProgress { total, cache, processed, time_ms }
}

/// Seconds since 1970.
pub(crate) fn unix_time_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// 24 letters and digits, different each time.
pub(crate) fn random_id() -> String {
    use std::hash::{BuildHasher, RandomState};

    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    // Names, not secrets: the standard library's per-instance random keys are enough.
    let mut id = String::with_capacity(24);
    for _ in 0..3 {
        let mut bits = RandomState::new().hash_one(0_u8);
        for _ in 0..8 {
            id.push(char::from(ALPHABET[(bits % 62) as usize]));
            bits /= 62;
        }
    }
    id
}

/// Names what decides the answer beside the request: the program's version and the model.
fn fingerprint(lease: &Lease) -> String {
    let info = &lease.info;
    let parts =
        format!("{}/{}/{}", env!("CARGO_PKG_VERSION"), info.architecture, info.quantization);
    format!("fp_{:010x}", xxhash_rust::xxh3::xxh3_64(parts.as_bytes()) & 0xff_ffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::random_id;

    #[test]
    fn ids_are_alphanumeric_and_differ() {
        let ids: std::collections::HashSet<_> = (0..1000).map(|_| random_id()).collect();
        assert_eq!(ids.len(), 1000);
        let is_id = |id: &String| id.len() == 24 && id.bytes().all(|b| b.is_ascii_alphanumeric());
        assert!(ids.iter().all(is_id));
    }
}
