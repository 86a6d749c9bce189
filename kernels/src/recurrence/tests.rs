//! Convolutions and recurrences against plain Rust, whole and in pieces, on every tier.

use std::ops::Range;

use super::*;
use crate::activation::Activation;
use crate::detect::{self, with_tier};
use crate::pool::Pool;
use crate::rows::{Rows, RowsMut};
use plain::{ScanRow, conv_row, scan_row};

fn values(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + seed * 31) % 1009) as f32 / 500.0 - 1.0).collect()
}

/// Ways to read 23 rows of one sequence: where steps end.
const WAYS: [&[usize]; 4] = [&[23], &[1, 2, 3, 23], &[16, 17, 23], &[7, 8, 9, 10, 23]];
const ROWS: usize = 23;

fn shapes() -> Vec<ScanShape> {
    let base = ScanShape {
        heads: 4,
        groups: 2,
        is_grouped: true,
        key_dim: 10,
        value_dim: 20,
        rule: Rule::Delta,
        decays_by_key: false,
    };
    vec![
        base,
        ScanShape { is_grouped: false, decays_by_key: true, ..base },
        ScanShape { rule: Rule::Add, key_dim: 128, value_dim: 64, ..base },
        ScanShape { rule: Rule::Add, decays_by_key: true, value_dim: 5, ..base },
    ]
}

struct Data {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    decay: Vec<f32>,
    gain: Vec<f32>,
    shape: ScanShape,
}

impl Data {
    fn new(shape: ScanShape, seed: usize) -> Data {
        let keys = shape.groups * shape.key_dim;
        let decays = shape.heads * if shape.decays_by_key { shape.key_dim } else { 1 };
        let near_one = |x: &mut f32| *x = 0.9 + *x * 0.1;
        let mut decay = values(ROWS * decays, seed + 3);
        decay.iter_mut().for_each(near_one);
        Data {
            q: values(ROWS * keys, seed),
            k: values(ROWS * keys, seed + 1),
            v: values(ROWS * shape.heads * shape.value_dim, seed + 2),
            decay,
            gain: values(ROWS * shape.heads, seed + 4),
            shape,
        }
    }

    /// Rows `range`, as one span or more of a step.
    fn step(
        &self,
        states: &mut StatePages,
        range: Range<usize>,
        spans: &[StateSpan<'_>],
        pool: &Pool,
    ) -> Vec<f32> {
        let rows = range.len();
        let of = |all: &'_ [f32]| -> Vec<f32> {
            let cols = all.len() / ROWS;
            all[range.start * cols..range.end * cols].to_vec()
        };
        let (q, k, v) = (of(&self.q), of(&self.k), of(&self.v));
        let cols = v.len() / rows;
        let input = ScanInput {
            q: Rows::new(&q, rows, q.len() / rows),
            k: Rows::new(&k, rows, k.len() / rows),
            v: Rows::new(&v, rows, cols),
            decay: &of(&self.decay),
            gain: &of(&self.gain),
            spans,
            shape: self.shape,
        };
        let mut out = vec![0.0; rows * cols];
        let part = 3..3 + self.shape.state_len();
        scan(&input, (states, part), RowsMut::new(&mut out, rows, cols), pool);
        out
    }

    /// By the oracle: all rows.
    fn expected(&self) -> Vec<f32> {
        let shape = &self.shape;
        let mut state = vec![0.0; shape.heads * shape.key_dim * shape.value_dim];
        let mut out = vec![0.0; self.v.len()];
        let cols = self.v.len() / ROWS;
        for (row, out) in out.chunks_exact_mut(cols).enumerate() {
            fn of(all: &[f32], row: usize) -> &[f32] {
                &all[row * (all.len() / ROWS)..][..all.len() / ROWS]
            }
            let input = ScanRow {
                q: of(&self.q, row),
                k: of(&self.k, row),
                v: of(&self.v, row),
                decay: of(&self.decay, row),
                gain: of(&self.gain, row),
            };
            scan_row(&input, shape, &mut state, out);
        }
        out
    }
}

fn pages(len: usize) -> StatePages {
    let mut pages = StatePages::new(len, 6).unwrap();
    pages.fill(f32::NAN);
    pages
}

#[test]
fn a_scan_has_the_oracles_bits_however_its_rows_are_cut() {
    for shape in shapes() {
        let data = Data::new(shape, 1);
        let expected = data.expected();
        assert!(expected.iter().all(|x| x.is_finite()) && expected.iter().any(|x| x.abs() > 0.1));
        for tier in detect::available() {
            for (way, threads) in WAYS.into_iter().zip([1, 2, 2, 1]) {
                let pool = Pool::new(threads);
                let mut states = pages(shape.state_len() + 3);
                let (mut out, mut start) = (Vec::new(), 0);
                for &end in way {
                    let from = (start > 0).then_some(4);
                    let span = StateSpan { rows: 0..end - start, from, to: 4, saves: &[] };
                    let spans = [span];
                    out.extend(with_tier(tier, || {
                        data.step(&mut states, start..end, &spans, &pool)
                    }));
                    start = end;
                }
                assert_eq!(out, expected, "{shape:?} {tier:?} {way:?}");
            }
        }
    }
}

#[test]
fn copies_are_states_from_which_a_sequence_goes_on() {
    let shape = shapes()[0];
    let data = Data::new(shape, 2);
    let (expected, pool) = (data.expected(), Pool::new(2));
    let cols = expected.len() / ROWS;
    let mut states = pages(shape.state_len() + 3);
    let saves = [StateSave { rows: 1, page: 0 }, StateSave { rows: 16, page: 1 }];
    let spans = [StateSpan { rows: 0..ROWS, from: None, to: 2, saves: &saves }];
    assert_eq!(data.step(&mut states, 0..ROWS, &spans, &pool), expected);
    for (page, start) in [(0, 1), (1, 16)] {
        let spans = [StateSpan { rows: 0..ROWS - start, from: Some(page), to: 3, saves: &[] }];
        let out = data.step(&mut states, start..ROWS, &spans, &pool);
        assert_eq!(out, expected[start * cols..], "from row {start}");
    }
    // Two sequences at once go on from one copy, one of them where it is.
    let mid = 16..20;
    let spans = |first| {
        [
            StateSpan { rows: 0..2, from: Some(1), to: first, saves: &[] },
            StateSpan { rows: 2..4, from: Some(0), to: 5, saves: &[] },
        ]
    };
    let out = data.step(&mut states, mid.clone(), &spans(4), &pool);
    assert_eq!(out[..2 * cols], expected[16 * cols..18 * cols]);
    let out = data.step(&mut states, mid, &spans(1), &pool);
    assert_eq!(out[..2 * cols], expected[16 * cols..18 * cols]);
}

#[test]
fn a_convolution_has_the_oracles_bits_however_its_rows_are_cut() {
    for (cols, taps, activation) in [(150, 4, Some(Activation::Silu)), (33, 3, None), (5, 1, None)]
    {
        let (x, weights) = (values(ROWS * cols, 5), values(taps * cols, 6));
        let bias = values(cols, 7);
        let mut expected = vec![0.0; x.len()];
        let mut state = vec![0.0; (taps - 1) * cols];
        for (x, out) in x.chunks_exact(cols).zip(expected.chunks_exact_mut(cols)) {
            conv_row(x, &mut state, (&weights, Some(&bias)), out);
        }
        if let Some(activation) = activation {
            crate::elementwise::activate(&mut expected, activation, &Pool::new(1));
        }
        for tier in detect::available() {
            for (way, threads) in WAYS.into_iter().zip([1, 2, 2, 1]) {
                let pool = Pool::new(threads);
                let mut states = pages((taps - 1) * cols + 1);
                let (mut out, mut start) = (vec![0.0; x.len()], 0);
                for &end in way {
                    let from = (start > 0).then_some(4);
                    // Two copies: the one after the last row is the state itself.
                    let saves = [StateSave { rows: (end - start) as u32, page: 5 }];
                    let span = StateSpan { rows: 0..end - start, from, to: 4, saves: &saves };
                    let input = ConvInput {
                        x: Rows::new(&x[start * cols..end * cols], end - start, cols),
                        weights: &weights,
                        bias: Some(&bias),
                        activation,
                        spans: &[span],
                    };
                    let out = &mut out[start * cols..end * cols];
                    let out = RowsMut::new(out, end - start, cols);
                    with_tier(tier, || {
                        conv(&input, (&mut states, 1..1 + (taps - 1) * cols), out, &pool);
                    });
                    start = end;
                }
                assert_eq!(out, expected, "{cols} columns, {taps} taps, {tier:?} {way:?}");
                let kept = |page: usize| states.pages[page][1..].to_vec();
                assert_eq!(kept(4), kept(5));
                assert_eq!(kept(4), state);
            }
        }
    }
}

#[test]
fn spans_that_write_one_page_are_refused() {
    let refused = |spans: &[StateSpan<'_>]| std::panic::catch_unwind(|| check(spans, 4)).is_err();
    let span = |rows: Range<usize>, from, to| StateSpan { rows, from, to, saves: &[] };
    assert!(!refused(&[span(0..1, Some(0), 0), span(1..2, Some(1), 2)]));
    assert!(!refused(&[span(0..1, Some(3), 0), span(1..2, Some(3), 2)]));
    assert!(refused(&[span(0..1, None, 0), span(1..2, None, 0)]));
    assert!(refused(&[span(0..1, Some(1), 0), span(1..2, None, 1)]));
    assert!(refused(&[span(0..1, None, 4)]));
    let late = [StateSave { rows: 2, page: 1 }];
    assert!(refused(&[StateSpan { rows: 0..1, from: None, to: 0, saves: &late }]));
}
