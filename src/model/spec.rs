//! A model as data: what a file of `arch/` reads from the metadata and the decoder interprets.
//!
//! Nothing here mentions tensors' storage or candle; names such as `blk.0.attn_q.weight` are those of
//! the GGUF convention.

use super::batch::BLOCK;
use super::runner::{Pooling, Purpose};

/// A transformer, described: a decoder, or an encoder, whose tokens see those after them too.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// `general.architecture`.
    pub architecture: String,
    pub vocab_size: usize,
    pub hidden: usize,
    /// Context length that the model was trained for.
    pub context_len: usize,
    pub layers: Vec<LayerSpec>,
    /// Blocks of the file after the layers: they guess tokens further ahead and are left out.
    pub spare_blocks: usize,
    pub norm: NormSpec,
    /// Norms have weights in the file; without, they scale by one (OLMo 1).
    pub norms_learned: bool,
    /// The distinct rotary embeddings; layers name theirs by index.
    pub ropes: Vec<RopeSpec>,
    /// Factor on the token embedding (gemma: √hidden).
    pub embed_scale: f32,
    /// Learned absolute positions are added to the embedding (`position_embd.weight`).
    pub learned_positions: bool,
    /// A norm on the embedding (`token_embd_norm.weight`).
    pub embed_norm: bool,
    /// Factor on what a block adds to the residual stream.
    pub residual_scale: f32,
    /// Factor on the logits.
    pub logit_scale: f32,
    /// `cap · tanh(logit / cap)`.
    pub logit_softcap: Option<f32>,
    /// How hidden states become an embedding.
    pub pooling: Pooling,
    /// Rows of `token_types.weight`, which tell the first text of a pair from the second; 0 = none.
    pub token_types: usize,
    /// What stands on the last layer.
    pub head: HeadSpec,
    /// Width of the input of its own that each layer has, without several residual streams (Gemma 4).
    pub layer_input: Option<usize>,
    /// Several residual streams (Gemma 3n).
    pub altup: Option<AltUpSpec>,
}

/// Alternating updates, with an input of its own for each layer and a low-rank way past attention.
#[derive(Clone, Debug, PartialEq)]
pub struct AltUpSpec {
    pub hidden: usize,
    /// Residual streams; the first is the one that layers compute.
    pub streams: usize,
    /// Width of a layer's own input.
    pub width: usize,
    /// Of the way past attention.
    pub rank: usize,
}

/// What stands on the last layer of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadSpec {
    /// A norm and a projection to the vocabulary.
    Logits,
    /// Nothing: hidden states are the result.
    None,
    /// A norm: normed hidden states are the result.
    Norm,
    /// Scores from a hidden state: `cls.output(tanh(cls(x)))`, with or without the inner layer.
    Classifier { inner: bool, scores: usize },
}

impl ModelSpec {
    /// What the model is for.
    #[must_use]
    pub fn purpose(&self) -> Purpose {
        match self.head {
            HeadSpec::Logits => Purpose::Generate,
            HeadSpec::None | HeadSpec::Norm => Purpose::Embed,
            HeadSpec::Classifier { .. } => Purpose::Rank,
        }
    }

    /// Bytes of KV that one block takes over all layers (f16).
    #[must_use]
    pub fn kv_bytes_per_block(&self) -> usize {
        let per_position = |attn: &AttnSpec| attn.kv_heads * (attn.head_dim + attn.value_dim) * 2;
        let attns = self.layers.iter().filter_map(LayerSpec::attn);
        let own = attns.filter(|attn| attn.shares_kv.is_none());
        own.map(per_position).sum::<usize>() * BLOCK
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct LayerSpec {
    pub mixer: MixerSpec,
    pub ffn: FfnSpec,
    pub norms: Norms,
}

/// What brings the rows of a sequence together in a layer.
#[derive(Clone, Debug, PartialEq)]
pub enum MixerSpec {
    Attention(AttnSpec),
    /// Keys and values of all heads come from one latent vector. Attention sees it as one key and value:
    /// in `attn`, `kv_heads` is 1, `head_dim` the latent's width and the rotated part's, `value_dim` the
    /// latent's width.
    Latent {
        attn: AttnSpec,
        latent: LatentSpec,
    },
}

impl LayerSpec {
    /// How rows attend to each other, in layers that keep keys and values.
    #[must_use]
    pub fn attn(&self) -> Option<&AttnSpec> {
        match &self.mixer {
            MixerSpec::Attention(attn) | MixerSpec::Latent { attn, .. } => Some(attn),
        }
    }

    /// The same, to be changed.
    pub fn attn_mut(&mut self) -> &mut AttnSpec {
        match &mut self.mixer {
            MixerSpec::Attention(attn) | MixerSpec::Latent { attn, .. } => attn,
        }
    }

    /// What stands beside attention where keys and values come from a latent vector.
    #[must_use]
    pub fn latent(&self) -> Option<&LatentSpec> {
        match &self.mixer {
            MixerSpec::Latent { latent, .. } => Some(latent),
            MixerSpec::Attention(_) => None,
        }
    }
}

/// Which norms a layer has and how attention and feed-forward hang together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Norms {
    /// Before attention.
    pub attn: Option<&'static str>,
    /// On attention's output (`post_attention_norm`).
    pub attn_post: bool,
    /// Before the feed-forward part, if it has one of its own.
    pub ffn: Option<&'static str>,
    /// On the feed-forward part's output (`post_ffw_norm`).
    pub ffn_post: bool,
    /// Both parts read the same residual (phi-2, falcon, command-r, gpt-neox).
    pub parallel: bool,
    /// On the residual stream after each part (`attn_output_norm`, `layer_output_norm`).
    pub residual: bool,
    /// The residual stream is multiplied by a number after the layer (`layer_output_scale`).
    pub scaled: bool,
}

impl Norms {
    /// Llama: a norm before each part.
    pub const PRE: Self = Self {
        attn: Some("attn_norm"),
        attn_post: false,
        ffn: Some("ffn_norm"),
        ffn_post: false,
        parallel: false,
        residual: false,
        scaled: false,
    };
    /// Gemma 2 and 3, GLM-4: a norm before and after each part.
    pub const PRE_POST: Self = Self { attn_post: true, ffn_post: true, ..Self::PRE };
    /// OLMo 2: a norm after each part alone.
    pub const POST: Self = Self { attn: None, ffn: None, ..Self::PRE_POST };
    /// phi-2, falcon, command-r: one norm, then both parts side by side.
    pub const PARALLEL: Self = Self { ffn: None, parallel: true, ..Self::PRE };
    /// BERT: a norm on each sum.
    pub const RESIDUAL: Self = Self { attn: None, ffn: None, residual: true, ..Self::PRE };
}

#[derive(Clone, Debug, PartialEq)]
pub struct AttnSpec {
    pub heads: usize,
    pub kv_heads: usize,
    /// Width of a query or key head.
    pub head_dim: usize,
    /// Width of a value head.
    pub value_dim: usize,
    /// Index into [`ModelSpec::ropes`]; `None` leaves positions out (NoPE).
    pub rope: Option<usize>,
    pub qk_norm: QkNorm,
    /// Queries and keys are normed after the rotary embedding, not before.
    pub qk_norm_late: bool,
    /// Queries grow with their position.
    pub temperature: Option<Temperature>,
    /// Factor on the scores.
    pub scale: f32,
    /// `cap · tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// A key is seen while `position - key position < window`.
    pub window: Option<usize>,
    /// A key is seen from its own chunk of this many positions alone.
    pub chunk: Option<usize>,
    /// Scores fall with the distance of their keys: ALiBi with this largest exponent, see
    /// [`AttnSpec::slopes`].
    pub alibi: Option<f32>,
    /// Values are normed over each head, without weights (Gemma 3n).
    pub value_norm: bool,
    /// Values are the keys before their norm (Gemma 4).
    pub values_of_keys: bool,
    /// Keys and values are those of this layer, which comes before.
    pub shares_kv: Option<usize>,
    /// Queries, keys and values are clamped to `-clamp..=clamp` as they are made.
    pub clamp: Option<f32>,
    /// A learned logit per head joins the softmax's denominator (`attn_sinks.weight`).
    pub sinks: bool,
    /// What the values that attention mixes are multiplied by.
    pub gate: Option<GateSpec>,
    /// A token sees those before it alone; else all of its sequence.
    pub causal: bool,
}

/// A gate on what attention finds, made of the layer's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateSpec {
    pub act: GateAct,
    pub width: GateWidth,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateAct {
    Sigmoid,
    /// `ln(1 + eˣ)`.
    Softplus,
}

impl GateAct {
    /// The activation of one number.
    #[must_use]
    pub fn apply(self, x: f32) -> f32 {
        match self {
            Self::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Self::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
        }
    }
}

/// How many gates there are, and where they come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateWidth {
    /// One for each head, by `attn_gate.weight`.
    Head,
    /// One for each value of each head, by `attn_gate.weight`.
    Value,
    /// As many; those of a head come after its query in what `attn_q.weight` makes (Qwen3-Next).
    BesideQueries,
}

impl AttnSpec {
    /// What `attn_q.weight` makes for each head: a query, and its gate where that lies beside it.
    #[must_use]
    pub fn query_width(&self) -> usize {
        match self.gate {
            Some(GateSpec { width: GateWidth::BesideQueries, .. }) => {
                self.head_dim + self.value_dim
            }
            _ => self.head_dim,
        }
    }

    /// For each head, what a step away from a key takes off its score (arXiv 2108.12409): powers of one
    /// ratio for the largest power of two of heads, and in between for those that are left.
    #[must_use]
    pub fn slopes(&self) -> Option<Vec<f32>> {
        let max_bias = f64::from(self.alibi?);
        let even = 1_usize << self.heads.checked_ilog2().unwrap_or(0);
        let exponent = |head: usize| match head.checked_sub(even) {
            None => max_bias * (head + 1) as f64 / even as f64,
            Some(rest) => max_bias * (2 * rest + 1) as f64 / (2 * even) as f64,
        };
        Some((0..self.heads).map(|head| (-exponent(head)).exp2() as f32).collect())
    }
}

/// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatentSpec {
    /// Width of the vector that queries are made of; `None` makes them of the input itself.
    pub q_rank: Option<usize>,
    /// Width of the latent vector.
    pub rank: usize,
    /// Width of a head's part that positions do not turn.
    pub still: usize,
    /// Width of a head's part that positions turn; keys share it.
    pub turned: usize,
    /// Width of a head's value.
    pub value: usize,
}

/// A query at `position` is multiplied by `1 + scale · ln(1 + ⌊(position + offset) / floor⌋)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Temperature {
    pub scale: f32,
    pub floor: usize,
    pub offset: usize,
}

impl Temperature {
    /// The factor of a query at `position`.
    #[must_use]
    pub fn at(&self, position: u32) -> f32 {
        let steps = (position as usize + self.offset) / self.floor;
        1.0 + self.scale * (steps as f32).ln_1p()
    }
}

/// Norm on queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    None,
    /// Over each head (qwen3, gemma3): weights of `head_dim`.
    PerHead,
    /// Over each head, with weights of its own (stablelm 2 12B, command-r plus): `heads · head_dim`.
    EachHead,
    /// Over each head, without weights (llama4).
    Plain,
    /// Over the whole projection (olmo2): weights of `heads · head_dim`.
    Full,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeStyle {
    /// Pairs (0, 1), (2, 3), … (llama's GGUF order).
    Norm,
    /// Pairs (i, i + dim / 2) (GPT-NeoX).
    Neox,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    pub style: RopeStyle,
    /// Rotated leading dimensions of a head; even.
    pub dim: usize,
    pub base: f32,
    pub scaling: RopeScaling,
    pub factors: RopeFactors,
    /// Factor on cosine and sine.
    pub magnitude: f32,
}

/// Tensors of `dim / 2` divisors of the frequencies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RopeFactors {
    None,
    /// Llama 3.1's `rope_freqs.weight`.
    Always(&'static str),
    /// LongRoPE (arXiv 2402.13753): `long` when contexts beyond `original_context` are to be served.
    BySize {
        short: &'static str,
        long: &'static str,
        original_context: usize,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    /// Positions are divided by `factor`.
    Linear {
        factor: f32,
    },
    Yarn(YarnSpec),
}

/// YaRN (arXiv 2309.00071) with llama.cpp's parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct YarnSpec {
    pub factor: f32,
    pub original_context: usize,
    pub beta_fast: f32,
    pub beta_slow: f32,
    pub ext_factor: f32,
    /// The ramp between kept and stretched frequencies begins and ends at whole pairs.
    pub truncate: bool,
}

/// Element-wise non-linearity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ActSpec {
    Silu,
    /// tanh form.
    Gelu,
    /// By the error function.
    GeluErf,
    Relu,
    /// ReLU squared.
    Relu2,
    Tanh,
    Sigmoid,
    /// `ln(1 + eˣ)`.
    Softplus,
    /// gpt-oss: `min(g, 7) · σ(1.702 · min(g, 7)) · (clamp(u, -7, 7) + 1)`.
    OaiSwiglu,
    /// xIELU (arXiv 2411.13010): `p·x² + beta·x` above 0, `n·(exp(min(x, eps)) - 1 - x) + beta·x` below.
    Xielu(Xielu),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Xielu {
    pub p: f32,
    pub n: f32,
    pub beta: f32,
    pub eps: f32,
}

impl Xielu {
    #[must_use]
    pub fn apply(&self, x: f32) -> f32 {
        if x > 0.0 {
            self.p * x * x + self.beta * x
        } else {
            self.n * (x.min(self.eps).exp_m1() - x) + self.beta * x
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum FfnSpec {
    /// `down(act(gate(x)) · up(x))`.
    Gated {
        width: usize,
        act: ActSpec,
        /// A gate counts as far as it lies this many deviations above the mean of its row (Gemma 3n).
        sparsity: Option<f32>,
    },
    /// `down(act(up(x)))`.
    Plain {
        width: usize,
        act: ActSpec,
    },
    Moe(MoeSpec),
    /// A gated part and a mixture side by side, each between norms of its own, of which the mixture's router
    /// has one more (Gemma 4).
    Both {
        width: usize,
        moe: MoeSpec,
    },
}

impl FfnSpec {
    /// The mixture of experts.
    #[must_use]
    pub fn moe(&self) -> Option<&MoeSpec> {
        match self {
            Self::Moe(moe) | Self::Both { moe, .. } => Some(moe),
            Self::Gated { .. } | Self::Plain { .. } => None,
        }
    }

    /// The same width without a gate.
    #[must_use]
    pub fn plain(&self, act: ActSpec) -> Self {
        let width = match self {
            Self::Gated { width, .. } | Self::Plain { width, .. } | Self::Both { width, .. } => {
                *width
            }
            Self::Moe(moe) => moe.width,
        };
        Self::Plain { width, act }
    }
}

/// A mixture of gated experts.
#[derive(Clone, Debug, PartialEq)]
pub struct MoeSpec {
    pub experts: usize,
    /// Experts that a token takes.
    pub used: usize,
    pub width: usize,
    pub act: ActSpec,
    pub score: MoeScore,
    /// The taken experts' weights are made to sum to one.
    pub normalise: bool,
    /// Factor on the taken experts' weights.
    pub scale: f32,
    /// Width of the experts that every token takes (`ffn_*_shexp`).
    pub shared_width: Option<usize>,
    /// The shared experts' output is gated by a sigmoid (qwen2moe).
    pub shared_gate: bool,
    /// Experts lie in groups, of which a token takes some.
    pub groups: Option<Groups>,
    /// A taken expert's weight multiplies its input, not its output (llama4).
    pub weigh_input: bool,
}

/// Groups of equally many neighbouring experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups {
    pub count: usize,
    /// Groups that a token takes experts from.
    pub used: usize,
    /// A group counts as much as this many of its best experts together.
    pub best: usize,
}

/// From router logits to weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoeScore {
    /// Softmax over all experts, then the largest.
    Softmax,
    /// Sigmoid per expert, then the largest.
    Sigmoid,
    /// The largest logits, then softmax over them (gpt-oss).
    SoftmaxAfter,
    /// The largest logit with its softmax over those near it, then the same among the others (Phi 3.5
    /// MoE; SparseMixer, arXiv 2409.12136).
    SparseMixer,
}

/// Root-mean-square norm or layer norm (with mean and bias).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormSpec {
    pub kind: NormKind,
    pub eps: f32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    Rms,
    Layer,
}
