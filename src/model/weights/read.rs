//! Tensors by their names: shapes checked, and in the back end's form.

use std::collections::HashSet;

use kolosal_kernels::quant;

use crate::model::error::ModelError;
use crate::model::gguf::{Gguf, TensorInfo};
use crate::model::ops::{Load, Norm, WeightSource};
use crate::model::quantize::{Quantised, Quantize};
use crate::model::spec::NormSpec;

pub(in crate::model) struct Loader<'a, O> {
    pub(in crate::model) ops: &'a mut O,
    pub(in crate::model) gguf: &'a Gguf,
    pub(super) quantize: Option<Quantize>,
    /// Norms have weights in the file.
    pub(super) learned: bool,
    pub(in crate::model) used: HashSet<String>,
}

impl<O: Load> Loader<'_, O> {
    /// The matrices of a 3-D tensor (experts, n, k), with the rows of a bias (experts, n).
    pub(in crate::model) fn experts(
        &mut self,
        name: &str,
        experts: usize,
        n: usize,
        k: usize,
    ) -> Result<Vec<O::Linear>, ModelError> {
        let weight = format!("{name}.weight");
        let source = self.source(&weight, &[experts, n, k])?;
        let scales = self.scales(name, experts)?;
        let bias = self.bias(name, experts * n)?;
        self.cut(source, [experts, 1], (scales, bias))
    }

    /// Each expert's two matrices of `n` rows, one after the other.
    pub(super) fn halves_of_experts(
        &mut self,
        name: &str,
        experts: usize,
        n: usize,
        k: usize,
    ) -> Result<Vec<O::Linear>, ModelError> {
        let weight = format!("{name}.weight");
        let source = self.source(&weight, &[experts, 2 * n, k])?;
        let scales = match self.scales(name, experts)? {
            // The scale of the up projections stands for both.
            None => self.scales(&name.replace("gate_up", "up"), experts)?,
            scales => scales,
        };
        let bias = self.bias(name, experts * 2 * n)?;
        self.cut(source, [experts, 2], (scales, bias))
    }

    /// Matrices of equal size that lie one above the other, `parts` for each expert; a scale an expert.
    fn cut(
        &mut self,
        source: WeightSource<'_>,
        [experts, parts]: [usize; 2],
        (scales, bias): (Option<Vec<f32>>, Option<Vec<f32>>),
    ) -> Result<Vec<O::Linear>, ModelError> {
        let (count, n, k) = (experts * parts, source.n / parts, source.k);
        let quantised = self.quantised(&WeightSource { n: count * n, ..source })?;
        let whole = quantised.as_ref().map_or(source, |quantised| quantised.source(&source));
        let stride = whole.bytes.len() / count;
        (0..count)
            .map(|index| {
                let bytes = &whole.bytes[index * stride..][..stride];
                let scale = scales.as_ref().map_or(1.0, |scales| scales[index / parts]);
                let part = WeightSource { n, k, bytes, scale, ..whole };
                let bias = bias.as_ref().map(|values| values[index * n..][..n].to_vec());
                self.ops.load_linear(&part, bias)
            })
            .collect()
    }

    /// Factors on a matrix, or on those of experts, where the file has them. Those of inputs are for
    /// hardware that computes in four bits.
    fn scales(&mut self, name: &str, len: usize) -> Result<Option<Vec<f32>>, ModelError> {
        self.used.insert(format!("{name}.input_scale"));
        let scale = format!("{name}.scale");
        match self.gguf.tensor(&scale).is_some() {
            true => Ok(Some(self.floats(&scale, len)?)),
            false => Ok(None),
        }
    }

    fn scale(&mut self, name: &str) -> Result<f32, ModelError> {
        Ok(self.scales(name, 1)?.map_or(1.0, |scales| scales[0]))
    }

    /// A tensor of stacked matrices, cut by rows.
    pub(super) fn split(
        &mut self,
        name: &str,
        widths: &[usize],
        k: usize,
    ) -> Result<Vec<O::Linear>, ModelError> {
        let n = widths.iter().sum();
        let weight = format!("{name}.weight");
        let source = WeightSource { scale: self.scale(name)?, ..self.source(&weight, &[n, k])? };
        let quantised = self.quantised(&source)?;
        let source = quantised.as_ref().map_or(source, |quantised| quantised.source(&source));
        let bias = self.bias(name, n)?;
        let row = source.bytes.len() / n;
        let mut from = 0;
        widths
            .iter()
            .map(|&width| {
                let bytes = &source.bytes[from * row..][..width * row];
                let part = WeightSource { bytes, n: width, k, ..source };
                let bias = bias.as_ref().map(|values| values[from..][..width].to_vec());
                from += width;
                self.ops.load_linear(&part, bias)
            })
            .collect()
    }

    pub(in crate::model) fn linear(
        &mut self,
        name: &str,
        n: usize,
        k: usize,
    ) -> Result<O::Linear, ModelError> {
        let weight = format!("{name}.weight");
        let source = WeightSource { scale: self.scale(name)?, ..self.source(&weight, &[n, k])? };
        let quantised = self.quantised(&source)?;
        let source = quantised.as_ref().map_or(source, |quantised| quantised.source(&source));
        let bias = self.bias(name, n)?;
        self.ops.load_linear(&source, bias)
    }

    /// The matrix in the wanted type, if it is one to be brought there.
    pub(super) fn quantised(
        &self,
        source: &WeightSource<'_>,
    ) -> Result<Option<Quantised>, ModelError> {
        match self
            .quantize
            .filter(|_| O::READS)
            .filter(|target| target.takes(source.name, source.ty, source.k))
        {
            Some(target) => target.quantise(source).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn bias(&mut self, name: &str, n: usize) -> Result<Option<Vec<f32>>, ModelError> {
        let bias = format!("{name}.bias");
        match self.gguf.tensor(&bias).is_some() {
            true => Ok(Some(self.floats(&bias, n)?)),
            false => Ok(None),
        }
    }

    pub(super) fn norm_if(
        &mut self,
        wanted: bool,
        name: &str,
        width: usize,
        spec: NormSpec,
    ) -> Result<Option<Norm<O::Vector>>, ModelError> {
        match wanted {
            true => Ok(Some(self.norm(name, width, spec)?)),
            false => Ok(None),
        }
    }

    pub(in crate::model) fn norm(
        &mut self,
        name: &str,
        width: usize,
        spec: NormSpec,
    ) -> Result<Norm<O::Vector>, ModelError> {
        let weight = match self.learned {
            true => self.floats(&format!("{name}.weight"), width)?,
            false => vec![1.0; width],
        };
        let weight = self.ops.load_vector(weight)?;
        let bias = match self.bias(name, width)? {
            Some(values) => Some(self.ops.load_vector(values)?),
            None => None,
        };
        Ok(Norm { weight, bias, spec })
    }

    /// A tensor of `len` numbers in any type, as f32.
    pub(in crate::model) fn floats(
        &mut self,
        name: &str,
        len: usize,
    ) -> Result<Vec<f32>, ModelError> {
        let info = self.info(name)?;
        let found: usize = info.shape.iter().product();
        if found != len {
            return Err(ModelError::Shape {
                name: name.to_owned(),
                found: info.shape.clone(),
                expected: vec![len],
            });
        }
        let mut values = vec![0.0; len];
        if !O::READS {
            return Ok(values);
        }
        quant::dequantize(info.ty, self.gguf.data(info), &mut values)
            .map_err(|error| bad(name, info, error.to_string()))?;
        Ok(values)
    }
}

impl<'a, O> Loader<'a, O> {
    pub(super) fn info(&mut self, name: &str) -> Result<&'a TensorInfo, ModelError> {
        self.used.insert(name.to_owned());
        let gguf: &'a Gguf = self.gguf;
        gguf.tensor(name).ok_or_else(|| ModelError::MissingTensor(name.to_owned()))
    }

    /// A tensor of two or three dimensions whose shape must be `expected`.
    pub(in crate::model) fn source<'n>(
        &mut self,
        name: &'n str,
        expected: &[usize],
    ) -> Result<WeightSource<'n>, ModelError>
    where
        'a: 'n,
    {
        let info = self.info(name)?;
        if info.shape != expected {
            // A matrix of one row may be stored as a vector.
            let squeezed = expected[0] == 1 && info.shape == expected[1..];
            if !squeezed {
                return Err(ModelError::Shape {
                    name: name.to_owned(),
                    found: info.shape.clone(),
                    expected: expected.to_vec(),
                });
            }
        }
        let (n, k) = (expected[expected.len() - 2], expected[expected.len() - 1]);
        Ok(WeightSource { name, ty: info.ty, n, k, bytes: self.gguf.data(info), scale: 1.0 })
    }
}

fn bad(name: &str, info: &TensorInfo, problem: String) -> ModelError {
    ModelError::BadTensor { name: name.to_owned(), ty: info.ty.name(), problem }
}
