//! Exact dequantisation of the plain, legacy and K formats, one block at a time.
//!
//! This is the oracle of the whole crate: straight transcriptions of the formats, with ggml's
//! order of rounding, and nothing clever.

use half::{bf16, f16};

/// Values of IQ4_NL and IQ4_XS by code.
pub(crate) const IQ4_VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/// Twice the values of the 4-bit float E2M1, by code.
pub(crate) const E2M1_DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Half float at byte `at`.
pub(super) fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

pub(super) fn u16_at(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

pub(super) fn u32_at(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// Half of 2^(e - 127): the scale of an MXFP4 block for doubled values.
pub(crate) fn e8m0_half(e: u8) -> f32 {
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { u32::from(e - 1) << 23 })
}

/// The 6-bit scale and minimum of sub-block `j` of a Q4_K or Q5_K block.
pub(crate) fn k4_scale_min(scales: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (scales[j] & 63, scales[j + 4] & 63)
    } else {
        (
            (scales[j + 4] & 15) | (scales[j - 4] >> 6 << 4),
            (scales[j + 4] >> 4) | (scales[j] >> 6 << 4),
        )
    }
}

/// The 6-bit scale of sub-block `j` of a Q3_K block, 32 subtracted.
pub(crate) fn q3k_scale(scales: &[u8], j: usize) -> i8 {
    let low = if j < 8 { scales[j] & 15 } else { scales[j - 8] >> 4 };
    let high = (scales[8 + j % 4] >> (2 * (j / 4))) & 3;
    (low | (high << 4)) as i8 - 32
}

pub(super) fn f32_block(block: &[u8], out: &mut [f32]) {
    out[0] = f32::from_bits(u32_at(block, 0));
}

pub(super) fn f16_block(block: &[u8], out: &mut [f32]) {
    out[0] = half_at(block, 0);
}

pub(super) fn bf16_block(block: &[u8], out: &mut [f32]) {
    out[0] = bf16::from_le_bytes([block[0], block[1]]).to_f32();
}

fn eight_bytes(block: &[u8]) -> [u8; 8] {
    std::array::from_fn(|i| block[i])
}

pub(super) fn f64_block(block: &[u8], out: &mut [f32]) {
    out[0] = f64::from_le_bytes(eight_bytes(block)) as f32;
}

pub(super) fn i8_block(block: &[u8], out: &mut [f32]) {
    out[0] = f32::from(block[0] as i8);
}

pub(super) fn i16_block(block: &[u8], out: &mut [f32]) {
    out[0] = f32::from(u16_at(block, 0) as i16);
}

pub(super) fn i32_block(block: &[u8], out: &mut [f32]) {
    out[0] = u32_at(block, 0) as i32 as f32;
}

pub(super) fn i64_block(block: &[u8], out: &mut [f32]) {
    out[0] = i64::from_le_bytes(eight_bytes(block)) as f32;
}

/// Nibbles of 16 bytes: the low ones are values 0..16, the high ones 16..32.
fn nibbles(bytes: &[u8]) -> [u8; 32] {
    std::array::from_fn(|i| if i < 16 { bytes[i] & 15 } else { bytes[i - 16] >> 4 })
}

pub(super) fn q4_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    for (y, q) in out.iter_mut().zip(nibbles(&block[2..])) {
        *y = f32::from(q as i8 - 8) * d;
    }
}

pub(super) fn q4_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for (y, q) in out.iter_mut().zip(nibbles(&block[4..])) {
        *y = f32::from(q) * d + m;
    }
}

pub(super) fn q5_0(block: &[u8], out: &mut [f32]) {
    let (d, high) = (half_at(block, 0), u32_at(block, 2));
    for (i, (y, q)) in out.iter_mut().zip(nibbles(&block[6..])).enumerate() {
        let bit = (high >> i & 1) as u8;
        *y = f32::from((q | bit << 4) as i8 - 16) * d;
    }
}

pub(super) fn q5_1(block: &[u8], out: &mut [f32]) {
    let (d, m, high) = (half_at(block, 0), half_at(block, 2), u32_at(block, 4));
    for (i, (y, q)) in out.iter_mut().zip(nibbles(&block[8..])).enumerate() {
        let bit = (high >> i & 1) as u8;
        *y = f32::from(q | bit << 4) * d + m;
    }
}

pub(super) fn q8_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    for (y, q) in out.iter_mut().zip(&block[2..]) {
        *y = f32::from(*q as i8) * d;
    }
}

/// As Q8_0, with the sum of the block, which is redundant, after the scale.
pub(super) fn q8_1(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    for (y, q) in out.iter_mut().zip(&block[4..]) {
        *y = f32::from(*q as i8) * d;
    }
}

pub(super) fn iq4_nl(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    for (y, q) in out.iter_mut().zip(nibbles(&block[2..])) {
        *y = d * f32::from(IQ4_VALUES[usize::from(q)]);
    }
}

pub(super) fn mxfp4(block: &[u8], out: &mut [f32]) {
    let d = e8m0_half(block[0]);
    for (y, q) in out.iter_mut().zip(nibbles(&block[1..])) {
        *y = f32::from(E2M1_DOUBLED[usize::from(q)]) * d;
    }
}

/// Four scales (ue4m3), each for 16 values, and 32 bytes of codes.
pub(super) fn nvfp4(block: &[u8], out: &mut [f32]) {
    let (scales, codes) = block.split_at(4);
    for (i, y) in out.iter_mut().enumerate() {
        let byte = codes[i / 16 * 8 + i % 8];
        let code = if i % 16 < 8 { byte & 15 } else { byte >> 4 };
        *y = f32::from(E2M1_DOUBLED[usize::from(code)]) * ue4m3_half(scales[i / 16]);
    }
}

/// Half of an unsigned float with 4 bits of exponent and 3 of mantissa.
fn ue4m3_half(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    match (byte, exponent) {
        (0 | 0x7f, _) => 0.0,
        (_, 0) => mantissa * 2f32.powi(-10),
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 8),
    }
}

/// d, then a bit for each value's sign, set for plus.
pub(super) fn q1_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    for (i, y) in out.iter_mut().enumerate() {
        *y = if block[2 + i / 8] >> (i % 8) & 1 == 1 { d } else { -d };
    }
}

/// d, then two bits for each value, one above what they mean.
pub(super) fn q2_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    for (i, y) in out.iter_mut().enumerate() {
        *y = (f32::from(block[2 + i / 4] >> (i % 4 * 2) & 3) - 1.0) * d;
    }
}

/// 16 scales and minima (4 bits each), 64 bytes of 2-bit codes, d, dmin.
pub(super) fn q2_k(block: &[u8], out: &mut [f32]) {
    let (scales, codes) = (&block[..16], &block[16..80]);
    let (d, dmin) = (half_at(block, 80), half_at(block, 82));
    for (i, y) in out.iter_mut().enumerate() {
        let (scale, min) = (scales[i / 16] & 15, scales[i / 16] >> 4);
        let code = codes[i / 128 * 32 + i % 32] >> (2 * (i % 128 / 32)) & 3;
        *y = d * f32::from(scale) * f32::from(code) - dmin * f32::from(min);
    }
}

/// 32 bytes of high bits, 64 bytes of 2-bit codes, 16 scales of 6 bits, d.
pub(super) fn q3_k(block: &[u8], out: &mut [f32]) {
    let (high, codes, scales) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half_at(block, 108);
    for (i, y) in out.iter_mut().enumerate() {
        let low = codes[i / 128 * 32 + i % 32] >> (2 * (i % 128 / 32)) & 3;
        let bit = high[i % 32] >> (i / 32) & 1;
        let code = (low | bit << 2) as i8 - 4;
        *y = d * f32::from(q3k_scale(scales, i / 16)) * f32::from(code);
    }
}

/// d, dmin, 8 scales and minima of 6 bits, 128 bytes of nibbles.
pub(super) fn q4_k(block: &[u8], out: &mut [f32]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let (scales, codes) = (&block[4..16], &block[16..144]);
    for (i, y) in out.iter_mut().enumerate() {
        let (scale, min) = k4_scale_min(scales, i / 32);
        let code = codes[i / 64 * 32 + i % 32] >> (4 * (i / 32 % 2)) & 15;
        *y = d * f32::from(scale) * f32::from(code) - dmin * f32::from(min);
    }
}

/// As Q4_K with 32 bytes of high bits before the nibbles.
pub(super) fn q5_k(block: &[u8], out: &mut [f32]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let (scales, high, codes) = (&block[4..16], &block[16..48], &block[48..176]);
    for (i, y) in out.iter_mut().enumerate() {
        let (scale, min) = k4_scale_min(scales, i / 32);
        let low = codes[i / 64 * 32 + i % 32] >> (4 * (i / 32 % 2)) & 15;
        let bit = high[i % 32] >> (i / 32) & 1;
        let code = low | bit << 4;
        *y = d * f32::from(scale) * f32::from(code) - dmin * f32::from(min);
    }
}

/// 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 scales of 8 bits, d.
pub(super) fn q6_k(block: &[u8], out: &mut [f32]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half_at(block, 208);
    for (i, y) in out.iter_mut().enumerate() {
        let (half, quarter) = (i / 128, i % 128 / 32);
        let nibble = low[half * 64 + quarter % 2 * 32 + i % 32] >> (4 * (quarter / 2)) & 15;
        let pair = high[half * 32 + i % 32] >> (2 * quarter) & 3;
        let code = (nibble | pair << 4) as i8 - 32;
        *y = d * f32::from(scales[i / 16] as i8) * f32::from(code);
    }
}

/// A float scale, 256 codes; the sums that follow are redundant.
pub(super) fn q8_k(block: &[u8], out: &mut [f32]) {
    let d = f32::from_bits(u32_at(block, 0));
    for (y, q) in out.iter_mut().zip(&block[4..]) {
        *y = d * f32::from(*q as i8);
    }
}

/// d, 2 high bits of 8 scales, 4 low bits of 8 scales, 128 bytes of nibbles.
pub(super) fn iq4_xs(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    for (ib, y) in out.chunks_exact_mut(32).enumerate() {
        let dl = d * f32::from(iq4xs_scale(block, ib));
        for (y, q) in y.iter_mut().zip(nibbles(&block[8 + ib * 16..])) {
            *y = dl * f32::from(IQ4_VALUES[usize::from(q)]);
        }
    }
}

/// The 6-bit scale of sub-block `ib` of an IQ4_XS block, 32 subtracted.
pub(crate) fn iq4xs_scale(block: &[u8], ib: usize) -> i8 {
    let low = block[4 + ib / 2] >> (4 * (ib % 2)) & 15;
    let high = (u16_at(block, 2) >> (2 * ib) & 3) as u8;
    (low | high << 4) as i8 - 32
}
