//! Multi-head latent attention: keys and values of all heads are made of one small vector a token.
//!
//! The KV pool holds that vector and the shared rotated part of the keys, nothing else: what would
//! make keys of it is applied to the queries instead, and what would make values to the mixture
//! ("absorption", arXiv 2405.04434 §2.1). Attention then sees one key for all heads.

use super::error::ModelError;
use super::ops::{Norm, Ops};
use super::spec::LatentSpec;

/// Weights of one layer.
pub struct Latent<O: Ops> {
    pub spec: LatentSpec,
    pub heads: usize,
    pub queries: Queries<O>,
    /// To the latent vector and the rotated part of the keys.
    pub kv_a: O::Linear,
    pub kv_norm: Norm<O::Vector>,
    /// For each head: from the still part of a query to the latent's width.
    pub k_b: Vec<O::Linear>,
    /// For each head: from the latent's width to a value.
    pub v_b: Vec<O::Linear>,
}

pub enum Queries<O: Ops> {
    Full(O::Linear),
    LowRank { a: O::Linear, norm: Norm<O::Vector>, b: O::Linear },
}

/// Queries (T, heads · (rank + turned)), keys (T, rank + turned) and values (T, rank).
pub(super) fn project<O: Ops>(
    ops: &mut O,
    input: &O::Act,
    weights: &Latent<O>,
    rope: Option<&O::Rope>,
) -> Result<[O::Tensor; 3], ModelError> {
    let LatentSpec { rank, still, turned, .. } = weights.spec;
    let heads = weights.heads;
    let q = match &weights.queries {
        Queries::Full(linear) => {
            let [q] = ops.linear(input, [linear])?;
            q
        }
        Queries::LowRank { a, norm, b } => {
            let [small] = ops.linear(input, [a])?;
            let small = ops.norm_act(&small, norm)?;
            let [q] = ops.linear(&small, [b])?;
            q
        }
    };
    let width = still + turned;
    let mut absorbed = Vec::with_capacity(heads);
    for (head, k_b) in weights.k_b.iter().enumerate() {
        let part = ops.part(&q, 1, head * width..head * width + still)?;
        let part = ops.act(&part)?;
        let [part] = ops.linear(&part, [k_b])?;
        absorbed.push(part);
    }
    let absorbed = ops.join(&absorbed.iter().collect::<Vec<_>>(), 1)?;
    let mut q_turned = ops.part(&q, heads, still..width)?;
    let [kv] = ops.linear(input, [&weights.kv_a])?;
    let latent = ops.part(&kv, 1, 0..rank)?;
    let latent = ops.norm(&latent, &weights.kv_norm)?;
    let mut k_turned = ops.part(&kv, 1, rank..rank + turned)?;
    if let Some(rope) = rope {
        q_turned = ops.rope(q_turned, heads, rope)?;
        k_turned = ops.rope(k_turned, 1, rope)?;
    }
    let q = ops.join(&[&absorbed, &q_turned], heads)?;
    let k = ops.join(&[&latent, &k_turned], 1)?;
    Ok([q, k, latent])
}

/// From mixtures of latent vectors (T, heads · rank) to mixtures of values (T, heads · value).
pub(super) fn values<O: Ops>(
    ops: &mut O,
    mixed: &O::Tensor,
    weights: &Latent<O>,
) -> Result<O::Tensor, ModelError> {
    let rank = weights.spec.rank;
    let mut values = Vec::with_capacity(weights.heads);
    for (head, v_b) in weights.v_b.iter().enumerate() {
        let part = ops.part(mixed, 1, head * rank..(head + 1) * rank)?;
        let part = ops.act(&part)?;
        let [part] = ops.linear(&part, [v_b])?;
        values.push(part);
    }
    ops.join(&values.iter().collect::<Vec<_>>(), 1)
}
