//! Repetition, frequency and presence penalties: what has been said is less likely to be said again.

use std::collections::{HashMap, VecDeque};

use super::candidates::Candidates;
use crate::engine::sampling::Sampling;

/// How often a token occurs among those that are looked at.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    all: u32,
    output: u32,
}

/// The penalties of one sequence and the tokens that they look at.
#[derive(Debug)]
pub(super) struct Penalties {
    repetition: f32,
    frequency: f32,
    presence: f32,
    seen: HashMap<u32, Count>,
    window: Option<Window>,
}

/// The last tokens, and whether they are output.
#[derive(Debug)]
struct Window {
    size: usize,
    tokens: VecDeque<(u32, bool)>,
}

impl Penalties {
    /// `None` when nothing is penalised.
    pub(super) fn new(sampling: &Sampling, prompt: &[u32]) -> Option<Self> {
        let Sampling { repetition_penalty, frequency_penalty, presence_penalty, .. } = *sampling;
        let is_off =
            repetition_penalty == 1.0 && frequency_penalty == 0.0 && presence_penalty == 0.0;
        if is_off || sampling.penalty_last_n == Some(0) {
            return None;
        }
        let window = sampling.penalty_last_n.map(|size| size as usize);
        let mut penalties = Self {
            repetition: repetition_penalty,
            frequency: frequency_penalty,
            presence: presence_penalty,
            seen: HashMap::new(),
            window: window.map(|size| Window { size, tokens: VecDeque::new() }),
        };
        let start = prompt.len().saturating_sub(window.unwrap_or(usize::MAX));
        // Without a window, only the repetition penalty looks at the prompt.
        if window.is_some() || repetition_penalty != 1.0 {
            prompt[start..].iter().for_each(|&token| penalties.note(token, false));
        }
        Some(penalties)
    }

    /// Takes note of a token of the output.
    pub(super) fn push(&mut self, token: u32) {
        self.note(token, true);
    }

    pub(super) fn edit_row(&self, row: &mut [f32]) {
        for (&token, count) in &self.seen {
            if let Some(logit) = row.get_mut(token as usize) {
                self.edit(logit, *count);
            }
        }
    }

    pub(super) fn edit_candidates(&self, candidates: &mut Candidates) {
        for candidate in candidates.iter_mut() {
            if let Some(count) = self.seen.get(&candidate.token) {
                self.edit(&mut candidate.value, *count);
            }
        }
    }

    fn edit(&self, logit: &mut f32, count: Count) {
        if *logit > 0.0 {
            *logit /= self.repetition;
        } else {
            *logit *= self.repetition;
        }
        if count.output > 0 {
            *logit -= self.frequency * count.output as f32 + self.presence;
        }
    }

    fn note(&mut self, token: u32, is_output: bool) {
        let count = self.seen.entry(token).or_default();
        count.all += 1;
        count.output += u32::from(is_output);
        let Some(window) = &mut self.window else { return };
        window.tokens.push_back((token, is_output));
        if window.tokens.len() <= window.size {
            return;
        }
        let Some((token, was_output)) = window.tokens.pop_front() else { return };
        if let Some(count) = self.seen.get_mut(&token) {
            count.all -= 1;
            count.output -= u32::from(was_output);
            if count.all == 0 {
                self.seen.remove(&token);
            }
        }
    }
}
