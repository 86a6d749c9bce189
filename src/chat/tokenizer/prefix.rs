//! Which tokens start at a place in a text.

use super::vocab::Vocab;

/// Token ids sorted by text. A search narrows a range of them byte by byte, which needs no memory
/// beyond the ids and cannot be made slow by a vocabulary of nested prefixes.
pub(super) struct PrefixIndex {
    ids: Vec<u32>,
    /// Where the texts with a given first byte start; one more for the end.
    starts: Vec<u32>,
}

impl PrefixIndex {
    pub(super) fn new(vocab: &Vocab, mut ids: Vec<u32>) -> Self {
        ids.sort_unstable_by(|&a, &b| vocab.text(a).cmp(vocab.text(b)));
        let first = |id: &u32| vocab.text(*id).first().copied().map_or(0, usize::from);
        let starts =
            (0..=256).map(|byte| ids.partition_point(|id| first(id) < byte) as u32).collect();
        Self { ids, starts }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Calls `found(length, id)` for every token that `text` starts with, shortest first.
    pub(super) fn each(&self, vocab: &Vocab, text: &[u8], mut found: impl FnMut(usize, u32)) {
        let Some(&first) = text.first() else { return };
        let bound = |byte: usize| self.starts.get(byte).copied().unwrap_or(0) as usize;
        let (start, end) = (bound(usize::from(first)), bound(usize::from(first) + 1));
        let mut range = self.ids.get(start..end).unwrap_or(&[]);
        let mut depth = 1;
        while let Some((&id, rest)) = range.split_first() {
            // The one text that ends here sorts before all that go on.
            if vocab.text(id).len() == depth {
                found(depth, id);
                range = rest;
            }
            let Some(&byte) = text.get(depth) else { return };
            let at = |id: &u32| vocab.text(*id).get(depth).copied().unwrap_or(0);
            let low = range.partition_point(|id| at(id) < byte);
            let high = low + range[low..].partition_point(|id| at(id) == byte);
            range = &range[low..high];
            depth += 1;
        }
    }
}
