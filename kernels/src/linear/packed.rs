//! A weight matrix in packed form.
#![allow(clippy::inline_always)]

use super::dot::Dot;
use super::format::{self, Format};
use super::layout::PANEL;
use super::pack::{Codebook, pack_panel};
use super::packing::{Packing, with_format};
use super::tiers::{Work, dispatch};
use crate::detect;
use crate::memory::{self, Arena, Buffer, OutOfMemory};
use crate::pool::Pool;
use crate::quant::GgmlType;
use crate::simd::Simd;

/// Why a matrix cannot be packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackError {
    /// Weights of this type cannot be multiplied.
    Unsupported(GgmlType),
    /// A row is not a whole number of blocks, or the matrix is larger than memory can be.
    Shape { ty: GgmlType, n: usize, k: usize },
    /// The bytes are not those of such a matrix.
    Length { expected: usize, actual: usize },
    /// There is no room for the packed form.
    Memory(OutOfMemory),
}

impl From<OutOfMemory> for PackError {
    fn from(error: OutOfMemory) -> PackError {
        PackError::Memory(error)
    }
}

impl std::fmt::Display for PackError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PackError::Unsupported(ty) => write!(f, "weights of type {ty} cannot be multiplied"),
            PackError::Shape { ty, n, k } => {
                write!(f, "{ty} cannot hold {n} x {k} weights: its blocks have {}", ty.block_len())
            }
            PackError::Length { expected, actual } => {
                write!(f, "the weights have {actual} bytes instead of {expected}")
            }
            PackError::Memory(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for PackError {}

/// One weight matrix of `n` rows and `k` columns, packed once; it replaces the file's bytes.
pub struct Packed {
    ty: GgmlType,
    n: usize,
    k: usize,
    pub(super) packing: Packing,
    /// `ceil(n / 16)` panels of `panel_bytes`.
    panels: Buffer,
    pub(super) panel_bytes: usize,
    codebook: Codebook,
}

impl Packed {
    /// Packs the rows of a matrix as they lie in a GGUF file.
    pub fn pack(
        ty: GgmlType,
        n: usize,
        k: usize,
        bytes: &[u8],
        pool: &Pool,
    ) -> Result<Packed, PackError> {
        Packed::pack_with(ty, n, k, bytes, pool, Buffer::new)
    }

    /// Whether matrices of type `ty` can be packed.
    #[must_use]
    pub fn takes(ty: GgmlType) -> bool {
        Packing::of(ty).is_some()
    }

    /// As [`Packed::pack`], next to the other matrices of `arena`.
    pub fn pack_in(
        arena: &Arena,
        ty: GgmlType,
        n: usize,
        k: usize,
        bytes: &[u8],
        pool: &Pool,
    ) -> Result<Packed, PackError> {
        Packed::pack_with(ty, n, k, bytes, pool, |len| arena.buffer(len))
    }

    /// Locks it in memory; see [`memory::lock`].
    ///
    /// # Errors
    /// The system refuses.
    pub fn lock(&self) -> std::io::Result<()> {
        memory::lock(self.panels.as_bytes())
    }

    fn pack_with(
        ty: GgmlType,
        n: usize,
        k: usize,
        bytes: &[u8],
        pool: &Pool,
        buffer: impl FnOnce(usize) -> Result<Buffer, OutOfMemory>,
    ) -> Result<Packed, PackError> {
        let packing = Packing::of(ty).ok_or(PackError::Unsupported(ty))?;
        let shape = PackError::Shape { ty, n, k };
        let row_bytes = ty.row_bytes(k).ok_or(shape)?;
        let expected = row_bytes.checked_mul(n).ok_or(shape)?;
        if bytes.len() != expected {
            return Err(PackError::Length { expected, actual: bytes.len() });
        }
        let (step_bytes, step_len) = packing.step();
        let num_panels = n.div_ceil(PANEL);
        let panel_bytes = (k / step_len).checked_mul(step_bytes).ok_or(shape)?;
        let total = panel_bytes.checked_mul(num_panels).ok_or(shape)?;
        if total > isize::MAX as usize / 2 {
            return Err(shape);
        }
        let mut panels = buffer(total)?;
        let codebook = Codebook::of(ty);
        let out = SharedBytes(panels.as_mut_ptr());
        pool.for_each(num_panels, |_, panel| {
            let rows = panel * PANEL..n.min((panel + 1) * PANEL);
            let rows = &bytes[rows.start * row_bytes..rows.end * row_bytes];
            // SAFETY: panels do not overlap and every item is handed out once.
            let out = unsafe { out.zeroed_slice(panel * panel_bytes, panel_bytes) };
            pack_panel(ty, packing, &codebook, rows, row_bytes, out);
        });
        Ok(Packed { ty, n, k, packing, panels, panel_bytes, codebook })
    }

    /// Rows.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Columns.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.panels.len()
    }

    /// The type in the file.
    pub fn ty(&self) -> GgmlType {
        self.ty
    }

    /// True if activations are multiplied as floats: F32, F16, BF16.
    pub fn is_float(&self) -> bool {
        self.packing.is_float()
    }

    /// Writes row `i`, dequantised exactly: the embedding lookup of a tied head. Panics if there
    /// is no row `i` or `out` is not `k` long.
    pub fn row(&self, i: usize, out: &mut [f32]) {
        assert!(i < self.n, "row {i} of {}", self.n);
        assert_eq!(out.len(), self.k, "values of a row");
        dispatch(detect::tier(), Row { weights: self, i, out });
    }

    pub(super) fn num_panels(&self) -> usize {
        self.n.div_ceil(PANEL)
    }

    pub(super) fn num_steps(&self) -> usize {
        self.k / self.packing.step().1
    }

    pub(super) fn panel(&self, panel: usize) -> &[u8] {
        assert!(panel < self.num_panels());
        // SAFETY: within the buffer, which holds `num_panels` panels of `panel_bytes`.
        unsafe {
            std::slice::from_raw_parts(
                self.panels.as_ptr().add(panel * self.panel_bytes),
                self.panel_bytes,
            )
        }
    }

    /// Where the first `count` panels end, or all.
    pub(super) fn panels_end(&self, count: usize) -> *const u8 {
        self.panels.as_ptr().wrapping_add(count.min(self.num_panels()) * self.panel_bytes)
    }

    /// The 64 bytes that turn nibbles into codes.
    pub(super) fn table(&self) -> *const u8 {
        self.codebook.table.as_ptr()
    }
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Packed({} {} x {})", self.ty, self.n, self.k)
    }
}

/// The start of a buffer that threads fill side by side.
#[derive(Clone, Copy)]
pub(super) struct SharedBytes(pub *mut u8);

// SAFETY: access goes through `zeroed_slice` and `ptr`, whose callers promise not to overlap.
unsafe impl Send for SharedBytes {}
// SAFETY: as above.
unsafe impl Sync for SharedBytes {}

impl SharedBytes {
    /// Zeroes bytes and returns them.
    ///
    /// # Safety
    /// The bytes must lie within the buffer, which outlives the slice, and no other slice alive
    /// may overlap it.
    unsafe fn zeroed_slice<'a>(self, start: usize, len: usize) -> &'a mut [u8] {
        // SAFETY: the caller's promise.
        unsafe {
            let start = self.0.add(start);
            start.write_bytes(0, len);
            std::slice::from_raw_parts_mut(start, len)
        }
    }

    pub(super) fn ptr(self) -> *mut u8 {
        self.0
    }
}

struct Row<'a> {
    weights: &'a Packed,
    i: usize,
    out: &'a mut [f32],
}

impl Work for Row<'_> {
    type Out = ();

    #[inline(always)]
    fn run<D: Dot>(self, d: D) {
        let Row { weights, i, out } = self;
        let (panel, lane) = (weights.panel(i / PANEL), i % PANEL);
        with_format!(weights.packing, T => {
            let steps = panel.chunks_exact(T::BYTES).zip(out.chunks_exact_mut(T::LAYOUT.columns()));
            for (step, out) in steps {
                for (j, out) in out.chunks_exact_mut(32).enumerate() {
                    // SAFETY: `step` is a whole step.
                    unsafe { row_sub_block::<D, T>(d, step.as_ptr(), j, weights.table(), lane, out) }
                }
            }
        }, U => {
            use super::float::FloatFormat;
            for (step, out) in panel.chunks_exact(U::BYTES).zip(out) {
                let mut lanes = [0.0; 16];
                // SAFETY: `step` is 16 weights.
                d.simd().store(unsafe { U::load(d, step.as_ptr()) }, &mut lanes);
                *out = lanes[lane];
            }
        });
    }
}

/// Writes the 32 values of one row of a sub-block.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "an inlined inner loop")]
unsafe fn row_sub_block<D: Dot, T: Format>(
    d: D,
    w: *const u8,
    j: usize,
    table: *const u8,
    lane: usize,
    out: &mut [f32],
) {
    let mut scales = [[0.0; 16]; 2];
    let mut mins = [[0.0; 16]; 2];
    for half in 0..2 {
        // SAFETY: within the step.
        let (scale, min): (format::F<D>, format::F<D>) =
            unsafe { T::scales(d, w, j, if T::HAS_HALVES { half } else { 0 }) };
        d.simd().store(scale, &mut scales[half]);
        d.simd().store(min, &mut mins[half]);
    }
    for i in 0..8 {
        let mut codes = [0u8; 64];
        // SAFETY: within the step; the table and `codes` are 64 bytes.
        unsafe { d.store(T::codes(d, w, j, i, d.load(table)), codes.as_mut_ptr()) };
        for t in 0..4 {
            let code = i32::from(codes[4 * lane + t]) - T::OFFSET;
            let value = scales[i / 4][lane] * code as f32;
            out[4 * i + t] = if T::HAS_MIN { value - mins[i / 4][lane] } else { value };
        }
    }
}
