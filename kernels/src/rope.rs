//! Rotary position embedding.
//!
//! Angles are computed in f64 and kept as a table of f32 cosines and sines, for every position
//! that was ever needed.

use crate::memory::OutOfMemory;
use crate::parallel::over_rows;
use crate::pool::Pool;
use crate::rows::RowsMut;
use crate::simd::{Kernel, Level, Simd, dispatch};

/// Which two dimensions turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RopeStyle {
    /// Neighbours: (0, 1), (2, 3), ...
    Norm,
    /// Halves: (0, n/2), (1, n/2 + 1), ...
    Neox,
}

/// Cosines and sines by position.
#[derive(Clone, Debug)]
pub struct RopeTable {
    frequencies: Vec<f64>,
    magnitude: f64,
    /// (positions, rot_dim / 2).
    cos: Vec<f32>,
    /// (positions, rot_dim / 2).
    sin: Vec<f32>,
    positions: usize,
}

impl RopeTable {
    /// An empty table for the angle of every pair at position one, in radians, and the factor of
    /// cosines and sines.
    ///
    /// Panics without a pair.
    pub fn new(frequencies: Vec<f64>, magnitude: f64) -> RopeTable {
        assert!(!frequencies.is_empty(), "no dimensions turn");
        RopeTable { frequencies, magnitude, cos: vec![], sin: vec![], positions: 0 }
    }

    /// Positions the table holds.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Dimensions that turn.
    pub fn rot_dim(&self) -> usize {
        self.frequencies.len() * 2
    }

    /// Makes the table hold `positions` positions or more; at least doubles it when it must grow.
    ///
    /// # Errors
    /// The system has no memory for them.
    pub fn reserve(&mut self, positions: usize) -> Result<(), OutOfMemory> {
        if positions <= self.positions {
            return Ok(());
        }
        let positions = positions.max(self.positions * 2).max(256);
        let missing = (positions - self.positions).saturating_mul(self.frequencies.len());
        for values in [&mut self.cos, &mut self.sin] {
            let refused = OutOfMemory { wanted: missing.saturating_mul(4) };
            values.try_reserve_exact(missing).map_err(|_| refused)?;
        }
        for position in self.positions..positions {
            for frequency in &self.frequencies {
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                self.cos.push((cos * self.magnitude) as f32);
                self.sin.push((sin * self.magnitude) as f32);
            }
        }
        self.positions = positions;
        Ok(())
    }

    /// Cosines and sines of one position.
    fn row(&self, position: u32) -> (&[f32], &[f32]) {
        let position = position as usize;
        assert!(position < self.positions, "position {position} of {}", self.positions);
        let pairs = self.frequencies.len();
        let range = position * pairs..(position + 1) * pairs;
        (&self.cos[range.clone()], &self.sin[range])
    }
}

/// Where the dimensions that turn lie in a row of heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RopeHeads {
    pub heads: usize,
    /// Values from one head to the next.
    pub head_dim: usize,
    /// First dimension of a head that turns, usually 0.
    pub offset: usize,
    pub style: RopeStyle,
}

/// Turns the rows of `x` (T, heads * head_dim) by their positions (T), in place.
///
/// Panics if the shapes do not fit or the table does not hold a position.
pub fn rope(
    mut x: RowsMut<'_>,
    heads: &RopeHeads,
    table: &RopeTable,
    positions: &[u32],
    pool: &Pool,
) {
    assert_eq!(x.cols, heads.heads * heads.head_dim, "columns of the heads");
    assert_eq!(x.rows, positions.len(), "one position for each row");
    assert!(
        heads.offset + table.rot_dim() <= heads.head_dim,
        "more dimensions turn than there are"
    );
    let level = Level::current();
    let (rows, cols) = (x.rows, x.cols);
    let x = x.shared();
    over_rows(pool, rows, cols, |range| {
        for row in range {
            let (cos, sin) = table.row(positions[row]);
            // SAFETY: ranges of rows are disjoint.
            let row = unsafe { x.row_mut(row, 0..cols) };
            dispatch(level, Turn { row, heads, cos, sin });
        }
    });
}

struct Turn<'a> {
    row: &'a mut [f32],
    heads: &'a RopeHeads,
    cos: &'a [f32],
    sin: &'a [f32],
}

impl Kernel for Turn<'_> {
    type Out = ();

    /// Plain loops: the compiler vectorises them with the tier's instructions, and without fused
    /// operations every tier rounds alike.
    #[allow(clippy::inline_always)]
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Turn { row, heads, cos, sin } = self;
        let pairs = cos.len();
        let sin = &sin[..pairs];
        for head in row.chunks_exact_mut(heads.head_dim) {
            let head = &mut head[heads.offset..][..2 * pairs];
            match heads.style {
                RopeStyle::Norm => {
                    for (i, [x, y]) in head.as_chunks_mut().0.iter_mut().enumerate().take(pairs) {
                        (*x, *y) = turn(*x, *y, cos[i], sin[i]);
                    }
                }
                RopeStyle::Neox => {
                    let (first, second) = head.split_at_mut(pairs);
                    for i in 0..pairs {
                        (first[i], second[i]) = turn(first[i], second[i], cos[i], sin[i]);
                    }
                }
            }
        }
    }
}

#[allow(clippy::inline_always)]
#[inline(always)]
fn turn(x: f32, y: f32, cos: f32, sin: f32) -> (f32, f32) {
    (x * cos - y * sin, x * sin + y * cos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::{self, with_tier};

    fn values(n: usize) -> Vec<f32> {
        (0..n).map(|i| (i * 7919 % 1009) as f32 / 250.0 - 2.0).collect()
    }

    fn plain(base: f64, rot_dim: usize) -> RopeTable {
        let pairs = (0..rot_dim / 2).map(|pair| base.powf(-2.0 * pair as f64 / rot_dim as f64));
        RopeTable::new(pairs.collect(), 1.0)
    }

    #[test]
    fn rows_turn_by_their_positions_on_every_tier() {
        // (heads, head_dim, rot_dim, offset)
        let shapes = [(9, 64, 64, 0), (3, 80, 32, 0), (2, 192, 64, 128), (1, 6, 2, 0)];
        for (heads, head_dim, rot_dim, offset) in shapes {
            for style in [RopeStyle::Norm, RopeStyle::Neox] {
                let mut table = plain(10_000.0, rot_dim);
                let positions: Vec<u32> = (0..200).map(|i| i * 37 % 5000).collect();
                table.reserve(5000).unwrap();
                let cols = heads * head_dim;
                let x = values(200 * cols);
                let run = |tier, threads| {
                    let mut x = x.clone();
                    let rows = RowsMut::new(&mut x, 200, cols);
                    let heads = RopeHeads { heads, head_dim, offset, style };
                    let pool = Pool::new(threads);
                    with_tier(tier, || rope(rows, &heads, &table, &positions, &pool));
                    x
                };
                let got = run(detect::tier(), 1);
                for tier in detect::available() {
                    assert_eq!(run(tier, 2), got, "{tier:?}");
                }
                for (i, got) in got.iter().enumerate() {
                    let (row, dim) = (i / cols, (i % head_dim).wrapping_sub(offset));
                    if dim >= rot_dim {
                        assert_eq!(*got, x[i]);
                        continue;
                    }
                    let half = rot_dim / 2;
                    let (pair, is_first, other) = match style {
                        RopeStyle::Norm => (dim / 2, dim % 2 == 0, i ^ 1),
                        RopeStyle::Neox if dim < half => (dim, true, i + half),
                        RopeStyle::Neox => (dim - half, false, i - half),
                    };
                    let frequency = 10_000f64.powf(-2.0 * pair as f64 / rot_dim as f64);
                    let (sin, cos) = (f64::from(positions[row]) * frequency).sin_cos();
                    let (own, other) = (f64::from(x[i]), f64::from(x[other]));
                    let signed = if is_first { -sin } else { sin };
                    let expected = own * cos + other * signed;
                    assert!((f64::from(*got) - expected).abs() < 5e-7, "{got} {expected}");
                }
            }
        }
    }

    #[test]
    fn growth_keeps_what_was_there() {
        let mut table = plain(500_000.0, 8);
        table.reserve(3).unwrap();
        assert_eq!(table.positions(), 256);
        let before = table.cos.clone();
        table.reserve(300).unwrap();
        assert_eq!(table.positions(), 512);
        assert_eq!(table.cos[..before.len()], before);
        assert_eq!(table.row(0), (&[1.0; 4][..], &[0.0; 4][..]));
    }
}
