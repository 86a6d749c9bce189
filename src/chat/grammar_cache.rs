//! Compiled grammars kept for reuse, within a number of bytes: those used least lately go first.

use std::collections::VecDeque;

/// Bytes that one engine's compiled grammars may hold unless the configuration says otherwise.
pub(super) const GRAMMAR_CACHE_BYTES: usize = 32 << 20;

/// A compiled grammar; clones share it.
pub(super) trait Kept: Clone {
    /// Bytes that it takes in memory.
    fn num_bytes(&self) -> usize;
}

/// The entries, the latest used last.
pub(super) struct GrammarCache<G> {
    entries: VecDeque<Entry<G>>,
    /// Of all entries together.
    num_bytes: usize,
    max_bytes: usize,
}

struct Entry<G> {
    source: String,
    grammar: G,
    num_bytes: usize,
}

impl<G: Kept> GrammarCache<G> {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { entries: VecDeque::new(), num_bytes: 0, max_bytes }
    }

    pub(super) fn get(&mut self, source: &str) -> Option<G> {
        let at = self.entries.iter().position(|entry| entry.source == source)?;
        let entry = self.entries.remove(at)?;
        let grammar = entry.grammar.clone();
        self.entries.push_back(entry);
        Some(grammar)
    }

    /// Keeps a grammar that was not there, unless it alone is too large.
    pub(super) fn put(&mut self, source: String, grammar: &G) {
        let num_bytes = source.len() + grammar.num_bytes();
        if num_bytes > self.max_bytes {
            return;
        }
        self.num_bytes += num_bytes;
        while self.num_bytes > self.max_bytes {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.num_bytes -= oldest.num_bytes;
        }
        self.entries.push_back(Entry { source, grammar: grammar.clone(), num_bytes });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A grammar of so many bytes.
    #[derive(Clone)]
    struct Sized(usize);

    impl Kept for Sized {
        fn num_bytes(&self) -> usize {
            self.0
        }
    }

    #[test]
    fn grammars_are_kept_within_a_number_of_bytes() {
        let mut cache = GrammarCache::new(40);
        cache.put("large".to_owned(), &Sized(36));
        assert!(cache.get("large").is_none(), "its source counts too");
        for i in 0..10 {
            cache.put(i.to_string(), &Sized(9));
            // Used again and again, it stays.
            assert!(cache.get("0").is_some());
        }
        let kept: Vec<_> = cache.entries.iter().map(|entry| entry.source.as_str()).collect();
        assert_eq!((kept, cache.num_bytes), (vec!["7", "8", "9", "0"], 40));
    }
}
