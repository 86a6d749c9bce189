//! How rows of a sequence attend to each other.

#[derive(Clone, Debug, PartialEq)]
pub struct AttnSpec {
    pub heads: usize,
    pub kv_heads: usize,
    /// Width of a query or key head.
    pub head_dim: usize,
    /// Width of a value head.
    pub value_dim: usize,
    /// Index into [`ModelSpec::ropes`](super::ModelSpec::ropes); `None` leaves positions out (NoPE).
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
    /// Factor on the values (MiMo 2).
    pub value_scale: f32,
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
