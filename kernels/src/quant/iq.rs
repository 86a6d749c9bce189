//! Exact dequantisation of the codebook (IQ1, IQ2, IQ3) and ternary (TQ) formats.

use half::f16;

use super::dequant::{half_at, u16_at, u32_at};
use super::grids::{
    IQ1_GRID, IQ1_LEVELS, IQ2_LEVELS, IQ2S_GRID, IQ2XS_GRID, IQ2XXS_GRID, IQ3S_GRID, IQ3S_LEVELS,
    IQ3XXS_GRID, IQ3XXS_LEVELS,
};

/// A block of 256 in integers: value `i` is `codes[i] * (scales[i / 16] * d)`, exactly.
///
/// All scales of these formats are a half float times a small integer times a power of two, so
/// that the integers here hold everything; the packed form of the weights relies on it.
pub(crate) struct IntegerBlock {
    pub d: f32,
    pub scales: [i8; 16],
    pub codes: [i8; 256],
}

impl IntegerBlock {
    fn new(d: f32) -> IntegerBlock {
        IntegerBlock { d, scales: [1; 16], codes: [0; 256] }
    }

    /// Scales of the two halves of sub-block `ib` of 32.
    fn set_scales(&mut self, ib: usize, low: u8, high: u8) {
        self.scales[2 * ib] = low as i8;
        self.scales[2 * ib + 1] = high as i8;
    }

    /// Eight magnitudes of an IQ2 grid with their signs, at `8 * group`.
    fn set_iq2(&mut self, group: usize, entry: u16, signs: u8) {
        for j in 0..8 {
            let magnitude = IQ2_LEVELS[usize::from(entry >> (2 * j) & 3)];
            self.codes[8 * group + j] = if signs >> j & 1 == 1 { -magnitude } else { magnitude };
        }
    }

    /// Twice four magnitudes of an IQ3 grid with their signs, at `8 * group`.
    fn set_iq3(&mut self, group: usize, levels: [i8; 8], entries: [u16; 2], signs: u8) {
        for j in 0..8 {
            let magnitude = levels[usize::from(entries[j / 4] >> (3 * (j % 4)) & 7)];
            self.codes[8 * group + j] = if signs >> j & 1 == 1 { -magnitude } else { magnitude };
        }
    }

    /// Eight values of the IQ1 grid, shifted by plus or minus one eighth, times eight.
    fn set_iq1(&mut self, group: usize, entry: u16, is_shifted_down: bool) {
        let shift = if is_shifted_down { -1 } else { 1 };
        for j in 0..8 {
            let level = IQ1_LEVELS[usize::from(entry >> (2 * j) & 3)];
            self.codes[8 * group + j] = 8 * level + shift;
        }
    }

    /// Writes the 256 values.
    pub(crate) fn write(&self, out: &mut [f32]) {
        for (i, y) in out.iter_mut().enumerate() {
            *y = self.d * f32::from(self.scales[i / 16]) * f32::from(self.codes[i]);
        }
    }
}

/// Seven sign bits and the eighth, which makes their number even.
fn signs(seven: u32) -> u8 {
    let seven = (seven & 127) as u8;
    seven | (seven.count_ones() as u8 & 1) << 7
}

pub(crate) fn iq2_xxs(block: &[u8]) -> IntegerBlock {
    let mut out = IntegerBlock::new(half_at(block, 0) * 0.125);
    for ib in 0..8 {
        let (indexes, tail) = (&block[2 + 8 * ib..], u32_at(block, 6 + 8 * ib));
        let scale = (2 * (tail >> 28) + 1) as u8;
        out.set_scales(ib, scale, scale);
        for l in 0..4 {
            let entry = IQ2XXS_GRID[usize::from(indexes[l])];
            out.set_iq2(4 * ib + l, entry, signs(tail >> (7 * l)));
        }
    }
    out
}

pub(crate) fn iq2_xs(block: &[u8]) -> IntegerBlock {
    let mut out = IntegerBlock::new(half_at(block, 0) * 0.125);
    for ib in 0..8 {
        let scale = block[66 + ib];
        out.set_scales(ib, 2 * (scale & 15) + 1, 2 * (scale >> 4) + 1);
        for group in 4 * ib..4 * ib + 4 {
            let code = u16_at(block, 2 + 2 * group);
            out.set_iq2(group, IQ2XS_GRID[usize::from(code & 511)], signs(u32::from(code >> 9)));
        }
    }
    out
}

pub(crate) fn iq2_s(block: &[u8]) -> IntegerBlock {
    let mut out = IntegerBlock::new(half_at(block, 0) * 0.125);
    let (low, signs, high, scales) =
        (&block[2..34], &block[34..66], &block[66..74], &block[74..82]);
    for ib in 0..8 {
        out.set_scales(ib, 2 * (scales[ib] & 15) + 1, 2 * (scales[ib] >> 4) + 1);
        for l in 0..4 {
            let group = 4 * ib + l;
            let index = u16::from(low[group]) | (u16::from(high[ib]) << (8 - 2 * l) & 0x300);
            out.set_iq2(group, IQ2S_GRID[usize::from(index)], signs[group]);
        }
    }
    out
}

pub(crate) fn iq3_xxs(block: &[u8]) -> IntegerBlock {
    let mut out = IntegerBlock::new(half_at(block, 0) * 0.25);
    for ib in 0..8 {
        let tail = u32_at(block, 66 + 4 * ib);
        let scale = (2 * (tail >> 28) + 1) as u8;
        out.set_scales(ib, scale, scale);
        for l in 0..4 {
            let at = 2 + 8 * ib + 2 * l;
            let entries = [block[at], block[at + 1]].map(|i| IQ3XXS_GRID[usize::from(i)]);
            out.set_iq3(4 * ib + l, IQ3XXS_LEVELS, entries, signs(tail >> (7 * l)));
        }
    }
    out
}

pub(crate) fn iq3_s(block: &[u8]) -> IntegerBlock {
    let mut out = IntegerBlock::new(half_at(block, 0));
    let (low, high, signs, scales) =
        (&block[2..66], &block[66..74], &block[74..106], &block[106..110]);
    for ib in 0..8 {
        let scale = 2 * (scales[ib / 2] >> (4 * (ib % 2)) & 15) + 1;
        out.set_scales(ib, scale, scale);
        for l in 0..4 {
            let group = 4 * ib + l;
            let entries = [0, 1].map(|i| {
                let bit = u16::from(high[ib]) >> (2 * l + i) & 1;
                IQ3S_GRID[usize::from(u16::from(low[2 * group + i]) | bit << 8)]
            });
            out.set_iq3(group, IQ3S_LEVELS, entries, signs[group]);
        }
    }
    out
}

pub(crate) fn iq1_s(block: &[u8]) -> IntegerBlock {
    let mut out = IntegerBlock::new(half_at(block, 0) * 0.125);
    for ib in 0..8 {
        let high = u16_at(block, 34 + 2 * ib);
        let scale = (2 * (high >> 12 & 7) + 1) as u8;
        out.set_scales(ib, scale, scale);
        for l in 0..4 {
            let group = 4 * ib + l;
            let index = u16::from(block[2 + group]) | (high >> (3 * l) & 7) << 8;
            out.set_iq1(group, IQ1_GRID[usize::from(index)], high & 0x8000 != 0);
        }
    }
    out
}

pub(crate) fn iq1_m(block: &[u8]) -> IntegerBlock {
    let (low, high) = (&block[..32], &block[32..48]);
    let packed: [u16; 4] = std::array::from_fn(|i| u16_at(block, 48 + 2 * i));
    let d = packed[0] >> 12
        | (packed[1] >> 8 & 0x00f0)
        | (packed[2] >> 4 & 0x0f00)
        | (packed[3] & 0xf000);
    let mut out = IntegerBlock::new(f16::from_bits(d).to_f32() * 0.125);
    for ib in 0..8 {
        let scales = packed[ib / 2] >> (6 * (ib % 2));
        out.set_scales(ib, (2 * (scales & 7) + 1) as u8, (2 * (scales >> 3 & 7) + 1) as u8);
        for l in 0..4 {
            let group = 4 * ib + l;
            let nibble = high[group / 2] >> (4 * (group % 2)) & 15;
            let index = u16::from(low[group]) | u16::from(nibble & 7) << 8;
            out.set_iq1(group, IQ1_GRID[usize::from(index)], nibble & 8 != 0);
        }
    }
    out
}

/// Five ternary digits per byte, the byte being the fraction digits / 3^5 in 1/256.
pub(crate) fn tq1_0(block: &[u8]) -> IntegerBlock {
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    let digit = |byte: u8, n: usize| {
        let fraction = byte.wrapping_mul(POWERS[n]);
        ((u16::from(fraction) * 3) >> 8) as i8 - 1
    };
    let mut out = IntegerBlock::new(half_at(block, 52));
    for i in 0..160 {
        out.codes[i] = digit(block[i % 32], i / 32);
    }
    for i in 0..80 {
        out.codes[160 + i] = digit(block[32 + i % 16], i / 16);
    }
    for i in 0..16 {
        out.codes[240 + i] = digit(block[48 + i % 4], i / 4);
    }
    out
}

pub(crate) fn tq2_0(block: &[u8]) -> IntegerBlock {
    let mut out = IntegerBlock::new(half_at(block, 64));
    for i in 0..256 {
        let code = block[i / 128 * 32 + i % 32] >> (2 * (i % 128 / 32)) & 3;
        out.codes[i] = code as i8 - 1;
    }
    out
}
