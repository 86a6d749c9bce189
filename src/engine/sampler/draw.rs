//! Draws from a row of logits without sorting it, for the parameters that most requests have.

use kolosal_kernels::sample::{self, Candidate};

/// Logits whose exponentials are summed together when the whole vocabulary is drawn from.
const DRAW_CHUNK: usize = 1024;

/// Candidates looked at first for `top_p`; 8 times as many while they do not suffice.
const NUCLEUS_START: usize = 64;

/// A row of logits as weights `exp((logit - max) / temperature)`; the likeliest token's is 1.
pub(super) struct Distribution<'a> {
    pub(super) row: &'a [f32],
    pub(super) max: f32,
    pub(super) scale: f32,
}

impl Distribution<'_> {
    fn weight(&self, logit: f32) -> f32 {
        sample::exp_nonpositive((logit - self.max) * self.scale)
    }

    /// The `count` likeliest tokens with their weights.
    pub(super) fn top_k(&self, count: usize, out: &mut Vec<Candidate>) {
        sample::top(self.row, count, out);
        for candidate in out {
            candidate.value = self.weight(candidate.value);
        }
    }

    /// The smallest set of likeliest tokens that together have `top_p` of the probability.
    pub(super) fn nucleus(&self, top_p: f32, out: &mut Vec<Candidate>) {
        let wanted = f64::from(top_p) * sample::sum_exp(self.row, self.max, self.scale);
        let mut count = NUCLEUS_START;
        loop {
            self.top_k(count, out);
            if truncate_to(out, wanted) || count >= self.row.len() {
                return;
            }
            count *= 8;
        }
    }

    /// Tokens of at least this weight, in order of their ids.
    pub(super) fn at_least(&self, weight: f32, out: &mut Vec<Candidate>) {
        out.clear();
        // A little below the exact bound; the weights themselves are compared later.
        let bound = self.max + weight.ln() / self.scale;
        let bound = bound - bound.abs().max(1.0) * 1e-3;
        for (index, &logit) in self.row.iter().enumerate() {
            if logit >= bound {
                out.push(Candidate { token: index as u32, value: self.weight(logit) });
            }
        }
    }

    /// Draws from the whole vocabulary: one pass sums runs of tokens, then one run is walked.
    pub(super) fn draw_any(&self, draw: f64, sums: &mut Vec<f64>) -> u32 {
        sums.clear();
        sums.extend(
            self.row.chunks(DRAW_CHUNK).map(|run| sample::sum_exp(run, self.max, self.scale)),
        );
        let mut left = draw * sums.iter().sum::<f64>();
        let mut last_possible = 0;
        for (run, (chunk, &sum)) in self.row.chunks(DRAW_CHUNK).zip(&*sums).enumerate() {
            if sum == 0.0 {
                continue;
            }
            if left >= sum {
                left -= sum;
                last_possible = run;
                continue;
            }
            if let Some(token) = self.walk(chunk, left) {
                return (run * DRAW_CHUNK) as u32 + token;
            }
            last_possible = run;
            left = 0.0;
        }
        // Rounding has carried past the end: the last token that is possible.
        let start = last_possible * DRAW_CHUNK;
        let run = &self.row[start..(start + DRAW_CHUNK).min(self.row.len())];
        let token = run.iter().rposition(|&logit| self.weight(logit) > 0.0);
        (start + token.unwrap_or(0)) as u32
    }

    fn walk(&self, run: &[f32], mut left: f64) -> Option<u32> {
        for (index, &logit) in run.iter().enumerate() {
            let weight = f64::from(self.weight(logit));
            if left < weight {
                return Some(index as u32);
            }
            left -= weight;
        }
        None
    }
}

/// Cuts candidates, likeliest first, behind the one that reaches the wanted sum. False: none does.
pub(super) fn truncate_to(candidates: &mut Vec<Candidate>, wanted: f64) -> bool {
    let mut sum = 0.0;
    for (index, candidate) in candidates.iter().enumerate() {
        sum += f64::from(candidate.value);
        if sum >= wanted {
            candidates.truncate(index + 1);
            return true;
        }
    }
    false
}

/// Draws from candidates, of which the likeliest has weight 1.
pub(super) fn draw_from(candidates: &[Candidate], draw: f64) -> u32 {
    let total: f64 = candidates.iter().map(|c| f64::from(c.value)).sum();
    let mut left = draw * total;
    let mut chosen = 0;
    for candidate in candidates.iter().filter(|candidate| candidate.value > 0.0) {
        chosen = candidate.token;
        let weight = f64::from(candidate.value);
        if left < weight {
            break;
        }
        left -= weight;
    }
    chosen
}
