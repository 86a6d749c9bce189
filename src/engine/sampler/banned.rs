//! Token sequences that may not stand in the output.

use std::collections::VecDeque;

use crate::engine::logits;

/// The sequences, and as much of the output as they can begin in.
#[derive(Debug)]
pub(super) struct Banned {
    sequences: Vec<Vec<u32>>,
    /// Newest tokens of the output, the last at the end.
    output: VecDeque<u32>,
    max_len: usize,
}

impl Banned {
    /// `None` when nothing is banned.
    pub(super) fn new(sequences: &[Vec<u32>]) -> Option<Self> {
        let max_len = sequences.iter().map(Vec::len).max()?;
        Some(Self { sequences: sequences.to_vec(), output: VecDeque::new(), max_len })
    }

    /// Takes note of a token of the output.
    pub(super) fn push(&mut self, token: u32) {
        self.output.push_back(token);
        if self.output.len() >= self.max_len {
            self.output.pop_front();
        }
    }

    /// Bans what would complete a sequence.
    pub(super) fn edit_row(&self, row: &mut [f32]) {
        for sequence in &self.sequences {
            let Some((last, before)) = sequence.split_last() else { continue };
            let Some(start) = self.output.len().checked_sub(before.len()) else { continue };
            if self.output.range(start..).eq(before) {
                logits::ban(row, &[*last]);
            }
        }
    }
}
