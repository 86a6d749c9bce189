//! Weights of a model, found by their GGUF names and checked against the spec.

mod load;
mod plan;
mod progress;
mod read;

use super::altup::AltUp;
use super::latent::Latent;
use super::ops::{Load, Norm};

pub use load::{Files, load};
pub(super) use plan::check;
pub(super) use read::Loader;

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
    pub altup: Option<AltUp<O>>,
}

/// See [`HeadSpec`](super::spec::HeadSpec).
pub enum Head<O: Load> {
    Logits { norm: Norm<O::Vector>, out: O::Linear },
    None,
    Norm(Norm<O::Vector>),
    Classifier { inner: Option<O::Linear>, out: O::Linear },
}

pub struct Layer<O: Load> {
    pub attn_norm: Option<Norm<O::Vector>>,
    pub qkv: Qkv<O>,
    pub o: O::Linear,
    pub q_norm: Option<Norm<O::Vector>>,
    pub k_norm: Option<Norm<O::Vector>>,
    /// Factors of the columns of queries and keys after their norms, where each head has its own.
    pub qk_columns: Option<[O::Vector; 2]>,
    pub v_norm: Option<Norm<O::Vector>>,
    pub sinks: Option<O::Vector>,
    pub attn_post: Option<Norm<O::Vector>>,
    /// On the residual stream after attention.
    pub attn_sum: Option<Norm<O::Vector>>,
    pub ffn_norm: Option<Norm<O::Vector>>,
    pub ffn: Ffn<O>,
    pub ffn_post: Option<Norm<O::Vector>>,
    /// On the residual stream after the feed-forward part.
    pub ffn_sum: Option<Norm<O::Vector>>,
}

/// What queries, keys and values are made of.
pub enum Qkv<O: Load> {
    Heads([O::Linear; 3]),
    /// Keys and values are another layer's.
    Queries(O::Linear),
    Latent(Box<Latent<O>>),
}

pub enum Ffn<O: Load> {
    Gated(Gated<O>),
    Plain { up: O::Linear, down: O::Linear },
    Moe(Moe<O>),
}

pub struct Gated<O: Load> {
    pub gate: O::Linear,
    pub up: O::Linear,
    pub down: O::Linear,
}

pub struct Moe<O: Load> {
    pub router: O::Linear,
    /// Added to the scores when experts are chosen, not to their weights (deepseek).
    pub selection_bias: Option<Vec<f32>>,
    pub experts: Vec<Gated<O>>,
    pub shared: Option<Gated<O>>,
    pub shared_gate: Option<O::Linear>,
}
