//! A model as data: what a file of `arch/` reads from the metadata and the decoder interprets.
//!
//! Nothing here mentions tensors' storage or candle; names such as `blk.0.attn_q.weight` are those of
//! the GGUF convention.

mod attention;
mod feed;

use super::batch::BLOCK;
use super::carried::{DeltaSpec, ShortConvSpec, SsmSpec, StateSpec};
use super::runner::{Pooling, Purpose};

pub use attention::{AttnSpec, GateAct, GateSpec, GateWidth, QkNorm, Temperature};
pub use feed::{ActSpec, FfnSpec, Groups, MoeScore, MoeSpec, Xielu};

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
    /// Parts of names of tensors that are of no use within `context_len`.
    pub left_out: &'static [&'static str],
    /// What a user should know of how the model is run.
    pub warning: Option<String>,
    /// Norms have weights in the file; without, they scale by one (OLMo 1).
    pub norms_learned: bool,
    /// The name of the norm before the head.
    pub last_norm: &'static str,
    /// The distinct rotary embeddings; layers name theirs by index.
    pub ropes: Vec<RopeSpec>,
    /// Factor on the token embedding (gemma: √hidden).
    pub embed_scale: f32,
    /// Learned absolute positions are added to the embedding (`position_embd.weight`).
    pub learned_positions: bool,
    pub embed_norm: EmbedNorm,
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

/// A norm on the embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmbedNorm {
    None,
    /// `token_embd_norm.weight`.
    Learned,
    /// Without weights.
    Plain,
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
    /// A norm and two projections (`dense_2`, `dense_3`), of which the last makes `out` values. They are
    /// meant for the mean of hidden states; as they are linear, the mean of what they make is the same.
    Dense { inner: usize, out: usize },
    /// A norm, and the logits of two answers (`cls.output`): the score is what yes has before no.
    YesNo,
    /// Scores from a hidden state: `cls.output(tanh(cls(x)))`, with or without the inner layer.
    Classifier { inner: bool, scores: usize },
}

impl ModelSpec {
    /// What the model is for.
    #[must_use]
    pub fn purpose(&self) -> Purpose {
        match self.head {
            HeadSpec::Logits => Purpose::Generate,
            HeadSpec::None | HeadSpec::Norm | HeadSpec::Dense { .. } => Purpose::Embed,
            HeadSpec::Classifier { .. } | HeadSpec::YesNo => Purpose::Rank,
        }
    }

    /// Tokens see those after them.
    #[must_use]
    pub fn sees_later(&self) -> bool {
        self.layers.iter().filter_map(LayerSpec::attn).any(|attn| !attn.causal)
    }

    /// Bytes of KV that one block takes over all layers (f16).
    #[must_use]
    pub fn kv_bytes_per_block(&self) -> usize {
        let per_position = |attn: &AttnSpec| attn.kv_heads * (attn.head_dim + attn.value_dim) * 2;
        let attns = self.layers.iter().filter_map(LayerSpec::attn);
        let own = attns.filter(|attn| attn.shares_kv.is_none());
        own.map(per_position).sum::<usize>() * BLOCK
    }

    /// Bytes of the state that the layers carry for one sequence; 0 where none does.
    #[must_use]
    pub fn state_bytes(&self) -> usize {
        self.layers.iter().map(|layer| layer.state().len() * 4).sum()
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
    ShortConv(ShortConvSpec),
    Delta(DeltaSpec),
    Ssm(SsmSpec),
    /// Attention and a state-space mixer side by side, whose outputs are added (Falcon H1).
    Both {
        attn: AttnSpec,
        ssm: SsmSpec,
    },
    /// Nothing: the layer is a feed-forward part alone.
    None,
}

impl LayerSpec {
    /// How rows attend to each other, in layers that keep keys and values.
    #[must_use]
    pub fn attn(&self) -> Option<&AttnSpec> {
        match &self.mixer {
            MixerSpec::Attention(attn)
            | MixerSpec::Latent { attn, .. }
            | MixerSpec::Both { attn, .. } => Some(attn),
            _ => None,
        }
    }

    /// What the layer carries from token to token.
    #[must_use]
    pub fn state(&self) -> StateSpec {
        let rows = |taps: usize, columns: usize| (taps - 1) * columns;
        match &self.mixer {
            MixerSpec::Attention(_) | MixerSpec::Latent { .. } | MixerSpec::None => {
                StateSpec::default()
            }
            MixerSpec::ShortConv(conv) => {
                StateSpec { conv: rows(conv.taps, conv.width), scan: None }
            }
            MixerSpec::Delta(delta) => {
                StateSpec { conv: rows(delta.taps, delta.channels()), scan: Some(delta.shape) }
            }
            MixerSpec::Ssm(ssm) | MixerSpec::Both { ssm, .. } => {
                StateSpec { conv: rows(ssm.taps, ssm.channels()), scan: Some(ssm.shape) }
            }
        }
    }

    /// The same, to be changed: families describe attention in all layers before they put something else
    /// in its place in some.
    pub fn attn_mut(&mut self) -> &mut AttnSpec {
        match &mut self.mixer {
            MixerSpec::Attention(attn)
            | MixerSpec::Latent { attn, .. }
            | MixerSpec::Both { attn, .. } => attn,
            _ => unreachable!("a layer without attention: this is a bug"),
        }
    }

    /// What stands beside attention where keys and values come from a latent vector.
    #[must_use]
    pub fn latent(&self) -> Option<&LatentSpec> {
        match &self.mixer {
            MixerSpec::Latent { latent, .. } => Some(latent),
            _ => None,
        }
    }
}

/// Which norms a layer has and how attention and feed-forward hang together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norms {
    /// Before attention.
    pub attn: Option<&'static str>,
    /// On attention's output (`post_attention_norm`).
    pub attn_post: bool,
    /// Before the feed-forward part, if it has one of its own.
    pub ffn: Option<&'static str>,
    /// On the feed-forward part's output (`post_ffw_norm`).
    pub ffn_post: bool,
    /// Epsilon of the norms on both parts' outputs, where it is not the model's (Muse Glimmer).
    pub post_eps: Option<f32>,
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
        post_eps: None,
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
