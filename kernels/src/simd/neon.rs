//! Half floats on AArch64: one instruction for four, which stable Rust does not name yet.
#![allow(clippy::inline_always)]

use std::arch::aarch64::{float32x4_t, vld1_u16, vld1q_f32, vst1_u16, vst1q_f32};
use std::arch::asm;

use super::LANES;

/// Widens exactly.
#[inline(always)]
pub(super) fn load_f16(x: &[u16; LANES]) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    for (x, out) in x.as_chunks::<4>().0.iter().zip(out.as_chunks_mut::<4>().0) {
        // SAFETY: every processor of this architecture has the instruction, which touches the named
        // registers only; four values lie at both pointers.
        unsafe {
            let wide: float32x4_t;
            asm!(
                "fcvtl {wide:v}.4s, {half:v}.4h",
                wide = lateout(vreg) wide,
                half = in(vreg) vld1_u16(x.as_ptr()),
                options(pure, nomem, nostack, preserves_flags),
            );
            vst1q_f32(out.as_mut_ptr(), wide);
        }
    }
    out
}

/// Rounds to the nearest, ties to even.
#[inline(always)]
pub(super) fn store_f16(x: [f32; LANES], out: &mut [u16; LANES]) {
    for (x, out) in x.as_chunks::<4>().0.iter().zip(out.as_chunks_mut::<4>().0) {
        // SAFETY: as above.
        unsafe {
            let half;
            asm!(
                "fcvtn {half:v}.4h, {wide:v}.4s",
                half = lateout(vreg) half,
                wide = in(vreg) vld1q_f32(x.as_ptr()),
                options(pure, nomem, nostack, preserves_flags),
            );
            vst1_u16(out.as_mut_ptr(), half);
        }
    }
}
