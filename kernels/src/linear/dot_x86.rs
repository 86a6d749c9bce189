//! The lane integers on x86: AVX-512 VNNI, AVX-VNNI, AVX2.
#![allow(clippy::inline_always)]

use std::arch::x86_64::*;

use super::dot::Dot;
use crate::simd::{Avx2, Avx512};

/// AVX-512 F, BW, DQ, VL and VNNI.
#[derive(Clone, Copy)]
pub(crate) struct Vnni512(Avx512);

/// AVX2, FMA, F16C, and AVX-VNNI if `VNNI`.
#[derive(Clone, Copy)]
pub(crate) struct Pairs<const VNNI: bool>(Avx2);

impl Vnni512 {
    /// # Safety
    /// The processor must have AVX-512 F, BW, DQ, VL and VNNI.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Vnni512 {
        // SAFETY: the caller's promise.
        Vnni512(unsafe { Avx512::new() })
    }
}

impl<const VNNI: bool> Pairs<VNNI> {
    /// # Safety
    /// The processor must have AVX2, FMA, F16C, and AVX-VNNI if `VNNI`.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Pairs<VNNI> {
        // SAFETY: the caller's promise.
        Pairs(unsafe { Avx2::new() })
    }
}

/// An expression of intrinsics inside a method of a token.
macro_rules! op {
    ($e:expr) => {
        // SAFETY: `self` exists only where the processor has these instructions; pointers, if any,
        // are valid for the sizes that the methods of `Dot` ask their callers for.
        unsafe { $e }
    };
}

/// A shift by a number that is constant after inlining, as an immediate.
macro_rules! shift {
    ($left:ident, $right:ident, $a:expr, $n:expr) => {
        match $n {
            0 => $a,
            1 => op!($left::<1>($a)),
            2 => op!($left::<2>($a)),
            3 => op!($left::<3>($a)),
            4 => op!($left::<4>($a)),
            5 => op!($left::<5>($a)),
            6 => op!($left::<6>($a)),
            7 => op!($left::<7>($a)),
            -1 => op!($right::<1>($a)),
            -2 => op!($right::<2>($a)),
            -3 => op!($right::<3>($a)),
            -4 => op!($right::<4>($a)),
            -5 => op!($right::<5>($a)),
            -6 => op!($right::<6>($a)),
            _ => op!($right::<7>($a)),
        }
    };
}

/// `sum * offset` for the offsets that the formats have.
macro_rules! times_offset {
    ($left:ident, $sum:expr, $offset:expr, $zero:expr) => {
        match $offset {
            0 => $zero,
            4 => op!($left::<2>($sum)),
            8 => op!($left::<3>($sum)),
            16 => op!($left::<4>($sum)),
            32 => op!($left::<5>($sum)),
            64 => op!($left::<6>($sum)),
            128 => op!($left::<7>($sum)),
            _ => unreachable!("no format has this offset: this is a bug"),
        }
    };
}

impl Dot for Vnni512 {
    type S = Avx512;
    type I = __m512i;

    const COLUMNS: usize = 8;
    const TAKES_TWO_PANELS: bool = true;

    #[inline(always)]
    fn simd(self) -> Avx512 {
        self.0
    }

    #[inline(always)]
    unsafe fn load(self, p: *const u8) -> __m512i {
        op!(_mm512_loadu_si512(p.cast()))
    }

    #[inline(always)]
    unsafe fn store(self, x: __m512i, p: *mut u8) {
        op!(_mm512_storeu_si512(p.cast(), x));
    }

    #[inline(always)]
    unsafe fn broadcast(self, p: *const u8) -> __m512i {
        op!(_mm512_set1_epi32(p.cast::<i32>().read_unaligned()))
    }

    #[inline(always)]
    fn splat_byte(self, x: u8) -> __m512i {
        op!(_mm512_set1_epi8(x as i8))
    }

    #[inline(always)]
    fn and(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_and_si512(a, b))
    }

    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_or_si512(a, b))
    }

    #[inline(always)]
    fn add_bytes(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_add_epi8(a, b))
    }

    #[inline(always)]
    fn add(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_add_epi32(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_sub_epi32(a, b))
    }

    #[inline(always)]
    fn shift(self, a: __m512i, n: i32) -> __m512i {
        shift!(_mm512_slli_epi16, _mm512_srli_epi16, a, n)
    }

    #[inline(always)]
    fn lookup(self, table: __m512i, index: __m512i) -> __m512i {
        op!(_mm512_shuffle_epi8(table, index))
    }

    #[inline(always)]
    fn start(self, negated_sum: __m512i, offset: i32) -> __m512i {
        times_offset!(_mm512_slli_epi32, negated_sum, offset, op!(_mm512_setzero_si512()))
    }

    #[inline(always)]
    fn dot<const FULL: bool>(self, sum: __m512i, codes: __m512i, values: __m512i) -> __m512i {
        op!(_mm512_dpbusd_epi32(sum, codes, values))
    }

    #[inline(always)]
    fn to_f32(self, x: __m512i) -> __m512 {
        op!(_mm512_cvtepi32_ps(x))
    }

    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> __m512 {
        op!(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()))))
    }

    #[inline(always)]
    unsafe fn load_i8(self, p: *const u8) -> __m512 {
        op!(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))))
    }

    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u8) -> __m512 {
        op!({
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        })
    }

    #[inline(always)]
    unsafe fn store_i8(self, x: __m512, p: *mut u8) {
        op!(_mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x))));
    }
}

type Pair = [__m256i; 2];

/// Both halves through the same intrinsic.
macro_rules! both {
    ($f:ident, $a:expr, $b:expr) => {
        op!([$f($a[0], $b[0]), $f($a[1], $b[1])])
    };
}

/// Products of four unsigned codes and four signed values, for processors without VNNI.
#[inline(always)]
unsafe fn dot_avx2<const FULL: bool>(codes: __m256i, values: __m256i) -> __m256i {
    // SAFETY: the caller is a method of a token for AVX2.
    unsafe {
        if FULL {
            // `maddubs` would saturate, so widen: even and odd bytes apart.
            let even = _mm256_and_si256(codes, _mm256_set1_epi16(255));
            let odd = _mm256_srli_epi16::<8>(codes);
            let even_values = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(values));
            let odd_values = _mm256_srai_epi16::<8>(values);
            _mm256_add_epi32(
                _mm256_madd_epi16(even, even_values),
                _mm256_madd_epi16(odd, odd_values),
            )
        } else {
            // Two products of at most 127 * 128 fit in 16 bits.
            let pairs = _mm256_maddubs_epi16(codes, values);
            _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
        }
    }
}

impl<const VNNI: bool> Dot for Pairs<VNNI> {
    type S = Avx2;
    type I = Pair;

    const COLUMNS: usize = 2;

    #[inline(always)]
    fn simd(self) -> Avx2 {
        self.0
    }

    #[inline(always)]
    unsafe fn load(self, p: *const u8) -> Pair {
        op!([_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())])
    }

    #[inline(always)]
    unsafe fn store(self, x: Pair, p: *mut u8) {
        op!({
            _mm256_storeu_si256(p.cast(), x[0]);
            _mm256_storeu_si256(p.add(32).cast(), x[1]);
        });
    }

    #[inline(always)]
    unsafe fn broadcast(self, p: *const u8) -> Pair {
        op!([_mm256_set1_epi32(p.cast::<i32>().read_unaligned()); 2])
    }

    #[inline(always)]
    fn splat_byte(self, x: u8) -> Pair {
        op!([_mm256_set1_epi8(x as i8); 2])
    }

    #[inline(always)]
    fn and(self, a: Pair, b: Pair) -> Pair {
        both!(_mm256_and_si256, a, b)
    }

    #[inline(always)]
    fn or(self, a: Pair, b: Pair) -> Pair {
        both!(_mm256_or_si256, a, b)
    }

    #[inline(always)]
    fn add_bytes(self, a: Pair, b: Pair) -> Pair {
        both!(_mm256_add_epi8, a, b)
    }

    #[inline(always)]
    fn add(self, a: Pair, b: Pair) -> Pair {
        both!(_mm256_add_epi32, a, b)
    }

    #[inline(always)]
    fn sub(self, a: Pair, b: Pair) -> Pair {
        both!(_mm256_sub_epi32, a, b)
    }

    #[inline(always)]
    fn shift(self, a: Pair, n: i32) -> Pair {
        [
            shift!(_mm256_slli_epi16, _mm256_srli_epi16, a[0], n),
            shift!(_mm256_slli_epi16, _mm256_srli_epi16, a[1], n),
        ]
    }

    #[inline(always)]
    fn lookup(self, table: Pair, index: Pair) -> Pair {
        both!(_mm256_shuffle_epi8, table, index)
    }

    #[inline(always)]
    fn start(self, negated_sum: Pair, offset: i32) -> Pair {
        let zero = op!(_mm256_setzero_si256());
        [
            times_offset!(_mm256_slli_epi32, negated_sum[0], offset, zero),
            times_offset!(_mm256_slli_epi32, negated_sum[1], offset, zero),
        ]
    }

    #[inline(always)]
    fn dot<const FULL: bool>(self, sum: Pair, codes: Pair, values: Pair) -> Pair {
        if VNNI {
            op!([
                _mm256_dpbusd_avx_epi32(sum[0], codes[0], values[0]),
                _mm256_dpbusd_avx_epi32(sum[1], codes[1], values[1]),
            ])
        } else {
            op!([
                _mm256_add_epi32(sum[0], dot_avx2::<FULL>(codes[0], values[0])),
                _mm256_add_epi32(sum[1], dot_avx2::<FULL>(codes[1], values[1])),
            ])
        }
    }

    #[inline(always)]
    fn to_f32(self, x: Pair) -> [__m256; 2] {
        op!([_mm256_cvtepi32_ps(x[0]), _mm256_cvtepi32_ps(x[1])])
    }

    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> [__m256; 2] {
        op!({
            let bytes = _mm_loadu_si128(p.cast());
            let upper = _mm_unpackhi_epi64(bytes, bytes);
            [
                _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)),
                _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(upper)),
            ]
        })
    }

    #[inline(always)]
    unsafe fn load_i8(self, p: *const u8) -> [__m256; 2] {
        op!({
            let bytes = _mm_loadu_si128(p.cast());
            let upper = _mm_unpackhi_epi64(bytes, bytes);
            [
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(upper)),
            ]
        })
    }

    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u8) -> [__m256; 2] {
        op!({
            let lower = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            let upper = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.add(16).cast()));
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(lower)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(upper)),
            ]
        })
    }

    #[inline(always)]
    unsafe fn store_i8(self, x: [__m256; 2], p: *mut u8) {
        op!({
            let words = _mm256_packs_epi32(_mm256_cvtps_epi32(x[0]), _mm256_cvtps_epi32(x[1]));
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let upper = _mm256_extracti128_si256::<1>(words);
            _mm_storeu_si128(p.cast(), _mm_packs_epi16(_mm256_castsi256_si128(words), upper));
        });
    }
}
