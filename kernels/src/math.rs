//! exp, tanh, erf and the activations on sixteen lanes.
//!
//! The same sequence of fused multiply-adds on every tier, so the same bits. Exponentials smaller
//! than the smallest normal number are zero: subnormals cost hundreds of cycles on some processors
//! and nothing here can tell the difference.
#![allow(clippy::inline_always)]

use crate::simd::Simd;

/// The largest `x` whose exponential is finite.
const EXP_MAX: f32 = 88.722_83;
/// The smallest `x` whose exponential is a normal number.
const EXP_MIN: f32 = -87.336_54;

/// Evaluates a polynomial by Horner's rule, the highest coefficient first.
#[inline(always)]
fn horner<S: Simd, const N: usize>(s: S, x: S::F, coefficients: [f32; N]) -> S::F {
    let mut sum = s.splat(coefficients[0]);
    for c in &coefficients[1..] {
        sum = s.fma(sum, x, s.splat(*c));
    }
    sum
}

/// e^x, relative error below 1.5e-7; zero below -87.3, infinite above 88.7.
///
/// The reduction and the polynomial are those of Cephes' `expf`.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    // The bounds come first so that NaN passes through `min` and `max`.
    let bounded = s.min(s.splat(EXP_MAX), s.max(s.splat(EXP_MIN), x));
    let n = s.round(s.mul(bounded, s.splat(std::f32::consts::LOG2_E)));
    let r = s.fnma(n, s.splat(0.693_359_4), bounded);
    let r = s.fnma(n, s.splat(-2.121_944_4e-4), r);
    let p = horner(
        s,
        r,
        [
            1.987_569_1e-4,
            1.398_199_9e-3,
            8.333_452e-3,
            4.166_579_6e-2,
            1.666_666_5e-1,
            5.000_000_1e-1,
        ],
    );
    let e = s.add(s.fma(p, s.mul(r, r), r), s.splat(1.0));
    let e = s.scale_by_pow2(e, n);
    let e = s.select(s.less(x, s.splat(EXP_MIN)), s.zero(), e);
    s.select(s.less(s.splat(EXP_MAX), x), s.splat(f32::INFINITY), e)
}

/// tanh, relative error below 3e-7 (Cephes' `tanhf`).
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::F) -> S::F {
    let square = s.mul(x, x);
    let p = horner(
        s,
        square,
        [-5.704_988_7e-3, 2.063_908_9e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328_2e-1],
    );
    let near = s.fma(s.mul(p, square), x, x);
    let magnitude = s.abs(x);
    let one = s.splat(1.0);
    let e = exp(s, s.add(magnitude, magnitude));
    let far = s.sub(one, s.div(s.splat(2.0), s.add(e, one)));
    s.select(s.less(magnitude, s.splat(0.625)), near, s.copy_sign(far, x))
}

/// erf, relative error below 3e-7: a polynomial in x near zero, 1 - e^polynomial further out
/// (the scheme of N. Juffa's `erff`).
#[inline(always)]
pub(crate) fn erf<S: Simd>(s: S, x: S::F) -> S::F {
    let square = s.mul(x, x);
    let p = horner(
        s,
        square,
        [
            -5.967_617e-4,
            4.991_194_2e-3,
            -2.676_813_5e-2,
            1.128_199_25e-1,
            -3.761_253_4e-1,
            1.283_791_7e-1,
        ],
    );
    let near = s.fma(p, x, x);
    // Past 10 the result is 1; the bound keeps the powers finite.
    let t = s.min(s.splat(10.0), s.abs(x));
    let t2 = s.mul(t, t);
    let high = s.fma(s.splat(-1.728_534_7e-5), t, s.splat(3.831_979_7e-4));
    let low = s.fma(s.splat(-3.883_964_4e-3), t, s.splat(2.425_462_2e-2));
    let q = s.fma(high, t2, low);
    let q = s.fma(q, t, s.splat(-1.067_778_8e-1));
    let q = s.fma(q, t, s.splat(-6.348_468_7e-1));
    let q = s.fma(q, t, s.splat(-1.287_175_1e-1));
    let q = s.fma(q, t, s.sub(s.zero(), t));
    let far = s.copy_sign(s.sub(s.splat(1.0), exp(s, q)), x);
    s.select(s.less(s.splat(0.927_734_4), s.abs(x)), far, near)
}

/// `x / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn silu<S: Simd>(s: S, x: S::F) -> S::F {
    let e = exp(s, s.sub(s.zero(), x));
    s.div(x, s.add(e, s.splat(1.0)))
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::F) -> S::F {
    let e = exp(s, s.sub(s.zero(), x));
    s.div(s.splat(1.0), s.add(e, s.splat(1.0)))
}

/// The tanh form of GELU, with ggml's constants.
#[inline(always)]
pub(crate) fn gelu<S: Simd>(s: S, x: S::F) -> S::F {
    let cubic = s.fma(s.mul(s.splat(0.044_715), x), x, s.splat(1.0));
    let inner = s.mul(s.mul(s.splat(0.797_884_56), x), cubic);
    let half = s.mul(s.splat(0.5), x);
    s.fma(half, tanh(s, inner), half)
}

/// The exact form of GELU.
#[inline(always)]
pub(crate) fn gelu_erf<S: Simd>(s: S, x: S::F) -> S::F {
    let half = s.mul(s.splat(0.5), x);
    s.fma(half, erf(s, s.mul(x, s.splat(std::f32::consts::FRAC_1_SQRT_2))), half)
}

/// `max(x, 0)`.
#[inline(always)]
pub(crate) fn relu<S: Simd>(s: S, x: S::F) -> S::F {
    s.max(s.zero(), x)
}

/// `max(x, 0)^2`.
#[inline(always)]
pub(crate) fn relu2<S: Simd>(s: S, x: S::F) -> S::F {
    let x = relu(s, x);
    s.mul(x, x)
}

/// `cap * tanh(x / cap)`.
#[inline(always)]
pub(crate) fn softcap<S: Simd>(s: S, x: S::F, cap: f32) -> S::F {
    s.mul(s.splat(cap), tanh(s, s.mul(x, s.splat(1.0 / cap))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Kernel, LANES, Level, dispatch};

    #[derive(Clone, Copy, Debug)]
    enum Function {
        Exp,
        Tanh,
        Erf,
        Silu,
        Sigmoid,
        Gelu,
        GeluErf,
        Relu2,
    }

    struct Apply<'a> {
        function: Function,
        x: &'a [f32; LANES],
    }

    impl Kernel for Apply<'_> {
        type Out = [f32; LANES];

        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> [f32; LANES] {
            let x = s.load(self.x);
            let y = match self.function {
                Function::Exp => exp(s, x),
                Function::Tanh => tanh(s, x),
                Function::Erf => erf(s, x),
                Function::Silu => silu(s, x),
                Function::Sigmoid => sigmoid(s, x),
                Function::Gelu => gelu(s, x),
                Function::GeluErf => gelu_erf(s, x),
                Function::Relu2 => relu2(s, x),
            };
            let mut out = [0.0; LANES];
            s.store(y, &mut out);
            out
        }
    }

    /// erf by its Maclaurin series, or by the continued fraction of erfc where that converges.
    fn erf_oracle(x: f64) -> f64 {
        let t = x.abs();
        if t < 3.0 {
            let (mut term, mut sum, mut n) = (t, t, 0.0);
            while term.abs() > 1e-18 {
                n += 1.0;
                term *= -t * t / n;
                sum += term / (2.0 * n + 1.0);
            }
            return (sum * 2.0 / std::f64::consts::PI.sqrt()).copysign(x);
        }
        let mut fraction = 0.0;
        for k in (1..60).rev() {
            fraction = f64::from(k) / 2.0 / (t + fraction);
        }
        let erfc = (-t * t).exp() / (t + fraction) / std::f64::consts::PI.sqrt();
        (1.0 - erfc).copysign(x)
    }

    fn oracle(function: Function, x: f64) -> f64 {
        match function {
            Function::Exp => x.exp(),
            Function::Tanh => x.tanh(),
            Function::Erf => erf_oracle(x),
            Function::Silu => x / (1.0 + (-x).exp()),
            Function::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Function::Gelu => {
                0.5 * x * (1.0 + (0.797_884_560_802_865_4 * (x + 0.044_715 * x * x * x)).tanh())
            }
            Function::GeluErf => 0.5 * x * (1.0 + erf_oracle(x * std::f64::consts::FRAC_1_SQRT_2)),
            Function::Relu2 => x.max(0.0).powi(2),
        }
    }

    #[test]
    fn functions_match_the_oracle_and_every_tier_agrees() {
        // (function, range, relative tolerance, absolute tolerance)
        let cases = [
            (Function::Exp, 88.5, 1.5e-7, 2e-38),
            (Function::Tanh, 12.0, 3e-7, 0.0),
            (Function::Erf, 6.0, 3e-7, 0.0),
            (Function::Silu, 80.0, 4e-7, 1e-37),
            (Function::Sigmoid, 80.0, 4e-7, 1e-37),
            (Function::Gelu, 12.0, 4e-7, 2e-7),
            (Function::GeluErf, 12.0, 4e-7, 2e-7),
            (Function::Relu2, 30.0, 1e-7, 0.0),
        ];
        for (function, range, relative, absolute) in cases {
            for step in 0..4000 {
                let x: [f32; LANES] =
                    std::array::from_fn(|i| range * ((step * LANES + i) as f32 / 32_000.0 - 1.0));
                let expected = dispatch(Level::Portable, Apply { function, x: &x });
                for (x, y) in x.iter().zip(expected) {
                    let exact = oracle(function, f64::from(*x));
                    let error = (f64::from(y) - exact).abs();
                    assert!(
                        error <= exact.abs() * relative + absolute,
                        "{function:?}({x}) = {y}, not {exact}"
                    );
                }
                for level in Level::all() {
                    let got = dispatch(level, Apply { function, x: &x });
                    assert_eq!(got.map(f32::to_bits), expected.map(f32::to_bits), "{level:?}");
                }
            }
        }
    }

    #[test]
    fn extremes() {
        let mut x = [0.0f32; LANES];
        x[..7].copy_from_slice(&[
            f32::NEG_INFINITY,
            -87.4,
            88.8,
            f32::INFINITY,
            f32::NAN,
            -0.0,
            f32::MAX,
        ]);
        for level in Level::all() {
            let e = dispatch(level, Apply { function: Function::Exp, x: &x });
            assert_eq!(e[..4], [0.0, 0.0, f32::INFINITY, f32::INFINITY]);
            assert!(e[4].is_nan() && e[5] == 1.0 && e[6] == f32::INFINITY);
            let t = dispatch(level, Apply { function: Function::Tanh, x: &x });
            assert!(t[0] == -1.0 && t[3] == 1.0 && t[4].is_nan() && t[6] == 1.0);
            let f = dispatch(level, Apply { function: Function::Erf, x: &x });
            assert!(f[0] == -1.0 && f[3] == 1.0 && f[6] == 1.0);
        }
    }
}
