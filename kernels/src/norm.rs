//! RMS and layer normalisation.
//!
//! Sums run over four vectors in turn and are then folded in a fixed order, so a row's result is
//! the same on every tier and in every batch.
#![allow(clippy::inline_always)]

use crate::parallel::over_rows;
use crate::pool::Pool;
use crate::rows::{Rows, RowsMut};
use crate::simd::{Kernel, LANES, Level, Simd, dispatch};

/// `out = x / sqrt(mean(x^2) + eps) * weight`, row by row; `weight` (cols).
pub fn rms_norm(x: Rows<'_>, weight: &[f32], eps: f32, out: RowsMut<'_>, pool: &Pool) {
    let kind = Kind::Rms;
    copy_and_norm(x, &Norm { kind, weight, bias: None, eps, width: weight.len() }, out, pool);
}

/// RMS norm of each head by itself, in place: `x` (T, heads * head_dim), `weight` (head_dim).
pub fn rms_norm_heads(mut x: RowsMut<'_>, weight: &[f32], eps: f32, pool: &Pool) {
    let norm = Norm { kind: Kind::Rms, weight, bias: None, eps, width: weight.len() };
    norm.check(x.cols);
    let level = Level::current();
    let (rows, cols) = (x.rows, x.cols);
    let x = x.shared();
    over_rows(pool, rows, cols, |range| {
        for row in range {
            // SAFETY: ranges of rows are disjoint.
            let row = unsafe { x.row_mut(row, 0..cols) };
            dispatch(level, NormRow { norm: &norm, row });
        }
    });
}

/// `out = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias`, row by row; `weight`, `bias` (cols).
pub fn layer_norm(
    x: Rows<'_>,
    weight: &[f32],
    bias: Option<&[f32]>,
    eps: f32,
    out: RowsMut<'_>,
    pool: &Pool,
) {
    let kind = Kind::Layer;
    copy_and_norm(x, &Norm { kind, weight, bias, eps, width: weight.len() }, out, pool);
}

fn copy_and_norm(x: Rows<'_>, norm: &Norm<'_>, mut out: RowsMut<'_>, pool: &Pool) {
    assert_eq!(x.cols, norm.width, "one weight for each column");
    assert!(x.rows == out.rows && x.cols == out.cols, "the output has another shape");
    norm.check(x.cols);
    let level = Level::current();
    let (rows, cols) = (x.rows, x.cols);
    let out = out.shared();
    over_rows(pool, rows, cols, |range| {
        for i in range {
            // SAFETY: ranges of rows are disjoint.
            let row = unsafe { out.row_mut(i, 0..cols) };
            row.copy_from_slice(x.row(i));
            dispatch(level, NormRow { norm, row });
        }
    });
}

/// [`rms_norm`] of one row where it is.
pub(crate) fn rms_norm_row(level: Level, row: &mut [f32], weight: &[f32], eps: f32) {
    let norm = Norm { kind: Kind::Rms, weight, bias: None, eps, width: weight.len() };
    dispatch(level, NormRow { norm: &norm, row });
}

/// [`layer_norm`] of one row where it is.
pub(crate) fn layer_norm_row(
    level: Level,
    row: &mut [f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    eps: f32,
) {
    let norm = Norm { kind: Kind::Layer, weight, bias, eps, width: weight.len() };
    dispatch(level, NormRow { norm: &norm, row });
}

#[derive(Clone, Copy)]
enum Kind {
    Rms,
    Layer,
}

/// What to do with every `width` values of a row.
struct Norm<'a> {
    kind: Kind,
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    eps: f32,
    width: usize,
}

impl Norm<'_> {
    fn check(&self, cols: usize) {
        assert!(self.width > 0 && cols.is_multiple_of(self.width), "{cols} columns, not heads");
        assert!(self.bias.is_none_or(|bias| bias.len() == self.width), "one bias for each column");
    }
}

struct NormRow<'a> {
    norm: &'a Norm<'a>,
    row: &'a mut [f32],
}

impl Kernel for NormRow<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let norm = self.norm;
        for x in self.row.chunks_exact_mut(norm.width) {
            let count = x.len() as f32;
            let mean = match norm.kind {
                Kind::Rms => 0.0,
                Kind::Layer => sum(s, x, 0.0, Power::One) / count,
            };
            let variance = sum(s, x, mean, Power::Two) / count;
            let factor = 1.0 / (variance + norm.eps).sqrt();
            apply(s, x, norm, mean, factor);
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Power {
    One,
    Two,
}

/// Sum of `(x - shift)^power`.
#[inline(always)]
fn sum<S: Simd>(s: S, x: &[f32], shift: f32, power: Power) -> f32 {
    let mut sums = [s.zero(); 4];
    let shift = s.splat(shift);
    let (vectors, rest) = x.as_chunks::<LANES>();
    let (quads, singles) = vectors.as_chunks::<4>();
    for quad in quads {
        for (sum, x) in sums.iter_mut().zip(quad) {
            *sum = accumulate(s, *sum, s.sub(s.load(x), shift), power);
        }
    }
    for (sum, x) in sums.iter_mut().zip(singles) {
        *sum = accumulate(s, *sum, s.sub(s.load(x), shift), power);
    }
    if !rest.is_empty() {
        let x = s.sub(s.load_part(rest), shift);
        let x = s.select(s.lanes(0, rest.len()), x, s.zero());
        sums[singles.len()] = accumulate(s, sums[singles.len()], x, power);
    }
    s.reduce_add(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])))
}

#[inline(always)]
fn accumulate<S: Simd>(s: S, sum: S::F, x: S::F, power: Power) -> S::F {
    match power {
        Power::One => s.add(sum, x),
        Power::Two => s.fma(x, x, sum),
    }
}

/// `(x - mean) * factor * weight + bias`.
#[inline(always)]
fn apply<S: Simd>(s: S, x: &mut [f32], norm: &Norm<'_>, mean: f32, factor: f32) {
    let (mean, factor) = (s.splat(mean), s.splat(factor));
    let (weights, rest_weights) = norm.weight.as_chunks::<LANES>();
    let (biases, rest_biases) = norm.bias.unwrap_or_default().as_chunks::<LANES>();
    let (vectors, rest) = x.as_chunks_mut::<LANES>();
    for (i, (x, weight)) in vectors.iter_mut().zip(weights).enumerate() {
        let mut y = s.mul(s.mul(s.sub(s.load(x), mean), factor), s.load(weight));
        if let Some(bias) = biases.get(i) {
            y = s.add(y, s.load(bias));
        }
        s.store(y, x);
    }
    if !rest.is_empty() {
        let weight = s.load_part(rest_weights);
        let mut y = s.mul(s.mul(s.sub(s.load_part(rest), mean), factor), weight);
        if norm.bias.is_some() {
            y = s.add(y, s.load_part(rest_biases));
        }
        s.store_part(y, rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::{self, with_tier};

    fn values(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 250.0 - 1.5).collect()
    }

    fn oracle(x: &[f32], weight: &[f32], bias: Option<&[f32]>, kind: Kind) -> Vec<f64> {
        let n = x.len() as f64;
        let mean = match kind {
            Kind::Rms => 0.0,
            Kind::Layer => x.iter().map(|x| f64::from(*x)).sum::<f64>() / n,
        };
        let variance = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
        let factor = 1.0 / (variance + 1e-5).sqrt();
        let bias = |i: usize| bias.map_or(0.0, |bias| f64::from(bias[i]));
        let y = |(i, x): (usize, &f32)| (f64::from(*x) - mean) * factor * f64::from(weight[i]);
        x.iter().enumerate().map(|ix| y(ix) + bias(ix.0)).collect()
    }

    #[test]
    fn norms_match_the_oracle_on_every_tier_and_thread_count() {
        for cols in [1, 5, 16, 40, 64, 100, 576, 2049] {
            let rows = 100;
            let stride = cols + 3;
            let x = values(rows * stride, 1);
            let (weight, bias) = (values(cols, 2), values(cols, 3));
            for kind in [Kind::Rms, Kind::Layer] {
                let run = |tier, threads| {
                    let mut out = vec![0.0; rows * cols];
                    let pool = Pool::new(threads);
                    let rows_in = Rows::strided(&x, rows, cols, stride);
                    let rows_out = RowsMut::new(&mut out, rows, cols);
                    with_tier(tier, || match kind {
                        Kind::Rms => rms_norm(rows_in, &weight, 1e-5, rows_out, &pool),
                        Kind::Layer => {
                            layer_norm(rows_in, &weight, Some(&bias), 1e-5, rows_out, &pool);
                        }
                    });
                    out
                };
                let got = run(detect::tier(), 1);
                for tier in detect::available() {
                    assert_eq!(run(tier, 2), got, "{tier:?}");
                }
                for row in 0..rows {
                    let used = matches!(kind, Kind::Layer).then_some(&bias[..]);
                    let expected = oracle(&x[row * stride..][..cols], &weight, used, kind);
                    for (got, expected) in got[row * cols..].iter().zip(expected) {
                        let error = (f64::from(*got) - expected).abs();
                        assert!(error < 2e-6 * (1.0 + expected.abs()), "{got} {expected}");
                    }
                }
            }
        }
    }

    #[test]
    fn heads_are_normalised_one_by_one() {
        let (rows, heads, dim) = (3, 4, 20);
        let x = values(rows * heads * dim, 5);
        let weight = values(dim, 6);
        let mut got = x.clone();
        let pool = Pool::new(2);
        rms_norm_heads(RowsMut::new(&mut got, rows, heads * dim), &weight, 1e-5, &pool);
        let mut expected = vec![0.0; x.len()];
        let parts = Rows::new(&x, rows * heads, dim);
        rms_norm(parts, &weight, 1e-5, RowsMut::new(&mut expected, rows * heads, dim), &pool);
        assert_eq!(got, expected);
        let exact = oracle(&x[dim..2 * dim], &weight, None, Kind::Rms);
        for (got, exact) in got[dim..].iter().zip(exact) {
            assert!((f64::from(*got) - exact).abs() < 1e-6);
        }
    }
}
