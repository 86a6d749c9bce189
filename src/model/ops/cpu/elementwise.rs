//! Operations of the CPU back end on values, columns and rows.

use std::ops::Range;

use kolosal_kernels::elementwise;
use kolosal_kernels::memory::Floats;

use super::backend::CpuOps;
use super::linear::activation;
use super::tensor::CpuTensor;
use crate::model::error::ModelError;
use crate::model::ops::Tensors;
use crate::model::spec::ActSpec;

impl Tensors for CpuOps {
    type Tensor = CpuTensor;

    fn clamp(&mut self, mut x: CpuTensor, limit: f32) -> Result<CpuTensor, ModelError> {
        x.data.iter_mut().for_each(|value| *value = value.clamp(-limit, limit));
        Ok(x)
    }

    fn scale(&mut self, mut x: CpuTensor, factor: f32) -> Result<CpuTensor, ModelError> {
        elementwise::scale(&mut x.data, factor, &self.pool);
        Ok(x)
    }

    fn scale_rows(&mut self, mut x: CpuTensor, factors: &[f32]) -> Result<CpuTensor, ModelError> {
        let width = x.data.len() / factors.len().max(1);
        for (part, factor) in x.data.chunks_exact_mut(width.max(1)).zip(factors) {
            part.iter_mut().for_each(|value| *value *= factor);
        }
        Ok(x)
    }

    fn scale_columns(
        &mut self,
        mut x: CpuTensor,
        factors: &Vec<f32>,
    ) -> Result<CpuTensor, ModelError> {
        for row in x.data.chunks_exact_mut(factors.len()) {
            row.iter_mut().zip(factors).for_each(|(value, factor)| *value *= factor);
        }
        Ok(x)
    }

    fn mul(&mut self, mut x: CpuTensor, y: &CpuTensor) -> Result<CpuTensor, ModelError> {
        elementwise::mul(&mut x.data, &y.data, &self.pool);
        Ok(x)
    }

    fn activate(&mut self, mut x: CpuTensor, act: ActSpec) -> Result<CpuTensor, ModelError> {
        let act = activation(act)
            .ok_or_else(|| ModelError::Limit("an activation that has no kernel".to_owned()))?;
        elementwise::activate(&mut x.data, act, &self.pool);
        Ok(x)
    }

    fn copy(&mut self, x: &CpuTensor) -> Result<CpuTensor, ModelError> {
        let mut out = self.buffers.tensor(x.rows, x.cols)?;
        out.data.copy_from_slice(&x.data);
        Ok(out)
    }

    fn sparsify(&mut self, mut x: CpuTensor, deviations: f32) -> Result<CpuTensor, ModelError> {
        sparsify(&mut x.data, x.cols, deviations);
        Ok(x)
    }

    fn add(
        &mut self,
        mut x: CpuTensor,
        y: &CpuTensor,
        scale: f32,
    ) -> Result<CpuTensor, ModelError> {
        elementwise::add_scaled(&mut x.data, &y.data, scale, &self.pool);
        Ok(x)
    }

    fn part(
        &mut self,
        x: &CpuTensor,
        heads: usize,
        range: Range<usize>,
    ) -> Result<CpuTensor, ModelError> {
        let mut out = self.buffers.tensor(x.rows, heads * range.len())?;
        let heads_of_rows = x.data.chunks_exact(x.cols / heads);
        for (head, target) in heads_of_rows.zip(out.data.chunks_exact_mut(range.len())) {
            target.copy_from_slice(&head[range.clone()]);
        }
        Ok(out)
    }

    fn join(&mut self, parts: &[&CpuTensor], heads: usize) -> Result<CpuTensor, ModelError> {
        let rows = parts.first().map_or(0, |part| part.rows);
        let mut out = self.buffers.tensor(rows, parts.iter().map(|part| part.cols).sum())?;
        let mut at = 0;
        for head in 0..rows * heads {
            for part in parts {
                let width = part.cols / heads;
                out.data[at..at + width].copy_from_slice(&part.data[head * width..][..width]);
                at += width;
            }
        }
        Ok(out)
    }

    fn rows(&mut self, x: &CpuTensor, rows: &[u32]) -> Result<CpuTensor, ModelError> {
        let mut out = self.buffers.tensor(rows.len(), x.cols)?;
        for (target, &row) in out.data.chunks_exact_mut(x.cols).zip(rows) {
            target.copy_from_slice(&x.data[row as usize * x.cols..][..x.cols]);
        }
        Ok(out)
    }

    fn add_rows(
        &mut self,
        mut x: CpuTensor,
        rows: &[u32],
        weights: &[f32],
        y: &CpuTensor,
    ) -> Result<CpuTensor, ModelError> {
        for ((source, &row), &weight) in y.data.chunks_exact(y.cols).zip(rows).zip(weights) {
            let target = &mut x.data[row as usize * y.cols..][..y.cols];
            target.iter_mut().zip(source).for_each(|(to, from)| *to = from.mul_add(weight, *to));
        }
        Ok(x)
    }

    fn zeros_like(&mut self, like: &CpuTensor) -> Result<CpuTensor, ModelError> {
        let mut out = self.buffers.tensor(like.rows, like.cols)?;
        out.data.fill(0.0);
        Ok(out)
    }

    fn host(&mut self, mut x: CpuTensor) -> Result<Floats, ModelError> {
        Ok(std::mem::take(&mut x.data))
    }

    fn recycle(&mut self, values: Floats) {
        self.buffers.give_back(values);
    }
}

/// Of each row, what lies so many deviations above its mean.
fn sparsify(values: &mut [f32], cols: usize, deviations: f32) {
    for row in values.chunks_exact_mut(cols) {
        let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / cols as f64;
        let square = |x: &f32| (f64::from(*x) - mean).powi(2);
        let deviation = (row.iter().map(square).sum::<f64>() / cols as f64).sqrt();
        let cutoff = (mean + f64::from(deviations) * deviation) as f32;
        row.iter_mut().for_each(|value| *value = (*value - cutoff).max(0.0));
    }
}
