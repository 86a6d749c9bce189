//! The feed-forward part of a layer: activations, and mixtures of experts.

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
    /// `silu(min(g, limit)) · clamp(u, -limit, limit)` (Maple).
    ClampedSwiglu {
        limit: f32,
    },
    /// `min(silu(g), limit) · clamp(u, -limit, limit)` (Step 3.5).
    LimitedSwiglu {
        limit: f32,
    },
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
    /// Nothing: the layer is a mixer alone.
    None,
}

impl FfnSpec {
    /// The mixture of experts.
    #[must_use]
    pub fn moe(&self) -> Option<&MoeSpec> {
        match self {
            Self::Moe(moe) | Self::Both { moe, .. } => Some(moe),
            Self::Gated { .. } | Self::Plain { .. } | Self::None => None,
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
            Self::None => return Self::None,
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
    /// Experts, those that every token takes too, have gates.
    pub gated: bool,
    pub score: MoeScore,
    /// The taken experts' weights are made to sum to one.
    pub normalise: bool,
    /// Factor on the taken experts' weights.
    pub scale: f32,
    /// Width of the experts that every token takes (`ffn_*_shexp`).
    pub shared_width: Option<usize>,
    /// The shared experts' output is gated by a sigmoid (qwen2moe).
    pub shared_gate: bool,
    /// The shared experts' activation, where it is not the others'.
    pub shared_act: Option<ActSpec>,
    /// Factor on the shared experts' output (Command A's descendants take means).
    pub shared_scale: f32,
    /// Experts lie in groups, of which a token takes some.
    pub groups: Option<Groups>,
    /// The router reads the layer's input, as it comes before the mixer and any norm (SmallThinker).
    pub early: bool,
    /// A taken expert's weight multiplies its input, not its output (llama4).
    pub weigh_input: bool,
    /// Width of what the experts that a token chooses read and make, between two more matrices (Nemotron 3).
    pub latent: Option<usize>,
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
