//! The lane integers on AArch64 with the dot product instructions, and with those of matrices.
#![allow(clippy::inline_always)]

use std::arch::aarch64::*;

use super::dot::Dot;
use crate::simd::{Portable, Simd};

/// NEON with dot product, and with products of 8-bit matrices if `I8MM`.
#[derive(Clone, Copy)]
pub(crate) struct Neon<const I8MM: bool>(());

impl<const I8MM: bool> Neon<I8MM> {
    /// # Safety
    /// The processor must have NEON and the dot product instructions, and those of matrices if
    /// `I8MM`.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Neon<I8MM> {
        Neon(())
    }
}

type Quad = [uint8x16_t; 4];
type Floats = <Portable<true> as Simd>::F;

/// An expression of intrinsics inside a method of the token.
macro_rules! op {
    ($e:expr) => {
        // SAFETY: `self` exists only where the processor has these instructions; pointers, if any,
        // are valid for the sizes that the methods of `Dot` ask their callers for.
        unsafe { $e }
    };
}

/// An expression of one quarter of each of the named vectors, for all four quarters. A macro, since
/// a closure may be left a function that is called.
macro_rules! quarters {
    ($($x:ident),+ => $e:expr) => {
        [
            { let ($($x,)+) = ($($x[0],)+); $e },
            { let ($($x,)+) = ($($x[1],)+); $e },
            { let ($($x,)+) = ($($x[2],)+); $e },
            { let ($($x,)+) = ($($x[3],)+); $e },
        ]
    };
}

/// `sum + codes · values` in four lanes, both signed.
#[inline(always)]
unsafe fn sdot(sum: uint8x16_t, codes: uint8x16_t, values: uint8x16_t) -> uint8x16_t {
    let mut sum = sum;
    // SAFETY: the instruction reads and writes the named registers only; the caller is a method
    // of a token for processors that have it.
    unsafe {
        std::arch::asm!(
            ".arch_extension dotprod",
            "sdot {sum:v}.4s, {codes:v}.16b, {values:v}.16b",
            sum = inout(vreg) sum,
            codes = in(vreg) codes,
            values = in(vreg) values,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// Adds to lane `2 i + j` of `sum` the product of the eight codes in half `i` and the eight values in
/// half `j`, both signed.
#[inline(always)]
unsafe fn smmla(sum: uint8x16_t, codes: uint8x16_t, values: uint8x16_t) -> uint8x16_t {
    let mut sum = sum;
    // SAFETY: as for `sdot`.
    unsafe {
        std::arch::asm!(
            ".arch_extension i8mm",
            "smmla {sum:v}.4s, {codes:v}.16b, {values:v}.16b",
            sum = inout(vreg) sum,
            codes = in(vreg) codes,
            values = in(vreg) values,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// Lanes of four bytes of `a` and `b` through an instruction of theirs.
macro_rules! mix {
    ($f:ident, $a:ident, $b:ident) => {
        quarters!($a, $b => op!(vreinterpretq_u8_u32($f(
            vreinterpretq_u32_u8($a),
            vreinterpretq_u32_u8($b)
        ))))
    };
}

impl<const I8MM: bool> Dot for Neon<I8MM> {
    type S = Portable<true>;
    type I = Quad;

    const COLUMNS: usize = if I8MM { 4 } else { 2 };
    const HAS_PAIRS: bool = I8MM;

    #[inline(always)]
    fn simd(self) -> Portable<true> {
        Portable
    }

    #[inline(always)]
    unsafe fn load(self, p: *const u8) -> Quad {
        op!([vld1q_u8(p), vld1q_u8(p.add(16)), vld1q_u8(p.add(32)), vld1q_u8(p.add(48))])
    }

    #[inline(always)]
    unsafe fn store(self, x: Quad, p: *mut u8) {
        op!({
            vst1q_u8(p, x[0]);
            vst1q_u8(p.add(16), x[1]);
            vst1q_u8(p.add(32), x[2]);
            vst1q_u8(p.add(48), x[3]);
        });
    }

    #[inline(always)]
    unsafe fn broadcast(self, p: *const u8) -> Quad {
        op!([vreinterpretq_u8_u32(vdupq_n_u32(p.cast::<u32>().read_unaligned())); 4])
    }

    #[inline(always)]
    fn splat_byte(self, x: u8) -> Quad {
        op!([vdupq_n_u8(x); 4])
    }

    #[inline(always)]
    fn and(self, a: Quad, b: Quad) -> Quad {
        quarters!(a, b => op!(vandq_u8(a, b)))
    }

    #[inline(always)]
    fn or(self, a: Quad, b: Quad) -> Quad {
        quarters!(a, b => op!(vorrq_u8(a, b)))
    }

    #[inline(always)]
    fn add_bytes(self, a: Quad, b: Quad) -> Quad {
        quarters!(a, b => op!(vaddq_u8(a, b)))
    }

    #[inline(always)]
    fn add(self, a: Quad, b: Quad) -> Quad {
        mix!(vaddq_u32, a, b)
    }

    #[inline(always)]
    fn sub(self, a: Quad, b: Quad) -> Quad {
        mix!(vsubq_u32, a, b)
    }

    #[inline(always)]
    fn shift(self, a: Quad, n: i32) -> Quad {
        quarters!(a => op!(vshlq_u8(a, vdupq_n_s8(n as i8))))
    }

    #[inline(always)]
    fn lookup(self, table: Quad, index: Quad) -> Quad {
        quarters!(table, index => op!(vqtbl1q_u8(table, index)))
    }

    #[inline(always)]
    fn start(self, negated_sum: Quad, offset: i32) -> Quad {
        // `dot` takes 128 off full-range codes by flipping their sign bit.
        let offset = if offset == 128 { 0 } else { offset };
        quarters!(negated_sum => op!(vreinterpretq_u8_s32(vmulq_n_s32(
            vreinterpretq_s32_u8(negated_sum),
            offset
        ))))
    }

    #[inline(always)]
    fn dot<const FULL: bool>(self, sum: Quad, codes: Quad, values: Quad) -> Quad {
        let mut out = sum;
        for i in 0..4 {
            let codes = if FULL { op!(veorq_u8(codes[i], vdupq_n_u8(128))) } else { codes[i] };
            out[i] = op!(sdot(sum[i], codes, values[i]));
        }
        out
    }

    /// Two rows a vector: the first two of each four, then the last two.
    #[inline(always)]
    fn interleave<const FULL: bool>(self, a: Quad, b: Quad) -> [Quad; 2] {
        let (a, b) = if FULL {
            let bit = op!(vdupq_n_u8(128));
            (quarters!(a => op!(veorq_u8(a, bit))), quarters!(b => op!(veorq_u8(b, bit))))
        } else {
            (a, b)
        };
        [mix!(vzip1q_u32, a, b), mix!(vzip2q_u32, a, b)]
    }

    #[inline(always)]
    unsafe fn dot_pair<const FULL: bool>(
        self,
        sums: [Quad; 2],
        codes: [Quad; 2],
        values: [*const u8; 2],
    ) -> [Quad; 2] {
        let values = op!(vcombine_u8(vld1_u8(values[0]), vld1_u8(values[1])));
        let ([first, second], [upper, lower]) = (sums, codes);
        [
            quarters!(first, upper => op!(smmla(first, upper, values))),
            quarters!(second, lower => op!(smmla(second, lower, values))),
        ]
    }

    #[inline(always)]
    fn columns(self, sums: [Quad; 2]) -> [Quad; 2] {
        let [a, b] = sums;
        [mix!(vuzp1q_u32, a, b), mix!(vuzp2q_u32, a, b)]
    }

    #[inline(always)]
    fn to_f32(self, x: Quad) -> Floats {
        let mut out = [0.0; 16];
        for (x, out) in x.iter().zip(out.chunks_exact_mut(4)) {
            op!(vst1q_f32(out.as_mut_ptr(), vcvtq_f32_s32(vreinterpretq_s32_u8(*x))));
        }
        out
    }

    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> Floats {
        // SAFETY: the caller's promise.
        unsafe { Dot::load_u8(Portable::<true>, p) }
    }

    #[inline(always)]
    unsafe fn load_i8(self, p: *const u8) -> Floats {
        // SAFETY: the caller's promise.
        unsafe { Dot::load_i8(Portable::<true>, p) }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u8) -> Floats {
        // SAFETY: the caller's promise.
        unsafe { Dot::load_bf16(Portable::<true>, p) }
    }

    #[inline(always)]
    unsafe fn store_i8(self, x: Floats, p: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { Dot::store_i8(Portable::<true>, x, p) }
    }
}
