//! The keys and tensors that most architectures share, read into parts of a [`ModelSpec`].

use std::cell::RefCell;
use std::collections::HashSet;

use crate::model::error::ModelError;
use crate::model::gguf::{Array, Gguf, Metadata, Value};
use crate::model::runner::Pooling;
use crate::model::spec::{
    ActSpec, AttnSpec, EmbedNorm, FfnSpec, Groups, HeadSpec, LayerSpec, MixerSpec, ModelSpec,
    MoeScore, MoeSpec, NormKind, NormSpec, Norms, QkNorm, RopeFactors, RopeScaling, RopeSpec,
    RopeStyle, YarnSpec,
};

/// Metadata under the architecture's prefix.
pub(super) struct Keys<'a> {
    pub(super) gguf: &'a Gguf,
    pub(super) metadata: &'a Metadata,
    pub(super) name: &'a str,
    /// Keys that a description asked for: the others are checked when it is done.
    asked: RefCell<HashSet<String>>,
}

impl<'a> Keys<'a> {
    pub(super) fn new(gguf: &'a Gguf, name: &'a str) -> Self {
        Self { gguf, metadata: gguf.metadata(), name, asked: RefCell::default() }
    }
}

impl Keys<'_> {
    /// The whole key, which counts as read from here on.
    pub(super) fn key(&self, key: &str) -> String {
        let whole = format!("{}.{key}", self.name);
        if self.metadata.get(&whole).is_some() {
            self.asked.borrow_mut().insert(key.to_owned());
        }
        whole
    }

    /// A key that is known and left out on purpose.
    pub(super) fn leave_out(&self, key: &str) {
        self.key(key);
    }

    /// Keys under the prefix, without it, that nothing asked for.
    pub(super) fn unread(&self) -> Vec<(&str, &Value)> {
        let asked = self.asked.borrow();
        let own = self.metadata.iter().filter_map(|(key, value)| {
            let key = key.strip_prefix(self.name)?.strip_prefix('.')?;
            Some((key, value))
        });
        own.filter(|(key, _)| !asked.contains(*key)).collect()
    }

    /// Sections of a rotary embedding for positions in several directions (M-RoPE). A text's positions
    /// are alike in all of them but the fourth, which stays at 0: no pair may belong to it.
    pub(super) fn has_sections(&self) -> Result<bool, ModelError> {
        let key = self.key("rope.dimension_sections");
        let sections = self.metadata.u32s(&key)?.unwrap_or_default();
        if sections.get(3).is_some_and(|pairs| *pairs > 0) {
            let problem = format!("{sections:?}: a fourth section is not supported");
            return Err(ModelError::BadKey { key, problem });
        }
        Ok(sections.iter().take(2).filter(|pairs| **pairs > 0).count() == 2)
    }

    /// Layer norms on queries and keys with weights for each head, where the file has them.
    pub(super) fn norms_of_each_head(&self) -> QkNorm {
        match self.has("blk.0.attn_q_norm.weight") {
            true => QkNorm::EachHead,
            false => QkNorm::None,
        }
    }

    /// The file has this tensor.
    pub(super) fn has(&self, tensor: &str) -> bool {
        self.gguf.tensor(tensor).is_some()
    }

    pub(super) fn usize(&self, key: &str) -> Result<usize, ModelError> {
        self.opt_usize(key)?.ok_or_else(|| ModelError::MissingKey(self.key(key)))
    }

    pub(super) fn opt_usize(&self, key: &str) -> Result<Option<usize>, ModelError> {
        Ok(self.metadata.u32(&self.key(key))?.map(|value| value as usize))
    }

    pub(super) fn f32(&self, key: &str) -> Result<Option<f32>, ModelError> {
        let value = self.metadata.f32(&self.key(key))?;
        match value {
            Some(value) if !value.is_finite() => Err(ModelError::BadKey {
                key: self.key(key),
                problem: format!("{value} is not a finite number"),
            }),
            value => Ok(value),
        }
    }

    /// llama.cpp's numbers; a decoder's file rarely has one, and then the mean it is.
    pub(super) fn pooling(&self) -> Result<Pooling, ModelError> {
        match self.opt_usize("pooling_type")? {
            None | Some(0 | 1) => Ok(Pooling::Mean),
            Some(2) => Ok(Pooling::First),
            Some(3) => Ok(Pooling::Last),
            Some(number) => {
                let problem = format!("{number} is none of 0 to 3");
                Err(ModelError::BadKey { key: self.key("pooling_type"), problem })
            }
        }
    }

    pub(super) fn str(&self, key: &str) -> Result<Option<&str>, ModelError> {
        Ok(self.metadata.str(&self.key(key))?)
    }

    /// A number for all layers or an array with one for each.
    pub(super) fn per_layer(
        &self,
        key: &str,
        layers: usize,
    ) -> Result<Option<Vec<usize>>, ModelError> {
        let Some(values) = self.metadata.u32s(&self.key(key))? else {
            return Ok(None);
        };
        match values.len() {
            1 => Ok(Some(vec![values[0] as usize; layers])),
            len if len >= layers => {
                Ok(Some(values[..layers].iter().map(|&value| value as usize).collect()))
            }
            len => Err(ModelError::BadKey {
                key: self.key(key),
                problem: format!("{len} values for {layers} layers"),
            }),
        }
    }

    /// A number for each layer, under a key without the architecture's name.
    pub(super) fn floats(&self, key: &str, layers: usize) -> Result<Vec<f32>, ModelError> {
        let values = match self.metadata.get(key) {
            Some(Value::Array(_)) => self.metadata.f32s(key)?.map(<[f32]>::to_vec),
            _ => self.metadata.f32(key)?.map(|value| vec![value; layers]),
        };
        let values = values.ok_or_else(|| ModelError::MissingKey(key.to_owned()))?;
        if values.len() < layers || values.iter().any(|value| !value.is_finite()) {
            let problem = format!("{layers} finite values are needed, one a layer");
            return Err(ModelError::BadKey { key: key.to_owned(), problem });
        }
        Ok(values)
    }

    pub(super) fn rms(&self) -> Result<NormSpec, ModelError> {
        let eps = self.f32("attention.layer_norm_rms_epsilon")?;
        let eps = eps
            .ok_or_else(|| ModelError::MissingKey(self.key("attention.layer_norm_rms_epsilon")))?;
        Ok(NormSpec { kind: NormKind::Rms, eps })
    }

    pub(super) fn layer_norm(&self) -> Result<NormSpec, ModelError> {
        let eps = self.f32("attention.layer_norm_epsilon")?;
        let eps =
            eps.ok_or_else(|| ModelError::MissingKey(self.key("attention.layer_norm_epsilon")))?;
        Ok(NormSpec { kind: NormKind::Layer, eps })
    }

    pub(super) fn vocab_size(&self) -> Result<usize, ModelError> {
        if let Some(tokens) = self.metadata.strings("tokenizer.ggml.tokens")? {
            return Ok(tokens.len());
        }
        self.usize("vocab_size")
    }

    /// Rotary embedding by the standard keys; `dim` is the default for `rope.dimension_count`.
    pub(super) fn rope(&self, style: RopeStyle, dim: usize) -> Result<RopeSpec, ModelError> {
        let scaling = self.rope_scaling()?;
        let mut magnitude = self.f32("rope.scaling.attn_factor")?.unwrap_or(1.0);
        if let RopeScaling::Yarn(yarn) = &scaling
            && let Some(given) = self.f32("rope.scaling.yarn_attn_factor")?
        {
            // The file's factor stands in place of the one that comes of how far YaRN stretches.
            magnitude *= given / (1.0 + 0.1 * yarn.factor.max(1.0).ln());
        }
        Ok(RopeSpec {
            style,
            dim: self.opt_usize("rope.dimension_count")?.unwrap_or(dim),
            base: self.f32("rope.freq_base")?.unwrap_or(10_000.0),
            scaling,
            factors: self.rope_factors()?,
            magnitude,
        })
    }

    pub(super) fn rope_factors(&self) -> Result<RopeFactors, ModelError> {
        if self.has("rope_freqs.weight") {
            return Ok(RopeFactors::Always("rope_freqs.weight"));
        }
        if !self.has("rope_factors_long.weight") {
            return Ok(RopeFactors::None);
        }
        let original = self.opt_usize("rope.scaling.original_context_length")?;
        Ok(RopeFactors::BySize {
            short: "rope_factors_short.weight",
            long: "rope_factors_long.weight",
            original_context: match original {
                Some(original) => original,
                None => self.usize("context_length")?,
            },
        })
    }

    pub(super) fn rope_scaling(&self) -> Result<RopeScaling, ModelError> {
        let factor = match self.f32("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            // The key of files before mid-2023.
            None => self.f32("rope.scale_linear")?,
        };
        let factor = factor.filter(|factor| *factor > 0.0).unwrap_or(1.0);
        match self.str("rope.scaling.type")? {
            Some("none" | "longrope") => Ok(RopeScaling::None),
            None | Some("linear") if factor == 1.0 => Ok(RopeScaling::None),
            None | Some("linear") => Ok(RopeScaling::Linear { factor }),
            Some("yarn") => {
                let original = self.opt_usize("rope.scaling.original_context_length")?;
                Ok(RopeScaling::Yarn(YarnSpec {
                    factor,
                    original_context: match original {
                        Some(original) => original,
                        None => self.usize("context_length")?,
                    },
                    beta_fast: self.f32("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                    beta_slow: self.f32("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                    ext_factor: self.f32("rope.scaling.yarn_ext_factor")?.unwrap_or(1.0),
                    truncate: true,
                }))
            }
            Some(other) => Err(ModelError::BadKey {
                key: self.key("rope.scaling.type"),
                problem: format!(
                    "'{other}' is not supported; supported: none, linear, yarn, longrope"
                ),
            }),
        }
    }

    /// The dense, pre-norm, gated transformer that most families vary.
    pub(super) fn dense(&self, norm: NormSpec, rope: RopeSpec) -> Result<ModelSpec, ModelError> {
        let blocks = self.usize("block_count")?;
        // Blocks that guess tokens further ahead are counted, and are no layers.
        let spare_blocks = self.opt_usize("nextn_predict_layers")?.unwrap_or(0).min(blocks);
        let layers = blocks - spare_blocks;
        let hidden = self.usize("embedding_length")?;
        let too_many = || ModelError::Limit(format!("layer count {layers} exceeds 1024"));
        if layers > 1024 {
            return Err(too_many());
        }
        let heads = self.per_layer("attention.head_count", layers)?;
        let heads =
            heads.ok_or_else(|| ModelError::MissingKey(self.key("attention.head_count")))?;
        let kv_heads =
            self.per_layer("attention.head_count_kv", layers)?.unwrap_or_else(|| heads.clone());
        let widths = self.per_layer("feed_forward_length", layers)?;
        let widths =
            widths.ok_or_else(|| ModelError::MissingKey(self.key("feed_forward_length")))?;
        let head_dim = match (self.opt_usize("attention.key_length")?, heads.first()) {
            (Some(head_dim), _) => head_dim,
            (None, Some(&heads)) if heads > 0 => hidden / heads,
            _ => 0,
        };
        let value_dim = self.opt_usize("attention.value_length")?.unwrap_or(head_dim);
        let layer = |index: usize| LayerSpec {
            mixer: MixerSpec::Attention(AttnSpec {
                heads: heads[index],
                kv_heads: kv_heads[index],
                head_dim,
                value_dim,
                rope: Some(0),
                qk_norm: QkNorm::None,
                qk_norm_late: false,
                temperature: None,
                scale: 1.0 / (head_dim as f32).sqrt(),
                softcap: None,
                window: None,
                chunk: None,
                alibi: None,
                value_norm: false,
                values_of_keys: false,
                value_scale: 1.0,
                shares_kv: None,
                clamp: None,
                sinks: false,
                gate: None,
                causal: true,
            }),
            ffn: FfnSpec::Gated { width: widths[index], act: ActSpec::Silu, sparsity: None },
            norms: Norms::PRE,
        };
        Ok(ModelSpec {
            layers: (0..layers).map(layer).collect(),
            spare_blocks,
            ropes: vec![rope],
            ..self.bare(norm)?
        })
    }

    /// What most models are around their layers, which are not there yet.
    pub(super) fn bare(&self, norm: NormSpec) -> Result<ModelSpec, ModelError> {
        Ok(ModelSpec {
            architecture: self.name.to_owned(),
            vocab_size: self.vocab_size()?,
            hidden: self.usize("embedding_length")?,
            context_len: self.usize("context_length")?,
            layers: Vec::new(),
            spare_blocks: 0,
            left_out: &[],
            warning: None,
            norm,
            norms_learned: true,
            last_norm: "output_norm",
            ropes: Vec::new(),
            embed_scale: 1.0,
            learned_positions: false,
            embed_norm: EmbedNorm::None,
            residual_scale: 1.0,
            logit_scale: 1.0,
            logit_softcap: None,
            pooling: Pooling::default(),
            token_types: 0,
            head: HeadSpec::Logits,
            layer_input: None,
            altup: None,
        })
    }

    /// Queries, keys and values are clamped if the file says so.
    pub(super) fn clamp(&self, spec: &mut ModelSpec) -> Result<(), ModelError> {
        let limit = self.f32("attention.clamp_kqv")?.filter(|limit| *limit > 0.0);
        spec.layers.iter_mut().for_each(|layer| layer.attn_mut().clamp = limit);
        Ok(())
    }

    /// The mixture that the standard keys describe, with softmax scores that are made to sum to one.
    pub(super) fn moe(&self, width: usize) -> Result<MoeSpec, ModelError> {
        Ok(MoeSpec {
            experts: self.usize("expert_count")?,
            used: self.usize("expert_used_count")?,
            width: self.opt_usize("expert_feed_forward_length")?.unwrap_or(width),
            act: ActSpec::Silu,
            gated: true,
            score: MoeScore::Softmax,
            normalise: true,
            scale: 1.0,
            shared_width: None,
            shared_gate: false,
            shared_act: None,
            shared_scale: 1.0,
            groups: None,
            early: false,
            weigh_input: false,
            latent: None,
        })
    }

    /// The mixture that all the keys describe, as DeepSeek's descendants write them; weights sum to one
    /// only if the file says so.
    pub(super) fn routed(&self, width: usize) -> Result<MoeSpec, ModelError> {
        let mut moe = self.moe(width)?;
        let key = "expert_gating_func";
        moe.score = match self.opt_usize(key)? {
            None | Some(0 | 1) => MoeScore::Softmax,
            Some(2) => MoeScore::Sigmoid,
            Some(3) => MoeScore::SoftmaxAfter,
            Some(other) => {
                let problem = format!("{other} is not supported; supported: 1, 2, 3");
                return Err(ModelError::BadKey { key: self.key(key), problem });
            }
        };
        let normalise = self.metadata.bool(&self.key("expert_weights_norm"))?;
        moe.normalise = normalise.unwrap_or(false);
        moe.scale = self.f32("expert_weights_scale")?.filter(|scale| *scale != 0.0).unwrap_or(1.0);
        let shared = self.opt_usize("expert_shared_count")?.unwrap_or(0);
        moe.shared_width = moe.width.checked_mul(shared).filter(|width| *width > 0);
        let count = self.opt_usize("expert_group_count")?.unwrap_or(0);
        if count > 1 {
            let used = self.usize("expert_group_used_count")?;
            // DeepSeek-V2 ranks a group by its best expert, V3 by its best two.
            let best = if moe.score == MoeScore::Softmax { 1 } else { 2 };
            moe.groups = Some(Groups { count, used, best });
        }
        Ok(moe)
    }

    /// Makes mixtures of the feed-forward parts, except in the first layers if the file says so, by their
    /// number or by their tensors.
    pub(super) fn mixtures(
        &self,
        spec: &mut ModelSpec,
        edit: impl Fn(&mut MoeSpec),
    ) -> Result<(), ModelError> {
        let is_dense = |index: &usize| !self.has(&format!("blk.{index}.ffn_gate_inp.weight"));
        let dense = match self.opt_usize("leading_dense_block_count")? {
            Some(dense) => dense,
            None => (0..spec.layers.len()).take_while(is_dense).count(),
        };
        for layer in spec.layers.iter_mut().skip(dense) {
            let FfnSpec::Gated { width, .. } = layer.ffn else { continue };
            let mut moe = self.routed(width)?;
            edit(&mut moe);
            layer.ffn = FfnSpec::Moe(moe);
        }
        Ok(())
    }

    /// [`Keys::mixtures`] whose scores are sigmoids where the file does not say.
    pub(super) fn sigmoid_mixtures(
        &self,
        spec: &mut ModelSpec,
        edit: impl Fn(&mut MoeSpec),
    ) -> Result<(), ModelError> {
        let silent = self.opt_usize("expert_gating_func")?.unwrap_or(0) == 0;
        self.mixtures(spec, |moe| {
            if silent {
                moe.score = MoeScore::Sigmoid;
            }
            edit(moe);
        })
    }

    /// A window in some layers, and positions in those alone.
    pub(super) fn rope_in_windows(
        &self,
        spec: &mut ModelSpec,
        period: usize,
    ) -> Result<(), ModelError> {
        let window = self.opt_usize("attention.sliding_window")?.filter(|window| *window > 0);
        let Some(window) = window else { return Ok(()) };
        let is_local = self.windows(spec.layers.len(), period)?;
        for (layer, is_local) in spec.layers.iter_mut().zip(is_local) {
            layer.attn_mut().window = is_local.then_some(window);
            layer.attn_mut().rope = is_local.then_some(0);
        }
        Ok(())
    }

    /// Whether a mixture of any layer has a bias that chooses experts.
    pub(super) fn has_selection_bias(&self) -> bool {
        self.gguf.tensors().iter().any(|tensor| tensor.name.ends_with(".exp_probs_b.bias"))
    }

    /// Which layers see a window only: the file's pattern (a period or a flag a layer), else all but
    /// every `period`-th.
    pub(super) fn windows(&self, layers: usize, period: usize) -> Result<Vec<bool>, ModelError> {
        if let Some(flags) = self.flags("attention.sliding_window_pattern", layers)? {
            return Ok(flags);
        }
        let period = self.opt_usize("attention.sliding_window_pattern")?.unwrap_or(period);
        Ok((0..layers).map(|index| period == 0 || index % period < period - 1).collect())
    }

    /// Which layers have attention where others carry a state: all but those that the file lists, or the
    /// last of every `period`.
    pub(super) fn attention_layers(
        &self,
        layers: usize,
        period: usize,
    ) -> Result<Vec<bool>, ModelError> {
        let period = self.opt_usize("full_attention_interval")?.unwrap_or(period).max(1);
        Ok(match self.flags("attention.recurrent_layers", layers)? {
            Some(flags) => flags.iter().map(|is_recurrent| !is_recurrent).collect(),
            None => (0..layers).map(|index| (index + 1).is_multiple_of(period)).collect(),
        })
    }

    /// Which layers see a window only: the file's pattern, else all but the first of each `period`.
    pub(super) fn windows_but_first(
        &self,
        layers: usize,
        period: usize,
    ) -> Result<Vec<bool>, ModelError> {
        let key = "attention.sliding_window_pattern";
        if let Some(flags) = self.flags(key, layers)? {
            return Ok(flags);
        }
        let period = self.opt_usize(key)?.unwrap_or(period);
        Ok((0..layers).map(|index| period == 0 || !index.is_multiple_of(period)).collect())
    }

    /// A number for each layer, 0 where the file has none.
    pub(super) fn limits(&self, key: &str, layers: usize) -> Result<Vec<f32>, ModelError> {
        let whole = self.key(key);
        match self.metadata.get(&whole) {
            Some(_) => self.floats(&whole, layers),
            None => Ok(vec![0.0; layers]),
        }
    }

    /// A flag for each layer, if the key holds an array; converters write bools or integers.
    pub(super) fn flags(&self, key: &str, layers: usize) -> Result<Option<Vec<bool>>, ModelError> {
        let whole = self.key(key);
        let flags: Vec<bool> = match self.metadata.get(&whole) {
            Some(Value::Array(Array::Bool(flags))) => flags.clone(),
            Some(Value::Array(array)) => {
                array.integers().unwrap_or_default().iter().map(|flag| *flag != 0).collect()
            }
            _ => return Ok(None),
        };
        if flags.len() < layers {
            let problem = format!("{} values for {layers} layers", flags.len());
            return Err(ModelError::BadKey { key: whole, problem });
        }
        Ok(Some(flags[..layers].to_vec()))
    }

    /// Width of a head by the standard keys, the default of `rope.dimension_count`.
    pub(super) fn head_dim(&self) -> Result<usize, ModelError> {
        match self.opt_usize("attention.key_length")? {
            Some(head_dim) => Ok(head_dim),
            None => {
                let heads = self.per_layer("attention.head_count", 1)?.unwrap_or_default();
                let heads = heads.first().copied().filter(|heads| *heads > 0);
                let heads = heads
                    .ok_or_else(|| ModelError::MissingKey(self.key("attention.head_count")))?;
                Ok(self.usize("embedding_length")? / heads)
            }
        }
    }
}
