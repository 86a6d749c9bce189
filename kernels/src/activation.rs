//! The activation functions of feed-forward layers.
#![allow(clippy::inline_always)]

use crate::math;
use crate::simd::Simd;

/// An element-wise function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + e^-x)`
    Silu,
    /// The tanh form of GELU, with ggml's constants.
    Gelu,
    /// The exact form of GELU.
    GeluErf,
    /// `max(x, 0)`
    Relu,
    /// `max(x, 0)^2`
    Relu2,
    /// `1 / (1 + e^-x)`
    Sigmoid,
}

impl Activation {
    #[inline(always)]
    pub(crate) fn apply<S: Simd>(self, s: S, x: S::F) -> S::F {
        match self {
            Activation::Silu => math::silu(s, x),
            Activation::Gelu => math::gelu(s, x),
            Activation::GeluErf => math::gelu_erf(s, x),
            Activation::Relu => math::relu(s, x),
            Activation::Relu2 => math::relu2(s, x),
            Activation::Sigmoid => math::sigmoid(s, x),
        }
    }
}
