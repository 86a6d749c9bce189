//! Passes over one row of logits: edits before the choice, and the selections that a choice needs.
//! Nothing here sorts the vocabulary.

/// A token and its logit or weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    pub token: u32,
    pub value: f32,
}

/// Candidates that [`top_candidates`] gathers before it cuts back to the wanted number, at least.
const MIN_GATHER: usize = 256;

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

/// Makes tokens impossible whose bit is not set; tokens beyond the mask are impossible too.
pub fn apply_mask(logits: &mut [f32], mask: &[u32]) {
    for (index, chunk) in logits.chunks_mut(32).enumerate() {
        let word = mask.get(index).copied().unwrap_or(0);
        if word == u32::MAX {
            continue;
        }
        for (bit, logit) in chunk.iter_mut().enumerate() {
            if word >> bit & 1 == 0 {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
}

/// Whether any logit is not a number.
#[must_use]
pub fn has_nan(logits: &[f32]) -> bool {
    // Chunks without an exit inside, so that the test becomes a vector operation.
    logits.chunks(256).any(|chunk| chunk.iter().fold(false, |found, x| found | x.is_nan()))
}

/// The largest logit, negative infinity for none.
#[must_use]
pub fn max(logits: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (chunks, rest) = logits.as_chunks::<16>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    rest.iter().chain(&lanes).fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max })
}

/// First index of the largest logit.
#[must_use]
pub fn argmax(logits: &[f32]) -> Option<u32> {
    let max = max(logits);
    logits.iter().position(|&x| x == max).map(|index| index as u32)
}

/// The `count` largest logits that are possible, largest first, the lower id first among equals.
pub fn top_candidates(logits: &[f32], count: usize, out: &mut Vec<Candidate>) {
    out.clear();
    if count == 0 {
        return;
    }
    let gather = (count * 2).max(MIN_GATHER);
    // What is not above the threshold cannot be among the largest: of equals, earlier ids win.
    let mut threshold = f32::NEG_INFINITY;
    for (index, &value) in logits.iter().enumerate() {
        if value > threshold {
            out.push(Candidate { token: index as u32, value });
            if out.len() >= gather {
                keep_largest(out, count);
                threshold = out[count - 1].value;
            }
        }
    }
    keep_largest(out, count);
    out.sort_unstable_by(order);
}

/// Moves the `count` largest to the front, the smallest of them last, and drops the others.
fn keep_largest(candidates: &mut Vec<Candidate>, count: usize) {
    if candidates.len() > count {
        candidates.select_nth_unstable_by(count - 1, order);
        candidates.truncate(count);
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that sorting asks for")]
fn order(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.value.total_cmp(&a.value).then(a.token.cmp(&b.token))
}

/// `exp(x)` for x ≤ 0 by the polynomial of Cephes' `expf`; 0 below -87. It uses nothing but
/// additions and multiplications, so it gives the same bits on every machine, and vectorises.
#[must_use]
#[inline]
pub fn exp_nonpositive(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves the nearest integer
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x > -87.0 { x } else { -87.0 };
    let n = clamped * std::f32::consts::LOG2_E + ROUND - ROUND;
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let e = p * r * r + r + 1.0;
    let power = f32::from_bits(((n as i32 + 127) << 23) as u32);
    if x > -87.0 { e * power } else { 0.0 }
}

/// Sum of `exp((logit - max) * scale)`, in single precision over short runs and double over all.
#[must_use]
pub fn sum_exp(logits: &[f32], max: f32, scale: f32) -> f64 {
    logits.chunks(256).map(|chunk| f64::from(sum_exp_chunk(chunk, max, scale))).sum()
}

/// As [`sum_exp`] for a short run; the order of additions is fixed.
#[must_use]
pub fn sum_exp_chunk(logits: &[f32], max: f32, scale: f32) -> f32 {
    let mut lanes = [0.0_f32; 8];
    let (chunks, rest) = logits.as_chunks::<8>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += exp_nonpositive((x - max) * scale);
        }
    }
    let rest: f32 = rest.iter().map(|&x| exp_nonpositive((x - max) * scale)).sum();
    lanes.iter().sum::<f32>() + rest
}

/// Natural logarithm of the sum of `exp(logit)`.
#[must_use]
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = max(logits);
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

    #[test]
    fn argmax_takes_the_first_of_equals() {
        assert_eq!(argmax(&[0.0, 2.0, 2.0, 1.0]), Some(1));
        assert_eq!(argmax(&[NO, NO]), Some(0));
        assert_eq!(argmax(&[]), None);
    }

    #[test]
    fn exp_is_close() {
        for step in 0..87_000 {
            let x = -(step as f32) / 1000.0;
            let (got, want) = (f64::from(exp_nonpositive(x)), f64::from(x).exp());
            assert!((got - want).abs() <= 2e-7 * want, "exp({x}) = {got}, not {want}");
        }
        assert_eq!(exp_nonpositive(0.0), 1.0);
        assert_eq!(exp_nonpositive(NO), 0.0);
    }

    fn values() -> impl Strategy<Value = Vec<f32>> {
        // Few distinct values, so that ties are common.
        let value = prop_oneof![8 => (-20_i32..20).prop_map(|x| x as f32 / 4.0), 1 => Just(NO)];
        prop::collection::vec(value, 1..1500)
    }

    proptest! {
        #[test]
        fn selection_equals_sorting(logits in values(), count in 0_usize..400) {
            let mut sorted: Vec<Candidate> = logits
                .iter()
                .enumerate()
                .filter(|&(_, &value)| value > NO)
                .map(|(index, &value)| Candidate { token: index as u32, value })
                .collect();
            sorted.sort_by(order);
            sorted.truncate(count);
            let mut selected = Vec::new();
            top_candidates(&logits, count, &mut selected);
            prop_assert_eq!(selected, sorted);
        }

        #[test]
        fn log_sum_exp_equals_the_definition(logits in values()) {
            let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
            let got = log_sum_exp(&logits);
            prop_assert!(sum == 0.0 && got == f64::NEG_INFINITY || (got - sum.ln()).abs() < 1e-5);
        }
    }
}
