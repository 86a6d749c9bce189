//! Mirostat (arXiv 2007.14966): candidates are cut so that the surprise of the chosen ones stays near
//! a target. Meanings follow llama.cpp's samplers of this name.

use super::candidates::Candidates;
use crate::engine::sampling::{Mirostat, MirostatVersion};

/// Likeliest tokens by which the first version estimates how steep the distribution falls.
const NUM_ESTIMATED: usize = 100;

/// The rule, and the surprise that is allowed at the moment.
#[derive(Debug)]
pub(super) struct Surprise {
    rule: Mirostat,
    /// In bits.
    allowed: f64,
}

impl Surprise {
    pub(super) fn new(rule: Mirostat) -> Self {
        Self { rule, allowed: 2.0 * f64::from(rule.tau) }
    }

    /// Chooses a token and learns from it.
    pub(super) fn choose(
        &mut self,
        candidates: &mut Candidates,
        vocab_size: usize,
        draw: f64,
    ) -> u32 {
        candidates.sort();
        let total = candidates.weigh();
        let kept = match self.rule.version {
            MirostatVersion::V1 => self.estimated(candidates, total, vocab_size),
            MirostatVersion::V2 => candidates
                .weights()
                .iter()
                .take_while(|c| -(f64::from(c.value) / total).log2() <= self.allowed)
                .count(),
        };
        candidates.truncate(kept.max(1));
        let total: f64 = candidates.weights().iter().map(|c| f64::from(c.value)).sum();
        let token = candidates.draw(draw);
        let weight = candidates.weights().iter().find(|c| c.token == token).map(|c| c.value);
        let surprise = -(f64::from(weight.unwrap_or(1.0)) / total).log2();
        let error = surprise - f64::from(self.rule.tau);
        self.allowed -= f64::from(self.rule.eta) * error;
        token
    }

    /// How many candidates have no more than the allowed surprise, if the distribution is Zipf's.
    fn estimated(&self, candidates: &Candidates, total: f64, vocab_size: usize) -> usize {
        let weights = candidates.weights();
        let (mut products, mut squares) = (0.0, 0.0);
        for (i, pair) in weights.windows(2).take(NUM_ESTIMATED - 1).enumerate() {
            let [a, b] = [pair[0].value, pair[1].value].map(|w| f64::from(w) / total);
            if b == 0.0 {
                break;
            }
            let step = ((i as f64 + 2.0) / (i as f64 + 1.0)).ln();
            products += step * (a / b).ln();
            squares += step * step;
        }
        let steepness = products / squares;
        let excess = steepness - 1.0;
        let count = ((excess * self.allowed.exp2()) / (1.0 - (vocab_size as f64).powf(-excess)))
            .powf(steepness.recip());
        // No number at all when there is nothing to estimate from.
        if count.is_nan() { weights.len() } else { (count as usize).min(weights.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(surprise: &mut Surprise, row: &[f32], draw: f64) -> u32 {
        let mut candidates = Candidates::default();
        candidates.fill(row);
        surprise.choose(&mut candidates, row.len(), draw)
    }

    #[test]
    fn the_allowed_surprise_follows_what_was_chosen() {
        // Two bits each.
        let row = [1.0; 4];
        let rule = Mirostat { version: MirostatVersion::V2, tau: 1.5, eta: 0.5 };
        let mut surprise = Surprise::new(rule);
        assert_eq!(choose(&mut surprise, &row, 0.9), 3);
        assert!((surprise.allowed - 2.75).abs() < 1e-6);
        // Less than two bits are allowed: only the first is left, which is no surprise.
        surprise.allowed = 1.9;
        assert_eq!(choose(&mut surprise, &row, 0.9), 0);
        assert!((surprise.allowed - 2.65).abs() < 1e-6);
    }

    #[test]
    fn the_first_version_cuts_by_its_estimate() {
        // Zipf's distribution with exponent 2.
        let row: Vec<f32> = (1..=1000).map(|i| -2.0 * (i as f32).ln()).collect();
        for (tau, most) in [(0.5, 3), (2.0, 10)] {
            let rule = Mirostat { version: MirostatVersion::V1, tau, eta: 0.0 };
            let last = choose(&mut Surprise::new(rule), &row, 1.0 - 1e-9);
            // (1 * 2^mu / (1 - 1/1000))^(1/2)
            let exact = ((2.0 * f64::from(tau)).exp2() / 0.999).sqrt() as u32;
            assert_eq!(last + 1, exact.max(1));
            assert!(last < most);
        }
    }
}
