//! One layer: what mixes rows (attention, a convolution, a recurrence), a feed-forward part, and the norms around them.

use super::attention::{Attention, Place};
use super::error::ModelError;
use super::ffn::{Ffn, Input, prepare};
use super::latent::Latent;
use super::layer_inputs::OwnInput;
use super::loader::Loader;
use super::ops::{Load, Norm, Ops};
use super::recurrent::{Delta, ShortConv, Ssm};
use super::spec::{LayerSpec, MixerSpec, ModelSpec, NormSpec};

/// Weights of one layer.
pub struct Layer<O: Load> {
    pub(super) norm: Option<Norm<O::Vector>>,
    mixer: Mixer<O>,
    /// On what the mixer makes.
    mixer_post: Option<Norm<O::Vector>>,
    /// On the residual stream after the mixer.
    mixer_sum: Option<Norm<O::Vector>>,
    ffn_norm: Option<Norm<O::Vector>>,
    ffn: Ffn<O>,
    ffn_post: Option<Norm<O::Vector>>,
    /// On the residual stream after the feed-forward part.
    ffn_sum: Option<Norm<O::Vector>>,
    /// What the layer does with its own input.
    own: Option<OwnInput<O>>,
    /// Factor on the residual stream after all.
    scale: Option<f32>,
}

/// What brings rows of a sequence together; see [`MixerSpec`].
enum Mixer<O: Load> {
    Attention(Attention<O>),
    Latent(Box<Latent<O>>),
    ShortConv(ShortConv<O>),
    Delta(Box<Delta<O>>),
    Ssm(Box<Ssm<O>>),
    Both(Box<(Attention<O>, Ssm<O>)>),
    None,
}

impl<O: Ops> Layer<O> {
    /// The residual stream (T, hidden) through both parts, each times `scale` as it is added.
    pub(super) fn run(
        &self,
        ops: &mut O,
        (place, spec): (&Place<'_, O>, &LayerSpec),
        x: O::Tensor,
        scale: f32,
    ) -> Result<O::Tensor, ModelError> {
        if matches!(self.mixer, Mixer::None) {
            if matches!(self.ffn, Ffn::None) {
                return Ok(x);
            }
            let fed = self.feed(ops, &self.input(&x), spec)?;
            return ops.add(x, &fed, scale);
        }
        let early = spec.ffn.moe().is_some_and(|moe| moe.early);
        let early = early.then(|| ops.act(&x)).transpose()?;
        let input = prepare(ops, &x, self.norm.as_ref())?;
        let mixed = self.mix(ops, (place, spec), &input)?;
        if spec.norms.parallel {
            let input = match &self.ffn_norm {
                None => Input::Shared(&input, &x, self.norm.as_ref()),
                norm => Input::Stream(&x, norm.as_ref()),
            };
            let fed = self.feed(ops, &input, spec)?;
            let x = ops.add(x, &mixed, scale)?;
            return ops.add(x, &fed, scale);
        }
        let mut x = ops.add(x, &mixed, scale)?;
        if let Some(norm) = &self.mixer_sum {
            x = ops.norm(&x, norm)?;
        }
        if matches!(self.ffn, Ffn::None) {
            return Ok(x);
        }
        let input = match &early {
            Some(early) => Input::Routed(&x, self.ffn_norm.as_ref(), early),
            None => self.input(&x),
        };
        let fed = self.feed(ops, &input, spec)?;
        let x = ops.add(x, &fed, scale)?;
        let x = match &self.ffn_sum {
            Some(norm) => ops.norm(&x, norm)?,
            None => x,
        };
        self.finish(ops, place, x)
    }

    /// What comes after both parts, where there is more.
    fn finish(
        &self,
        ops: &mut O,
        place: &Place<'_, O>,
        mut x: O::Tensor,
    ) -> Result<O::Tensor, ModelError> {
        if let (Some(own), Some(inputs)) = (&self.own, place.inputs) {
            let added = own.run(ops, &x, (place.index, inputs))?;
            x = ops.add(x, &added, 1.0)?;
        }
        match self.scale {
            Some(scale) => ops.scale(x, scale),
            None => Ok(x),
        }
    }

    /// What the mixer makes of its input, its post-norm applied: (T, hidden).
    pub(super) fn mix(
        &self,
        ops: &mut O,
        (place, spec): (&Place<'_, O>, &LayerSpec),
        input: &O::Act,
    ) -> Result<O::Tensor, ModelError> {
        let out = match (&self.mixer, &spec.mixer) {
            (Mixer::Attention(weights), MixerSpec::Attention(attn)) => {
                weights.run(ops, place, input, attn)?
            }
            (Mixer::Latent(weights), MixerSpec::Latent { attn, .. }) => {
                weights.run(ops, place, input, attn)?
            }
            (Mixer::ShortConv(weights), MixerSpec::ShortConv(conv)) => {
                weights.run(ops, place, input, conv)?
            }
            (Mixer::Delta(weights), MixerSpec::Delta(delta)) => {
                weights.run(ops, place, input, delta)?
            }
            (Mixer::Ssm(weights), MixerSpec::Ssm(ssm)) => weights.run(ops, place, input, ssm)?,
            (Mixer::Both(weights), MixerSpec::Both { attn, ssm }) => {
                let attended = weights.0.run(ops, place, input, attn)?;
                let carried = weights.1.run(ops, place, input, ssm)?;
                ops.add(attended, &carried, 1.0)?
            }
            _ => unreachable!("weights are loaded by the same spec: this is a bug"),
        };
        match &self.mixer_post {
            Some(norm) => ops.norm(&out, norm),
            None => Ok(out),
        }
    }

    /// What the feed-forward part reads of the residual stream.
    pub(super) fn input<'a>(&'a self, x: &'a O::Tensor) -> Input<'a, O> {
        Input::Stream(x, self.ffn_norm.as_ref())
    }

    /// What the feed-forward part makes of its input, its post-norm applied: (T, hidden).
    pub(super) fn feed(
        &self,
        ops: &mut O,
        input: &Input<'_, O>,
        spec: &LayerSpec,
    ) -> Result<O::Tensor, ModelError> {
        let out = self.ffn.run(ops, input, &spec.ffn)?;
        match &self.ffn_post {
            Some(norm) => ops.norm(&out, norm),
            None => Ok(out),
        }
    }
}

impl<O: Load> Loader<'_, O> {
    /// Layer `index` of the model.
    pub(super) fn layer(
        &mut self,
        model: &ModelSpec,
        index: usize,
        spec: &LayerSpec,
    ) -> Result<Layer<O>, ModelError> {
        let (hidden, norm, norms) = (model.hidden, model.norm, spec.norms);
        let mixer = match &spec.mixer {
            MixerSpec::Attention(attn) => {
                Mixer::Attention(self.attention(index, hidden, (attn, norm))?)
            }
            MixerSpec::Latent { attn, latent } => {
                let latent = self.latent(index, hidden, attn.heads, (*latent, norm))?;
                Mixer::Latent(Box::new(latent))
            }
            MixerSpec::ShortConv(conv) => Mixer::ShortConv(self.short_conv(index, hidden, conv)?),
            MixerSpec::Delta(delta) => {
                Mixer::Delta(Box::new(self.delta(index, hidden, (delta, norm))?))
            }
            MixerSpec::Both { attn, ssm } => {
                let attn = self.attention(index, hidden, (attn, norm))?;
                Mixer::Both(Box::new((attn, self.ssm(index, hidden, (ssm, norm))?)))
            }
            MixerSpec::None => Mixer::None,
            MixerSpec::Ssm(ssm) => Mixer::Ssm(Box::new(self.ssm(index, hidden, (ssm, norm))?)),
        };
        let post = NormSpec { eps: norms.post_eps.unwrap_or(norm.eps), ..norm };
        let mut norm_by = |part: Option<&str>, spec: NormSpec| match part {
            Some(part) => self.norm(&format!("blk.{index}.{part}"), hidden, spec).map(Some),
            None => Ok(None),
        };
        Ok(Layer {
            mixer,
            norm: norm_by(norms.attn, norm)?,
            mixer_post: norm_by(norms.attn_post.then_some("post_attention_norm"), post)?,
            mixer_sum: norm_by(norms.residual.then_some("attn_output_norm"), norm)?,
            ffn_norm: norm_by(norms.ffn, norm)?,
            ffn_post: norm_by(norms.ffn_post.then_some("post_ffw_norm"), post)?,
            ffn_sum: norm_by(norms.residual.then_some("layer_output_norm"), norm)?,
            ffn: self.ffn(index, (hidden, model.norm), &spec.ffn)?,
            own: match model.layer_input {
                Some(width) => Some(self.own_input(index, (hidden, width), model.norm)?),
                None => None,
            },
            scale: match norms.scaled {
                true => self.floats(&format!("blk.{index}.layer_output_scale.weight"), 1)?.pop(),
                false => None,
            },
        })
    }
}
