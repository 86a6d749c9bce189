//! Where everything lies that a product reads: packed weights and quantised activations. Packer and
//! kernels read the same constants.
//!
//! A matrix is cut into panels of 16 rows (the last one padded with zero rows); a panel into steps
//! of 32 columns (legacy types) or 256 (K types). Codes lie in 64-byte vectors: "quad" `i` of a
//! sub-block of 32 columns is columns `4 i .. 4 i + 4` of all 16 rows, byte `4 r + t` being row
//! `r`, column `4 i + t`.
//!
//! | piece   | bytes per sub-block | content                                                      |
//! |---------|---------------------|--------------------------------------------------------------|
//! | nibbles | 4 x 64              | vector `g`: quad `g` in the low nibbles, `g + 4` in the high   |
//! | bits    | 64                  | bit `i` of a byte: the byte's place in quad `i`                |
//! | pairs   | 2 x 64              | vector `v`: bits `2 p, 2 p + 1` are quad `4 v + p`             |
//! | bytes   | 8 x 64              | vector `i`: quad `i`                                           |
//!
//! Scales lie beside their codes, sixteen side by side, in the order in which kernels read: one
//! stream of addresses is what the processor fetches ahead. README.md draws every format.
//!
//! Activations lie as [`super::acts`] draws them.
#![allow(clippy::inline_always)]

/// Rows of a panel.
pub(super) const PANEL: usize = 16;
/// Columns of a full tile of activations.
pub(super) const TILE: usize = 8;
/// Bytes of a block of 32 activations of one column.
pub(super) const BLOCK_BYTES: usize = 48;

/// Bytes of 16 half floats, one for each row.
const HALVES: usize = 2 * PANEL;
/// Bytes of 16 floats.
const FLOATS: usize = 4 * PANEL;

/// The pieces that codes of a sub-block are stored in, one after the other: low bits, then high ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codes {
    Nibbles,
    NibblesBits,
    NibblesPairs,
    Pairs,
    PairsBits,
    Bytes,
}

impl Codes {
    /// Bytes of the low bits, where the high ones begin.
    const fn low_bytes(self) -> usize {
        match self {
            Codes::Nibbles | Codes::NibblesBits | Codes::NibblesPairs => 4 * 64,
            Codes::Pairs | Codes::PairsBits => 2 * 64,
            Codes::Bytes => 8 * 64,
        }
    }

    const fn bytes(self) -> usize {
        let high = match self {
            Codes::NibblesBits | Codes::PairsBits => 64,
            Codes::NibblesPairs => 2 * 64,
            Codes::Nibbles | Codes::Pairs | Codes::Bytes => 0,
        };
        self.low_bytes() + high
    }
}

/// What scales and minima are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scales {
    /// 16 f16 a sub-block, and 16 more that are the minima, negated.
    Halves,
    /// 16 bf16 a sub-block.
    Bfloats,
    /// 16 i8 for each scale, times 16 f16 a step.
    Signed,
    /// 16 i8 for each scale, times 16 f32 a step.
    SignedFloats,
    /// 16 u8 and 16 u8 for the minima, each times 16 f16 a step.
    Unsigned,
    /// 16 u8 for each half: the scale in the low nibble, the minimum in the high one, each times 16
    /// f16 a step.
    Nibbles,
    /// 16 f32 for each scale, then for each minimum: of expanded codes.
    Floats,
}

/// One packed format: offsets in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// Sub-blocks of 32 columns in a step.
    pub sub_blocks: usize,
    pub codes: Codes,
    pub scales: Scales,
    /// Where in a step the first sub-block begins.
    first: usize,
    /// Bytes from one sub-block to the next.
    stride: usize,
    /// Where in a sub-block its codes begin; scales of its own lie before them.
    codes_at: usize,
    /// Where in a step the scales lie, or what all scales of the step are multiplied by.
    pub d: usize,
    /// The same of the minima.
    pub dmin: usize,
}

impl Layout {
    /// `[codes][d: 16]`, and `[m: 16]` if there are two: a step is a sub-block.
    const fn legacy(codes: Codes, scales: Scales, num_factors: usize) -> Layout {
        let d = codes.bytes();
        let stride = d + HALVES * num_factors;
        let (sub_blocks, first, codes_at, dmin) = (1, 0, 0, d + HALVES);
        Layout { sub_blocks, codes, scales, first, stride, codes_at, d, dmin }
    }

    /// `head` bytes of factors, then 8 x `[scales: 16 u8 each][codes]`.
    const fn k(head: usize, num_scales: usize, codes: Codes, scales: Scales) -> Layout {
        let codes_at = PANEL * num_scales;
        let (sub_blocks, first, stride) = (8, head, codes_at + codes.bytes());
        Layout { sub_blocks, codes, scales, first, stride, codes_at, d: 0, dmin: HALVES }
    }

    /// `[bytes][scales: 16 f32 each]`, and as many minima if there are any.
    pub(super) const fn expanded(num_scales: usize, has_min: bool) -> Layout {
        let (codes, d) = (Codes::Bytes, Codes::Bytes.bytes());
        let dmin = d + FLOATS * num_scales;
        let stride = if has_min { dmin + FLOATS * num_scales } else { dmin };
        let (sub_blocks, first, codes_at) = (1, 0, 0);
        Layout { sub_blocks, codes, scales: Scales::Floats, first, stride, codes_at, d, dmin }
    }

    /// Bytes of a step of 16 rows.
    pub(super) const fn bytes(&self) -> usize {
        self.first + self.sub_blocks * self.stride
    }

    /// Columns of a step.
    pub(super) const fn columns(&self) -> usize {
        32 * self.sub_blocks
    }

    /// Where the codes of sub-block `j` lie.
    #[inline(always)]
    pub(super) const fn codes_of(&self, j: usize) -> usize {
        self.first + self.stride * j + self.codes_at
    }

    /// Where the high bits of those codes lie.
    #[inline(always)]
    pub(super) const fn high_of(&self, j: usize) -> usize {
        self.codes_of(j) + self.codes.low_bytes()
    }

    /// Where the scales of sub-block `j` lie that are its own: the first 16 or, of two kinds, the others.
    #[inline(always)]
    pub(super) const fn scales_of(&self, j: usize, which: usize) -> usize {
        self.first + self.stride * j + PANEL * which
    }
}

/// `[nibbles][d: 16 f16]`, also of IQ4_NL, whose codes are looked up.
pub(super) const Q4_0: Layout = Layout::legacy(Codes::Nibbles, Scales::Halves, 1);
/// `[nibbles][d: 16 f16][m: 16 f16]`
pub(super) const Q4_1: Layout = Layout::legacy(Codes::Nibbles, Scales::Halves, 2);
/// `[nibbles][bits][d: 16 f16]`
pub(super) const Q5_0: Layout = Layout::legacy(Codes::NibblesBits, Scales::Halves, 1);
/// `[nibbles][bits][d: 16 f16][m: 16 f16]`
pub(super) const Q5_1: Layout = Layout::legacy(Codes::NibblesBits, Scales::Halves, 2);
/// `[bytes][d: 16 f16]`
pub(super) const Q8_0: Layout = Layout::legacy(Codes::Bytes, Scales::Halves, 1);
/// `[nibbles][d: 16 bf16]`, codes looked up
pub(super) const MXFP4: Layout = Layout::legacy(Codes::Nibbles, Scales::Bfloats, 1);
/// `[d: 16 f16][dmin: 16 f16]`, 8 x `[scale and minimum nibbles: 2 x 16 u8][pairs]`
pub(super) const Q2_K: Layout = Layout::k(2 * HALVES, 2, Codes::Pairs, Scales::Nibbles);
/// `[d: 16 f16]`, 8 x `[scales: 2 x 16 i8][pairs][bits]`
pub(super) const Q3_K: Layout = Layout::k(HALVES, 2, Codes::PairsBits, Scales::Signed);
/// `[d: 16 f16][dmin: 16 f16]`, 8 x `[scales: 16 u8][minima: 16 u8][nibbles]`
pub(super) const Q4_K: Layout = Layout::k(2 * HALVES, 2, Codes::Nibbles, Scales::Unsigned);
/// `[d: 16 f16][dmin: 16 f16]`, 8 x `[scales: 16 u8][minima: 16 u8][nibbles][bits]`
pub(super) const Q5_K: Layout = Layout::k(2 * HALVES, 2, Codes::NibblesBits, Scales::Unsigned);
/// `[d: 16 f16]`, 8 x `[scales: 2 x 16 i8][nibbles][pairs]`
pub(super) const Q6_K: Layout = Layout::k(HALVES, 2, Codes::NibblesPairs, Scales::Signed);
/// `[d: 16 f16]`, 8 x `[scales: 16 i8][nibbles]`, codes looked up
pub(super) const IQ4_XS: Layout = Layout::k(HALVES, 1, Codes::Nibbles, Scales::Signed);
/// `[d: 16 f32]`, 8 x `[scales: 2 x 16 i8][nibbles]`, codes looked up in a table of the matrix: IQ1,
/// IQ2, IQ3 and TQ
pub(super) const BOOK: Layout = Layout::k(FLOATS, 2, Codes::Nibbles, Scales::SignedFloats);

const _: () = assert!(PANEL == 16, "vectors have sixteen lanes");
