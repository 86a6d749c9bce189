//! Linear layers of the CPU back end, and what makes their inputs: norms and activations.

use kolosal_kernels::linear::{self, Acts, Packed};
use kolosal_kernels::pool::Pool;
use kolosal_kernels::{Activation, Rows, RowsMut, elementwise, norm, quant};

use super::backend::CpuOps;
use super::load::{CpuLinear, CpuTable};
use super::tensor::{CpuAct, CpuTensor};
use crate::model::error::ModelError;
use crate::model::ops::{Norm, Products};
use crate::model::spec::{ActSpec, GateAct, NormKind};

impl CpuOps {
    fn prepared(
        &self,
        shape: [usize; 2],
        fill: impl FnOnce(&mut Acts),
    ) -> Result<CpuAct, ModelError> {
        Ok(self.buffers.acts(self.has_float_weights, shape, fill)?)
    }
}

impl Products for CpuOps {
    type Act = CpuAct;

    fn embed(
        &mut self,
        table: &CpuTable,
        ids: &[u32],
        scale: f32,
    ) -> Result<CpuTensor, ModelError> {
        let cols = match table {
            CpuTable::Packed(packed) => packed.k(),
            CpuTable::Raw { k, .. } => *k,
        };
        let mut out = self.buffers.tensor(ids.len(), cols)?;
        for (row, &id) in out.data.chunks_exact_mut(cols).zip(ids) {
            match table {
                CpuTable::Packed(packed) => packed.row(id as usize, row),
                CpuTable::Raw { ty, row_bytes, bytes, .. } => {
                    let bytes = &bytes[id as usize * row_bytes..][..*row_bytes];
                    quant::dequantize(*ty, bytes, row)
                        .map_err(|error| ModelError::Limit(error.to_string()))?;
                }
            }
        }
        if scale != 1.0 {
            elementwise::scale(&mut out.data, scale, &self.pool);
        }
        Ok(out)
    }

    fn norm(&mut self, x: &CpuTensor, norm: &Norm<Vec<f32>>) -> Result<CpuTensor, ModelError> {
        let mut out = self.buffers.tensor(x.rows, x.cols)?;
        let (weight, eps) = (&norm.weight, norm.spec.eps);
        match norm.spec.kind {
            NormKind::Rms => norm::rms_norm(x.view(), weight, eps, out.view_mut(), &self.pool),
            NormKind::Layer => {
                let bias = norm.bias.as_deref();
                norm::layer_norm(x.view(), weight, bias, eps, out.view_mut(), &self.pool);
            }
        }
        Ok(out)
    }

    fn norm_act(&mut self, x: &CpuTensor, norm: &Norm<Vec<f32>>) -> Result<CpuAct, ModelError> {
        let (weight, eps) = (&norm.weight, norm.spec.eps);
        self.prepared([x.rows, x.cols], |acts| match norm.spec.kind {
            NormKind::Rms => acts.set_rms_norm(x.view(), weight, eps, &self.pool),
            NormKind::Layer => {
                acts.set_layer_norm(x.view(), weight, norm.bias.as_deref(), eps, &self.pool);
            }
        })
    }

    fn act(&mut self, x: &CpuTensor) -> Result<CpuAct, ModelError> {
        self.prepared([x.rows, x.cols], |acts| acts.set(x.view(), &self.pool))
    }

    fn linear<const N: usize>(
        &mut self,
        x: &CpuAct,
        weights: [&CpuLinear; N],
    ) -> Result<[CpuTensor; N], ModelError> {
        let acts = x.acts.as_ref().expect("acts are present until drop: this is a bug");
        let widths = weights.map(|linear| linear.packed.n());
        let mut out = self.buffers.tensors(acts.rows(), widths)?;
        {
            let mut views = out.each_mut().map(|tensor| Some(tensor.view_mut()));
            let mut group: [(&Packed, RowsMut<'_>); N] = std::array::from_fn(|index| {
                let view = views[index].take().expect("one view a tensor: this is a bug");
                (weights[index].packed.as_ref(), view)
            });
            linear::linear(acts, &mut group, &self.pool);
        }
        for (tensor, linear) in out.iter_mut().zip(weights) {
            if linear.scale != 1.0 {
                tensor.data.iter_mut().for_each(|value| *value *= linear.scale);
            }
            if let Some(bias) = &linear.bias {
                elementwise::add_bias(tensor.view_mut(), bias, &self.pool);
            }
        }
        Ok(out)
    }

    fn glu_act(
        &mut self,
        gate: &CpuTensor,
        up: &CpuTensor,
        act: ActSpec,
    ) -> Result<CpuAct, ModelError> {
        if let Some(act) = activation(act) {
            let shape = [gate.rows, gate.cols];
            return self
                .prepared(shape, |acts| acts.set_glu(gate.view(), up.view(), act, &self.pool));
        }
        let mut out = self.buffers.tensor(gate.rows, gate.cols)?;
        let gates = gate.data.iter().zip(&*up.data).zip(&mut *out.data);
        let apply = |gate: f32, up: f32| match act {
            ActSpec::OaiSwiglu => oai_swiglu(gate, up),
            ActSpec::LimitedSwiglu { limit } | ActSpec::ClampedSwiglu { limit } => {
                scalar(act, gate) * up.clamp(-limit, limit)
            }
            act => scalar(act, gate) * up,
        };
        gates.for_each(|((gate, up), out)| *out = apply(*gate, *up));
        self.act(&out)
    }

    fn gated(
        &mut self,
        x: &CpuAct,
        [gate, up]: [&CpuLinear; 2],
        act: ActSpec,
    ) -> Result<CpuAct, ModelError> {
        let is_plain = |linear: &CpuLinear| linear.bias.is_none() && linear.scale == 1.0;
        if let (true, Some(act)) = (is_plain(gate) && is_plain(up), activation(act)) {
            let input = x.acts.as_ref().expect("acts are present until drop: this is a bug");
            let mut is_done = false;
            let out = self.prepared([input.rows(), gate.packed.n()], |acts| {
                is_done = linear::gated(input, [&gate.packed, &up.packed], act, acts, &self.pool);
            })?;
            if is_done {
                return Ok(out);
            }
        }
        let [gate, up] = self.linear(x, [gate, up])?;
        self.glu_act(&gate, &up, act)
    }

    fn unary_act(&mut self, x: &CpuTensor, act: ActSpec) -> Result<CpuAct, ModelError> {
        let needs_two = matches!(
            act,
            ActSpec::OaiSwiglu | ActSpec::LimitedSwiglu { .. } | ActSpec::ClampedSwiglu { .. }
        );
        if needs_two {
            return Err(ModelError::Limit("a clamped gate needs two inputs".to_owned()));
        }
        if let Some(act) = activation(act) {
            return self.prepared([x.rows, x.cols], |acts| {
                acts.set_act(x.view(), act, &self.pool);
            });
        }
        let mut out = self.buffers.tensor(x.rows, x.cols)?;
        out.data.iter_mut().zip(&*x.data).for_each(|(out, &x)| *out = scalar(act, x));
        self.act(&out)
    }

    fn head_norm(
        &mut self,
        mut x: CpuTensor,
        heads: usize,
        norm: &Norm<Vec<f32>>,
    ) -> Result<CpuTensor, ModelError> {
        debug_assert_eq!(x.cols, heads * norm.weight.len());
        if norm.spec.kind == NormKind::Rms {
            norm::rms_norm_heads(x.view_mut(), &norm.weight, norm.spec.eps, &self.pool);
            return Ok(x);
        }
        let mut out = self.buffers.tensor(x.rows, x.cols)?;
        layer_norm_heads(&x.data, norm, &mut out.data, &self.pool);
        Ok(out)
    }
}

/// Layer norm of each head by itself. Heads lie side by side, so that each is a row of its own.
fn layer_norm_heads(x: &[f32], by: &Norm<Vec<f32>>, out: &mut [f32], pool: &Pool) {
    let cols = by.weight.len();
    let rows = x.len() / cols;
    let x = Rows { data: x, rows, cols, stride: cols };
    let out = RowsMut { data: out, rows, cols, stride: cols };
    norm::layer_norm(x, &by.weight, by.bias.as_deref(), by.spec.eps, out, pool);
}

/// The kernels' name for an activation; `None` for those that they lack.
pub(super) fn activation(act: ActSpec) -> Option<Activation> {
    match act {
        ActSpec::Silu => Some(Activation::Silu),
        ActSpec::Gelu => Some(Activation::Gelu),
        ActSpec::GeluErf => Some(Activation::GeluErf),
        ActSpec::Relu => Some(Activation::Relu),
        ActSpec::Relu2 => Some(Activation::Relu2),
        ActSpec::Sigmoid => Some(Activation::Sigmoid),
        ActSpec::Tanh
        | ActSpec::Softplus
        | ActSpec::OaiSwiglu
        | ActSpec::LimitedSwiglu { .. }
        | ActSpec::ClampedSwiglu { .. }
        | ActSpec::Xielu(_) => None,
    }
}

/// An activation that the kernels lack, of one number.
fn scalar(act: ActSpec, x: f32) -> f32 {
    match act {
        ActSpec::Xielu(xielu) => xielu.apply(x),
        ActSpec::Softplus => GateAct::Softplus.apply(x),
        ActSpec::LimitedSwiglu { limit } => (x / (1.0 + (-x).exp())).min(limit),
        ActSpec::ClampedSwiglu { limit } => x.min(limit) / (1.0 + (-x.min(limit)).exp()),
        _ => x.tanh(),
    }
}

/// See [`ActSpec::OaiSwiglu`].
fn oai_swiglu(gate: f32, up: f32) -> f32 {
    let gate = gate.min(7.0);
    gate / (1.0 + (-1.702 * gate).exp()) * (up.clamp(-7.0, 7.0) + 1.0)
}
