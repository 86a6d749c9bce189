//! Sixteen lanes in plain Rust: the fallback, and the definition that the others must equal.

#[cfg(target_arch = "aarch64")]
use super::neon::{load_f16, store_f16};
use super::{LANES, Simd};

/// Plain Rust. `FUSED`: whether `fma` rounds once (a libm call on x86 builds, an instruction on
/// AArch64) or twice (fast on processors that have no FMA at all).
#[derive(Clone, Copy)]
pub(crate) struct Portable<const FUSED: bool>;

type Lanes = [f32; LANES];

// On x86 plain Rust is only a fallback and the test's definition: calls keep the build short. Elsewhere
// it is all there is, and must be inlined to become vectors.
#[cfg_attr(target_arch = "x86_64", inline(never))]
#[cfg_attr(not(target_arch = "x86_64"), inline(always))]
fn zip(a: Lanes, b: Lanes, f: impl Fn(f32, f32) -> f32) -> Lanes {
    let mut out = [0.0; LANES];
    for i in 0..LANES {
        out[i] = f(a[i], b[i]);
    }
    out
}

#[cfg_attr(target_arch = "x86_64", inline(never))]
#[cfg_attr(not(target_arch = "x86_64"), inline(always))]
fn zip3(a: Lanes, b: Lanes, c: Lanes, f: impl Fn(f32, f32, f32) -> f32) -> Lanes {
    let mut out = [0.0; LANES];
    for i in 0..LANES {
        out[i] = f(a[i], b[i], c[i]);
    }
    out
}

#[cfg_attr(target_arch = "x86_64", inline(never))]
#[cfg_attr(not(target_arch = "x86_64"), inline(always))]
fn fold(x: Lanes, f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut x = x;
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            x[i] = f(x[i], x[i + width]);
        }
        width /= 2;
    }
    x[0]
}

#[cfg(not(target_arch = "aarch64"))]
#[cfg_attr(target_arch = "x86_64", inline(never))]
fn load_f16(x: &[u16; LANES]) -> Lanes {
    x.map(|x| half::f16::from_bits(x).to_f32_const())
}

#[cfg(not(target_arch = "aarch64"))]
#[cfg_attr(target_arch = "x86_64", inline(never))]
fn store_f16(x: Lanes, out: &mut [u16; LANES]) {
    *out = x.map(|x| half::f16::from_f32_const(x).to_bits());
}

/// `2^n` for `n` in -126..=127.
#[inline(always)]
fn pow2(n: i32) -> f32 {
    f32::from_bits(((n + 127) as u32) << 23)
}

impl<const FUSED: bool> Simd for Portable<FUSED> {
    type F = Lanes;
    type M = [bool; LANES];

    const REGISTERS: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> Lanes {
        [x; LANES]
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Lanes {
        *x
    }

    #[inline(always)]
    fn store(self, x: Lanes, out: &mut [f32; LANES]) {
        *out = x;
    }

    #[inline(always)]
    fn load_f16(self, x: &[u16; LANES]) -> Lanes {
        load_f16(x)
    }

    #[inline(always)]
    fn store_f16(self, x: Lanes, out: &mut [u16; LANES]) {
        store_f16(x, out);
    }

    #[inline(always)]
    fn add(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn fma(self, a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        if FUSED { zip3(a, b, c, f32::mul_add) } else { zip3(a, b, c, |a, b, c| a * b + c) }
    }

    #[inline(always)]
    fn fnma(self, a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        if FUSED {
            zip3(a, b, c, |a, b, c| (-a).mul_add(b, c))
        } else {
            zip3(a, b, c, |a, b, c| c - a * b)
        }
    }

    #[inline(always)]
    fn max(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn round(self, a: Lanes) -> Lanes {
        zip(a, a, |a, _| a.round_ties_even())
    }

    #[inline(always)]
    fn abs(self, a: Lanes) -> Lanes {
        zip(a, a, |a, _| a.abs())
    }

    #[inline(always)]
    fn copy_sign(self, magnitude: Lanes, sign: Lanes) -> Lanes {
        zip(magnitude, sign, f32::copysign)
    }

    #[inline(always)]
    fn scale_by_pow2(self, x: Lanes, n: Lanes) -> Lanes {
        zip(x, n, |x, n| {
            // In two steps, for 2^n itself may not be a float.
            let n = n as i32;
            let half = n >> 1;
            x * pow2(half) * pow2(n - half)
        })
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn less(self, a: Lanes, b: Lanes) -> Self::M {
        let mut out = [false; LANES];
        for i in 0..LANES {
            out[i] = a[i] < b[i];
        }
        out
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn lanes(self, first: usize, last: usize) -> Self::M {
        let mut out = [false; LANES];
        for (i, lane) in out.iter_mut().enumerate() {
            *lane = first <= i && i < last;
        }
        out
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn select(self, mask: Self::M, yes: Lanes, no: Lanes) -> Lanes {
        let mut out = no;
        for i in 0..LANES {
            if mask[i] {
                out[i] = yes[i];
            }
        }
        out
    }

    #[cfg(test)]
    fn bits(self, mask: Self::M) -> u16 {
        let mut bits = 0;
        for (i, lane) in mask.iter().enumerate() {
            bits |= u16::from(*lane) << i;
        }
        bits
    }

    #[inline(always)]
    fn reduce_add(self, x: Lanes) -> f32 {
        fold(x, |a, b| a + b)
    }

    #[inline(always)]
    fn reduce_max(self, x: Lanes) -> f32 {
        fold(x, |a, b| if a > b { a } else { b })
    }
}
