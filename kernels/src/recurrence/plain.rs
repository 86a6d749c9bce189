//! The same in plain Rust, a row at a time: what back ends without kernels for it use, and the oracle of
//! those with. Operations have the order of the kernels, so results are the same bits where `fma`
//! rounds once.

use super::scan::{Rule, ScanShape};

/// One row of a convolution without activation: `x` (columns) after `state` (taps - 1, columns), which
/// becomes the state after it; `weights` (taps, columns), `out` (columns).
pub fn conv_row(
    x: &[f32],
    state: &mut [f32],
    (weights, bias): (&[f32], Option<&[f32]>),
    out: &mut [f32],
) {
    let cols = x.len();
    let before = state.len() / cols;
    for column in 0..cols {
        let mut sum = bias.map_or(0.0, |bias| bias[column]);
        for tap in 0..before {
            sum = weights[tap * cols + column].mul_add(state[tap * cols + column], sum);
        }
        out[column] = weights[before * cols + column].mul_add(x[column], sum);
    }
    if before > 0 {
        state.copy_within(cols.., 0);
        state[(before - 1) * cols..].copy_from_slice(x);
    }
}

/// What a row brings to a recurrence; see [`ScanInput`](super::ScanInput).
#[derive(Clone, Copy, Debug)]
pub struct ScanRow<'a> {
    /// (groups · key_dim).
    pub q: &'a [f32],
    /// (groups · key_dim).
    pub k: &'a [f32],
    /// (heads · value_dim).
    pub v: &'a [f32],
    /// (heads), or (heads · key_dim).
    pub decay: &'a [f32],
    /// (heads).
    pub gain: &'a [f32],
}

/// One row of a recurrence: `state` (heads, key_dim, value_dim) becomes the one after it, `out`
/// (heads · value_dim).
pub fn scan_row(row: &ScanRow<'_>, shape: &ScanShape, state: &mut [f32], out: &mut [f32]) {
    let ScanShape { heads, key_dim, value_dim, .. } = *shape;
    for head in 0..heads {
        let keys = shape.group(head) * key_dim..(shape.group(head) + 1) * key_dim;
        let (q, k) = (&row.q[keys.clone()], &row.k[keys]);
        let state = &mut state[head * key_dim * value_dim..][..key_dim * value_dim];
        let decay = |i: usize| match shape.decays_by_key {
            true => row.decay[head * key_dim + i],
            false => row.decay[head],
        };
        for column in 0..value_dim {
            let v = row.v[head * value_dim + column];
            let added = match shape.rule {
                Rule::Add => v,
                Rule::Delta => {
                    let factor = |i: usize| if shape.decays_by_key { decay(i) } else { 1.0 };
                    let known = summed(key_dim, |i, sum| {
                        (k[i] * factor(i)).mul_add(state[i * value_dim + column], sum)
                    });
                    if shape.decays_by_key { v - known } else { (-decay(0)).mul_add(known, v) }
                }
            };
            let added = row.gain[head] * added;
            out[head * value_dim + column] = summed(key_dim, |i, sum| {
                let entry = &mut state[i * value_dim + column];
                *entry = k[i].mul_add(added, decay(i) * *entry);
                q[i].mul_add(*entry, sum)
            });
        }
    }
}

/// Four sums in turn, then their total.
fn summed(count: usize, mut add: impl FnMut(usize, f32) -> f32) -> f32 {
    let mut sums = [0.0; 4];
    for i in 0..count {
        sums[i % 4] = add(i, sums[i % 4]);
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3])
}
