//! Causal convolution of each column over the rows of its sequence.
#![allow(clippy::inline_always)]

use std::ops::Range;

use super::{SharedPages, StatePages, StateSpan};
use crate::activation::Activation;
use crate::pool::Pool;
use crate::rows::{Rows, RowsMut, SharedRows};
use crate::simd::{Kernel, LANES, Level, Simd, dispatch};

/// Taps that a convolution may have.
pub const MAX_TAPS: usize = 8;
/// Columns of one item of work.
const COLUMNS: usize = 8 * LANES;

/// What a convolution reads.
#[derive(Clone, Debug)]
pub struct ConvInput<'a> {
    /// (T, columns).
    pub x: Rows<'a>,
    /// (taps, columns), the tap of the row itself last.
    pub weights: &'a [f32],
    /// (columns).
    pub bias: Option<&'a [f32]>,
    /// Of the sum.
    pub activation: Option<Activation>,
    pub spans: &'a [StateSpan<'a>],
}

impl ConvInput<'_> {
    /// Rows that a row depends on, itself included.
    fn taps(&self) -> usize {
        self.weights.len() / self.x.cols.max(1)
    }
}

/// `out[t] = activation(bias + Σ weights[j] · x[t - taps + 1 + j])`, rows before the sequence being
/// zero: (T, columns). The `taps - 1` rows before a step are in `part` of its page,
/// (taps - 1, columns).
///
/// Panics if shapes do not fit, spans share pages that one of them writes, or there are no taps or
/// more than eight.
pub fn conv(
    input: &ConvInput<'_>,
    (states, part): (&mut StatePages, Range<usize>),
    mut out: RowsMut<'_>,
    pool: &Pool,
) {
    let (cols, taps) = (input.x.cols, input.taps());
    assert!((1..=MAX_TAPS).contains(&taps), "{taps} taps");
    assert_eq!(input.weights.len(), taps * cols, "a weight for each tap and column");
    assert!(input.bias.is_none_or(|bias| bias.len() == cols), "a bias for each column");
    assert!(out.rows == input.x.rows && out.cols == cols, "the output has another shape");
    assert_eq!(part.len(), (taps - 1) * cols, "the layer's part of a page");
    let within = |span: &StateSpan<'_>| span.rows.end <= input.x.rows;
    assert!(input.spans.iter().all(within), "rows of the batch");
    let states = states.shared(input.spans, &part);
    let (level, out, tiles) = (Level::current(), out.shared(), cols.div_ceil(COLUMNS));
    pool.for_each(input.spans.len() * tiles, |_, item| {
        let (span, tile) = (&input.spans[item / tiles], item % tiles);
        let columns = tile * COLUMNS..((tile + 1) * COLUMNS).min(cols);
        for first in columns.clone().step_by(LANES) {
            let columns = first..(first + LANES).min(columns.end);
            dispatch(level, Columns { input, span, states: &states, out, columns });
        }
    });
}

/// Up to sixteen columns of one span.
struct Columns<'a> {
    input: &'a ConvInput<'a>,
    span: &'a StateSpan<'a>,
    states: &'a SharedPages<'a>,
    out: SharedRows<'a>,
    columns: Range<usize>,
}

impl Columns<'_> {
    /// Leaves the rows before row `next` of the span in a page.
    #[inline(always)]
    fn save<S: Simd>(&self, s: S, page: u32, rows: &[S::F]) {
        let (cols, columns) = (self.input.x.cols, &self.columns);
        let mut lanes = [0.0; LANES];
        for (tap, row) in rows.iter().enumerate() {
            s.store(*row, &mut lanes);
            // SAFETY: these columns of the pages that a span writes belong to this item.
            unsafe {
                self.states.store(page, tap * cols + columns.start, &lanes[..columns.len()]);
            }
        }
    }
}

impl Kernel for Columns<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Columns { input, span, states, out, columns } = &self;
        let (cols, before) = (input.x.cols, input.taps() - 1);
        let part = |values: &[f32], row: usize| {
            s.load_part(&values[row * cols..][columns.start..columns.end])
        };
        let mut weights = [s.zero(); MAX_TAPS];
        for (tap, weight) in weights[..=before].iter_mut().enumerate() {
            *weight = part(input.weights, tap);
        }
        let bias = input.bias.map_or(s.zero(), |bias| part(bias, 0));
        // Rows before the next, the oldest first.
        let mut rows = [s.zero(); MAX_TAPS];
        let mut lanes = [0.0; LANES];
        for (tap, row) in rows[..before].iter_mut().enumerate() {
            let at = tap * cols + columns.start;
            // SAFETY: only this item writes these columns of a page that the span reads.
            unsafe { states.load(span.from, at, &mut lanes[..columns.len()]) };
            *row = s.load(&lanes);
        }
        let mut saves = span.saves.iter().peekable();
        for row in span.rows.clone() {
            rows[before] = s.load_part(&input.x.row(row)[columns.start..columns.end]);
            let mut sum = bias;
            for tap in 0..=before {
                sum = s.fma(weights[tap], rows[tap], sum);
            }
            if let Some(activation) = input.activation {
                sum = activation.apply(s, sum);
            }
            // SAFETY: these columns of the span's rows belong to this item.
            s.store_part(sum, unsafe { out.row_mut(row, columns.clone()) });
            for tap in 0..before {
                rows[tap] = rows[tap + 1];
            }
            let done = (row + 1 - span.rows.start) as u32;
            if let Some(save) = saves.next_if(|save| save.rows == done) {
                self.save(s, save.page, &rows[..before]);
            }
        }
        self.save(s, span.to, &rows[..before]);
    }
}
