//! Short causal convolutions, and the layer that is little else (LFM 2).

use crate::model::attention::Place;
use crate::model::carried::ShortConvSpec;
use crate::model::error::ModelError;
use crate::model::loader::Loader;
use crate::model::ops::{Conv, Load, Ops};

/// Weights of one layer.
pub(in crate::model) struct ShortConv<O: Load> {
    input: O::Linear,
    conv: Conv,
    out: O::Linear,
}

impl<O: Ops> ShortConv<O> {
    /// (T, hidden).
    pub(in crate::model) fn run(
        &self,
        ops: &mut O,
        place: &Place<'_, O>,
        input: &O::Act,
        spec: &ShortConvSpec,
    ) -> Result<O::Tensor, ModelError> {
        let width = spec.width;
        let [all] = ops.linear(input, [&self.input])?;
        let [before, after, x] =
            [0, 1, 2].map(|part| ops.part(&all, 1, part * width..(part + 1) * width));
        let x = ops.mul(x?, &before?)?;
        let x = ops.conv(place.index, &x, &self.conv)?;
        let x = ops.mul(x, &after?)?;
        let x = ops.act(&x)?;
        let [out] = ops.linear(&x, [&self.out])?;
        Ok(out)
    }
}

impl<O: Load> Loader<'_, O> {
    /// The short convolution of layer `index`.
    pub(in crate::model) fn short_conv(
        &mut self,
        index: usize,
        hidden: usize,
        spec: &ShortConvSpec,
    ) -> Result<ShortConv<O>, ModelError> {
        let name = |part: &str| format!("blk.{index}.shortconv.{part}");
        let width = spec.width;
        Ok(ShortConv {
            input: self.linear(&name("in_proj"), 3 * width, hidden)?,
            conv: self.conv(&name("conv"), spec.taps, width)?,
            out: self.linear(&name("out_proj"), hidden, width)?,
        })
    }

    /// A convolution of `columns` columns without activation; its bias, where the file has one.
    pub(in crate::model) fn conv(
        &mut self,
        name: &str,
        taps: usize,
        columns: usize,
    ) -> Result<Conv, ModelError> {
        let by_column = self.floats(&format!("{name}.weight"), columns * taps)?;
        let mut weights = vec![0.0; by_column.len()];
        for (column, of_column) in by_column.chunks_exact(taps).enumerate() {
            for (tap, weight) in of_column.iter().enumerate() {
                weights[tap * columns + column] = *weight;
            }
        }
        let bias = self.bias(name, columns)?;
        Ok(Conv { taps, weights, bias, act: None })
    }
}
