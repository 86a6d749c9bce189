//! Edits of one row of logits before the choice of a token. The passes over the whole vocabulary that
//! a choice needs are kernels.

use kolosal_kernels::sample::{scan, sum_exp};

/// Adds biases; -100 and lower is a ban.
pub fn add_bias(logits: &mut [f32], bias: &[(u32, f32)]) {
    for &(token, bias) in bias {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit = if bias <= -100.0 { f32::NEG_INFINITY } else { *logit + bias };
        }
    }
}

/// Makes tokens impossible.
pub fn ban(logits: &mut [f32], tokens: &[u32]) {
    for &token in tokens {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
}

/// Each bit of a word by itself.
const BITS: [u32; 32] = {
    let mut bits = [0; 32];
    let mut at = 0;
    while at < 32 {
        bits[at] = 1 << at;
        at += 1;
    }
    bits
};

/// Makes tokens impossible whose bit is not set; tokens beyond the mask are impossible too.
pub fn apply_mask(logits: &mut [f32], mask: &[u32]) {
    for (index, chunk) in logits.chunks_mut(32).enumerate() {
        match mask.get(index).copied().unwrap_or(0) {
            u32::MAX => {}
            0 => chunk.fill(f32::NEG_INFINITY),
            // Without a branch, so that the compiler takes several at a time.
            word => chunk.iter_mut().zip(&BITS).for_each(|(logit, bit)| {
                *logit = if word & bit == 0 { f32::NEG_INFINITY } else { *logit };
            }),
        }
    }
}

/// Natural logarithm of the sum of `exp(logit)`.
#[must_use]
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = scan(logits).max;
    if max == f32::NEG_INFINITY {
        return f64::NEG_INFINITY;
    }
    f64::from(max) + sum_exp(logits, max, 1.0).ln()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NO: f32 = f32::NEG_INFINITY;

    #[test]
    fn edits() {
        let mut logits = vec![1.0; 40];
        add_bias(&mut logits, &[(0, 2.5), (1, -100.0), (2, -99.0), (99, 1.0)]);
        assert_eq!(logits[..4], [3.5, NO, -98.0, 1.0]);
        ban(&mut logits, &[3, 99]);
        assert_eq!(logits[3], NO);
        let mut logits = vec![1.0; 70];
        apply_mask(&mut logits, &[u32::MAX, 0b10]);
        let left: Vec<usize> = (0..70).filter(|&i| logits[i] == 1.0).collect();
        assert_eq!(left, (0..32).chain([33]).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn log_sum_exp_equals_the_definition(
            logits in prop::collection::vec(-20_f32..20.0, 1..1500),
            banned in 0_usize..1500,
        ) {
            let mut logits = logits;
            logits.iter_mut().take(banned).for_each(|logit| *logit = NO);
            let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
            let got = log_sum_exp(&logits);
            prop_assert!(sum == 0.0 && got == f64::NEG_INFINITY || (got - sum.ln()).abs() < 1e-5);
        }
    }
}
