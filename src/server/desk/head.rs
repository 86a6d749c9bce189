//! What the objects of one answer repeat: ids, times, names.

use std::time::{SystemTime, UNIX_EPOCH};

use super::Begun;
use crate::registry::{Lease, State};

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
    pub(crate) fn new(prefix: &str, begun: &Begun) -> Self {
        Self {
            id: format!("{prefix}-{}", random_id()),
            created: unix_time_s(),
            model: begun.model.clone(),
            system_fingerprint: begun.fingerprint.clone(),
        }
    }
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

/// One word for a state. `loaded` and `unloaded` are the words of kolosal's clients.
pub(crate) fn status_word(state: &State) -> &'static str {
    match state {
        State::Ready => "loaded",
        other => other.name(),
    }
}

/// Names what decides the answer beside the request: the program's version and the model.
pub(super) fn fingerprint(lease: &Lease) -> String {
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
