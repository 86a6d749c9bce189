//! Tensors by their names: shapes checked, and in the back end's form.

use std::collections::HashSet;
use std::ops::Range;

use kolosal_kernels::quant;

use super::error::ModelError;
use super::gguf::{Gguf, TensorInfo};
use super::ops::{Load, Norm, WeightSource};
use super::quantize::{Quantised, Quantize};
use super::spec::NormSpec;

pub(super) struct Loader<'a, O> {
    pub(super) ops: &'a mut O,
    pub(super) gguf: &'a Gguf,
    pub(super) quantize: Option<Quantize>,
    /// Norms have weights in the file.
    pub(super) learned: bool,
    pub(super) used: HashSet<String>,
    /// Memory for what is read.
    pub(super) spare: Vec<u8>,
}

impl<O: Load> Loader<'_, O> {
    /// The matrices of a 3-D tensor (experts, n, k), with the rows of a bias (experts, n).
    pub(super) fn experts(
        &mut self,
        name: &str,
        experts: usize,
        n: usize,
        k: usize,
    ) -> Result<Vec<O::Linear>, ModelError> {
        let weight = format!("{name}.weight");
        let found = self.source(&weight, &[experts, n, k])?;
        let scales = self.scales(name, experts)?;
        let bias = self.bias(name, experts * n)?;
        self.cut(found, [experts, 1], (scales, bias))
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
        let found = self.source(&weight, &[experts, 2 * n, k])?;
        let scales = match self.scales(name, experts)? {
            // The scale of the up projections stands for both.
            None => self.scales(&name.replace("gate_up", "up"), experts)?,
            scales => scales,
        };
        let bias = self.bias(name, experts * 2 * n)?;
        self.cut(found, [experts, 2], (scales, bias))
    }

    /// Matrices of equal size that lie one above the other, `parts` for each expert; a scale an expert.
    fn cut(
        &mut self,
        found: Found<'_>,
        [experts, parts]: [usize; 2],
        (scales, bias): (Option<Vec<f32>>, Option<Vec<f32>>),
    ) -> Result<Vec<O::Linear>, ModelError> {
        let (count, n) = (experts * parts, found.n / parts);
        (0..count)
            .map(|index| {
                let rows = index * n..(index + 1) * n;
                let scale = scales.as_ref().map_or(1.0, |scales| scales[index / parts]);
                let bias = bias.as_ref().map(|values| values[rows.clone()].to_vec());
                self.part(&Found { scale, ..found }, rows, bias)
            })
            .collect()
    }

    /// Rows of a matrix in the back end's form.
    fn part(
        &mut self,
        found: &Found<'_>,
        rows: Range<usize>,
        bias: Option<Vec<f32>>,
    ) -> Result<O::Linear, ModelError> {
        let bytes = self.bytes(found, rows.clone())?;
        let source = found.weight(rows.len(), &bytes);
        let quantised = self.quantised(&source)?;
        let source = quantised.as_ref().map_or(source, |quantised| quantised.source(&source));
        let linear = self.ops.load_linear(&source, bias)?;
        self.give_back(bytes);
        Ok(linear)
    }

    /// A matrix whose rows are looked up.
    pub(super) fn table(&mut self, name: &str, shape: &[usize]) -> Result<O::Table, ModelError> {
        let found = self.source(name, shape)?;
        let bytes = self.bytes(&found, 0..found.n)?;
        let table = self.ops.load_table(&found.weight(found.n, &bytes))?;
        self.give_back(bytes);
        Ok(table)
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
        let found = Found { scale: self.scale(name)?, ..self.source(&weight, &[n, k])? };
        let bias = self.bias(name, n)?;
        let mut from = 0;
        widths
            .iter()
            .map(|&width| {
                let rows = from..from + width;
                from = rows.end;
                let bias = bias.as_ref().map(|values| values[rows.clone()].to_vec());
                self.part(&found, rows, bias)
            })
            .collect()
    }

    pub(super) fn linear(
        &mut self,
        name: &str,
        n: usize,
        k: usize,
    ) -> Result<O::Linear, ModelError> {
        let weight = format!("{name}.weight");
        let found = Found { scale: self.scale(name)?, ..self.source(&weight, &[n, k])? };
        let bias = self.bias(name, n)?;
        self.part(&found, 0..n, bias)
    }

    /// A matrix without bias whose `.scale` is not a factor on its results.
    pub(super) fn bare_linear(
        &mut self,
        name: &str,
        n: usize,
        k: usize,
    ) -> Result<O::Linear, ModelError> {
        let weight = format!("{name}.weight");
        let found = self.source(&weight, &[n, k])?;
        self.part(&found, 0..n, None)
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

    pub(super) fn norm(
        &mut self,
        name: &str,
        width: usize,
        spec: NormSpec,
    ) -> Result<Norm<O::Vector>, ModelError> {
        let weight = match self.learned {
            // Falcon H1's converter leaves the end of a name out.
            true if self.gguf.tensor(name).is_some() => self.floats(name, width)?,
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
    pub(super) fn floats(&mut self, name: &str, len: usize) -> Result<Vec<f32>, ModelError> {
        let info = self.info(name)?;
        let found: usize = info.shape.iter().product();
        if found != len {
            return Err(ModelError::Shape {
                name: name.to_owned(),
                found: info.shape.clone(),
                expected: vec![len],
            });
        }
        let mut values = Vec::new();
        let wanted = len as u64 * 4;
        values.try_reserve_exact(len).map_err(|_| ModelError::Memory { wanted })?;
        values.resize(len, 0.0);
        if !O::READS {
            return Ok(values);
        }
        let mut bytes = std::mem::take(&mut self.spare);
        self.gguf.read(info, 0..info.num_bytes(), &mut bytes)?;
        quant::dequantize(info.ty, &bytes, &mut values)
            .map_err(|error| bad(name, info, error.to_string()))?;
        self.give_back(bytes);
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
    pub(super) fn source<'n>(
        &mut self,
        name: &'n str,
        expected: &[usize],
    ) -> Result<Found<'n>, ModelError>
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
        Ok(Found { name, info, n, k, scale: 1.0 })
    }

    /// The bytes of rows; none where nothing is read.
    pub(super) fn bytes(
        &mut self,
        found: &Found<'_>,
        rows: Range<usize>,
    ) -> Result<Vec<u8>, ModelError>
    where
        O: Load,
    {
        let mut bytes = std::mem::take(&mut self.spare);
        if O::READS {
            let row = found.info.num_bytes() / (found.info.num_elements() / found.k);
            self.gguf.read(found.info, rows.start * row..rows.end * row, &mut bytes)?;
        }
        Ok(bytes)
    }

    /// Keeps memory for what is read next: fresh memory is slower than what was in use just now.
    pub(super) fn give_back(&mut self, bytes: Vec<u8>) {
        self.spare = bytes;
    }
}

/// A matrix of the file, or several one above the other, whose shape is as expected.
#[derive(Clone, Copy)]
pub(super) struct Found<'a> {
    name: &'a str,
    info: &'a TensorInfo,
    /// Rows, of one matrix where there are several.
    pub(super) n: usize,
    k: usize,
    scale: f32,
}

impl Found<'_> {
    /// `n` rows that have these bytes.
    pub(super) fn weight<'b>(&'b self, n: usize, bytes: &'b [u8]) -> WeightSource<'b> {
        let Self { name, info, k, scale, .. } = *self;
        WeightSource { name, ty: info.ty, n, k, bytes, scale }
    }
}

fn bad(name: &str, info: &TensorInfo, problem: String) -> ModelError {
    ModelError::BadTensor { name: name.to_owned(), ty: info.ty.name(), problem }
}
