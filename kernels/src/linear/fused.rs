//! What is done to a row on its way to the quantiser.
#![allow(clippy::inline_always)]

use crate::activation::Activation;
use crate::simd::{Kernel, LANES, Simd};

pub(super) struct RmsNorm<'a> {
    pub x: &'a [f32],
    pub weight: &'a [f32],
    pub eps: f32,
    pub out: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let square = |s: S, x: S::F, sum: S::F| s.fma(x, x, sum);
        let variance = sum(s, self.x, square) / self.x.len() as f32;
        let factor = s.splat(1.0 / (variance + self.eps).sqrt());
        map2(s, self.x, self.weight, self.out, |x, w| s.mul(s.mul(x, factor), w));
    }
}

pub(super) struct LayerNorm<'a> {
    pub x: &'a [f32],
    pub weight: &'a [f32],
    pub bias: Option<&'a [f32]>,
    pub eps: f32,
    pub out: &'a mut [f32],
}

impl Kernel for LayerNorm<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let count = self.x.len() as f32;
        let mean = s.splat(sum(s, self.x, super::super::simd::Simd::add) / count);
        map2(s, self.x, self.x, self.out, |x, _| s.sub(x, mean));
        let variance = sum(s, self.out, |s, x, sum| s.fma(x, x, sum)) / count;
        let factor = s.splat(1.0 / (variance + self.eps).sqrt());
        for (i, x) in self.out.iter_mut().enumerate() {
            // Kept plain: layer norm is rare, and the compiler makes vectors of it.
            let mut lanes = [0.0; LANES];
            s.store(factor, &mut lanes);
            *x = *x * lanes[0] * self.weight[i] + self.bias.map_or(0.0, |bias| bias[i]);
        }
    }
}

pub(super) struct Glu<'a> {
    pub gate: &'a [f32],
    pub up: &'a [f32],
    pub act: Activation,
    pub out: &'a mut [f32],
}

impl Kernel for Glu<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        map2(s, self.gate, self.up, self.out, |gate, up| s.mul(self.act.apply(s, gate), up));
    }
}

pub(super) struct MapRow<'a> {
    pub x: &'a [f32],
    pub act: Activation,
    pub out: &'a mut [f32],
}

impl Kernel for MapRow<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        map2(s, self.x, self.x, self.out, |x, _| self.act.apply(s, x));
    }
}

/// Folds a row in four vectors in turn, then the vectors and their lanes in a fixed order.
#[inline(always)]
fn sum<S: Simd>(s: S, x: &[f32], add: impl Fn(S, S::F, S::F) -> S::F) -> f32 {
    let mut sums = [s.zero(); 4];
    let (vectors, rest) = x.as_chunks::<LANES>();
    let (quads, singles) = vectors.as_chunks::<4>();
    for quad in quads {
        for (sum, x) in sums.iter_mut().zip(quad) {
            *sum = add(s, s.load(x), *sum);
        }
    }
    for (sum, x) in sums.iter_mut().zip(singles) {
        *sum = add(s, s.load(x), *sum);
    }
    if !rest.is_empty() {
        sums[singles.len()] = add(s, s.load_part(rest), sums[singles.len()]);
    }
    s.reduce_add(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])))
}

#[inline(always)]
fn map2<S: Simd>(s: S, a: &[f32], b: &[f32], out: &mut [f32], f: impl Fn(S::F, S::F) -> S::F) {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let (out, out_rest) = out.as_chunks_mut::<LANES>();
    for ((a, b), out) in a.iter().zip(b).zip(out) {
        s.store(f(s.load(a), s.load(b)), out);
    }
    if !out_rest.is_empty() {
        s.store_part(f(s.load_part(a_rest), s.load_part(b_rest)), out_rest);
    }
}
