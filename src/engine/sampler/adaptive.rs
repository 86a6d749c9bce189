//! Adaptive-p: tokens near a target probability are preferred, and the target moves against what was
//! chosen. Meanings follow llama.cpp's sampler of this name.

use kolosal_kernels::sample::Candidate;

use super::candidates::Candidates;
use crate::engine::sampling::Adaptive;

/// How far from the target, in probability, the preference has fallen by half of the sharpness.
const WIDTH: f64 = 0.3;
/// The score of a token right at the target.
const PEAK: f64 = 5.0;
const SHARPNESS: f64 = 10.0;

/// The rule, and the mean probability of what was chosen, older tokens counting less.
#[derive(Debug)]
pub(super) struct Pull {
    rule: Adaptive,
    weighted_sum: f64,
    total_weight: f64,
    /// Weights before the preference.
    originals: Vec<Candidate>,
}

impl Pull {
    /// As if the target had been met for ever.
    pub(super) fn new(rule: Adaptive) -> Self {
        let total_weight = (1.0 - f64::from(rule.decay)).recip();
        let weighted_sum = f64::from(rule.target) * total_weight;
        Self { rule, weighted_sum, total_weight, originals: Vec::new() }
    }

    /// Chooses a token and learns from it.
    pub(super) fn choose(&mut self, candidates: &mut Candidates, draw: f64) -> u32 {
        let total = candidates.weigh();
        self.originals.clear();
        self.originals.extend_from_slice(candidates.weights());
        let target = self.target();
        for candidate in candidates.iter_mut() {
            let distance = ((f64::from(candidate.value) / total - target) / WIDTH).abs();
            candidate.value = (PEAK - SHARPNESS * distance * distance / (1.0 + distance)) as f32;
        }
        candidates.weigh();
        let token = candidates.draw(draw);
        let original = self.originals.iter().find(|candidate| candidate.token == token);
        let probability = original.map_or(0.0, |original| f64::from(original.value) / total);
        let decay = f64::from(self.rule.decay);
        self.weighted_sum = probability + decay * self.weighted_sum;
        self.total_weight = 1.0 + decay * self.total_weight;
        token
    }

    /// What brings the mean back to the target.
    fn target(&self) -> f64 {
        let target = f64::from(self.rule.target);
        (2.0 * target - self.weighted_sum / self.total_weight).clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_near_the_target_are_preferred_and_the_target_moves() {
        // Probabilities 0.5, 0.3, 0.15 and 0.05.
        let row = [0.5_f32, 0.3, 0.15, 0.05].map(f32::ln);
        let choose = |pull: &mut Pull, draw: f64| {
            let mut candidates = Candidates::default();
            candidates.fill(&row);
            (pull.choose(&mut candidates, draw), candidates)
        };
        let mut pull = Pull::new(Adaptive { target: 0.3, decay: 0.5 });
        let (token, candidates) = choose(&mut pull, 0.0);
        // Distances of 2/3, 0, 1/2 and 5/6 widths.
        let scores = [2.0 / 3.0, 0.0, 0.5, 5.0 / 6.0]
            .map(|distance: f64| 5.0 - 10.0 * distance * distance / (1.0 + distance));
        for (weight, score) in candidates.weights().iter().zip(scores) {
            let exact = (score - 5.0).exp();
            assert!((f64::from(weight.value) - exact).abs() < 1e-5, "{weight:?}, not {exact}");
        }
        // The likeliest was taken: (0.5 + 0.5 * 0.6) / (1 + 0.5 * 2) = 0.4, and the target falls.
        assert_eq!(token, 0);
        assert!((pull.target() - 0.2).abs() < 1e-6, "{}", pull.target());
        // Chosen again and again, the mean stays near the target.
        let mut pull = Pull::new(Adaptive { target: 0.3, decay: 0.9 });
        let (mut sum, mut state) = (0.0, 1_u64);
        for _ in 0..2000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let token = choose(&mut pull, (state >> 11) as f64 / (1_u64 << 53) as f64).0;
            sum += f64::from(row[token as usize].exp());
        }
        assert!((sum / 2000.0 - 0.3).abs() < 0.03, "{}", sum / 2000.0);
    }
}
