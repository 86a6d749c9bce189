//! Every tensor type: blocks there and back.

use proptest::prelude::*;

use super::*;

const QUANTISABLE: [GgmlType; 16] = [
    GgmlType::F32,
    GgmlType::F16,
    GgmlType::BF16,
    GgmlType::Q4_0,
    GgmlType::Q4_1,
    GgmlType::Q5_0,
    GgmlType::Q5_1,
    GgmlType::Q8_0,
    GgmlType::Q2K,
    GgmlType::Q3K,
    GgmlType::Q4K,
    GgmlType::Q5K,
    GgmlType::Q6K,
    GgmlType::IQ4NL,
    GgmlType::IQ4XS,
    GgmlType::MXFP4,
];

/// FNV-1a of the bits of 64 blocks of pseudo-random bytes, as dequantised by ggml's reference.
/// The second field names the bytes of a block that are kept from holding infinities and NaNs.
const GOLDEN: [(GgmlType, &[usize], u8, u64); 28] = [
    (GgmlType::F32, &[3], 0xbf, 0x150e16272f077d6f),
    (GgmlType::F16, &[1], 0xbf, 0x534a1bd9d38af971),
    (GgmlType::BF16, &[1], 0xbf, 0x93404c2f43cd6b61),
    (GgmlType::Q4_0, &[1], 0xbf, 0xde4218651f7f5a65),
    (GgmlType::Q4_1, &[1, 3], 0xbf, 0x41aeb1f38547ba9e),
    (GgmlType::Q5_0, &[1], 0xbf, 0xf6b062c45eba02b2),
    (GgmlType::Q5_1, &[1, 3], 0xbf, 0x84ca474a833dbaab),
    (GgmlType::Q8_0, &[1], 0xbf, 0x5f404ecce0c4551c),
    (GgmlType::Q2K, &[81, 83], 0xbf, 0xfa849e2f4dc0be66),
    (GgmlType::Q3K, &[109], 0xbf, 0xf04d6ebfe3266d4d),
    (GgmlType::Q4K, &[1, 3], 0xbf, 0xb1ca29a68d49a479),
    (GgmlType::Q5K, &[1, 3], 0xbf, 0x1bd58d3a76f58a9c),
    (GgmlType::Q6K, &[209], 0xbf, 0x5cf60b168941110c),
    (GgmlType::IQ2XXS, &[1], 0xbf, 0x1b6de6dc656d3ece),
    (GgmlType::IQ2XS, &[1], 0xbf, 0x225c4ef834c74bfd),
    (GgmlType::IQ3XXS, &[1], 0xbf, 0x0dec1a7496927bdc),
    (GgmlType::IQ1S, &[1], 0xbf, 0x2a3aa1875e677373),
    (GgmlType::IQ4NL, &[1], 0xbf, 0xf987ee8fa0f38df3),
    (GgmlType::IQ3S, &[1], 0xbf, 0x8d878571a25cd315),
    (GgmlType::IQ2S, &[1], 0xbf, 0x67c84e379492ffe2),
    (GgmlType::IQ4XS, &[1], 0xbf, 0x581378c790b28870),
    (GgmlType::IQ1M, &[55], 0xbf, 0x82a026a9f27b12d7),
    (GgmlType::TQ1_0, &[53], 0xbf, 0xf55775bf36339098),
    (GgmlType::TQ2_0, &[65], 0xbf, 0x1d0b74f0a7351b31),
    (GgmlType::MXFP4, &[0], 0x7f, 0xc94a660f6da8ad85),
    (GgmlType::NVFP4, &[], 0xff, 0xf106158cc1c3103d),
    (GgmlType::Q1_0, &[1], 0xbf, 0x97e74c38e01f8b83),
    (GgmlType::Q2_0, &[1], 0xbf, 0xf0ffd62a91045616),
];

#[test]
fn dequantises_the_same_bits_as_ggml() {
    for (ty, finite, mask, hash) in GOLDEN {
        let mut state = u64::from(ty.id()) + 1;
        let bytes: Vec<u8> = (0..64 * ty.block_bytes())
            .map(|i| {
                state = (state.wrapping_mul(6364136223846793005)).wrapping_add(1442695040888963407);
                let byte = (state >> 56) as u8;
                if finite.contains(&(i % ty.block_bytes())) { byte & mask } else { byte }
            })
            .collect();
        let mut values = vec![0.0; 64 * ty.block_len()];
        dequantize(ty, &bytes, &mut values).unwrap();
        let bits = values.iter().flat_map(|v| v.to_bits().to_le_bytes());
        let got = bits.fold(1469598103934665603u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(1099511628211)
        });
        assert_eq!(got, hash, "{ty}");
    }
}

#[test]
fn quantising_loses_no_more_than_the_format_must() {
    // The root of the mean square error over that of the values, for normal-like values.
    let bound = |ty| match ty {
        GgmlType::F32 => 0.0,
        GgmlType::F16 => 1e-3,
        GgmlType::BF16 | GgmlType::Q8_0 => 6e-3,
        GgmlType::Q6K => 0.025,
        GgmlType::Q5_0 | GgmlType::Q5_1 | GgmlType::Q5K => 0.06,
        GgmlType::Q4_0 | GgmlType::Q4_1 | GgmlType::Q4K => 0.11,
        GgmlType::IQ4NL | GgmlType::IQ4XS => 0.11,
        GgmlType::MXFP4 => 0.16,
        GgmlType::Q3K => 0.25,
        _ => 0.45,
    };
    let mut state = 7u32;
    let mut uniform = || {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let values: Vec<f32> = (0..4096).map(|_| (0..4).map(|_| uniform()).sum()).collect();
    for ty in QUANTISABLE {
        let mut bytes = Vec::new();
        quantize(ty, &values, &mut bytes).unwrap();
        let mut back = vec![0.0; values.len()];
        dequantize(ty, &bytes, &mut back).unwrap();
        let error: f32 = values.iter().zip(&back).map(|(a, b)| (a - b) * (a - b)).sum();
        let power: f32 = values.iter().map(|a| a * a).sum();
        assert!((error / power).sqrt() <= bound(ty), "{ty}: {}", (error / power).sqrt());
    }
}

#[test]
fn exact_forms_have_the_same_values() {
    let mut state = 9u64;
    for ty in GgmlType::all() {
        let Some(exact) = exact_form(ty) else { continue };
        let bytes: Vec<u8> = (0..64 * ty.block_bytes())
            .map(|i| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                // The high byte of a scale is kept from infinity.
                (state >> 56) as u8 & if i % ty.block_bytes() == 1 { 0xbf } else { 0xff }
            })
            .collect();
        let mut expected = vec![0.0; 64 * ty.block_len()];
        dequantize(ty, &bytes, &mut expected).unwrap();
        let converted = to_exact_form(ty, &bytes, expected.len()).unwrap();
        let mut values = vec![0.0; expected.len()];
        dequantize(exact, &converted, &mut values).unwrap();
        assert_eq!(values, expected, "{ty}");
    }
}

#[test]
fn errors_name_the_limit() {
    let error = dequantize(GgmlType::Q4_0, &[0; 17], &mut [0.0; 32]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "32 values in 17 bytes do not fit Q4_0, which has 32 values in 18 bytes"
    );
    assert!(dequantize(GgmlType::Q4_0, &[0; 18], &mut [0.0; 31]).is_err());
    assert!(quantize(GgmlType::Q4_0, &[0.0; 31], &mut Vec::new()).is_err());
    let error = quantize(GgmlType::IQ1S, &[0.0; 256], &mut Vec::new()).unwrap_err();
    assert_eq!(error, QuantError::Unsupported(GgmlType::IQ1S));
}

proptest! {
    #[test]
    fn any_bytes_and_any_values_are_accepted(
        bytes in prop::collection::vec(any::<u8>(), 292 * 2),
        values in prop::collection::vec(-1e30f32..1e30, 512),
    ) {
        for ty in GgmlType::all() {
            let mut out = vec![0.0; 2 * ty.block_len()];
            dequantize(ty, &bytes[..2 * ty.block_bytes()], &mut out).unwrap();
        }
        for ty in QUANTISABLE {
            let mut out = Vec::new();
            quantize(ty, &values, &mut out).unwrap();
            prop_assert_eq!(Some(out.len()), ty.row_bytes(512));
        }
    }
}
