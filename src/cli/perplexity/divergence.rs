//! How far a model's distributions are from given ones.

use serde::Serialize;

use super::base::Coded;
use crate::cli::lanes::log_sum_exp;

/// Probabilities below exp(-16) of the given distribution are cut off in its file.
const CUT: f32 = -16.0;

/// Figures of positions so far.
#[derive(Debug, Default)]
pub(super) struct Divergence {
    /// Kullback-Leibler divergence of the model from the given distribution, in nats.
    divergences: Vec<f64>,
    num_same_top: usize,
    /// Sum of squared differences of the probability of the text's next token.
    squared_difference: f64,
    base_surprise: f64,
}

/// What is told in the end.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    /// Perplexity of the given distributions on the same text.
    base_perplexity: f64,
    kl_divergence_mean: f64,
    kl_divergence_error: f64,
    kl_divergence_median: f64,
    kl_divergence_p99: f64,
    kl_divergence_max: f64,
    /// Share of positions at which both find the same token likeliest.
    same_top: f64,
    /// Root of the mean squared difference of the next token's probability.
    rms_difference: f64,
}

impl Divergence {
    /// Takes a position: the given distribution, the model's logits, the token that follows.
    pub(super) fn add(&mut self, base: &Coded, row: &[f32], next: u32) {
        let norm = log_sum_exp(row);
        let mut divergence = 0.0;
        let (mut base_top, mut base_best) = (0, f32::NEG_INFINITY);
        let (mut top, mut best) = (0, f32::NEG_INFINITY);
        let mut base_next = 0.0_f64;
        for (id, (base, &logit)) in base.logprobs().zip(row).enumerate() {
            if base > base_best {
                (base_top, base_best) = (id, base);
            }
            if logit > best {
                (top, best) = (id, logit);
            }
            if id == next as usize {
                base_next = f64::from(base);
            }
            if base > CUT {
                let base = f64::from(base);
                divergence += base.exp() * (base - f64::from(logit) + norm);
            }
        }
        self.divergences.push(divergence);
        self.num_same_top += usize::from(base_top == top);
        let ours = f64::from(row.get(next as usize).copied().unwrap_or(f32::NEG_INFINITY)) - norm;
        self.squared_difference += (ours.exp() - base_next.exp()).powi(2);
        self.base_surprise -= base_next;
    }

    pub(super) fn summary(mut self) -> Summary {
        self.divergences.sort_by(f64::total_cmp);
        let count = self.divergences.len().max(1) as f64;
        let mean = self.divergences.iter().sum::<f64>() / count;
        let variance = self.divergences.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / count;
        let share = |part: f64| {
            let last = self.divergences.len().saturating_sub(1);
            let index = (part * last as f64).round() as usize;
            self.divergences.get(index).copied().unwrap_or(0.0)
        };
        Summary {
            base_perplexity: (self.base_surprise / count).exp(),
            kl_divergence_mean: mean,
            kl_divergence_error: (variance / count).sqrt(),
            kl_divergence_median: share(0.5),
            kl_divergence_p99: share(0.99),
            kl_divergence_max: share(1.0),
            same_top: self.num_same_top as f64 / count,
            rms_difference: (self.squared_difference / count).sqrt(),
        }
    }
}

impl Summary {
    pub(super) fn table(&self) -> Vec<Vec<String>> {
        let rows = [
            ("base perplexity", format!("{:.4}", self.base_perplexity)),
            (
                "mean KL divergence",
                format!("{:.6} +/- {:.6}", self.kl_divergence_mean, self.kl_divergence_error),
            ),
            ("median KL divergence", format!("{:.6}", self.kl_divergence_median)),
            ("99 % KL divergence", format!("{:.6}", self.kl_divergence_p99)),
            ("largest KL divergence", format!("{:.6}", self.kl_divergence_max)),
            ("same top token", format!("{:.3} %", 100.0 * self.same_top)),
            ("RMS difference of p", format!("{:.3} %", 100.0 * self.rms_difference)),
        ];
        rows.map(|(name, value)| vec![name.to_owned(), value]).to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_is_as_far_from_another_as_the_formula_says() {
        // Given: 1/2, 1/4, 1/4. The model: 1/4, 1/2, 1/4.
        let base = Coded::new(&[2.0_f32.ln(), 0.0, 0.0]);
        let mut divergence = Divergence::default();
        divergence.add(&base, &[0.0, 2.0_f32.ln(), 0.0], 0);
        divergence.add(&base, &[2.0_f32.ln(), 0.0, 0.0], 1);
        let summary = divergence.summary();
        let expected = 0.25 * 2.0_f64.ln();
        assert!((summary.kl_divergence_max - expected).abs() < 1e-4, "{summary:?}");
        assert!((summary.kl_divergence_mean - expected / 2.0).abs() < 1e-4, "{summary:?}");
        assert_eq!(summary.same_top, 0.5);
        assert!((summary.rms_difference - 0.25 / 2.0_f64.sqrt()).abs() < 1e-4, "{summary:?}");
        assert!((summary.base_perplexity - 8.0_f64.sqrt()).abs() < 1e-3, "{summary:?}");
    }
}
