//! Convolutions and recurrences against their formulas in f64.

use kolosal_kernels::Rows;
use kolosal_kernels::RowsMut;
use kolosal_kernels::pool::Pool;
use kolosal_kernels::recurrence::{
    ConvInput, Rule, ScanInput, ScanShape, StatePages, StateSpan, conv, scan,
};

use super::Test;
use super::oracle::{Findings, Random};

/// Tokens of the sequence under test.
const ROWS: usize = 19;

pub(super) fn tests() -> Vec<Test> {
    let shape = ScanShape {
        heads: 4,
        groups: 2,
        is_grouped: true,
        key_dim: 40,
        value_dim: 24,
        rule: Rule::Delta,
        decays_by_key: false,
    };
    let added = ScanShape { rule: Rule::Add, is_grouped: false, decays_by_key: true, ..shape };
    let test = |name: &str, run: Box<dyn Fn(&Pool) -> Findings>| Test {
        name: name.to_owned(),
        limit: 4e-6,
        run,
    };
    vec![
        test("convolution", Box::new(convolution)),
        test("delta rule", Box::new(move |pool| recurrence(shape, pool))),
        test("sums by channel", Box::new(move |pool| recurrence(added, pool))),
    ]
}

/// One sequence from its beginning.
fn span() -> [StateSpan<'static>; 1] {
    [StateSpan { rows: 0..ROWS, from: None, to: 0, saves: &[] }]
}

fn convolution(pool: &Pool) -> Findings {
    let (cols, taps) = (70, 4);
    let mut random = Random::new(3);
    let (x, weights) = (random.values(ROWS * cols), random.values(taps * cols));
    let mut states = StatePages::new((taps - 1) * cols, 1).unwrap_or_default();
    let mut out = vec![f32::NAN; x.len()];
    let input = ConvInput {
        x: Rows::new(&x, ROWS, cols),
        weights: &weights,
        bias: None,
        activation: None,
        spans: &span(),
    };
    let part = (&mut states, 0..(taps - 1) * cols);
    conv(&input, part, RowsMut::new(&mut out, ROWS, cols), pool);
    let wanted = (0..x.len()).map(|at| {
        let (row, col) = (at / cols, at % cols);
        let terms = (0..taps).filter(|tap| row + tap + 1 >= taps).map(|tap| {
            let before = x[(row + tap + 1 - taps) * cols + col];
            f64::from(weights[tap * cols + col]) * f64::from(before)
        });
        let (mut sum, mut size) = (0.0, 0.0);
        terms.for_each(|term| (sum, size) = (sum + term, size + term.abs()));
        (sum, size)
    });
    Findings::compare(&out, &wanted.collect::<Vec<_>>())
}

fn recurrence(shape: ScanShape, pool: &Pool) -> Findings {
    let keys = shape.groups * shape.key_dim;
    let values = shape.heads * shape.value_dim;
    let mut random = Random::new(shape.key_dim);
    let mut draw = |count: usize, scale: f32| -> Vec<f32> {
        random.values(count).iter().map(|x| x * scale).collect()
    };
    let (q, k, v) = (draw(ROWS * keys, 0.1), draw(ROWS * keys, 0.1), draw(ROWS * values, 1.0));
    let decays = shape.heads * if shape.decays_by_key { shape.key_dim } else { 1 };
    let decay: Vec<f32> = draw(ROWS * decays, 0.1).iter().map(|x| 0.8 + x).collect();
    let gain: Vec<f32> = draw(ROWS * shape.heads, 0.2).iter().map(|x| 0.5 + x).collect();
    let mut states = StatePages::new(shape.state_len(), 1).unwrap_or_default();
    let mut out = vec![f32::NAN; ROWS * values];
    let input = ScanInput {
        q: Rows::new(&q, ROWS, keys),
        k: Rows::new(&k, ROWS, keys),
        v: Rows::new(&v, ROWS, values),
        decay: &decay,
        gain: &gain,
        spans: &span(),
        shape,
    };
    let part = (&mut states, 0..shape.state_len());
    scan(&input, part, RowsMut::new(&mut out, ROWS, values), pool);
    let mut wanted = vec![(0.0, 1.0); out.len()];
    for head in 0..shape.heads {
        for column in 0..shape.value_dim {
            let at = head * shape.value_dim + column;
            let exact = Column { head, shape: &shape, q: &q, k: &k, decay: &decay, gain: &gain };
            let values: Vec<f64> = (0..ROWS).map(|row| f64::from(v[row * values + at])).collect();
            for (row, found) in exact.run(&values).into_iter().enumerate() {
                wanted[row * out.len() / ROWS + at] = (found, 1.0);
            }
        }
    }
    Findings::compare(&out, &wanted)
}

/// One column of a head's state.
struct Column<'a> {
    head: usize,
    shape: &'a ScanShape,
    q: &'a [f32],
    k: &'a [f32],
    decay: &'a [f32],
    gain: &'a [f32],
}

impl Column<'_> {
    /// What the queries of each row find, given the column's values.
    fn run(&self, values: &[f64]) -> Vec<f64> {
        let ScanShape { heads, groups, key_dim, decays_by_key, rule, .. } = *self.shape;
        let at = |row: usize, i: usize| (row * groups + self.shape.group(self.head)) * key_dim + i;
        let mut state = vec![0.0; key_dim];
        let of_row = |(row, value): (usize, &f64)| {
            for (i, entry) in state.iter_mut().enumerate() {
                *entry *= f64::from(match decays_by_key {
                    true => self.decay[(row * heads + self.head) * key_dim + i],
                    false => self.decay[row * heads + self.head],
                });
            }
            let keys = (0..key_dim).map(|i| f64::from(self.k[at(row, i)]));
            let known: f64 = keys.clone().zip(&state).map(|(k, entry)| k * entry).sum();
            let missing = if rule == Rule::Delta { value - known } else { *value };
            let added = f64::from(self.gain[row * heads + self.head]) * missing;
            state.iter_mut().zip(keys).for_each(|(entry, k)| *entry += k * added);
            (0..key_dim).map(|i| f64::from(self.q[at(row, i)]) * state[i]).sum()
        };
        values.iter().enumerate().map(of_row).collect()
    }
}
