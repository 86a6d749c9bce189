//! State-space layers of the second kind (Mamba 2): weights, and the way of a batch through them.

use super::softplus;
use crate::model::attention::Place;
use crate::model::carried::SsmSpec;
use crate::model::error::ModelError;
use crate::model::loader::Loader;
use crate::model::ops::{Conv, Load, Norm, Ops, Scan};
use crate::model::spec::{ActSpec, NormSpec};

/// Weights of one layer.
pub(in crate::model) struct Ssm<O: Load> {
    /// To the gate, the columns of the convolution, and the step of each head.
    input: [O::Linear; 3],
    conv: Conv,
    /// (heads): added before the softplus.
    offset: Vec<f32>,
    /// (heads): the logarithm of the decay in a step of one, negative.
    slope: Vec<f32>,
    /// (inner): what of its input a column adds to its output.
    skip: O::Vector,
    norm: Option<GroupNorm<O>>,
    out: O::Linear,
}

/// A norm over each group, and factors of the columns after it.
struct GroupNorm<O: Load> {
    norm: Norm<O::Vector>,
    columns: O::Vector,
}

impl<O: Ops> Ssm<O> {
    /// (T, hidden).
    pub(in crate::model) fn run(
        &self,
        ops: &mut O,
        place: &Place<'_, O>,
        input: &O::Act,
        spec: &SsmSpec,
    ) -> Result<O::Tensor, ModelError> {
        let (shape, inner, keys) = (&spec.shape, spec.inner(), spec.keys());
        let [gate, mixed, steps] = ops.linear(input, self.input.each_ref())?;
        let (gain, decay) = self.rates(ops, steps)?;
        let mixed = ops.conv(place.index, &mixed, &self.conv)?;
        let v = ops.part(&mixed, 1, 0..inner)?;
        let k = ops.part(&mixed, 1, inner..inner + keys)?;
        let q = ops.part(&mixed, 1, inner + keys..spec.channels())?;
        let scan = Scan { q: &q, k: &k, v: &v, decay: &decay, gain: &gain, shape };
        let found = ops.scan(place.index, &scan)?;
        let skipped = ops.scale_columns(v, &self.skip)?;
        let found = ops.add(found, &skipped, 1.0)?;
        let Some(GroupNorm { norm, columns }) = &self.norm else {
            let found = ops.glu_act(&gate, &found, ActSpec::Silu)?;
            let [out] = ops.linear(&found, [&self.out])?;
            return Ok(out);
        };
        let gate = ops.activate(gate, ActSpec::Silu)?;
        let found = ops.mul(found, &gate)?;
        let found = ops.head_norm(found, shape.groups, norm)?;
        let found = ops.scale_columns(found, columns)?;
        let found = ops.act(&found)?;
        let [out] = ops.linear(&found, [&self.out])?;
        Ok(out)
    }

    /// Steps and decays of all heads, (T, heads) each.
    fn rates(&self, ops: &mut O, steps: O::Tensor) -> Result<(Vec<f32>, Vec<f32>), ModelError> {
        let mut gain = ops.host(steps)?.to_vec();
        let mut decay = vec![0.0; gain.len()];
        let heads = self.offset.len();
        for (gain, decay) in gain.chunks_exact_mut(heads).zip(decay.chunks_exact_mut(heads)) {
            for head in 0..heads {
                gain[head] = softplus(gain[head] + self.offset[head]);
                decay[head] = (gain[head] * self.slope[head]).exp();
            }
        }
        Ok((gain, decay))
    }
}

impl<O: Load> Loader<'_, O> {
    /// The state-space layer `index`.
    pub(in crate::model) fn ssm(
        &mut self,
        index: usize,
        hidden: usize,
        (spec, norm): (&SsmSpec, NormSpec),
    ) -> Result<Ssm<O>, ModelError> {
        let name = |part: &str| format!("blk.{index}.{part}");
        let (heads, inner, groups) = (spec.shape.heads, spec.inner(), spec.shape.groups);
        let widths = [inner, spec.channels(), heads];
        let mut parts = self.split(&name("ssm_in"), &widths, hidden)?.into_iter();
        let mut next = || parts.next().ok_or_else(|| ModelError::MissingTensor(name("ssm_in")));
        let input = [next()?, next()?, next()?];
        let mut conv = self.conv(&name("ssm_conv1d"), spec.taps, spec.channels())?;
        conv.act = Some(ActSpec::Silu);
        let skips = self.floats(&name("ssm_d"), heads)?;
        let skip = skips.iter().flat_map(|skip| std::iter::repeat_n(*skip, spec.shape.value_dim));
        let norm = match spec.has_norm {
            true => {
                let columns = self.floats(&name("ssm_norm.weight"), inner)?;
                let columns = self.ops.load_vector(columns)?;
                Some(GroupNorm { norm: self.ones(inner / groups, norm)?, columns })
            }
            false => None,
        };
        Ok(Ssm {
            input,
            conv,
            offset: self.floats(&name("ssm_dt.bias"), heads)?,
            slope: self.floats(&name("ssm_a"), heads)?,
            skip: self.ops.load_vector(skip.collect())?,
            norm,
            out: self.linear(&name("ssm_out"), hidden, inner)?,
        })
    }
}
