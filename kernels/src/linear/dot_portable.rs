//! The lane integers in plain Rust: the definition that the others must equal.
#![allow(clippy::inline_always)]

use super::dot::Dot;
use crate::simd::{Portable, Simd};

type Lanes = [[u8; 4]; 16];
type Floats = <Portable<true> as Simd>::F;

#[inline(always)]
fn bytes(a: Lanes, b: Lanes, f: impl Fn(u8, u8) -> u8) -> Lanes {
    std::array::from_fn(|r| std::array::from_fn(|t| f(a[r][t], b[r][t])))
}

#[inline(always)]
fn lanes(a: Lanes, b: Lanes, f: impl Fn(i32, i32) -> i32) -> Lanes {
    std::array::from_fn(|r| f(i32::from_le_bytes(a[r]), i32::from_le_bytes(b[r])).to_le_bytes())
}

impl Dot for Portable<true> {
    type S = Portable<true>;
    type I = Lanes;

    // More than one, so that tests on any machine see what takes columns together.
    const COLUMNS: usize = 3;
    const HAS_PAIRS: bool = true;

    #[inline(always)]
    fn simd(self) -> Portable<true> {
        self
    }

    #[inline(always)]
    unsafe fn load(self, p: *const u8) -> Lanes {
        // SAFETY: the caller's promise; bytes need no alignment.
        unsafe { *p.cast() }
    }

    #[inline(always)]
    unsafe fn store(self, x: Lanes, p: *mut u8) {
        // SAFETY: the caller's promise; bytes need no alignment.
        unsafe { *p.cast() = x }
    }

    #[inline(always)]
    unsafe fn broadcast(self, p: *const u8) -> Lanes {
        // SAFETY: the caller's promise; bytes need no alignment.
        [unsafe { *p.cast() }; 16]
    }

    #[inline(always)]
    fn splat_byte(self, x: u8) -> Lanes {
        [[x; 4]; 16]
    }

    #[inline(never)]
    fn and(self, a: Lanes, b: Lanes) -> Lanes {
        bytes(a, b, |a, b| a & b)
    }

    #[inline(never)]
    fn or(self, a: Lanes, b: Lanes) -> Lanes {
        bytes(a, b, |a, b| a | b)
    }

    #[inline(never)]
    fn add_bytes(self, a: Lanes, b: Lanes) -> Lanes {
        bytes(a, b, u8::wrapping_add)
    }

    #[inline(never)]
    fn add(self, a: Lanes, b: Lanes) -> Lanes {
        lanes(a, b, i32::wrapping_add)
    }

    #[inline(never)]
    fn sub(self, a: Lanes, b: Lanes) -> Lanes {
        lanes(a, b, i32::wrapping_sub)
    }

    #[inline(never)]
    fn shift(self, a: Lanes, n: i32) -> Lanes {
        bytes(a, a, |a, _| if n >= 0 { a << n } else { a >> -n })
    }

    #[inline(never)]
    fn lookup(self, table: Lanes, index: Lanes) -> Lanes {
        bytes(index, index, |i, _| table[usize::from(i) / 4 % 4][usize::from(i) % 4])
    }

    #[inline(never)]
    fn start(self, negated_sum: Lanes, offset: i32) -> Lanes {
        lanes(negated_sum, negated_sum, |sum, _| sum.wrapping_mul(offset))
    }

    #[inline(never)]
    fn dot<const FULL: bool>(self, sum: Lanes, codes: Lanes, values: Lanes) -> Lanes {
        std::array::from_fn(|r| {
            let products = (0..4).map(|t| i32::from(codes[r][t]) * i32::from(values[r][t] as i8));
            (i32::from_le_bytes(sum[r]) + products.sum::<i32>()).to_le_bytes()
        })
    }

    #[inline(never)]
    fn to_f32(self, x: Lanes) -> Floats {
        x.map(|lane| i32::from_le_bytes(lane) as f32)
    }

    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> Floats {
        // SAFETY: the caller's promise.
        unsafe { *p.cast::<[u8; 16]>() }.map(f32::from)
    }

    #[inline(always)]
    unsafe fn load_i8(self, p: *const u8) -> Floats {
        // SAFETY: the caller's promise.
        unsafe { *p.cast::<[i8; 16]>() }.map(f32::from)
    }

    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u8) -> Floats {
        // SAFETY: the caller's promise; bytes need no alignment.
        let halves = unsafe { *p.cast::<[[u8; 2]; 16]>() };
        halves.map(|half| f32::from_bits(u32::from(u16::from_le_bytes(half)) << 16))
    }

    #[inline(always)]
    unsafe fn store_i8(self, x: Floats, p: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { *p.cast() = x.map(|x| x as i8) }
    }
}
