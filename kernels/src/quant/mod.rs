//! The tensor formats of GGUF files: block sizes, exact dequantisation, quantisation.

mod dequant;
mod error;
mod grids;
mod iq;
mod quantize;
mod types;

pub(crate) use dequant::{
    E2M1_DOUBLED, IQ4_VALUES, e8m0_half, iq4xs_scale, k4_scale_min, q3k_scale,
};
pub use error::QuantError;
pub(crate) use grids::{IQ2_LEVELS, IQ3S_LEVELS, IQ3XXS_LEVELS};
pub(crate) use iq::IntegerBlock;
pub use quantize::quantize;
pub use types::GgmlType;

use crate::memory::OutOfMemory;

/// Converts any whole number of blocks to f32, exactly as ggml's reference does.
pub fn dequantize(ty: GgmlType, bytes: &[u8], out: &mut [f32]) -> Result<(), QuantError> {
    if ty.row_bytes(out.len()) != Some(bytes.len()) {
        return Err(QuantError::Length { ty, values: out.len(), bytes: bytes.len() });
    }
    let blocks = bytes.chunks_exact(ty.block_bytes());
    for (block, out) in blocks.zip(out.chunks_exact_mut(ty.block_len())) {
        dequantize_block(ty, block, out);
    }
    Ok(())
}

/// The type that holds the values of `ty` exactly and is multiplied as it is, for types that are not:
/// Q8_0 for codes with one scale for whole blocks of it, else F16, which has the digits for NVFP4.
#[must_use]
pub fn exact_form(ty: GgmlType) -> Option<GgmlType> {
    match ty {
        GgmlType::Q1_0 | GgmlType::Q2_0 => Some(GgmlType::Q8_0),
        GgmlType::NVFP4 => Some(GgmlType::F16),
        _ => None,
    }
}

/// Bytes of the [`exact_form`] of `values` values.
///
/// # Errors
/// The values or the bytes are not a whole number of blocks, or there is no memory.
pub fn to_exact_form(ty: GgmlType, bytes: &[u8], values: usize) -> Result<Vec<u8>, QuantError> {
    if ty.row_bytes(values) != Some(bytes.len()) {
        return Err(QuantError::Length { ty, values, bytes: bytes.len() });
    }
    let (mut out, wanted) = (Vec::new(), values * 2);
    out.try_reserve_exact(wanted).map_err(|_| QuantError::Memory(OutOfMemory { wanted }))?;
    let mut block_values = vec![0.0; ty.block_len()];
    if exact_form(ty) == Some(GgmlType::Q8_0) {
        for block in bytes.chunks_exact(ty.block_bytes()) {
            // With a scale of one the values are the codes.
            let unit = [&half_one(), &block[2..]].concat();
            dequantize_block(ty, &unit, &mut block_values);
            for codes in block_values.chunks_exact(GgmlType::Q8_0.block_len()) {
                out.extend_from_slice(&block[..2]);
                out.extend(codes.iter().map(|code| *code as i8 as u8));
            }
        }
        return Ok(out);
    }
    for block in bytes.chunks_exact(ty.block_bytes()) {
        dequantize(ty, block, &mut block_values)?;
        quantize(GgmlType::F16, &block_values, &mut out)?;
    }
    Ok(out)
}

fn half_one() -> [u8; 2] {
    0x3c00u16.to_le_bytes()
}

/// The integers of a block of a codebook or ternary type; None for all other types.
pub(crate) fn integer_block(ty: GgmlType, block: &[u8]) -> Option<IntegerBlock> {
    Some(match ty {
        GgmlType::IQ2XXS => iq::iq2_xxs(block),
        GgmlType::IQ2XS => iq::iq2_xs(block),
        GgmlType::IQ2S => iq::iq2_s(block),
        GgmlType::IQ3XXS => iq::iq3_xxs(block),
        GgmlType::IQ3S => iq::iq3_s(block),
        GgmlType::IQ1S => iq::iq1_s(block),
        GgmlType::IQ1M => iq::iq1_m(block),
        GgmlType::TQ1_0 => iq::tq1_0(block),
        GgmlType::TQ2_0 => iq::tq2_0(block),
        _ => return None,
    })
}

fn dequantize_block(ty: GgmlType, block: &[u8], out: &mut [f32]) {
    match ty {
        GgmlType::F32 => dequant::f32_block(block, out),
        GgmlType::F16 => dequant::f16_block(block, out),
        GgmlType::BF16 => dequant::bf16_block(block, out),
        GgmlType::F64 => dequant::f64_block(block, out),
        GgmlType::I8 => dequant::i8_block(block, out),
        GgmlType::I16 => dequant::i16_block(block, out),
        GgmlType::I32 => dequant::i32_block(block, out),
        GgmlType::I64 => dequant::i64_block(block, out),
        GgmlType::Q4_0 => dequant::q4_0(block, out),
        GgmlType::Q4_1 => dequant::q4_1(block, out),
        GgmlType::Q5_0 => dequant::q5_0(block, out),
        GgmlType::Q5_1 => dequant::q5_1(block, out),
        GgmlType::Q8_0 => dequant::q8_0(block, out),
        GgmlType::Q8_1 => dequant::q8_1(block, out),
        GgmlType::Q2K => dequant::q2_k(block, out),
        GgmlType::Q3K => dequant::q3_k(block, out),
        GgmlType::Q4K => dequant::q4_k(block, out),
        GgmlType::Q5K => dequant::q5_k(block, out),
        GgmlType::Q6K => dequant::q6_k(block, out),
        GgmlType::Q8K => dequant::q8_k(block, out),
        GgmlType::IQ4NL => dequant::iq4_nl(block, out),
        GgmlType::IQ4XS => dequant::iq4_xs(block, out),
        GgmlType::MXFP4 => dequant::mxfp4(block, out),
        GgmlType::NVFP4 => dequant::nvfp4(block, out),
        GgmlType::Q1_0 => dequant::q1_0(block, out),
        GgmlType::Q2_0 => dequant::q2_0(block, out),
        GgmlType::IQ2XXS
        | GgmlType::IQ2XS
        | GgmlType::IQ2S
        | GgmlType::IQ3XXS
        | GgmlType::IQ3S
        | GgmlType::IQ1S
        | GgmlType::IQ1M
        | GgmlType::TQ1_0
        | GgmlType::TQ2_0 => {
            let block = integer_block(ty, block).expect("these types have integers: this is a bug");
            block.write(out);
        }
    }
}

#[cfg(test)]
mod tests;
