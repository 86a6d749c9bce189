//! Compiled grammars kept for reuse, within a number of bytes: those used least lately go first.

use std::collections::VecDeque;

use super::grammar::CompiledGrammar;

/// Bytes that one engine's compiled grammars may hold unless the configuration says otherwise.
pub(super) const GRAMMAR_CACHE_BYTES: usize = 32 << 20;

/// The entries, the latest used last.
pub(super) struct GrammarCache {
    entries: VecDeque<Entry>,
    /// Of all entries together.
    num_bytes: usize,
    max_bytes: usize,
}

struct Entry {
    source: String,
    grammar: CompiledGrammar,
    num_bytes: usize,
}

impl GrammarCache {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { entries: VecDeque::new(), num_bytes: 0, max_bytes }
    }

    pub(super) fn get(&mut self, source: &str) -> Option<CompiledGrammar> {
        let at = self.entries.iter().position(|entry| entry.source == source)?;
        let entry = self.entries.remove(at)?;
        let grammar = entry.grammar.clone();
        self.entries.push_back(entry);
        Some(grammar)
    }

    /// Keeps a grammar that was not there, unless it alone is too large.
    pub(super) fn put(&mut self, source: String, grammar: &CompiledGrammar) {
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

    /// How many grammars there are, and their bytes.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.entries.len(), self.num_bytes)
    }
}
