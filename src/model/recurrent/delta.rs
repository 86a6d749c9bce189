//! Gated DeltaNet: weights, and the way of a batch through them.

use super::{sigmoid, softplus};
use crate::model::attention::Place;
use crate::model::carried::DeltaSpec;
use crate::model::error::ModelError;
use crate::model::loader::Loader;
use crate::model::ops::{Conv, Load, Norm, Ops, Scan};
use crate::model::spec::{ActSpec, NormKind, NormSpec};

/// Weights of one layer.
pub(in crate::model) struct Delta<O: Load> {
    /// To queries, keys and values, and to the gate of the output.
    input: [O::Linear; 2],
    rates: Rates<O>,
    conv: Conv,
    /// Rows to length one, queries divided by the root of their width besides.
    q_norm: Norm<O::Vector>,
    k_norm: Norm<O::Vector>,
    /// (heads): added before the softplus.
    offset: Vec<f32>,
    /// (heads): what a step takes off the logarithm of the state, as a negative factor.
    slope: Vec<f32>,
    norm: Norm<O::Vector>,
    out: O::Linear,
}

/// What makes gains and decays.
enum Rates<O: Load> {
    /// Gains, decays.
    Apart([O::Linear; 2]),
    /// Of each group: gains of its heads, decays of its heads.
    Fused(O::Linear),
}

impl<O: Ops> Delta<O> {
    /// (T, hidden).
    pub(in crate::model) fn run(
        &self,
        ops: &mut O,
        place: &Place<'_, O>,
        input: &O::Act,
        spec: &DeltaSpec,
    ) -> Result<O::Tensor, ModelError> {
        let (shape, keys) = (&spec.shape, spec.keys());
        let [mixed, gate] = ops.linear(input, self.input.each_ref())?;
        let (gain, decay) = self.rates(ops, input, spec)?;
        let mixed = ops.conv(place.index, &mixed, &self.conv)?;
        let q = ops.part(&mixed, 1, 0..keys)?;
        let k = ops.part(&mixed, 1, keys..2 * keys)?;
        let v = ops.part(&mixed, 1, 2 * keys..spec.channels())?;
        let q = ops.head_norm(q, shape.groups, &self.q_norm)?;
        let k = ops.head_norm(k, shape.groups, &self.k_norm)?;
        let scan = Scan { q: &q, k: &k, v: &v, decay: &decay, gain: &gain, shape };
        let found = ops.scan(place.index, &scan)?;
        let found = ops.head_norm(found, shape.heads, &self.norm)?;
        let found = ops.glu_act(&gate, &found, ActSpec::Silu)?;
        let [out] = ops.linear(&found, [&self.out])?;
        Ok(out)
    }

    /// Gains and decays of all heads, (T, heads) each.
    fn rates(
        &self,
        ops: &mut O,
        input: &O::Act,
        spec: &DeltaSpec,
    ) -> Result<(Vec<f32>, Vec<f32>), ModelError> {
        let heads = spec.shape.heads;
        let (gain, decay) = match &self.rates {
            Rates::Apart(weights) => {
                let [gain, decay] = ops.linear(input, weights.each_ref())?;
                (gain, decay)
            }
            Rates::Fused(weight) => {
                let (groups, each) = (spec.shape.groups, heads / spec.shape.groups);
                let [both] = ops.linear(input, [weight])?;
                (ops.part(&both, groups, 0..each)?, ops.part(&both, groups, each..2 * each)?)
            }
        };
        let gain: Vec<f32> = ops.host(gain)?.iter().copied().map(sigmoid).collect();
        let mut decay = ops.host(decay)?.to_vec();
        for row in decay.chunks_exact_mut(heads) {
            for ((x, offset), slope) in row.iter_mut().zip(&self.offset).zip(&self.slope) {
                *x = (softplus(*x + offset) * slope).exp();
            }
        }
        Ok((gain, decay))
    }
}

impl<O: Load> Loader<'_, O> {
    /// Gated DeltaNet of layer `index`.
    pub(in crate::model) fn delta(
        &mut self,
        index: usize,
        hidden: usize,
        (spec, norm): (&DeltaSpec, NormSpec),
    ) -> Result<Delta<O>, ModelError> {
        let name = |part: &str| format!("blk.{index}.{part}");
        let (heads, width) = (spec.shape.heads, spec.shape.key_dim as f32);
        let rates = match spec.is_fused {
            true => Rates::Fused(self.linear(&name("ssm_ba"), 2 * heads, hidden)?),
            false => Rates::Apart([
                self.linear(&name("ssm_beta"), heads, hidden)?,
                self.linear(&name("ssm_alpha"), heads, hidden)?,
            ]),
        };
        let mut conv = self.conv(&name("ssm_conv1d"), spec.taps, spec.channels())?;
        conv.act = Some(ActSpec::Silu);
        // x / √(Σx² + ε) = x / √(mean(x²) + ε/width) / √width.
        let unit = NormSpec { kind: NormKind::Rms, eps: UNIT_EPS / width };
        let mut length = |length: f32| -> Result<_, ModelError> {
            let weight = self.ops.load_vector(vec![length; spec.shape.key_dim])?;
            Ok(Norm { weight, bias: None, spec: unit })
        };
        Ok(Delta {
            q_norm: length(1.0 / width)?,
            k_norm: length(1.0 / width.sqrt())?,
            rates,
            conv,
            input: [
                self.linear(&name("attn_qkv"), spec.channels(), hidden)?,
                self.linear(&name("attn_gate"), spec.values(), hidden)?,
            ],
            offset: self.floats(&name("ssm_dt.bias"), heads)?,
            slope: self.floats(&name("ssm_a"), heads)?,
            norm: self.norm(&name("ssm_norm"), spec.shape.value_dim, norm)?,
            out: self.linear(&name("ssm_out"), hidden, spec.values())?,
        })
    }
}

/// Added to the square of a length before it is divided by.
const UNIT_EPS: f32 = 1e-6;
