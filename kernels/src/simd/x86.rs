//! Sixteen lanes on x86: one AVX-512 register, or two AVX registers.

use std::arch::x86_64::*;

use super::{LANES, Simd};

/// AVX-512 F, BW, DQ, VL.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

/// AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx512 {
    /// # Safety
    /// The processor must have AVX-512 F, BW, DQ and VL.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Avx512 {
        Avx512(())
    }
}

impl Avx2 {
    /// # Safety
    /// The processor must have AVX2, FMA and F16C.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Avx2 {
        Avx2(())
    }
}

/// An expression of intrinsics inside a method of a token.
macro_rules! op {
    ($e:expr) => {
        // SAFETY: `self` exists only where the processor has these instructions; pointers, if any,
        // come from references to arrays of the size that is read or written.
        unsafe { $e }
    };
}

/// Sums (or folds with `$op`) sixteen lanes as two AVX halves: 8, 4, 2, 1.
macro_rules! fold {
    ($lower:expr, $upper:expr, $op256:ident, $op128:ident, $op32:ident) => {{
        let eight = $op256($lower, $upper);
        let four = $op128(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = $op128(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32($op32(two, _mm_shuffle_ps::<1>(two, two)))
    }};
}

/// Folds four vectors of sixteen lanes at once, to one lane each: pairs of vectors are folded
/// together, and so each step halves the lanes of all.
macro_rules! fold4 {
    ($x:expr, $op512:ident) => {{
        let [a, b, c, d] = $x;
        // Eight lanes of a, then of b; and of c and d.
        let ab = $op512(
            _mm512_shuffle_f32x4::<0b01_00_01_00>(a, b),
            _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b),
        );
        let cd = $op512(
            _mm512_shuffle_f32x4::<0b01_00_01_00>(c, d),
            _mm512_shuffle_f32x4::<0b11_10_11_10>(c, d),
        );
        // Four lanes of each.
        let all = $op512(
            _mm512_shuffle_f32x4::<0b10_00_10_00>(ab, cd),
            _mm512_shuffle_f32x4::<0b11_01_11_01>(ab, cd),
        );
        let two = $op512(all, _mm512_shuffle_ps::<0b10_11_00_01>(all, all));
        let one = $op512(two, _mm512_shuffle_ps::<0b00_01_10_11>(two, two));
        let first = _mm512_castps512_ps256(one);
        let last = _mm512_extractf32x8_ps::<1>(one);
        [
            _mm256_cvtss_f32(first),
            _mm_cvtss_f32(_mm256_extractf128_ps::<1>(first)),
            _mm256_cvtss_f32(last),
            _mm_cvtss_f32(_mm256_extractf128_ps::<1>(last)),
        ]
    }};
}

impl Simd for Avx512 {
    type F = __m512;
    type M = __mmask16;

    const REGISTERS: usize = 32;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        op!(_mm512_set1_ps(x))
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> __m512 {
        op!(_mm512_loadu_ps(x.as_ptr()))
    }

    #[inline(always)]
    fn store(self, x: __m512, out: &mut [f32; LANES]) {
        op!(_mm512_storeu_ps(out.as_mut_ptr(), x));
    }

    #[inline(always)]
    fn load_f16(self, x: &[u16; LANES]) -> __m512 {
        op!(_mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())))
    }

    #[inline(always)]
    fn store_f16(self, x: __m512, out: &mut [u16; LANES]) {
        op!(_mm256_storeu_si256(
            out.as_mut_ptr().cast(),
            _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x)
        ));
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_div_ps(a, b))
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        op!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn fnma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        op!(_mm512_fnmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_max_ps(a, b))
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_min_ps(a, b))
    }

    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        op!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }

    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        op!(_mm512_abs_ps(a))
    }

    #[inline(always)]
    fn copy_sign(self, magnitude: __m512, sign: __m512) -> __m512 {
        op!({
            let bit = _mm512_set1_ps(-0.0);
            _mm512_or_ps(_mm512_andnot_ps(bit, magnitude), _mm512_and_ps(bit, sign))
        })
    }

    #[inline(always)]
    fn scale_by_pow2(self, x: __m512, n: __m512) -> __m512 {
        op!(_mm512_scalef_ps(x, n))
    }

    #[inline(always)]
    fn less(self, a: __m512, b: __m512) -> __mmask16 {
        op!(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b))
    }

    #[inline(always)]
    fn lanes(self, first: usize, last: usize) -> __mmask16 {
        let below_first = (1u32 << first.min(LANES)) - 1;
        let below_last = (1u32 << last.min(LANES)) - 1;
        (below_last & !below_first) as u16
    }

    #[inline(always)]
    fn select(self, mask: __mmask16, yes: __m512, no: __m512) -> __m512 {
        op!(_mm512_mask_blend_ps(mask, no, yes))
    }

    #[cfg(test)]
    #[inline(always)]
    fn bits(self, mask: __mmask16) -> u16 {
        mask
    }

    #[inline(always)]
    fn reduce_add(self, x: __m512) -> f32 {
        op!(fold!(
            _mm512_castps512_ps256(x),
            _mm512_extractf32x8_ps::<1>(x),
            _mm256_add_ps,
            _mm_add_ps,
            _mm_add_ss
        ))
    }

    #[inline(always)]
    fn reduce_max(self, x: __m512) -> f32 {
        op!(fold!(
            _mm512_castps512_ps256(x),
            _mm512_extractf32x8_ps::<1>(x),
            _mm256_max_ps,
            _mm_max_ps,
            _mm_max_ss
        ))
    }

    #[inline(always)]
    fn reduce_add4(self, x: [__m512; 4]) -> [f32; 4] {
        op!(fold4!(x, _mm512_add_ps))
    }

    #[inline(always)]
    fn reduce_max4(self, x: [__m512; 4]) -> [f32; 4] {
        op!(fold4!(x, _mm512_max_ps))
    }
}

/// Both halves through the same intrinsic.
macro_rules! both {
    ($f:ident, $a:expr) => {
        op!([$f($a[0]), $f($a[1])])
    };
    ($f:ident, $a:expr, $b:expr) => {
        op!([$f($a[0], $b[0]), $f($a[1], $b[1])])
    };
    ($f:ident, $a:expr, $b:expr, $c:expr) => {
        op!([$f($a[0], $b[0], $c[0]), $f($a[1], $b[1], $c[1])])
    };
}

type Pair = [__m256; 2];

impl Simd for Avx2 {
    type F = Pair;
    type M = Pair;

    const REGISTERS: usize = 8;

    #[inline(always)]
    fn splat(self, x: f32) -> Pair {
        op!([_mm256_set1_ps(x); 2])
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Pair {
        op!([_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))])
    }

    #[inline(always)]
    fn store(self, x: Pair, out: &mut [f32; LANES]) {
        op!({
            _mm256_storeu_ps(out.as_mut_ptr(), x[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), x[1]);
        });
    }

    #[inline(always)]
    fn load_f16(self, x: &[u16; LANES]) -> Pair {
        op!([
            _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast())),
            _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().add(8).cast())),
        ])
    }

    #[inline(always)]
    fn store_f16(self, x: Pair, out: &mut [u16; LANES]) {
        op!({
            let lower = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x[0]);
            let upper = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x[1]);
            _mm_storeu_si128(out.as_mut_ptr().cast(), lower);
            _mm_storeu_si128(out.as_mut_ptr().add(8).cast(), upper);
        });
    }

    #[inline(always)]
    fn add(self, a: Pair, b: Pair) -> Pair {
        both!(_mm256_add_ps, a, b)
    }

    #[inline(always)]
    fn sub(self, a: Pair, b: Pair) -> Pair {
        both!(_mm256_sub_ps, a, b)
    }

    #[inline(always)]
    fn mul(self, a: Pair, b: Pair) -> Pair {
        both!(_mm256_mul_ps, a, b)
    }

    #[inline(always)]
    fn div(self, a: Pair, b: Pair) -> Pair {
        both!(_mm256_div_ps, a, b)
    }

    #[inline(always)]
    fn fma(self, a: Pair, b: Pair, c: Pair) -> Pair {
        both!(_mm256_fmadd_ps, a, b, c)
    }

    #[inline(always)]
    fn fnma(self, a: Pair, b: Pair, c: Pair) -> Pair {
        both!(_mm256_fnmadd_ps, a, b, c)
    }

    #[inline(always)]
    fn max(self, a: Pair, b: Pair) -> Pair {
        both!(_mm256_max_ps, a, b)
    }

    #[inline(always)]
    fn min(self, a: Pair, b: Pair) -> Pair {
        both!(_mm256_min_ps, a, b)
    }

    #[inline(always)]
    fn round(self, a: Pair) -> Pair {
        const MODE: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        op!([_mm256_round_ps::<MODE>(a[0]), _mm256_round_ps::<MODE>(a[1])])
    }

    #[inline(always)]
    fn abs(self, a: Pair) -> Pair {
        both!(_mm256_andnot_ps, self.splat(-0.0), a)
    }

    #[inline(always)]
    fn copy_sign(self, magnitude: Pair, sign: Pair) -> Pair {
        let bit = self.splat(-0.0);
        let magnitude = both!(_mm256_andnot_ps, bit, magnitude);
        let sign = both!(_mm256_and_ps, bit, sign);
        both!(_mm256_or_ps, magnitude, sign)
    }

    #[inline(always)]
    fn scale_by_pow2(self, x: Pair, n: Pair) -> Pair {
        let mut out = x;
        for (x, n) in out.iter_mut().zip(n) {
            // In two steps, for 2^n itself may not be a float.
            *x = op!({
                let n = _mm256_cvtps_epi32(n);
                let half = _mm256_srai_epi32::<1>(n);
                let bias = _mm256_set1_epi32(127);
                let first = _mm256_slli_epi32::<23>(_mm256_add_epi32(half, bias));
                let rest = _mm256_add_epi32(_mm256_sub_epi32(n, half), bias);
                let second = _mm256_slli_epi32::<23>(rest);
                let scaled = _mm256_mul_ps(*x, _mm256_castsi256_ps(first));
                _mm256_mul_ps(scaled, _mm256_castsi256_ps(second))
            });
        }
        out
    }

    #[inline(always)]
    fn less(self, a: Pair, b: Pair) -> Pair {
        op!([_mm256_cmp_ps::<_CMP_LT_OQ>(a[0], b[0]), _mm256_cmp_ps::<_CMP_LT_OQ>(a[1], b[1])])
    }

    #[inline(always)]
    fn lanes(self, first: usize, last: usize) -> Pair {
        op!({
            let first = _mm256_set1_epi32(first.min(LANES) as i32 - 1);
            let last = _mm256_set1_epi32(last.min(LANES) as i32);
            let lower = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let upper = _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15);
            let lower =
                _mm256_and_si256(_mm256_cmpgt_epi32(lower, first), _mm256_cmpgt_epi32(last, lower));
            let upper =
                _mm256_and_si256(_mm256_cmpgt_epi32(upper, first), _mm256_cmpgt_epi32(last, upper));
            [_mm256_castsi256_ps(lower), _mm256_castsi256_ps(upper)]
        })
    }

    #[inline(always)]
    fn select(self, mask: Pair, yes: Pair, no: Pair) -> Pair {
        both!(_mm256_blendv_ps, no, yes, mask)
    }

    #[cfg(test)]
    #[inline(always)]
    fn bits(self, mask: Pair) -> u16 {
        op!((_mm256_movemask_ps(mask[0]) | (_mm256_movemask_ps(mask[1]) << 8)) as u16)
    }

    #[inline(always)]
    fn reduce_add(self, x: Pair) -> f32 {
        op!(fold!(x[0], x[1], _mm256_add_ps, _mm_add_ps, _mm_add_ss))
    }

    #[inline(always)]
    fn reduce_max(self, x: Pair) -> f32 {
        op!(fold!(x[0], x[1], _mm256_max_ps, _mm_max_ps, _mm_max_ss))
    }
}
