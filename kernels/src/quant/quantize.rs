//! Quantisation: ggml's rounding for the legacy formats, simple least-range fits for the others.
//!
//! Meant for tests, for synthetic models and for requantising single tensors. The K formats are
//! valid and near ggml's quality, but ggml's search for better scales is not repeated here.

use half::{bf16, f16};

use super::dequant::{E2M1_DOUBLED, IQ4_VALUES, e8m0_half};
use super::{GgmlType, QuantError};

/// Appends the blocks of `values` to `out`.
pub fn quantize(ty: GgmlType, values: &[f32], out: &mut Vec<u8>) -> Result<(), QuantError> {
    let block: fn(&[f32], &mut Vec<u8>) = match ty {
        GgmlType::F32 => |x, out| out.extend(x[0].to_le_bytes()),
        GgmlType::F16 => |x, out| out.extend(f16::from_f32(x[0]).to_le_bytes()),
        GgmlType::BF16 => |x, out| out.extend(bf16::from_f32(x[0]).to_le_bytes()),
        GgmlType::Q4_0 => q4_0,
        GgmlType::Q4_1 => q4_1,
        GgmlType::Q5_0 => q5_0,
        GgmlType::Q5_1 => q5_1,
        GgmlType::Q8_0 => q8_0,
        GgmlType::Q2K => q2_k,
        GgmlType::Q3K => q3_k,
        GgmlType::Q4K => q4_k,
        GgmlType::Q5K => q5_k,
        GgmlType::Q6K => q6_k,
        GgmlType::IQ4NL => iq4_nl,
        GgmlType::IQ4XS => iq4_xs,
        GgmlType::MXFP4 => mxfp4,
        _ => return Err(QuantError::Unsupported(ty)),
    };
    let Some(bytes) = ty.row_bytes(values.len()) else {
        return Err(QuantError::Length { ty, values: values.len(), bytes: 0 });
    };
    out.reserve(bytes);
    values.chunks_exact(ty.block_len()).for_each(|x| block(x, out));
    Ok(())
}

/// Rounds to half, appends it, and returns what it decodes to.
fn push_half(x: f32, out: &mut Vec<u8>) -> f32 {
    let half = f16::from_f32(x);
    out.extend(half.to_le_bytes());
    half.to_f32()
}

fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

/// The value of the largest magnitude, with its sign.
fn extreme(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |max: f32, x| if x.abs() > max.abs() { *x } else { max })
}

fn code(x: f32, max: u8) -> u8 {
    x.round_ties_even().clamp(0.0, f32::from(max)) as u8
}

/// Appends the codes' nibbles: low ones from values 0..16, high ones from 16..32.
fn push_nibbles(codes: &[u8], out: &mut Vec<u8>) {
    out.extend((0..16).map(|i| codes[i] & 15 | codes[i + 16] << 4));
}

/// Appends bit 4 of 32 codes.
fn push_fifth_bits(codes: &[u8], out: &mut Vec<u8>) {
    let bits = codes.iter().enumerate().fold(0, |bits, (i, c)| bits | u32::from(c >> 4 & 1) << i);
    out.extend(bits.to_le_bytes());
}

/// Codes of a block whose value is `(code - offset) * d`.
fn symmetric(x: &[f32], offset: f32, out: &mut Vec<u8>) -> Vec<u8> {
    let d = extreme(x) / -offset;
    push_half(d, out);
    let inverse = inverse(d);
    x.iter().map(|x| ((x * inverse + offset + 0.5).min(2.0 * offset - 1.0)) as u8).collect()
}

/// Codes of a block whose value is `code * d + m`.
fn with_minimum(x: &[f32], max_code: u8, out: &mut Vec<u8>) -> Vec<u8> {
    let min = x.iter().copied().fold(f32::INFINITY, f32::min);
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let d = (max - min) / f32::from(max_code);
    push_half(d, out);
    push_half(min, out);
    let inverse = inverse(d);
    x.iter().map(|x| ((x - min) * inverse + 0.5).min(f32::from(max_code)) as u8).collect()
}

fn q4_0(x: &[f32], out: &mut Vec<u8>) {
    let codes = symmetric(x, 8.0, out);
    push_nibbles(&codes, out);
}

fn q4_1(x: &[f32], out: &mut Vec<u8>) {
    let codes = with_minimum(x, 15, out);
    push_nibbles(&codes, out);
}

fn q5_0(x: &[f32], out: &mut Vec<u8>) {
    let codes = symmetric(x, 16.0, out);
    push_fifth_bits(&codes, out);
    push_nibbles(&codes, out);
}

fn q5_1(x: &[f32], out: &mut Vec<u8>) {
    let codes = with_minimum(x, 31, out);
    push_fifth_bits(&codes, out);
    push_nibbles(&codes, out);
}

fn q8_0(x: &[f32], out: &mut Vec<u8>) {
    let d = extreme(x).abs() / 127.0;
    push_half(d, out);
    let inverse = inverse(d);
    out.extend(x.iter().map(|x| (x * inverse).round() as i8 as u8));
}

/// The index of the value of a sorted or unsorted codebook that is nearest to `x`.
fn nearest(book: &[i8; 16], x: f32) -> u8 {
    let error = |i: &u8| (f32::from(book[usize::from(*i)]) - x).abs();
    (0..16).min_by(|a, b| error(a).total_cmp(&error(b))).unwrap_or(0)
}

fn iq4_nl(x: &[f32], out: &mut Vec<u8>) {
    let d = push_half(extreme(x) / -127.0, out);
    let inverse = inverse(d);
    let codes: Vec<u8> = x.iter().map(|x| nearest(&IQ4_VALUES, x * inverse)).collect();
    push_nibbles(&codes, out);
}

fn mxfp4(x: &[f32], out: &mut Vec<u8>) {
    let amax = extreme(x).abs();
    // The largest code is 6 = 1.5 * 2^2.
    let exponent = if amax > 0.0 { amax.log2().floor() as i32 - 2 + 127 } else { 0 };
    let exponent = exponent.clamp(0, 254) as u8;
    out.push(exponent);
    let inverse = inverse(e8m0_half(exponent));
    let codes: Vec<u8> = x.iter().map(|x| nearest(&E2M1_DOUBLED, x * inverse)).collect();
    push_nibbles(&codes, out);
}

/// Scale and (negated, never negative) minimum of a sub-block of a format with minima.
fn scale_min(x: &[f32], max_code: f32) -> (f32, f32) {
    let min = x.iter().copied().fold(0.0, f32::min);
    let max = x.iter().copied().fold(0.0, f32::max);
    ((max - min) / max_code, -min)
}

/// Integer scales and minima of sub-blocks, with the two halves they are multiples of.
struct Affine {
    d: f32,
    dmin: f32,
    scales: Vec<u8>,
    mins: Vec<u8>,
    codes: Vec<u8>,
}

impl Affine {
    fn fit(x: &[f32], sub_block: usize, max_scale: u8, max_code: u8) -> Affine {
        let fits: Vec<(f32, f32)> =
            x.chunks_exact(sub_block).map(|x| scale_min(x, f32::from(max_code))).collect();
        let largest = |f: fn(&(f32, f32)) -> f32| fits.iter().map(f).fold(0.0, f32::max);
        let round = |x: f32| f16::from_f32(x / f32::from(max_scale)).to_f32();
        let (d, dmin) = (round(largest(|fit| fit.0)), round(largest(|fit| fit.1)));
        let scales: Vec<u8> = fits.iter().map(|fit| code(fit.0 * inverse(d), max_scale)).collect();
        let mins: Vec<u8> = fits.iter().map(|fit| code(fit.1 * inverse(dmin), max_scale)).collect();
        let codes = (x.iter().enumerate())
            .map(|(i, x)| {
                let (scale, min) = (scales[i / sub_block], mins[i / sub_block]);
                code((x + dmin * f32::from(min)) * inverse(d * f32::from(scale)), max_code)
            })
            .collect();
        Affine { d, dmin, scales, mins, codes }
    }

    /// The 12 bytes of eight 6-bit scales and minima.
    fn push_k4_scales(&self, out: &mut Vec<u8>) {
        let (s, m) = (&self.scales, &self.mins);
        out.extend((0..4).map(|j| s[j] | s[j + 4] >> 4 << 6));
        out.extend((0..4).map(|j| m[j] | m[j + 4] >> 4 << 6));
        out.extend((4..8).map(|j| s[j] & 15 | m[j] << 4));
    }

    /// 128 bytes: the nibbles of sub-blocks 0 and 1 share 32 bytes, and so on.
    fn push_k4_nibbles(&self, out: &mut Vec<u8>) {
        for pair in self.codes.chunks_exact(64) {
            out.extend((0..32).map(|i| pair[i] & 15 | pair[i + 32] << 4));
        }
    }
}

/// 2-bit codes as Q2_K and Q3_K store them.
fn push_pairs(codes: &[u8], out: &mut Vec<u8>) {
    for half in codes.chunks_exact(128) {
        out.extend((0..32).map(|i| {
            (0..4).fold(0, |byte, quarter| byte | (half[32 * quarter + i] & 3) << (2 * quarter))
        }));
    }
}

fn q2_k(x: &[f32], out: &mut Vec<u8>) {
    let fit = Affine::fit(x, 16, 15, 3);
    out.extend(fit.scales.iter().zip(&fit.mins).map(|(s, m)| s | m << 4));
    push_pairs(&fit.codes, out);
    push_half(fit.d, out);
    push_half(fit.dmin, out);
}

fn q4_k(x: &[f32], out: &mut Vec<u8>) {
    let fit = Affine::fit(x, 32, 63, 15);
    push_half(fit.d, out);
    push_half(fit.dmin, out);
    fit.push_k4_scales(out);
    fit.push_k4_nibbles(out);
}

fn q5_k(x: &[f32], out: &mut Vec<u8>) {
    let fit = Affine::fit(x, 32, 63, 31);
    push_half(fit.d, out);
    push_half(fit.dmin, out);
    fit.push_k4_scales(out);
    out.extend((0..32).map(|i| (0..8).fold(0, |byte, j| byte | (fit.codes[32 * j + i] >> 4) << j)));
    fit.push_k4_nibbles(out);
}

/// Signed integer scales of sub-blocks (`-limit..limit`), the half they are multiples of, and
/// codes with `offset` added.
fn scaled(x: &[f32], sub_block: usize, limit: f32, offset: f32) -> (f32, Vec<i8>, Vec<u8>) {
    let fits: Vec<f32> = x.chunks_exact(sub_block).map(|x| extreme(x) / -offset).collect();
    let d = f16::from_f32(extreme(&fits) / -limit).to_f32();
    let scales: Vec<i8> = (fits.iter())
        .map(|fit| (fit * inverse(d)).round_ties_even().clamp(-limit, limit - 1.0) as i8)
        .collect();
    let codes = (x.iter().enumerate())
        .map(|(i, x)| {
            let scale = d * f32::from(scales[i / sub_block]);
            code(x * inverse(scale) + offset, (2.0 * offset - 1.0) as u8)
        })
        .collect();
    (d, scales, codes)
}

fn q3_k(x: &[f32], out: &mut Vec<u8>) {
    let (d, scales, codes) = scaled(x, 16, 32.0, 4.0);
    out.extend((0..32).map(|i| (0..8).fold(0, |byte, j| byte | (codes[32 * j + i] >> 2) << j)));
    push_pairs(&codes, out);
    let s: Vec<u8> = scales.iter().map(|s| (s + 32) as u8).collect();
    out.extend((0..8).map(|j| s[j] & 15 | s[j + 8] << 4));
    out.extend((0..4).map(|j| (0..4).fold(0, |byte, i| byte | (s[j + 4 * i] >> 4) << (2 * i))));
    push_half(d, out);
}

fn q6_k(x: &[f32], out: &mut Vec<u8>) {
    let (d, scales, codes) = scaled(x, 16, 128.0, 32.0);
    for half in codes.chunks_exact(128) {
        out.extend((0..64).map(|i| half[i] & 15 | half[i + 64] << 4));
    }
    for half in codes.chunks_exact(128) {
        out.extend((0..32).map(|i| {
            (0..4).fold(0, |byte, quarter| byte | (half[32 * quarter + i] >> 4) << (2 * quarter))
        }));
    }
    out.extend(scales.iter().map(|s| *s as u8));
    push_half(d, out);
}

fn iq4_xs(x: &[f32], out: &mut Vec<u8>) {
    let fits: Vec<f32> = x.chunks_exact(32).map(|x| extreme(x) / -127.0).collect();
    let d = push_half(extreme(&fits) / -32.0, out);
    let scales: Vec<i8> = (fits.iter())
        .map(|fit| (fit * inverse(d)).round_ties_even().clamp(-32.0, 31.0) as i8)
        .collect();
    let s: Vec<u8> = scales.iter().map(|s| (s + 32) as u8).collect();
    let high = (0..8).fold(0, |bits, i| bits | u16::from(s[i] >> 4) << (2 * i));
    out.extend(high.to_le_bytes());
    out.extend((0..4).map(|i| s[2 * i] & 15 | s[2 * i + 1] << 4));
    for (x, scale) in x.chunks_exact(32).zip(&scales) {
        let inverse = inverse(d * f32::from(*scale));
        let codes: Vec<u8> = x.iter().map(|x| nearest(&IQ4_VALUES, x * inverse)).collect();
        push_nibbles(&codes, out);
    }
}
