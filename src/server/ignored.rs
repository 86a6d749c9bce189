//! What of a request was not heeded, told in the header `x-kolosal-ignored`.

use std::sync::{Arc, Mutex, PoisonError};

use poem::http::{HeaderMap, HeaderName, HeaderValue};

pub(super) const HEADER: HeaderName = HeaderName::from_static("x-kolosal-ignored");
/// Entries that the header has at most, and characters of each.
const MAX_ENTRIES: usize = 32;
const MAX_CHARS: usize = 120;

/// Whether requests of a path may bring what nobody knows: not those that manage engines.
pub(super) fn takes_hints(path: &str) -> bool {
    !path.starts_with("/engines")
}

/// Collects what is not heeded while a request is read; in the request's data.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ignored {
    all: Arc<Mutex<Vec<String>>>,
    /// Nothing may be ignored.
    is_strict: bool,
}

impl Ignored {
    /// For requests whose every word counts, such as those that manage engines.
    pub(super) fn nothing() -> Self {
        Self { is_strict: true, ..Self::default() }
    }

    pub(super) fn is_strict(&self) -> bool {
        self.is_strict
    }

    /// Takes note of a parameter's path, or of a sentence about it.
    pub(crate) fn note(&self, what: impl Into<String>) {
        let what: String = what.into();
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < MAX_ENTRIES && !all.contains(&what) {
            tracing::debug!(what, "ignored");
            all.push(what);
        }
    }

    /// Tells it, if there is anything to tell.
    pub(super) fn tell(&self, headers: &mut HeaderMap) {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if all.is_empty() {
            return;
        }
        // Names are the client's: only what may stand in a header does, and none ends an entry early.
        let plain = |c: char| if (' '..='~').contains(&c) && c != ',' { c } else { '?' };
        let entries = all.iter().map(|what| what.chars().take(MAX_CHARS).map(plain).collect());
        let text = entries.collect::<Vec<String>>().join(", ");
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(HEADER, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_cannot_forge_a_header() {
        let ignored = Ignored::default();
        let mut headers = HeaderMap::new();
        ignored.tell(&mut headers);
        assert!(headers.is_empty());
        for what in ["a.b", "a.b", "evil\r\nset-cookie: x", "ä,b"] {
            ignored.note(what);
        }
        (0..100).for_each(|i| ignored.note(format!("{i}{}", "x".repeat(1000))));
        ignored.tell(&mut headers);
        let text = headers.get(HEADER).unwrap().to_str().unwrap();
        assert!(text.starts_with("a.b, evil??set-cookie: x, ??b, 0x"), "{text}");
        assert!(text.len() < 5000 && text.split(", ").count() == MAX_ENTRIES);
    }
}
