//! Element-wise operations of few models, for which no kernel is worth its while.

use kolosal_kernels::norm;
use kolosal_kernels::pool::Pool;
use kolosal_kernels::{Rows, RowsMut};

use super::Norm;

/// All values times a factor.
pub(super) fn scale(values: &mut [f32], factor: f32) {
    if factor != 1.0 {
        values.iter_mut().for_each(|value| *value *= factor);
    }
}

/// Layer norm of each head by itself. Heads lie side by side, so that each is a row of its own.
pub(super) fn layer_norm_heads(x: &[f32], by: &Norm<Vec<f32>>, out: &mut [f32], pool: &Pool) {
    let cols = by.weight.len();
    let rows = x.len() / cols;
    let x = Rows { data: x, rows, cols, stride: cols };
    let out = RowsMut { data: out, rows, cols, stride: cols };
    norm::layer_norm(x, &by.weight, by.bias.as_deref(), by.spec.eps, out, pool);
}

/// Of each row, what lies so many deviations above its mean.
pub(super) fn sparsify(values: &mut [f32], cols: usize, deviations: f32) {
    for row in values.chunks_exact_mut(cols) {
        let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / cols as f64;
        let square = |x: &f32| (f64::from(*x) - mean).powi(2);
        let deviation = (row.iter().map(square).sum::<f64>() / cols as f64).sqrt();
        let cutoff = (mean + f64::from(deviations) * deviation) as f32;
        row.iter_mut().for_each(|value| *value = (*value - cutoff).max(0.0));
    }
}

/// Each column times its own factor.
pub(super) fn scale_columns(values: &mut [f32], factors: &[f32]) {
    for row in values.chunks_exact_mut(factors.len()) {
        row.iter_mut().zip(factors).for_each(|(value, factor)| *value *= factor);
    }
}
