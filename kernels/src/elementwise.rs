//! Operations on each value by itself.
#![allow(clippy::inline_always)]

use crate::activation::Activation;
use crate::math;
use crate::parallel::{over_rows, over_values};
use crate::pool::Pool;
use crate::rows::{Rows, RowsMut};
use crate::simd::{Kernel, LANES, Level, Simd, dispatch};

/// `x += scale * y`, rounded once.
pub fn add_scaled(x: &mut [f32], y: &[f32], scale: f32, pool: &Pool) {
    assert_eq!(x.len(), y.len(), "values to add");
    let level = Level::current();
    over_values(pool, x, |start, x| {
        let y = &y[start..start + x.len()];
        dispatch(level, Apply { op: Op::AddScaled(scale), x, y });
    });
}

/// `x *= y`.
pub fn mul(x: &mut [f32], y: &[f32], pool: &Pool) {
    assert_eq!(x.len(), y.len(), "values to multiply");
    let level = Level::current();
    over_values(pool, x, |start, x| {
        let y = &y[start..start + x.len()];
        dispatch(level, Apply { op: Op::Mul, x, y });
    });
}

/// `x *= factor`.
pub fn scale(x: &mut [f32], factor: f32, pool: &Pool) {
    unary(x, Op::Scale(factor), pool);
}

/// `x = cap * tanh(x / cap)`.
pub fn softcap(x: &mut [f32], cap: f32, pool: &Pool) {
    unary(x, Op::Softcap(cap), pool);
}

/// `x = activation(x)`.
pub fn activate(x: &mut [f32], activation: Activation, pool: &Pool) {
    unary(x, Op::Activate(activation), pool);
}

/// Adds `bias` (cols) to every row.
pub fn add_bias(mut x: RowsMut<'_>, bias: &[f32], pool: &Pool) {
    assert_eq!(x.cols, bias.len(), "one bias for each column");
    let level = Level::current();
    let (rows, cols) = (x.rows, x.cols);
    let x = x.shared();
    over_rows(pool, rows, cols, |range| {
        for row in range {
            // SAFETY: ranges of rows are disjoint.
            let x = unsafe { x.row_mut(row, 0..cols) };
            dispatch(level, Apply { op: Op::AddScaled(1.0), x, y: bias });
        }
    });
}

/// `out = activation(gate) * up`. `gate` and `up` may be columns of the same matrix.
pub fn glu(
    gate: Rows<'_>,
    up: Rows<'_>,
    activation: Activation,
    mut out: RowsMut<'_>,
    pool: &Pool,
) {
    let shape = (out.rows, out.cols);
    assert!((gate.rows, gate.cols) == shape && (up.rows, up.cols) == shape, "shapes differ");
    let level = Level::current();
    let (rows, cols) = shape;
    let out = out.shared();
    over_rows(pool, rows, cols, |range| {
        for row in range {
            // SAFETY: ranges of rows are disjoint.
            let x = unsafe { out.row_mut(row, 0..cols) };
            x.copy_from_slice(gate.row(row));
            dispatch(level, Apply { op: Op::Gate(activation), x, y: up.row(row) });
        }
    });
}

/// [`glu`] of one row: `x` is the gate and becomes the result.
pub(crate) fn glu_row(level: Level, x: &mut [f32], up: &[f32], activation: Activation) {
    dispatch(level, Apply { op: Op::Gate(activation), x, y: up });
}

/// [`activate`] of one row.
pub(crate) fn activate_row(level: Level, x: &mut [f32], activation: Activation) {
    dispatch(level, Apply { op: Op::Activate(activation), x, y: &[] });
}

fn unary(x: &mut [f32], op: Op, pool: &Pool) {
    let level = Level::current();
    over_values(pool, x, |_, x| dispatch(level, Apply { op, x, y: &[] }));
}

#[derive(Clone, Copy)]
enum Op {
    /// `x + scale * y`.
    AddScaled(f32),
    Mul,
    Scale(f32),
    Softcap(f32),
    Activate(Activation),
    /// `activation(x) * y`.
    Gate(Activation),
}

impl Op {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F, y: S::F) -> S::F {
        match self {
            Op::AddScaled(scale) => s.fma(y, s.splat(scale), x),
            Op::Mul => s.mul(x, y),
            Op::Scale(factor) => s.mul(x, s.splat(factor)),
            Op::Softcap(cap) => math::softcap(s, x, cap),
            Op::Activate(activation) => activation.apply(s, x),
            Op::Gate(activation) => s.mul(activation.apply(s, x), y),
        }
    }
}

/// Applies an operation to `x`; `y` is as long, or empty where the operation has no use for it.
struct Apply<'a> {
    op: Op,
    x: &'a mut [f32],
    y: &'a [f32],
}

impl Kernel for Apply<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (y, y_rest) = self.y.as_chunks::<LANES>();
        let (x, x_rest) = self.x.as_chunks_mut::<LANES>();
        for (i, x) in x.iter_mut().enumerate() {
            let y = if let Some(y) = y.get(i) { s.load(y) } else { s.zero() };
            s.store(self.op.apply(s, s.load(x), y), x);
        }
        if !x_rest.is_empty() {
            let x = s.load_part(x_rest);
            s.store_part(self.op.apply(s, x, s.load_part(y_rest)), x_rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::{self, Tier, with_tier};

    fn values(n: usize) -> Vec<f32> {
        (0..n).map(|i| (i * 7919 % 1009) as f32 / 100.0 - 5.0).collect()
    }

    /// The result on every tier with 1 and 2 threads, all alike.
    fn everywhere(f: impl Fn(&mut Vec<f32>, &Pool), x: &[f32]) -> Vec<f32> {
        let run = |tier: Tier, threads| {
            let mut x = x.to_vec();
            with_tier(tier, || f(&mut x, &Pool::new(threads)));
            x
        };
        let got = run(detect::tier(), 1);
        for tier in detect::available() {
            assert_eq!(run(tier, 2), got, "{tier:?}");
        }
        got
    }

    fn assert_close(got: &[f32], expected: impl Iterator<Item = f64>) {
        for (got, expected) in got.iter().zip(expected) {
            let error = (f64::from(*got) - expected).abs();
            assert!(error <= 4e-7 * (1.0 + expected.abs()), "{got}, not {expected}");
        }
    }

    #[test]
    fn operations_match_the_oracle_on_every_tier_and_thread_count() {
        for n in [1, 15, 16, 100, 70_001] {
            let x = values(n);
            let y: Vec<f32> = x.iter().rev().copied().collect();
            let wide = || x.iter().map(|x| f64::from(*x));
            let got = everywhere(|x, pool| add_scaled(x, &y, 0.3, pool), &x);
            let scaled = y.iter().map(|y| f64::from(*y) * f64::from(0.3f32));
            assert_close(&got, wide().zip(scaled).map(|(x, y)| x + y));
            let got = everywhere(|x, pool| scale(x, 1.7, pool), &x);
            assert_close(&got, wide().map(|x| x * f64::from(1.7f32)));
            let got = everywhere(|x, pool| softcap(x, 3.0, pool), &x);
            assert_close(&got, wide().map(|x| 3.0 * (x / 3.0).tanh()));
            let got = everywhere(|x, pool| activate(x, Activation::Silu, pool), &x);
            assert_close(&got, wide().map(|x| x / (1.0 + (-x).exp())));
            let got = everywhere(|x, pool| activate(x, Activation::Relu2, pool), &x);
            assert_close(&got, wide().map(|x| x.max(0.0).powi(2)));
        }
    }

    #[test]
    fn gate_and_up_may_share_a_matrix() {
        let (rows, cols) = (700, 49);
        let both = values(rows * cols * 2);
        let run = |out: &mut Vec<f32>, pool: &Pool| {
            let gate = Rows::strided(&both, rows, cols, 2 * cols);
            let up = Rows::strided(&both[cols..], rows, cols, 2 * cols);
            glu(gate, up, Activation::Relu, RowsMut::new(out, rows, cols), pool);
        };
        let got = everywhere(run, &vec![0.0; rows * cols]);
        let expected = (0..rows * cols).map(|i| {
            let at = i / cols * 2 * cols + i % cols;
            f64::from(both[at].max(0.0)) * f64::from(both[at + cols])
        });
        assert_close(&got, expected);
    }

    #[test]
    fn bias_goes_to_every_row() {
        let (rows, cols) = (900, 41);
        let x = values(rows * cols);
        let bias = values(cols);
        let add = |x: &mut Vec<f32>, pool: &Pool| {
            add_bias(RowsMut::new(x, rows, cols), &bias, pool);
        };
        let got = everywhere(add, &x);
        let expected = x.iter().zip(bias.iter().cycle()).map(|(x, b)| f64::from(x + b));
        assert_close(&got, expected);
    }
}
