//! Weights of a model, found by their GGUF names and checked against the spec.

mod load;
mod plan;
mod progress;

use super::altup::AltUp;
use super::layer::Layer;
use super::layer_inputs::LayerInputs;
use super::ops::{Load, Norm};

pub use load::{Files, load};
pub(super) use plan::check;

/// All weights, in the form that the back end `O` computes with.
pub struct Weights<O: Load> {
    pub table: O::Table,
    pub positions: Option<O::Table>,
    /// Which text of a pair a token is of.
    pub types: Option<O::Table>,
    pub embed_norm: Option<Norm<O::Vector>>,
    pub layers: Vec<Layer<O>>,
    pub head: Head<O>,
    pub ropes: Vec<O::Rope>,
    pub inputs: Option<LayerInputs<O>>,
    pub altup: Option<AltUp<O>>,
}

/// See [`HeadSpec`](super::spec::HeadSpec).
pub enum Head<O: Load> {
    Logits {
        norm: Norm<O::Vector>,
        out: O::Linear,
    },
    None,
    Norm(Norm<O::Vector>),
    Dense {
        norm: Norm<O::Vector>,
        layers: [O::Linear; 2],
    },
    /// Of yes, then of no.
    YesNo {
        norm: Norm<O::Vector>,
        out: O::Linear,
    },
    Classifier {
        inner: Option<O::Linear>,
        out: O::Linear,
    },
}
