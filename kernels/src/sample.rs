//! What the choice of a token needs of a row of logits, without sorting the vocabulary.
//!
//! All of it is plain loops in a fixed order, without fused operations: the same bits on every tier.
#![allow(clippy::inline_always, reason = "loops are compiled once for each tier")]
#![allow(
    clippy::needless_bitwise_bool,
    reason = "a loop without an exit becomes vector operations"
)]

use crate::simd::{Kernel, Level, Simd, dispatch};

/// A token and its logit or weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    pub token: u32,
    pub value: f32,
}

/// What one pass over a row finds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scan {
    /// The largest logit, negative infinity for none. Logits that are not numbers do not count.
    pub max: f32,
    pub has_nan: bool,
}

/// Logits that are looked at together.
const CHUNK: usize = 64;
/// Partial sums of exponentials.
const LANES: usize = 16;
/// Logits whose exponentials are summed in single precision.
const RUN: usize = 256;
/// Candidates that [`top`] gathers before it cuts back to the wanted number, at least.
const MIN_GATHER: usize = 256;

/// Finds the largest logit, and whether all are numbers.
pub fn scan(logits: &[f32]) -> Scan {
    struct Run<'a>(&'a [f32]);
    impl Kernel for Run<'_> {
        type Out = Scan;
        #[inline(always)]
        fn run<S: Simd>(self, _: S) -> Scan {
            let (chunks, rest) = self.0.as_chunks::<CHUNK>();
            let mut lanes = [f32::NEG_INFINITY; CHUNK];
            let mut strange = [0_u32; CHUNK];
            for chunk in chunks {
                for i in 0..CHUNK {
                    lanes[i] = larger(lanes[i], chunk[i]);
                    strange[i] |= u32::from(chunk[i].is_nan());
                }
            }
            let max = rest.iter().chain(&lanes).fold(f32::NEG_INFINITY, |max, &x| larger(max, x));
            let has_nan = strange.iter().any(|&lane| lane != 0) || rest.iter().any(|x| x.is_nan());
            Scan { max, has_nan }
        }
    }
    dispatch(Level::current(), Run(logits))
}

/// The first token whose logit equals `value`.
pub fn position(logits: &[f32], value: f32) -> Option<u32> {
    struct Run<'a>(&'a [f32], f32);
    impl Kernel for Run<'_> {
        type Out = Option<u32>;
        #[inline(always)]
        fn run<S: Simd>(self, _: S) -> Option<u32> {
            let Run(logits, value) = self;
            for (index, chunk) in logits.chunks(CHUNK).enumerate() {
                if chunk.iter().fold(false, |found, &x| found | (x == value)) {
                    let within = chunk.iter().position(|&x| x == value)?;
                    return Some((index * CHUNK + within) as u32);
                }
            }
            None
        }
    }
    dispatch(Level::current(), Run(logits, value))
}

/// Writes the `count` largest logits above negative infinity, largest first, the lower id first
/// among equals.
pub fn top(logits: &[f32], count: usize, out: &mut Vec<Candidate>) {
    struct Run<'a>(&'a [f32], usize, &'a mut Vec<Candidate>);
    impl Kernel for Run<'_> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, _: S) {
            let Run(logits, count, out) = self;
            let gather = (count * 2).max(MIN_GATHER);
            // What is not above the threshold cannot be among the largest: of equals, earlier ids
            // win.
            let mut threshold = f32::NEG_INFINITY;
            for (index, chunk) in logits.chunks(CHUNK).enumerate() {
                let any = |found: bool, &x: &f32| found | (x > threshold);
                if !chunk.iter().fold(false, any) {
                    continue;
                }
                for (within, &value) in chunk.iter().enumerate() {
                    if value > threshold {
                        out.push(Candidate { token: (index * CHUNK + within) as u32, value });
                    }
                }
                if out.len() >= gather {
                    keep_largest(out, count);
                    threshold = out[count - 1].value;
                }
            }
        }
    }
    out.clear();
    if count == 0 {
        return;
    }
    dispatch(Level::current(), Run(logits, count, out));
    keep_largest(out, count);
    out.sort_unstable_by(order);
}

/// Sum of `exp((logit - max) * scale)`, in single precision over short runs and double over all.
pub fn sum_exp(logits: &[f32], max: f32, scale: f32) -> f64 {
    struct Run<'a>(&'a [f32], f32, f32);
    impl Kernel for Run<'_> {
        type Out = f64;
        #[inline(always)]
        fn run<S: Simd>(self, _: S) -> f64 {
            let Run(logits, max, scale) = self;
            let mut total = 0.0;
            for run in logits.chunks(RUN) {
                let (chunks, rest) = run.as_chunks::<LANES>();
                let mut lanes = [0.0_f32; LANES];
                for chunk in chunks {
                    for i in 0..LANES {
                        lanes[i] += exp_nonpositive((chunk[i] - max) * scale);
                    }
                }
                let rest: f32 = rest.iter().map(|&x| exp_nonpositive((x - max) * scale)).sum();
                total += f64::from(lanes.iter().sum::<f32>() + rest);
            }
            total
        }
    }
    dispatch(Level::current(), Run(logits, max, scale))
}

/// `exp(x)` for x ≤ 0 by the polynomial of Cephes' `expf`; 0 below -87.
#[inline(always)]
pub fn exp_nonpositive(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves the nearest integer
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x > -87.0 { x } else { -87.0 };
    let rounded = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let e = p * r * r + r + 1.0;
    // The low bits of `rounded` are n; its other bits fall out of the shift.
    let power = f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23));
    if x > -87.0 { e * power } else { 0.0 }
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NO: f32 = f32::NEG_INFINITY;

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

    #[test]
    fn scans_see_what_is_not_a_number() {
        for len in [0, 1, 63, 64, 65, 200] {
            let mut row = vec![1.0; len];
            let max = if len == 0 { NO } else { 1.0 };
            assert_eq!(scan(&row), Scan { max, has_nan: false });
            for i in 0..len {
                row[i] = f32::NAN;
                assert!(scan(&row).has_nan, "{i} of {len}");
                row[i] = 1.0;
            }
        }
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
            let largest = sorted.first().map_or(NO, |candidate| candidate.value);
            let first = logits.iter().position(|&x| x == largest).map(|i| i as u32);
            prop_assert_eq!(scan(&logits), Scan { max: largest, has_nan: false });
            prop_assert_eq!(position(&logits, largest), first);
            sorted.truncate(count);
            let mut selected = Vec::new();
            top(&logits, count, &mut selected);
            prop_assert_eq!(selected, sorted);
        }

        #[test]
        fn sums_are_the_same_bits_on_every_tier(logits in values(), scale in 0.1_f32..3.0) {
            let max = scan(&logits).max;
            prop_assume!(max > NO);
            let want: f64 = logits.iter().map(|&x| (f64::from(x - max) * f64::from(scale)).exp()).sum();
            let got = sum_exp(&logits, max, scale);
            prop_assert!((got - want).abs() < 1e-5 * want, "{got}, not {want}");
        }
    }
}
