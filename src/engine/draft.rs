//! Guesses the continuation of a sequence from a prediction of its output, or from its own tokens
//! (prompt lookup).
//!
//! A prediction is followed from its beginning; where the output leaves it, the newest few tokens are
//! looked up in it. Without one, what follows the last occurrence of the newest few tokens is guessed
//! to follow again. A step
//! computes the guess behind the pending token and keeps what the sampler would have chosen anyway,
//! so a wrong guess costs rows and never changes the output.

/// Longest and shortest run of tokens that is looked up.
const MAX_RUN: usize = 4;
const MIN_RUN: usize = 2;

/// Tokens back that are searched.
const MAX_SEARCH: usize = 8192;

/// Mean part of guesses that must be right, and the number of tokens after which a sequence that
/// fell below it tries again.
const MIN_ACCEPTANCE: f32 = 0.3;
const PAUSE_TOKENS: u32 = 64;

/// Weight of the newest guess in the mean.
const SMOOTHING: f32 = 0.2;

/// Tokens of a prediction that are guessed at a time, if prompt lookup may not guess more.
const PREDICTION_DRAFT: usize = 16;

/// Guesses for one sequence, and how well they did.
#[derive(Debug)]
pub struct Drafter {
    max_draft: usize,
    prediction: Option<Prediction>,
    acceptance: f32,
    pause: u32,
}

/// What the output is said to be.
#[derive(Debug)]
struct Prediction {
    tokens: Vec<u32>,
    /// Tokens of the prompt, behind which the output begins.
    prompt_len: usize,
    /// Where the output is in it, as far as known, and how long the sequence was then.
    place: Option<(usize, usize)>,
}

impl Prediction {
    /// What follows in it after these tokens.
    fn continuation(&mut self, tokens: &[u32], limit: usize) -> &[u32] {
        let followed = self.place.and_then(|(at, len)| {
            let new = tokens.get(len..)?;
            self.tokens.get(at..at + new.len()).filter(|same| *same == new)?;
            Some(at + new.len())
        });
        let output = tokens.get(self.prompt_len..).unwrap_or_default();
        let Some(at) = followed.or_else(|| self.find(output)) else {
            self.place = None;
            return &[];
        };
        self.place = Some((at, tokens.len()));
        let rest = &self.tokens[at..];
        &rest[..limit.min(rest.len())]
    }

    /// Behind the first occurrence of the newest tokens from where the output left it, or else of all.
    fn find(&self, output: &[u32]) -> Option<usize> {
        let left_at = self.place.map_or(0, |(at, _)| at);
        let find_from = |from: usize| {
            (MIN_RUN..=MAX_RUN).rev().find_map(|len| {
                let run = output.get(output.len().checked_sub(len)?..)?;
                let found = self.tokens[from..].windows(len).take(MAX_SEARCH);
                Some(from + found.into_iter().position(|window| window == run)? + len)
            })
        };
        find_from(left_at).or_else(|| find_from(0))
    }
}

impl Drafter {
    /// Guesses up to `max_draft` tokens at a time; 0 = never.
    #[must_use]
    pub fn new(max_draft: usize) -> Self {
        Self { max_draft, prediction: None, acceptance: 2.0 * MIN_ACCEPTANCE, pause: 0 }
    }

    /// Guesses from a prediction of what follows the prompt, unless it is empty.
    #[must_use]
    pub fn predicting(mut self, tokens: Vec<u32>, prompt_len: usize) -> Self {
        if !tokens.is_empty() {
            self.max_draft = self.max_draft.max(PREDICTION_DRAFT);
            let place = Some((0, prompt_len));
            self.prediction = Some(Prediction { tokens, prompt_len, place });
        }
        self
    }

    /// Whether it guesses from a prediction.
    #[must_use]
    pub fn is_predicting(&self) -> bool {
        self.prediction.is_some()
    }

    /// At most `limit` tokens that may follow, none when nothing recurs or guesses were bad lately.
    pub fn propose(&mut self, tokens: &[u32], limit: usize) -> Vec<u32> {
        let limit = limit.min(self.max_draft);
        if limit == 0 {
            return Vec::new();
        }
        if self.is_pausing() {
            return Vec::new();
        }
        match &mut self.prediction {
            Some(prediction) => prediction.continuation(tokens, limit).to_vec(),
            None => continuation(tokens, limit).to_vec(),
        }
    }

    /// Whether guesses were bad lately; a token of the pause is over.
    fn is_pausing(&mut self) -> bool {
        let is_pausing = self.pause > 0;
        self.pause = self.pause.saturating_sub(1);
        is_pausing
    }

    /// Learns how many of the guessed tokens were right.
    pub fn observe(&mut self, num_guessed: usize, num_right: usize) {
        if num_guessed == 0 {
            return;
        }
        let part = num_right as f32 / num_guessed as f32;
        self.acceptance += SMOOTHING * (part - self.acceptance);
        if self.acceptance < MIN_ACCEPTANCE {
            self.acceptance = 1.5 * MIN_ACCEPTANCE;
            self.pause = PAUSE_TOKENS;
        }
    }
}

/// What followed the latest earlier occurrence of the longest run of newest tokens.
fn continuation(tokens: &[u32], limit: usize) -> &[u32] {
    let tokens = &tokens[tokens.len().saturating_sub(MAX_SEARCH)..];
    for len in (MIN_RUN..=MAX_RUN).rev() {
        let Some(start) = tokens.len().checked_sub(len) else { continue };
        let (before, run) = (&tokens[..tokens.len() - 1], &tokens[start..]);
        if let Some(at) = before.windows(len).rposition(|window| window == run) {
            let follows = &tokens[at + len..];
            return &follows[..limit.min(follows.len())];
        }
    }
    &[]
}

/// Most tokens that are taken from a constraint at a time.
const MAX_FORCED: usize = 32;

/// Tokens that a constraint leaves no choice about but how they are cut, and how well their cut is
/// foreseen.
#[derive(Debug)]
pub struct Forced {
    record: Drafter,
    /// The current draft is one of these.
    is_pending: bool,
}

impl Default for Forced {
    fn default() -> Self {
        Self { record: Drafter::new(MAX_FORCED), is_pending: false }
    }
}

impl Forced {
    /// At most `limit` of the tokens, none when they were foreseen badly lately.
    pub fn propose(&mut self, tokens: impl FnOnce() -> Vec<u32>, limit: usize) -> Vec<u32> {
        self.is_pending = false;
        if limit == 0 || self.record.is_pausing() {
            return Vec::new();
        }
        let mut tokens = tokens();
        tokens.truncate(limit.min(MAX_FORCED));
        self.is_pending = !tokens.is_empty();
        tokens
    }

    /// Learns how many were right; false if they were not from here.
    pub fn observe(&mut self, num_guessed: usize, num_right: usize) -> bool {
        if self.is_pending {
            self.record.observe(num_guessed, num_right);
        }
        std::mem::take(&mut self.is_pending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continues_the_longest_and_latest_run() {
        let cases: [(&[u32], usize, &[u32]); 6] = [
            (&[1, 2, 3, 9, 1, 2], 8, &[3, 9, 1, 2]),
            (&[1, 2, 3, 9, 1, 2], 1, &[3]),
            (&[1, 2, 7, 0, 1, 2, 8, 0, 1, 2], 2, &[8, 0]),
            (&[5, 1, 2, 7, 1, 2, 8, 5, 1, 2], 1, &[7]),
            (&[1, 2, 3], 4, &[]),
            (&[4, 4, 4], 4, &[4]),
        ];
        for (tokens, limit, expected) in cases {
            assert_eq!(continuation(tokens, limit), expected, "{tokens:?}");
        }
    }

    #[test]
    fn follows_a_prediction_and_finds_back() {
        let prediction = vec![1, 2, 3, 4, 5, 6, 7, 8];
        let mut drafter = Drafter::new(0).predicting(prediction, 1);
        let cases: [(&[u32], &[u32]); 6] = [
            (&[0], &[1, 2]),
            (&[0, 1], &[2, 3]),
            (&[0, 1, 2, 3], &[4, 5]),
            // A token that is not predicted, then the prediction again.
            (&[0, 1, 2, 3, 9], &[]),
            (&[0, 1, 2, 3, 9, 5], &[]),
            (&[0, 1, 2, 3, 9, 5, 6], &[7, 8]),
        ];
        for (tokens, expected) in cases {
            assert_eq!(drafter.propose(tokens, 2), expected, "{tokens:?}");
        }
        assert_eq!(drafter.propose(&[0, 5, 6, 7, 8], 2), [0; 0], "it is at its end");
    }

    #[test]
    fn pauses_after_bad_guesses() {
        let tokens = [1, 2, 3, 1, 2];
        let mut drafter = Drafter::new(4);
        let mut proposed = 0;
        for _ in 0..100 {
            let draft = drafter.propose(&tokens, 4);
            proposed += usize::from(!draft.is_empty());
            drafter.observe(draft.len(), 0);
        }
        assert!(proposed < 15, "{proposed} bad guesses in 100 steps");
    }
}
