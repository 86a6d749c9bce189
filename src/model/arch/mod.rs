//! One small file a family: metadata in, [`ModelSpec`] out. Nothing here computes.

mod bert;
mod cohere;
mod gemma;
mod glm;
mod gpt;
mod gpt_oss;
mod granite;
mod llama;
mod olmo;
mod phi;
mod qwen;

use super::error::ModelError;
use super::gguf::{Gguf, Metadata};
use super::runner::Pooling;
use super::spec::{
    ActSpec, AttnSpec, FfnSpec, HeadSpec, LayerSpec, ModelSpec, MoeScore, MoeSpec, NormKind,
    NormSpec, Norms, QkNorm, RopeFactors, RopeScaling, RopeSpec, RopeStyle, YarnSpec,
};

/// A family that the decoder can run.
pub struct Architecture {
    /// `general.architecture`.
    pub name: &'static str,
    /// Models that use it.
    pub models: &'static str,
    describe: fn(&Keys<'_>) -> Result<ModelSpec, ModelError>,
}

/// All of them.
pub const ARCHITECTURES: &[Architecture] = &[
    Architecture {
        name: "llama",
        models: "Llama 1–3, SmolLM, Mistral, Mixtral, TinyLlama and relatives",
        describe: llama::llama,
    },
    Architecture { name: "smollm3", models: "SmolLM 3", describe: llama::smollm3 },
    Architecture { name: "internlm2", models: "InternLM 2", describe: llama::llama },
    Architecture { name: "qwen2", models: "Qwen 1.5, 2 and 2.5", describe: qwen::qwen2 },
    Architecture { name: "qwen2moe", models: "Qwen 1.5 MoE, Qwen 2 MoE", describe: qwen::qwen2moe },
    Architecture { name: "qwen3", models: "Qwen 3", describe: qwen::qwen3 },
    Architecture { name: "qwen3moe", models: "Qwen 3 MoE", describe: qwen::qwen3moe },
    Architecture { name: "gemma", models: "Gemma 1", describe: gemma::gemma },
    Architecture { name: "gemma2", models: "Gemma 2", describe: gemma::gemma2 },
    Architecture { name: "gemma3", models: "Gemma 3 (text)", describe: gemma::gemma3 },
    Architecture { name: "phi2", models: "Phi 1, 1.5 and 2", describe: phi::phi2 },
    Architecture { name: "phi3", models: "Phi 3, 3.5 and 4", describe: phi::phi3 },
    Architecture { name: "olmo2", models: "OLMo 2 and 3", describe: olmo::olmo2 },
    Architecture { name: "granite", models: "Granite 3", describe: granite::granite },
    Architecture { name: "granitemoe", models: "Granite 3 MoE", describe: granite::granitemoe },
    Architecture { name: "glm4", models: "GLM-4 (0414)", describe: glm::glm4 },
    Architecture { name: "command-r", models: "Command R", describe: cohere::command_r },
    Architecture { name: "gpt2", models: "GPT-2", describe: gpt::gpt2 },
    Architecture { name: "gptneox", models: "GPT-NeoX, Pythia", describe: gpt::gptneox },
    Architecture { name: "starcoder2", models: "StarCoder 2", describe: gpt::starcoder2 },
    Architecture { name: "stablelm", models: "StableLM", describe: gpt::stablelm },
    Architecture { name: "falcon", models: "Falcon 7B and 40B", describe: gpt::falcon },
    Architecture { name: "gpt-oss", models: "gpt-oss", describe: gpt_oss::gpt_oss },
];

/// Encoders: embeddings and scores, no text.
pub const ENCODERS: &[Architecture] = &[
    Architecture {
        name: "bert",
        models: "BERT, MiniLM, BGE, E5, GTE, XLM-RoBERTa and relatives",
        describe: bert::bert,
    },
    Architecture { name: "nomic-bert", models: "Nomic Embed 1", describe: bert::nomic_bert },
];

/// Families that candle-transformers runs for us, one sequence at a time: names and models.
pub const THROUGH_TRANSFORMERS: &[(&str, &str)] = &[("lfm2", "LFM 2")];

/// Whether a family is one of [`THROUGH_TRANSFORMERS`].
#[must_use]
pub fn is_through_transformers(name: &str) -> bool {
    THROUGH_TRANSFORMERS.iter().any(|(known, _)| *known == name)
}

/// Names of all families that can be run.
pub fn names() -> impl Iterator<Item = &'static str> {
    all().map(|known| known.name).chain(THROUGH_TRANSFORMERS.iter().map(|(name, _)| *name))
}

/// Every family of ours, decoders first.
pub fn all() -> impl Iterator<Item = &'static Architecture> {
    ARCHITECTURES.iter().chain(ENCODERS)
}

/// Describes the model of a file.
///
/// # Errors
/// An unknown architecture (the error lists the known ones), or a key that is missing or absurd.
pub fn describe(gguf: &Gguf) -> Result<ModelSpec, ModelError> {
    let metadata = gguf.metadata();
    let name = metadata.architecture()?;
    let Some(architecture) = all().find(|known| known.name == name) else {
        let known: Vec<&str> = names().collect();
        return Err(ModelError::UnknownArchitecture(name.to_owned(), known.join(", ")));
    };
    let keys = Keys { gguf, metadata, name };
    let mut spec = (architecture.describe)(&keys)?;
    spec.pooling = keys.pooling()?;
    let key = keys.key("attention.causal");
    if spec.head == HeadSpec::Logits && metadata.bool(&key)? == Some(false) {
        let problem = "attention to later tokens is not supported here".to_owned();
        return Err(ModelError::BadKey { key, problem });
    }
    check(&spec)?;
    Ok(spec)
}

/// Bounds that keep absurd files from absurd allocations.
fn check(spec: &ModelSpec) -> Result<(), ModelError> {
    let limit = |what: &str, value: usize, max: usize| match value {
        0 => Err(ModelError::Limit(format!("{what} is 0"))),
        value if value > max => Err(ModelError::Limit(format!("{what} {value} exceeds {max}"))),
        _ => Ok(()),
    };
    limit("layer count", spec.layers.len(), 1024)?;
    limit("hidden size", spec.hidden, 1 << 18)?;
    limit("vocabulary size", spec.vocab_size, 1 << 24)?;
    limit("context length", spec.context_len, 1 << 28)?;
    for LayerSpec { attn, ffn, .. } in &spec.layers {
        limit("head count", attn.heads, 1024)?;
        limit("kv head count", attn.kv_heads, 1024)?;
        limit("head dimension", attn.head_dim, 4096)?;
        limit("value dimension", attn.value_dim, 4096)?;
        if attn.heads % attn.kv_heads != 0 {
            return Err(ModelError::Limit(format!(
                "head count {} is no multiple of kv head count {}",
                attn.heads, attn.kv_heads
            )));
        }
        if let Some(rope) = attn.rope.and_then(|rope| spec.ropes.get(rope))
            && (rope.dim > attn.head_dim || rope.dim % 2 != 0 || rope.dim == 0)
        {
            return Err(ModelError::Limit(format!(
                "rope dimension {} does not fit head dimension {}",
                rope.dim, attn.head_dim
            )));
        }
        match ffn {
            FfnSpec::Gated { width, .. } | FfnSpec::Plain { width, .. } => {
                limit("feed-forward width", *width, 1 << 20)?;
            }
            FfnSpec::Moe(moe) => {
                limit("expert count", moe.experts, 4096)?;
                limit("used expert count", moe.used, moe.experts)?;
                limit("expert width", moe.width, 1 << 20)?;
            }
        }
    }
    Ok(())
}

/// Metadata under the architecture's prefix.
struct Keys<'a> {
    gguf: &'a Gguf,
    metadata: &'a Metadata,
    name: &'a str,
}

impl Keys<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.name)
    }

    /// The file has this tensor.
    fn has(&self, tensor: &str) -> bool {
        self.gguf.tensor(tensor).is_some()
    }

    fn usize(&self, key: &str) -> Result<usize, ModelError> {
        self.opt_usize(key)?.ok_or_else(|| ModelError::MissingKey(self.key(key)))
    }

    fn opt_usize(&self, key: &str) -> Result<Option<usize>, ModelError> {
        Ok(self.metadata.u32(&self.key(key))?.map(|value| value as usize))
    }

    fn f32(&self, key: &str) -> Result<Option<f32>, ModelError> {
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
    fn pooling(&self) -> Result<Pooling, ModelError> {
        match self.opt_usize("pooling_type")? {
            None | Some(0 | 1) => Ok(Pooling::Mean),
            Some(2) => Ok(Pooling::First),
            Some(3) => Ok(Pooling::Last),
            // Scores come from the first token.
            Some(4) if self.has("cls.output.weight") => Ok(Pooling::First),
            Some(number) => {
                let problem = format!("{number} is none of 0 to 3");
                Err(ModelError::BadKey { key: self.key("pooling_type"), problem })
            }
        }
    }

    fn str(&self, key: &str) -> Result<Option<&str>, ModelError> {
        Ok(self.metadata.str(&self.key(key))?)
    }

    /// A number for all layers or an array with one for each.
    fn per_layer(&self, key: &str, layers: usize) -> Result<Option<Vec<usize>>, ModelError> {
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

    fn rms(&self) -> Result<NormSpec, ModelError> {
        let eps = self.f32("attention.layer_norm_rms_epsilon")?;
        let eps = eps
            .ok_or_else(|| ModelError::MissingKey(self.key("attention.layer_norm_rms_epsilon")))?;
        Ok(NormSpec { kind: NormKind::Rms, eps })
    }

    fn layer_norm(&self) -> Result<NormSpec, ModelError> {
        let eps = self.f32("attention.layer_norm_epsilon")?;
        let eps =
            eps.ok_or_else(|| ModelError::MissingKey(self.key("attention.layer_norm_epsilon")))?;
        Ok(NormSpec { kind: NormKind::Layer, eps })
    }

    fn vocab_size(&self) -> Result<usize, ModelError> {
        if let Some(tokens) = self.metadata.strings("tokenizer.ggml.tokens")? {
            return Ok(tokens.len());
        }
        self.usize("vocab_size")
    }

    /// Rotary embedding by the standard keys; `dim` is the default for `rope.dimension_count`.
    fn rope(&self, style: RopeStyle, dim: usize) -> Result<RopeSpec, ModelError> {
        Ok(RopeSpec {
            style,
            dim: self.opt_usize("rope.dimension_count")?.unwrap_or(dim),
            base: self.f32("rope.freq_base")?.unwrap_or(10_000.0),
            scaling: self.rope_scaling()?,
            factors: self.rope_factors()?,
            magnitude: self.f32("rope.scaling.attn_factor")?.unwrap_or(1.0),
        })
    }

    fn rope_factors(&self) -> Result<RopeFactors, ModelError> {
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

    fn rope_scaling(&self) -> Result<RopeScaling, ModelError> {
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
    fn dense(&self, norm: NormSpec, rope: RopeSpec) -> Result<ModelSpec, ModelError> {
        let layers = self.usize("block_count")?;
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
            attn: AttnSpec {
                heads: heads[index],
                kv_heads: kv_heads[index],
                head_dim,
                value_dim,
                rope: Some(0),
                qk_norm: QkNorm::None,
                scale: 1.0 / (head_dim as f32).sqrt(),
                softcap: None,
                window: None,
                sinks: false,
                causal: true,
            },
            ffn: FfnSpec::Gated { width: widths[index], act: ActSpec::Silu },
            norms: Norms::PRE,
        };
        Ok(ModelSpec {
            architecture: self.name.to_owned(),
            vocab_size: self.vocab_size()?,
            hidden,
            context_len: self.usize("context_length")?,
            layers: (0..layers).map(layer).collect(),
            norm,
            ropes: vec![rope],
            embed_scale: 1.0,
            learned_positions: false,
            embed_norm: false,
            residual_scale: 1.0,
            logit_scale: 1.0,
            logit_softcap: None,
            pooling: Pooling::default(),
            token_types: 0,
            head: HeadSpec::Logits,
        })
    }

    /// The mixture that the standard keys describe, with softmax scores that are made to sum to one.
    fn moe(&self, width: usize) -> Result<MoeSpec, ModelError> {
        Ok(MoeSpec {
            experts: self.usize("expert_count")?,
            used: self.usize("expert_used_count")?,
            width: self.opt_usize("expert_feed_forward_length")?.unwrap_or(width),
            act: ActSpec::Silu,
            score: MoeScore::Softmax,
            normalise: true,
            scale: 1.0,
            shared_width: None,
            shared_gate: false,
        })
    }

    /// Which layers see a window only: the file's pattern (a period or a flag a layer), else all but
    /// every `period`-th.
    fn windows(&self, layers: usize, period: usize) -> Result<Vec<bool>, ModelError> {
        let key = self.key("attention.sliding_window_pattern");
        if let Some(flags) = self.metadata.bools(&key)? {
            if flags.len() < layers {
                let problem = format!("{} values for {layers} layers", flags.len());
                return Err(ModelError::BadKey { key, problem });
            }
            return Ok(flags[..layers].to_vec());
        }
        let period = self.opt_usize("attention.sliding_window_pattern")?.unwrap_or(period);
        Ok((0..layers).map(|index| period == 0 || index % period < period - 1).collect())
    }

    /// Width of a head by the standard keys, the default of `rope.dimension_count`.
    fn head_dim(&self) -> Result<usize, ModelError> {
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
