//! The tokens that may still be chosen, and the stages that make them fewer. Meanings follow
//! llama.cpp's samplers of the same names.

use std::cmp::Ordering;

use kolosal_kernels::sample::{self, Candidate, exp_nonpositive};

use super::draw::draw_from;

/// Candidates that are sorted first where a sum of the likeliest is wanted; 8 times as many while they
/// do not suffice.
const SORT_START: usize = 64;

/// Tokens with their logits, and at the end with their weights.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    list: Vec<Candidate>,
}

impl Candidates {
    /// All tokens that are possible.
    pub(super) fn fill(&mut self, row: &[f32]) {
        self.list.clear();
        let all = row.iter().enumerate().filter(|(_, value)| **value > f32::NEG_INFINITY);
        self.list.extend(all.map(|(id, &value)| Candidate { token: id as u32, value }));
    }

    /// The `count` likeliest tokens that are possible.
    pub(super) fn fill_top(&mut self, row: &[f32], count: usize) {
        sample::top(row, count, &mut self.list);
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Candidate> {
        self.list.iter_mut()
    }

    /// Scales the logits; 0 leaves the likeliest alone.
    pub(super) fn temperature(&mut self, temperature: f32) {
        if temperature < f32::MIN_POSITIVE {
            self.top_k(1);
            return;
        }
        let (max, scale) = (self.max(), temperature.recip());
        self.list.iter_mut().for_each(|c| c.value = (c.value - max) * scale);
        self.list.retain(|c| c.value > f32::NEG_INFINITY);
    }

    /// A temperature between `low` and `high` by how even the candidates are.
    pub(super) fn temperature_by_entropy(&mut self, low: f32, high: f32, exponent: f32) {
        if self.list.len() < 2 {
            return;
        }
        let evenness = self.entropy() / (self.list.len() as f64).ln();
        let part = evenness.clamp(0.0, 1.0).powf(f64::from(exponent));
        self.temperature((f64::from(low) + f64::from(high - low) * part) as f32);
    }

    pub(super) fn top_k(&mut self, count: usize) {
        if count > 0 && count < self.list.len() {
            front(&mut self.list, count, likelier);
            self.list.truncate(count);
        }
    }

    pub(super) fn top_n_sigma(&mut self, num_sigma: f32) {
        if num_sigma <= 0.0 || self.list.len() < 2 {
            return;
        }
        let count = self.list.len() as f64;
        let mean = self.list.iter().map(|c| f64::from(c.value)).sum::<f64>() / count;
        let square = |c: &Candidate| (f64::from(c.value) - mean).powi(2);
        let deviation = (self.list.iter().map(square).sum::<f64>() / count).sqrt();
        let bound = f64::from(self.max()) - f64::from(num_sigma) * deviation;
        self.list.retain(|c| f64::from(c.value) >= bound);
    }

    pub(super) fn top_p(&mut self, top_p: f32, min_keep: usize) {
        if top_p >= 1.0 {
            return;
        }
        let max = self.max();
        let wanted = f64::from(top_p) * self.total();
        let weight = |c: &Candidate| f64::from(exp_nonpositive(c.value - max));
        keep_front(&mut self.list, likelier, weight, |sum, kept| sum >= wanted && kept >= min_keep);
    }

    pub(super) fn min_p(&mut self, min_p: f32, min_keep: usize) {
        if min_p <= 0.0 {
            return;
        }
        let max = self.max();
        let is_kept = |c: &Candidate| exp_nonpositive(c.value - max) >= min_p;
        if self.list.iter().filter(|c| is_kept(c)).count() < min_keep {
            self.top_k(min_keep);
        } else {
            self.list.retain(is_kept);
        }
    }

    /// Keeps the tokens whose surprise is nearest to the mean surprise.
    pub(super) fn typical_p(&mut self, typical_p: f32, min_keep: usize) {
        if typical_p >= 1.0 {
            return;
        }
        let (max, total, entropy) = (self.max(), self.total(), self.entropy());
        let log_total = total.ln();
        let oddness = |c: &Candidate| (log_total - f64::from(c.value - max) - entropy).abs();
        let by_oddness = |a: &Candidate, b: &Candidate| {
            oddness(a).total_cmp(&oddness(b)).then(a.token.cmp(&b.token))
        };
        let wanted = f64::from(typical_p) * total;
        let weight = |c: &Candidate| f64::from(exp_nonpositive(c.value - max));
        let is_enough = |sum: f64, kept: usize| sum > wanted && kept >= min_keep;
        keep_front(&mut self.list, by_oddness, weight, is_enough);
    }

    /// Of the tokens at least as likely as `threshold`, drops all but the least likely.
    pub(super) fn exclude_top(&mut self, threshold: f32, min_keep: usize) {
        let (max, wanted) = (self.max(), f64::from(threshold) * self.total());
        let is_top = |c: &Candidate| f64::from(exp_nonpositive(c.value - max)) >= wanted;
        let top = self.list.iter().filter(|c| is_top(c));
        let num_top = top.clone().count();
        let Some(least) = top.copied().max_by(likelier) else { return };
        if num_top > 1 && self.list.len() - (num_top - 1) >= min_keep {
            self.list.retain(|c| c.token == least.token || !is_top(c));
        }
    }

    /// Sorts all, likeliest first.
    pub(super) fn sort(&mut self) {
        self.list.sort_unstable_by(likelier);
    }

    /// Drops all but the first, after [`Self::sort`].
    pub(super) fn truncate(&mut self, count: usize) {
        self.list.truncate(count);
    }

    /// Turns logits into weights, of which the largest is 1; their sum.
    pub(super) fn weigh(&mut self) -> f64 {
        let max = self.max();
        self.list.iter_mut().for_each(|c| c.value = exp_nonpositive(c.value - max));
        self.list.iter().map(|c| f64::from(c.value)).sum()
    }

    /// After [`Self::weigh`].
    pub(super) fn weights(&self) -> &[Candidate] {
        &self.list
    }

    /// Chooses one, after [`Self::weigh`].
    pub(super) fn draw(&self, draw: f64) -> u32 {
        draw_from(&self.list, draw)
    }

    /// The likeliest first, after [`Self::weigh`].
    pub(super) fn likeliest(&mut self, count: usize) -> &[Candidate] {
        let count = count.min(self.list.len());
        front(&mut self.list, count, likelier);
        &self.list[..count]
    }

    fn max(&self) -> f32 {
        self.list.iter().fold(f32::NEG_INFINITY, |max, c| max.max(c.value))
    }

    /// Sum of `exp(logit - max)`.
    fn total(&self) -> f64 {
        let max = self.max();
        self.list.iter().map(|c| f64::from(exp_nonpositive(c.value - max))).sum()
    }

    /// In nats.
    fn entropy(&self) -> f64 {
        let (max, total) = (self.max(), self.total());
        let surprise = |c: &Candidate| {
            let below = c.value - max;
            f64::from(exp_nonpositive(below)) * f64::from(-below)
        };
        total.ln() + self.list.iter().map(surprise).sum::<f64>() / total
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that sorting asks for")]
fn likelier(a: &Candidate, b: &Candidate) -> Ordering {
    b.value.total_cmp(&a.value).then(a.token.cmp(&b.token))
}

/// Moves the first `count` by this order to the front, sorted.
fn front(
    list: &mut [Candidate],
    count: usize,
    order: impl Fn(&Candidate, &Candidate) -> Ordering + Copy,
) {
    if count == 0 {
        return;
    }
    if count < list.len() {
        list.select_nth_unstable_by(count - 1, order);
    }
    let count = count.min(list.len());
    list[..count].sort_unstable_by(order);
}

/// Keeps the first by this order, up to the one with which sum and number are enough.
fn keep_front(
    list: &mut Vec<Candidate>,
    order: impl Fn(&Candidate, &Candidate) -> Ordering + Copy,
    weight: impl Fn(&Candidate) -> f64,
    is_enough: impl Fn(f64, usize) -> bool,
) {
    let mut count = SORT_START;
    loop {
        front(list, count, order);
        let mut sum = 0.0;
        for at in 0..count.min(list.len()) {
            sum += weight(&list[at]);
            if is_enough(sum, at + 1) {
                list.truncate(at + 1);
                return;
            }
        }
        if count >= list.len() {
            return;
        }
        count *= 8;
    }
}
