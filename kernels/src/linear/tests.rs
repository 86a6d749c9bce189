//! Packed matrices of every type against plain products.

use proptest::prelude::*;

use super::*;
use crate::activation::Activation;
use crate::detect::{available, with_tier};
use crate::elementwise;
use crate::norm;
use crate::pool::Pool;
use crate::quant::{GgmlType, dequantize, quantize};
use crate::rows::{Rows, RowsMut};

/// Types that can be multiplied, with the bytes of a block (and a mask for them) that must be
/// tamed so that random blocks hold no infinities; no bytes for types that have a quantiser.
const TYPES: [(GgmlType, &[usize], u8); 27] = [
    (GgmlType::F32, &[], 0),
    (GgmlType::F16, &[], 0),
    (GgmlType::BF16, &[], 0),
    (GgmlType::F64, &[7], 0xbf),
    (GgmlType::Q4_0, &[], 0),
    (GgmlType::Q4_1, &[], 0),
    (GgmlType::Q5_0, &[], 0),
    (GgmlType::Q5_1, &[], 0),
    (GgmlType::Q8_0, &[], 0),
    (GgmlType::Q8_1, &[1], 0xbf),
    (GgmlType::Q2K, &[], 0),
    (GgmlType::Q3K, &[], 0),
    (GgmlType::Q4K, &[], 0),
    (GgmlType::Q5K, &[], 0),
    (GgmlType::Q6K, &[], 0),
    (GgmlType::IQ4NL, &[], 0),
    (GgmlType::IQ4XS, &[], 0),
    (GgmlType::MXFP4, &[], 0),
    (GgmlType::IQ1S, &[1], 0xbf),
    (GgmlType::IQ1M, &[55], 0xbf),
    (GgmlType::IQ2XXS, &[1], 0xbf),
    (GgmlType::IQ2XS, &[1], 0xbf),
    (GgmlType::IQ2S, &[1], 0xbf),
    (GgmlType::IQ3XXS, &[1], 0xbf),
    (GgmlType::IQ3S, &[1], 0xbf),
    (GgmlType::TQ1_0, &[53], 0xbf),
    (GgmlType::TQ2_0, &[65], 0xbf),
];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 32
    }

    fn normal(&mut self) -> f32 {
        (0..4).map(|_| self.next() as f32 / 2f32.powi(32) - 0.5).sum::<f32>() * 1.7
    }

    fn normals(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.normal()).collect()
    }
}

/// The bytes of a matrix as in a file.
fn file_bytes(ty: GgmlType, n: usize, k: usize, random: &mut Random) -> Vec<u8> {
    let (_, tame, mask) = TYPES.iter().find(|t| t.0 == ty).copied().unwrap();
    let mut bytes = Vec::new();
    if tame.is_empty() {
        quantize(ty, &random.normals(n * k), &mut bytes).unwrap();
    } else {
        bytes.resize_with(n * ty.row_bytes(k).unwrap(), || random.next() as u8);
        for block in bytes.chunks_exact_mut(ty.block_bytes()) {
            tame.iter().for_each(|at| block[*at] &= mask);
        }
    }
    bytes
}

fn product(acts: &Acts, weights: &Packed, pool: &Pool) -> Vec<f32> {
    let mut out = vec![f32::NAN; acts.rows() * weights.n()];
    let rows = RowsMut::new(&mut out, acts.rows(), weights.n());
    linear(acts, &mut [(weights, rows)], pool);
    out
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// A matrix of every type with its dequantised values, and activations.
struct Case {
    ty: GgmlType,
    weights: Packed,
    /// (n, k)
    values: Vec<f32>,
    /// (m, k)
    x: Vec<f32>,
}

impl Case {
    fn new(ty: GgmlType, (m, n, k): (usize, usize, usize), pool: &Pool) -> Case {
        let mut random = Random((n * 1000 + k + m) as u64);
        let bytes = file_bytes(ty, n, k, &mut random);
        let mut values = vec![0.0; n * k];
        dequantize(ty, &bytes, &mut values).unwrap();
        let weights = Packed::pack(ty, n, k, &bytes, pool).unwrap();
        Case { ty, weights, values, x: random.normals(m * k) }
    }

    fn acts(&self, pool: &Pool) -> Acts {
        let k = self.weights.k();
        let mut acts = Acts::new();
        acts.set(Rows::new(&self.x, self.x.len() / k, k), pool);
        acts
    }

    /// Exact products with `x`, and the sums of their magnitudes.
    fn exact(&self, x: &[f32]) -> Vec<(f64, f64)> {
        let k = self.weights.k();
        let pairs =
            x.chunks_exact(k).flat_map(|x| self.values.chunks_exact(k).map(move |w| (x, w)));
        pairs
            .map(|(x, w)| {
                let products = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
                products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()))
            })
            .collect()
    }

    /// Compares `got`, the product with `acts`, with the exact product of the same quantised
    /// activations: only the order of float sums may differ.
    ///
    /// Among subnormals rounding has an absolute step: each addition may lose half of the smallest,
    /// 2^-149.
    fn check(&self, acts: &Acts, got: &[f32]) {
        let k = self.weights.k();
        let seen: Vec<f32> = if self.weights.is_float() {
            self.x.clone()
        } else {
            (0..acts.rows()).flat_map(|i| acts.dequantized_row(i)).collect()
        };
        for (got, (exact, size)) in got.iter().zip(self.exact(&seen)) {
            let error = (f64::from(*got) - exact).abs();
            let bound = 2e-6 * size + k as f64 * 2f64.powi(-150);
            let shape = (acts.rows(), self.weights.n(), k);
            assert!(error <= bound, "{} {shape:?}: {got:e}, not {exact:e} of {size:e}", self.ty);
        }
    }
}

#[test]
fn products_match_the_oracle() {
    let pool = Pool::new(2);
    for (ty, _, _) in TYPES {
        for (m, n, steps) in [(1, 16, 1), (1, 71, 3), (3, 17, 2), (9, 50, 1), (29, 31, 2)] {
            let case = Case::new(ty, (m, n, steps * ty.block_len().max(32)), &pool);
            let acts = case.acts(&pool);
            let got = product(&acts, &case.weights, &pool);
            case.check(&acts, &got);
            // Against the activations before quantisation.
            let exact = case.exact(&case.x);
            let error: f64 =
                got.iter().zip(&exact).map(|(a, b)| (f64::from(*a) - b.0).powi(2)).sum();
            let power: f64 = exact.iter().map(|b| b.1.powi(2)).sum();
            assert!((error / power).sqrt() < 4e-3, "{ty}: {}", (error / power).sqrt());
        }
    }
}

#[test]
fn rows_come_back_exactly() {
    let pool = Pool::new(1);
    for (ty, _, _) in TYPES {
        let k = 2 * ty.block_len().max(32);
        let case = Case::new(ty, (1, 21, k), &pool);
        for tier in available() {
            for (i, expected) in case.values.chunks_exact(k).enumerate() {
                let mut row = vec![0.0; k];
                with_tier(tier, || case.weights.row(i, &mut row));
                for (got, expected) in row.iter().zip(expected) {
                    // By value, for the sign of zero may be lost in the integers.
                    assert_eq!(got, expected, "{ty} row {i}");
                }
            }
        }
    }
}

#[test]
fn every_tier_gives_the_same_bits() {
    let pool = Pool::new(1);
    for (ty, _, _) in TYPES {
        for m in [1, 2, 3, 5, 8, 11, 27] {
            let case = Case::new(ty, (m, 83, 2 * ty.block_len().max(32)), &pool);
            let all: Vec<Vec<u32>> = available()
                .into_iter()
                .map(|tier| {
                    with_tier(tier, || bits(&product(&case.acts(&pool), &case.weights, &pool)))
                })
                .collect();
            assert!(all.iter().all(|bits| *bits == all[0]), "{ty}, {m} rows");
        }
    }
}

#[test]
fn extreme_codes_are_exact_on_every_tier() {
    let pool = Pool::new(1);
    let k = 256;
    for (ty, _, _) in TYPES {
        for byte in [0x00, 0x7f, 0x80, 0x88, 0xff] {
            if case_is_float(ty) {
                continue;
            }
            // Scales are what they are, but never infinite: 0x7f.. and 0xff.. are NaN.
            let mut bytes = vec![byte; 16 * ty.row_bytes(k).unwrap()];
            let mut values = vec![0.0; 16 * k];
            dequantize(ty, &bytes, &mut values).unwrap();
            if !values.iter().all(|v| v.is_finite()) {
                let tame: &[usize] = match ty {
                    GgmlType::Q2K => &[80, 81, 82, 83],
                    GgmlType::Q3K => &[108, 109],
                    GgmlType::Q6K => &[208, 209],
                    GgmlType::IQ1M => &[49, 51, 53, 55],
                    GgmlType::TQ1_0 => &[53],
                    GgmlType::TQ2_0 => &[65],
                    _ => &[0, 1, 2, 3],
                };
                for block in bytes.chunks_exact_mut(ty.block_bytes()) {
                    tame.iter().for_each(|at| block[*at] = 0x3c);
                }
            }
            let weights = Packed::pack(ty, 16, k, &bytes, &pool).unwrap();
            for sign in [1.0, -1.0] {
                let x = vec![sign; 9 * k];
                let mut acts = Acts::new();
                acts.set(Rows::new(&x, 9, k), &pool);
                let all: Vec<Vec<u32>> = available()
                    .into_iter()
                    .map(|tier| with_tier(tier, || bits(&product(&acts, &weights, &pool))))
                    .collect();
                assert!(all.iter().all(|bits| *bits == all[0]), "{ty} {byte:x} {sign}");
            }
        }
    }
}

fn case_is_float(ty: GgmlType) -> bool {
    matches!(ty, GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 | GgmlType::F64)
}

#[test]
fn a_row_does_not_depend_on_its_neighbours() {
    let pool = Pool::new(2);
    for (ty, _, _) in TYPES {
        let k = 3 * ty.block_len().max(32);
        let case = Case::new(ty, (40, 35, k), &pool);
        let all = product(&case.acts(&pool), &case.weights, &pool);
        for m in 1..=33 {
            let first = 40 - m;
            let mut acts = Acts::new();
            acts.set(Rows::new(&case.x[first * k..], m, k), &pool);
            let part = product(&acts, &case.weights, &pool);
            assert_eq!(bits(&part), bits(&all[first * 35..]), "{ty}, {m} rows");
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    for (ty, _, _) in TYPES {
        // Enough values that rows are quantised in parallel.
        let case = Case::new(ty, (70, 100, 256), &Pool::new(3));
        let pool = Pool::new(1);
        let expected = bits(&product(&case.acts(&pool), &case.weights, &pool));
        for threads in [2, 3, 7] {
            let pool = Pool::new(threads);
            let got = product(&case.acts(&pool), &case.weights, &pool);
            assert_eq!(bits(&got), expected, "{ty}, {threads} threads");
        }
    }
}

#[test]
fn a_group_of_mixed_types_equals_its_members() {
    let pool = Pool::new(2);
    let (m, k) = (5, 256);
    let cases: Vec<Case> = [GgmlType::Q4K, GgmlType::Q6K, GgmlType::Q8_0, GgmlType::F16]
        .iter()
        .enumerate()
        .map(|(i, ty)| Case::new(*ty, (m, 16 * i + 7, k), &pool))
        .collect();
    let acts = cases[0].acts(&pool);
    // All outputs in one matrix, side by side.
    let total: usize = cases.iter().map(|case| case.weights.n()).sum();
    let stride = total + 3;
    let mut outs: Vec<Vec<f32>> = cases.iter().map(|_| vec![-1.0; m * stride]).collect();
    let mut group: Vec<(&Packed, RowsMut<'_>)> = cases
        .iter()
        .zip(&mut outs)
        .map(|(case, out)| (&case.weights, RowsMut::strided(out, m, case.weights.n(), stride)))
        .collect();
    linear(&acts, &mut group, &pool);
    for (case, out) in cases.iter().zip(&outs) {
        let n = case.weights.n();
        let alone = product(&acts, &case.weights, &pool);
        for i in 0..m {
            assert_eq!(bits(&out[i * stride..][..n]), bits(&alone[i * n..][..n]), "{}", case.ty);
            assert!(out[i * stride..].iter().take(stride).skip(n).all(|x| *x == -1.0));
        }
    }
}

#[test]
fn fused_operations_equal_the_separate_ones() {
    let pool = Pool::new(2);
    let mut random = Random(5);
    // Rows that are quantised by the caller alone, and in parallel.
    for (m, k) in [(6, 160), (90, 224)] {
        let (x, up) = (random.normals(m * k), random.normals(m * k));
        let (weight, bias) = (random.normals(k), random.normals(k));
        let (x, up) = (Rows::new(&x, m, k), Rows::new(&up, m, k));
        let seen = |acts: &Acts| -> Vec<u32> {
            (0..m).flat_map(|i| bits(&acts.dequantized_row(i))).collect()
        };
        let (mut fused, mut plain) = (Acts::new(), Acts::new());
        let mut out = vec![0.0; m * k];
        macro_rules! check {
            ($fused:expr, $separate:expr) => {
                $fused;
                $separate;
                plain.set(Rows::new(&out, m, k), &pool);
                assert_eq!(seen(&fused), seen(&plain));
            };
        }
        check!(fused.set_rms_norm(x, &weight, 1e-5, &pool), {
            norm::rms_norm(x, &weight, 1e-5, RowsMut::new(&mut out, m, k), &pool);
        });
        check!(fused.set_layer_norm(x, &weight, Some(&bias), 1e-5, &pool), {
            let out = RowsMut::new(&mut out, m, k);
            norm::layer_norm(x, &weight, Some(&bias), 1e-5, out, &pool);
        });
        check!(fused.set_glu(x, up, Activation::Silu, &pool), {
            let out = RowsMut::new(&mut out, m, k);
            elementwise::glu(x, up, Activation::Silu, out, &pool);
        });
        check!(fused.set_act(x, Activation::Gelu, &pool), {
            out.copy_from_slice(x.data);
            elementwise::activate(&mut out, Activation::Gelu, &pool);
        });
    }
}

#[test]
fn quants_are_within_half_a_step() {
    let pool = Pool::new(1);
    let mut random = Random(11);
    let x = random.normals(5 * 96);
    let mut acts = Acts::new();
    acts.set(Rows::new(&x, 5, 96), &pool);
    for (i, x) in x.chunks_exact(96).enumerate() {
        for (x, seen) in x.chunks_exact(32).zip(acts.dequantized_row(i).chunks_exact(32)) {
            let step = x.iter().fold(0f32, |max, x| max.max(x.abs())) / 127.0;
            assert!(x.iter().zip(seen).all(|(x, seen)| (x - seen).abs() <= 0.501 * step));
        }
    }
}

#[test]
fn what_is_not_a_number_stays_visible() {
    let pool = Pool::new(1);
    let case = Case::new(GgmlType::Q4_0, (3, 16, 64), &pool);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for tier in available() {
            let mut x = case.x.clone();
            x[64 + 5] = bad;
            let mut acts = Acts::new();
            let out = with_tier(tier, || {
                acts.set(Rows::new(&x, 3, 64), &pool);
                product(&acts, &case.weights, &pool)
            });
            assert!(out[16..32].iter().all(|y| y.is_nan()), "{bad} {tier:?}");
            assert!(out[..16].iter().chain(&out[32..]).all(|y| y.is_finite()));
        }
    }
    // Tiny and zero rows are zero, not NaN.
    for tiny in [0.0, 1e-40, 1e-36] {
        let mut acts = Acts::new();
        acts.set(Rows::new(&[tiny; 64], 1, 64), &pool);
        assert!(product(&acts, &case.weights, &pool).iter().all(|y| y.abs() < 1e-30));
    }
}

#[test]
fn memory_stays_near_the_file() {
    let pool = Pool::new(1);
    for (ty, _, _) in TYPES {
        let case = Case::new(ty, (1, 64, 512), &pool);
        let file = 64 * ty.row_bytes(512).unwrap();
        let ratio = case.weights.bytes() as f64 / file as f64;
        let limit = match ty {
            GgmlType::IQ1S | GgmlType::IQ1M | GgmlType::TQ1_0 => 3.0,
            GgmlType::IQ2XXS | GgmlType::IQ2XS | GgmlType::IQ2S | GgmlType::TQ2_0 => 2.25,
            GgmlType::IQ3XXS | GgmlType::IQ3S => 1.55,
            _ => 1.09,
        };
        assert!(ratio <= limit, "{ty}: {ratio}");
    }
}

#[test]
fn errors_name_the_limit() {
    let pool = Pool::new(1);
    let error =
        |ty, n, k, len| Packed::pack(ty, n, k, &vec![0; len], &pool).unwrap_err().to_string();
    assert_eq!(error(GgmlType::I32, 1, 1, 4), "weights of type I32 cannot be multiplied");
    assert_eq!(
        error(GgmlType::Q4_0, 2, 48, 0),
        "Q4_0 cannot hold 2 x 48 weights: its blocks have 32"
    );
    assert_eq!(error(GgmlType::Q4_0, 2, 64, 71), "the weights have 71 bytes instead of 72");
    assert!(Packed::pack(GgmlType::Q4_0, usize::MAX, 64, &[], &pool).is_err());
    // Nothing times anything is nothing.
    let empty = Packed::pack(GgmlType::Q4_0, 0, 64, &[], &pool).unwrap();
    let mut acts = Acts::new();
    acts.set(Rows::new(&[0.0; 64], 1, 64), &pool);
    assert!(product(&acts, &empty, &pool).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_shape(
        index in 0..TYPES.len(),
        (m, n, blocks) in (1usize..40, 1usize..70, 1usize..6),
        threads in 1usize..4,
    ) {
        let ty = TYPES[index].0;
        let pool = Pool::new(threads);
        let case = Case::new(ty, (m, n, blocks * ty.block_len().max(32)), &pool);
        let acts = case.acts(&pool);
        let got = product(&acts, &case.weights, &pool);
        case.check(&acts, &got);
    }
}

#[test]
fn a_gated_layer_in_one_region_is_the_same_as_in_steps() {
    let (n, k) = (96, 256);
    for ty in [GgmlType::Q4_0, GgmlType::Q4_1, GgmlType::Q6K, GgmlType::IQ4XS] {
        for m in [1, 3, 8, 13, 600] {
            let pool = Pool::new(2);
            let gate = Case::new(ty, (m, n, k), &pool);
            let up = Case::new(ty, (m + 1, n, k), &pool);
            let mut x = gate.x.clone();
            if m == 13 {
                x[3 * k + 5] = f32::INFINITY;
                x[12 * k] = f32::NAN;
            }
            let mut acts = Acts::for_quantised();
            acts.set(Rows::new(&x, m, k), &pool);
            let products = [&gate, &up].map(|case| product(&acts, &case.weights, &pool));
            let [gate_out, up_out] = products.each_ref().map(|out| Rows::new(out, m, n));
            for activation in [Activation::Silu, Activation::Gelu, Activation::Relu2] {
                let mut expected = Acts::for_quantised();
                expected.set_glu(gate_out, up_out, activation, &pool);
                for tier in available() {
                    for threads in [1, 2] {
                        let mut got = Acts::for_quantised();
                        let weights = [&gate.weights, &up.weights];
                        let pool = Pool::new(threads);
                        let run = || gated(&acts, weights, activation, &mut got, &pool);
                        assert!(with_tier(tier, run));
                        for i in 0..m {
                            let [got, expected] =
                                [&got, &expected].map(|acts| bits(&acts.dequantized_row(i)));
                            assert_eq!(got, expected, "{ty} {m} {activation:?} {tier:?} row {i}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_gated_layer_of_other_shapes_is_left_to_the_caller() {
    let pool = Pool::new(1);
    let case = |ty, n| Case::new(ty, (2, n, 64), &pool);
    let (fit, narrow) = (case(GgmlType::Q4_0, 64), case(GgmlType::Q4_0, 48));
    let (other, float) = (case(GgmlType::Q4_0, 32), case(GgmlType::F16, 64));
    let mut acts = Acts::new();
    acts.set(Rows::new(&fit.x, 2, 64), &pool);
    let cases = [(&fit, &fit, true), (&narrow, &narrow, false), (&fit, &other, false)];
    for (gate, up, expected) in cases.into_iter().chain([(&float, &float, false)]) {
        let weights = [&gate.weights, &up.weights];
        let mut out = Acts::for_quantised();
        assert_eq!(gated(&acts, weights, Activation::Silu, &mut out, &pool), expected);
        assert!(!gated(&acts, weights, Activation::Silu, &mut Acts::new(), &pool));
    }
}
