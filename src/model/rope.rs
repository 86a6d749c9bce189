//! Rotary frequencies, by the papers: arXiv 2104.09864 (RoPE), 2309.00071 (YaRN), 2402.13753 (LongRoPE).

use std::f64::consts::TAU;

use super::spec::{RopeScaling, RopeSpec};

impl RopeSpec {
    /// Radians a position for each of the `dim / 2` pairs, and the factor on cosine and sine.
    /// `factors` divide the frequencies.
    #[must_use]
    pub fn frequencies(&self, factors: Option<&[f32]>) -> (Vec<f64>, f64) {
        let (dim, base) = (self.dim as f64, f64::from(self.base));
        let plain = |pair: usize| base.powf(-2.0 * pair as f64 / dim);
        let mut magnitude = f64::from(self.magnitude);
        let mut frequencies: Vec<f64> = (0..self.dim / 2).map(plain).collect();
        match self.scaling {
            RopeScaling::None => {}
            RopeScaling::Linear { factor } => {
                frequencies.iter_mut().for_each(|frequency| *frequency /= f64::from(factor));
            }
            RopeScaling::Yarn(yarn) => {
                // The pair that turns this often within the original context.
                let pair = |turns: f32| {
                    let length = yarn.original_context as f64 / (f64::from(turns) * TAU);
                    dim * length.ln() / (2.0 * base.ln())
                };
                let (mut low, mut high) = (pair(yarn.beta_fast), pair(yarn.beta_slow));
                if yarn.truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                let (low, high) = (low.max(0.0), high.min(dim - 1.0));
                for (index, frequency) in frequencies.iter_mut().enumerate() {
                    let ramp = ((index as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                    let keep = (1.0 - ramp) * f64::from(yarn.ext_factor);
                    let stretched = *frequency / f64::from(yarn.factor);
                    *frequency = stretched * (1.0 - keep) + *frequency * keep;
                }
                if yarn.ext_factor != 0.0 {
                    magnitude *= 1.0 + 0.1 * f64::from(yarn.factor).ln();
                }
            }
        }
        if let Some(factors) = factors {
            for (frequency, factor) in frequencies.iter_mut().zip(factors) {
                *frequency /= f64::from(*factor);
            }
        }
        (frequencies, magnitude)
    }
}
