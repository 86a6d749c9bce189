//! From the rows of a file to panels.

use half::bf16;

use super::layout::{self, Codes, Layout};
use super::packing::Packing;
use crate::quant::{
    E2M1_DOUBLED, GgmlType, IQ2_LEVELS, IQ3S_LEVELS, IQ3XXS_LEVELS, IQ4_VALUES, IntegerBlock,
    dequantize, e8m0_half, integer_block, iq4xs_scale, k4_scale_min, q3k_scale,
};

/// What the nibbles of a codebook format stand for.
pub(super) struct Codebook {
    /// Values with the format's offset added, four times over.
    pub table: [u8; 64],
    /// The nibble of each value (as u8) that occurs.
    nibbles: [u8; 256],
}

impl Codebook {
    /// The codebook of `ty`; zeros for types that have none.
    pub(super) fn of(ty: GgmlType) -> Codebook {
        let signed = |levels: &[i8]| {
            let mut values = [0; 16];
            for (i, level) in levels.iter().enumerate() {
                (values[2 * i], values[2 * i + 1]) = (-level, *level);
            }
            values
        };
        match ty {
            GgmlType::IQ4NL | GgmlType::IQ4XS => Codebook::new(IQ4_VALUES, 128),
            GgmlType::MXFP4 => Codebook::new(E2M1_DOUBLED, 64),
            GgmlType::IQ1S | GgmlType::IQ1M => Codebook::new(signed(&[1, 7, 9]), 64),
            GgmlType::IQ2XXS | GgmlType::IQ2XS | GgmlType::IQ2S => {
                Codebook::new(signed(&IQ2_LEVELS), 64)
            }
            GgmlType::IQ3XXS => Codebook::new(signed(&IQ3XXS_LEVELS), 64),
            GgmlType::IQ3S => Codebook::new(signed(&IQ3S_LEVELS), 64),
            // Zero is among the rest of the table.
            GgmlType::TQ1_0 | GgmlType::TQ2_0 => Codebook::new(signed(&[1, 2]), 64),
            _ => Codebook::new([0; 16], 0),
        }
    }

    fn new(values: [i8; 16], offset: i16) -> Codebook {
        let mut book = Codebook { table: [0; 64], nibbles: [0; 256] };
        for (i, byte) in book.table.iter_mut().enumerate() {
            *byte = (i16::from(values[i % 16]) + offset) as u8;
        }
        for (nibble, value) in values.iter().enumerate() {
            book.nibbles[usize::from(*value as u8)] = nibble as u8;
        }
        book
    }
}

/// Packs up to 16 rows. `out` is a panel of zeros, which is also what rows that do not exist are.
pub(super) fn pack_panel(
    ty: GgmlType,
    packing: Packing,
    codebook: &Codebook,
    rows: &[u8],
    row_bytes: usize,
    out: &mut [u8],
) {
    if row_bytes == 0 {
        return;
    }
    let step_bytes = packing.step().0;
    for (r, row) in rows.chunks_exact(row_bytes).enumerate() {
        let blocks = row.chunks_exact(ty.block_bytes());
        for (block, out) in blocks.zip(out.chunks_exact_mut(step_bytes)) {
            Lane { out, r }.put(ty, packing, codebook, block);
        }
    }
}

/// One row's place in a step.
struct Lane<'a> {
    out: &'a mut [u8],
    r: usize,
}

impl Lane<'_> {
    fn put(&mut self, ty: GgmlType, packing: Packing, codebook: &Codebook, block: &[u8]) {
        match packing {
            Packing::Q4_0 | Packing::Iq4Nl => self.legacy4(&layout::Q4_0, block, 2),
            Packing::Q4_1 => self.legacy4(&layout::Q4_1, block, 4),
            Packing::Q5_0 => self.legacy5(&layout::Q5_0, block, 2),
            Packing::Q5_1 => self.legacy5(&layout::Q5_1, block, 4),
            // Q8_1 has a sum, which we do not need, before the codes.
            Packing::Q8_0 => self.q8_0(block, block.len() - 32),
            Packing::Mxfp4 => self.mxfp4(block),
            Packing::Q2K => self.q2k(block),
            Packing::Q3K => self.q3k(block),
            Packing::Q4K => self.q4k(block),
            Packing::Q5K => self.q5k(block),
            Packing::Q6K => self.q6k(block),
            Packing::Iq4Xs => self.iq4xs(block),
            Packing::Book => {
                let block = integer_block(ty, block).expect("a codebook type: this is a bug");
                self.book(&block, codebook);
            }
            Packing::F32 => self.float(ty, block),
            Packing::F16 | Packing::Bf16 => self.put_scale(0, &block[..2]),
        }
    }

    /// `factors` bytes of halves (d, and m if there is one), then nibbles.
    fn legacy4(&mut self, layout: &Layout, block: &[u8], factors: usize) {
        self.put_codes(layout, 0, &legacy_nibbles(&block[factors..]));
        self.put_factors(layout, &block[..factors]);
    }

    /// The same with four bytes of fifth bits before the nibbles.
    fn legacy5(&mut self, layout: &Layout, block: &[u8], factors: usize) {
        let high = &block[factors..];
        let mut codes = legacy_nibbles(&high[4..]);
        for (i, code) in codes.iter_mut().enumerate() {
            *code |= (high[i / 8] >> (i % 8) & 1) << 4;
        }
        self.put_codes(layout, 0, &codes);
        self.put_factors(layout, &block[..factors]);
    }

    fn q8_0(&mut self, block: &[u8], codes_at: usize) {
        let codes = std::array::from_fn(|i| block[codes_at + i] ^ 0x80);
        self.put_codes(&layout::Q8_0, 0, &codes);
        self.put_factors(&layout::Q8_0, &block[..2]);
    }

    fn mxfp4(&mut self, block: &[u8]) {
        self.put_codes(&layout::MXFP4, 0, &legacy_nibbles(&block[1..]));
        let scale = bf16::from_f32(e8m0_half(block[0])).to_le_bytes();
        self.put_factors(&layout::MXFP4, &scale);
    }

    fn q2k(&mut self, block: &[u8]) {
        let layout = &layout::Q2_K;
        self.put_factors(layout, &block[80..84]);
        for j in 0..8 {
            self.put_scales(layout, j, [block[2 * j], block[2 * j + 1]]);
            self.put_codes(layout, j, &k_pairs(&block[16..80], j));
        }
    }

    fn q3k(&mut self, block: &[u8]) {
        let layout = &layout::Q3_K;
        self.put_factors(layout, &block[108..110]);
        for j in 0..8 {
            let scale = |which: usize| q3k_scale(&block[96..108], 2 * j + which) as u8;
            self.put_scales(layout, j, [scale(0), scale(1)]);
            let mut codes = k_pairs(&block[32..96], j);
            for (code, high) in codes.iter_mut().zip(block) {
                *code |= (high >> j & 1) << 2;
            }
            self.put_codes(layout, j, &codes);
        }
    }

    fn q4k(&mut self, block: &[u8]) {
        let layout = &layout::Q4_K;
        self.put_factors(layout, &block[..4]);
        for j in 0..8 {
            self.put_scales(layout, j, k4_scale_min(&block[4..16], j).into());
            self.put_codes(layout, j, &k4_nibbles(&block[16..144], j));
        }
    }

    fn q5k(&mut self, block: &[u8]) {
        let layout = &layout::Q5_K;
        self.put_factors(layout, &block[..4]);
        for j in 0..8 {
            self.put_scales(layout, j, k4_scale_min(&block[4..16], j).into());
            let mut codes = k4_nibbles(&block[48..176], j);
            for (code, high) in codes.iter_mut().zip(&block[16..48]) {
                *code |= (high >> j & 1) << 4;
            }
            self.put_codes(layout, j, &codes);
        }
    }

    fn q6k(&mut self, block: &[u8]) {
        let layout = &layout::Q6_K;
        self.put_factors(layout, &block[208..210]);
        for j in 0..8 {
            self.put_scales(layout, j, [block[192 + 2 * j], block[192 + 2 * j + 1]]);
            let (half, quarter) = (j / 4, j % 4);
            let low = &block[64 * half + 32 * (quarter % 2)..][..32];
            let high = &block[128 + 32 * half..][..32];
            let codes = std::array::from_fn(|i| {
                (low[i] >> (4 * (quarter / 2)) & 15) | (high[i] >> (2 * quarter) & 3) << 4
            });
            self.put_codes(layout, j, &codes);
        }
    }

    fn iq4xs(&mut self, block: &[u8]) {
        let layout = &layout::IQ4_XS;
        self.put_factors(layout, &block[..2]);
        for j in 0..8 {
            self.put_scales(layout, j, [iq4xs_scale(block, j) as u8]);
            self.put_codes(layout, j, &legacy_nibbles(&block[8 + 16 * j..]));
        }
    }

    fn book(&mut self, block: &IntegerBlock, codebook: &Codebook) {
        let layout = &layout::BOOK;
        self.put_quad(layout.d, block.d.to_le_bytes());
        for (j, values) in block.codes.chunks_exact(32).enumerate() {
            self.put_scales(layout, j, [block.scales[2 * j] as u8, block.scales[2 * j + 1] as u8]);
            let codes = std::array::from_fn(|i| codebook.nibbles[usize::from(values[i] as u8)]);
            self.put_codes(layout, j, &codes);
        }
    }

    fn float(&mut self, ty: GgmlType, block: &[u8]) {
        let mut value = [0.0];
        dequantize(ty, block, &mut value).expect("one value is one block: this is a bug");
        self.put_quad(0, value[0].to_le_bytes());
    }

    /// The codes of sub-block `j`.
    fn put_codes(&mut self, layout: &Layout, j: usize, codes: &[u8; 32]) {
        let (low, high) = (layout.codes_of(j), layout.high_of(j));
        match layout.codes {
            Codes::Nibbles | Codes::NibblesBits | Codes::NibblesPairs => {
                self.put_nibbles(low, codes);
            }
            Codes::Pairs | Codes::PairsBits => self.put_pairs(low, codes, 0),
            Codes::Bytes => {
                for (i, quad) in codes.as_chunks::<4>().0.iter().enumerate() {
                    self.put_quad(low + 64 * i, *quad);
                }
            }
        }
        match layout.codes {
            Codes::NibblesBits => self.put_bits(high, codes, 4),
            Codes::NibblesPairs => self.put_pairs(high, codes, 4),
            Codes::PairsBits => self.put_bits(high, codes, 2),
            Codes::Nibbles | Codes::Pairs | Codes::Bytes => {}
        }
    }

    /// Scales of sub-block `j`, a byte each.
    fn put_scales<const N: usize>(&mut self, layout: &Layout, j: usize, scales: [u8; N]) {
        for (which, scale) in scales.into_iter().enumerate() {
            self.out[layout.scales_of(j, which) + self.r] = scale;
        }
    }

    /// The halves of a step: d, and that of the minima if there are two.
    fn put_factors(&mut self, layout: &Layout, halves: &[u8]) {
        for (half, at) in halves.as_chunks::<2>().0.iter().zip([layout.d, layout.dmin]) {
            self.put_scale(at, half);
        }
    }

    /// This row's four bytes of the vector at `at`.
    fn put_quad(&mut self, at: usize, bytes: [u8; 4]) {
        self.out[at + 4 * self.r..][..4].copy_from_slice(&bytes);
    }

    /// This row's half of the 16 at `at`.
    fn put_scale(&mut self, at: usize, half: &[u8]) {
        self.out[at + 2 * self.r..][..2].copy_from_slice(half);
    }

    fn put_nibbles(&mut self, at: usize, codes: &[u8; 32]) {
        for g in 0..4 {
            let quad = std::array::from_fn(|t| codes[4 * g + t] & 15 | codes[16 + 4 * g + t] << 4);
            self.put_quad(at + 64 * g, quad);
        }
    }

    /// Bit `bit` of the codes.
    fn put_bits(&mut self, at: usize, codes: &[u8; 32], bit: usize) {
        let quad = std::array::from_fn(|t| {
            (0..8).fold(0, |byte, i| byte | (codes[4 * i + t] >> bit & 1) << i)
        });
        self.put_quad(at, quad);
    }

    /// Bits `bit` and `bit + 1` of the codes.
    fn put_pairs(&mut self, at: usize, codes: &[u8; 32], bit: usize) {
        for v in 0..2 {
            let quad = std::array::from_fn(|t| {
                let pair = |p: usize| codes[4 * (4 * v + p) + t] >> bit & 3;
                (0..4).fold(0, |byte, p| byte | pair(p) << (2 * p))
            });
            self.put_quad(at + 64 * v, quad);
        }
    }
}

/// Nibbles of 16 bytes: the low ones are columns 0..16, the high ones 16..32.
fn legacy_nibbles(bytes: &[u8]) -> [u8; 32] {
    let bytes = &bytes[..16];
    std::array::from_fn(|i| if i < 16 { bytes[i] & 15 } else { bytes[i - 16] >> 4 })
}

/// Sub-block `j` of the nibbles of Q4_K and Q5_K.
fn k4_nibbles(bytes: &[u8], j: usize) -> [u8; 32] {
    let bytes = &bytes[32 * (j / 2)..][..32];
    std::array::from_fn(|i| bytes[i] >> (4 * (j % 2)) & 15)
}

/// Sub-block `j` of the 2-bit codes of Q2_K and Q3_K.
fn k_pairs(bytes: &[u8], j: usize) -> [u8; 32] {
    let bytes = &bytes[32 * (j / 4)..][..32];
    std::array::from_fn(|i| bytes[i] >> (2 * (j % 4)) & 3)
}
