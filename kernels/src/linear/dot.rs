//! Integer operations on sixteen lanes of four bytes: what the quantised kernels need beyond
//! [`Simd`].
//!
//! A vector is 64 bytes. As an operand of [`Dot::dot`], lane `r` holds four neighbouring columns
//! of row `r`. Everything here is exact, so every implementation gives the same bits.
#![allow(clippy::inline_always)]

use crate::simd::Simd;

/// A token that proves that the processor has the instructions, and the operations.
pub(crate) trait Dot: Copy + Send + Sync + 'static {
    /// The float side.
    type S: Simd;
    /// Sixteen lanes of four bytes.
    type I: Copy;

    /// The most columns of activations that a kernel keeps in registers.
    const COLUMNS: usize;
    /// Full tiles of columns are multiplied faster by two panels at once.
    const TAKES_TWO_PANELS: bool = false;

    fn simd(self) -> Self::S;

    /// # Safety
    /// `p` must be valid for reading 64 bytes.
    unsafe fn load(self, p: *const u8) -> Self::I;
    /// # Safety
    /// `p` must be valid for writing 64 bytes.
    unsafe fn store(self, x: Self::I, p: *mut u8);
    /// Four bytes to every lane.
    ///
    /// # Safety
    /// `p` must be valid for reading 4 bytes.
    unsafe fn broadcast(self, p: *const u8) -> Self::I;
    /// One byte to every byte.
    fn splat_byte(self, x: u8) -> Self::I;

    fn and(self, a: Self::I, b: Self::I) -> Self::I;
    fn or(self, a: Self::I, b: Self::I) -> Self::I;
    /// Adds bytes, wrapping.
    fn add_bytes(self, a: Self::I, b: Self::I) -> Self::I;
    /// Adds lanes, wrapping.
    fn add(self, a: Self::I, b: Self::I) -> Self::I;
    /// `a - b` by lanes, wrapping.
    fn sub(self, a: Self::I, b: Self::I) -> Self::I;
    /// Shifts every byte left (n >= 0) or right (n < 0) by `|n|` < 8 bits. Bits may cross into
    /// a neighbouring byte: the caller masks them out.
    fn shift(self, a: Self::I, n: i32) -> Self::I;
    /// `table[index]` for every byte; indexes are below 16 and the table repeats every 16 bytes.
    fn lookup(self, table: Self::I, index: Self::I) -> Self::I;

    /// What an accumulator starts with so that codes with `offset` (a power of two, or 0) added
    /// count as codes: `negated_sum * offset` in every lane, or 0 where [`Dot::dot`] subtracts
    /// 128 by itself.
    fn start(self, negated_sum: Self::I, offset: i32) -> Self::I;
    /// Adds to every lane of `sum` the product of four unsigned codes and four signed values.
    /// Codes are below 128 unless `FULL`.
    fn dot<const FULL: bool>(self, sum: Self::I, codes: Self::I, values: Self::I) -> Self::I;

    /// Whether kernels use the three methods below, which take two quads of codes and two columns
    /// of activations together.
    const HAS_PAIRS: bool = false;
    /// Two neighbouring quads in the form that [`Dot::dot_pair`] takes.
    #[inline(always)]
    fn interleave<const FULL: bool>(self, a: Self::I, b: Self::I) -> [Self::I; 2] {
        [a, b]
    }
    /// Adds the products of eight neighbouring columns of weights and the eight activations at each
    /// of `values` to sums that [`Dot::columns`] takes apart; they start as zeros.
    ///
    /// # Safety
    /// Both of `values` must be valid for reading 8 bytes.
    #[inline(always)]
    unsafe fn dot_pair<const FULL: bool>(
        self,
        sums: [Self::I; 2],
        codes: [Self::I; 2],
        values: [*const u8; 2],
    ) -> [Self::I; 2] {
        let mut sums = sums;
        for (sum, values) in sums.iter_mut().zip(values) {
            // SAFETY: the caller's promise.
            let [a, b] = unsafe { [self.broadcast(values), self.broadcast(values.add(4))] };
            *sum = self.dot::<FULL>(self.dot::<FULL>(*sum, codes[0], a), codes[1], b);
        }
        sums
    }
    /// The sums of each of the two columns.
    #[inline(always)]
    fn columns(self, sums: [Self::I; 2]) -> [Self::I; 2] {
        sums
    }

    /// Lanes as i32 to float; exact below 2^24, else to nearest even.
    fn to_f32(self, x: Self::I) -> <Self::S as Simd>::F;
    /// # Safety
    /// `p` must be valid for reading 16 bytes.
    unsafe fn load_u8(self, p: *const u8) -> <Self::S as Simd>::F;
    /// # Safety
    /// `p` must be valid for reading 16 bytes.
    unsafe fn load_i8(self, p: *const u8) -> <Self::S as Simd>::F;
    /// # Safety
    /// `p` must be valid for reading 32 bytes.
    unsafe fn load_bf16(self, p: *const u8) -> <Self::S as Simd>::F;

    /// Stores lanes that hold integers of -128..=127 as bytes.
    ///
    /// # Safety
    /// `p` must be valid for writing 16 bytes.
    unsafe fn store_i8(self, x: <Self::S as Simd>::F, p: *mut u8);

    /// # Safety
    /// `p` must be valid for reading 32 bytes and 2-byte aligned.
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u8) -> <Self::S as Simd>::F {
        // SAFETY: the caller's promise.
        self.simd().load_f16(unsafe { &*p.cast() })
    }
    /// # Safety
    /// `p` must be valid for reading 64 bytes and 4-byte aligned.
    #[inline(always)]
    unsafe fn load_f32(self, p: *const u8) -> <Self::S as Simd>::F {
        // SAFETY: the caller's promise.
        self.simd().load(unsafe { &*p.cast() })
    }
    /// # Safety
    /// `p` must be valid for writing 64 bytes and 4-byte aligned.
    #[inline(always)]
    unsafe fn store_f32(self, x: <Self::S as Simd>::F, p: *mut u8) {
        // SAFETY: the caller's promise.
        self.simd().store(x, unsafe { &mut *p.cast() });
    }
    /// One float to every lane.
    ///
    /// # Safety
    /// `p` must be valid for reading 4 bytes and 4-byte aligned.
    #[inline(always)]
    unsafe fn broadcast_f32(self, p: *const u8) -> <Self::S as Simd>::F {
        // SAFETY: the caller's promise.
        self.simd().splat(unsafe { *p.cast::<f32>() })
    }
}
