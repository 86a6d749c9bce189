//! Multi-head latent attention: keys and values of all heads are made of one small vector a token.
//!
//! The KV pool holds that vector and the shared rotated part of the keys, nothing else: what would
//! make keys of it is applied to the queries instead, and what would make values to the mixture
//! ("absorption", arXiv 2405.04434 §2.1). Attention then sees one key for all heads.

use kolosal_kernels::quant::{self, GgmlType};

use super::attention::Place;
use super::error::ModelError;
use super::loader::Loader;
use super::ops::{Load, Norm, Ops, WeightSource};
use super::spec::{AttnSpec, LatentSpec, NormSpec};

/// Weights of one layer.
pub(super) struct Latent<O: Load> {
    spec: LatentSpec,
    heads: usize,
    queries: Queries<O>,
    /// To the latent vector and the rotated part of the keys.
    kv_a: O::Linear,
    kv_norm: Norm<O::Vector>,
    /// For each head: from the still part of a query to the latent's width.
    k_b: Vec<O::Linear>,
    /// For each head: from the latent's width to a value.
    v_b: Vec<O::Linear>,
    out: O::Linear,
}

enum Queries<O: Load> {
    Full(O::Linear),
    LowRank { a: O::Linear, norm: Norm<O::Vector>, b: O::Linear },
}

impl<O: Ops> Latent<O> {
    /// (T, hidden).
    pub(super) fn run(
        &self,
        ops: &mut O,
        place: &Place<'_, O>,
        input: &O::Act,
        spec: &AttnSpec,
    ) -> Result<O::Tensor, ModelError> {
        let rope = spec.rope.map(|rope| &place.ropes[rope]);
        let [q, k, v] = self.project(ops, input, rope)?;
        let mixed = place.attend(ops, (q, Some([&k, &v])), spec, None)?;
        let mixed = self.values(ops, &mixed)?;
        let mixed = ops.act(&mixed)?;
        let [out] = ops.linear(&mixed, [&self.out])?;
        Ok(out)
    }

    /// Queries (T, heads · (rank + turned)), keys (T, rank + turned) and values (T, rank).
    fn project(
        &self,
        ops: &mut O,
        input: &O::Act,
        rope: Option<&O::Rope>,
    ) -> Result<[O::Tensor; 3], ModelError> {
        let LatentSpec { rank, still, turned, .. } = self.spec;
        let heads = self.heads;
        let q = match &self.queries {
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
        for (head, k_b) in self.k_b.iter().enumerate() {
            let part = ops.part(&q, 1, head * width..head * width + still)?;
            let part = ops.act(&part)?;
            let [part] = ops.linear(&part, [k_b])?;
            absorbed.push(part);
        }
        let absorbed = ops.join(&absorbed.iter().collect::<Vec<_>>(), 1)?;
        let mut q_turned = ops.part(&q, heads, still..width)?;
        let [kv] = ops.linear(input, [&self.kv_a])?;
        let latent = ops.part(&kv, 1, 0..rank)?;
        let latent = ops.norm(&latent, &self.kv_norm)?;
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
    fn values(&self, ops: &mut O, mixed: &O::Tensor) -> Result<O::Tensor, ModelError> {
        let rank = self.spec.rank;
        let mut values = Vec::with_capacity(self.heads);
        for (head, v_b) in self.v_b.iter().enumerate() {
            let part = ops.part(mixed, 1, head * rank..(head + 1) * rank)?;
            let part = ops.act(&part)?;
            let [part] = ops.linear(&part, [v_b])?;
            values.push(part);
        }
        ops.join(&values.iter().collect::<Vec<_>>(), 1)
    }
}

impl<O: Load> Loader<'_, O> {
    /// Files of before May 2025 hold what makes keys and values in one tensor, the right way round for
    /// values; later ones hold two, both as they are needed.
    pub(super) fn latent(
        &mut self,
        index: usize,
        hidden: usize,
        heads: usize,
        (spec, norm): (LatentSpec, NormSpec),
    ) -> Result<Latent<O>, ModelError> {
        let name = |part: &str| format!("blk.{index}.attn_{part}");
        let (rank, still, value) = (spec.rank, spec.still, spec.value);
        let q_width = heads * (still + spec.turned);
        let queries = match spec.q_rank {
            None => Queries::Full(self.linear(&name("q"), q_width, hidden)?),
            Some(q_rank) => Queries::LowRank {
                a: self.linear(&name("q_a"), q_rank, hidden)?,
                norm: self.norm(&name("q_a_norm"), q_rank, norm)?,
                b: self.linear(&name("q_b"), q_width, q_rank)?,
            },
        };
        let joined = name("kv_b.weight");
        let (k_b, v_b) = if self.gguf.tensor(&name("k_b.weight")).is_some() {
            // Some files hold both forms.
            self.used.insert(joined);
            let k_b = self.experts(&name("k_b"), heads, rank, still)?;
            (k_b, self.experts(&name("v_b"), heads, value, rank)?)
        } else {
            self.joined_latent(&joined, heads, spec)?
        };
        Ok(Latent {
            spec,
            heads,
            queries,
            kv_a: self.linear(&name("kv_a_mqa"), rank + spec.turned, hidden)?,
            kv_norm: self.norm(&name("kv_a_norm"), rank, norm)?,
            k_b,
            v_b,
            out: self.linear(&name("output"), hidden, heads * value)?,
        })
    }

    /// For each head `still` rows that make keys, which are turned over, and `value` rows that make
    /// values, all `rank` long.
    fn joined_latent(
        &mut self,
        name: &str,
        heads: usize,
        LatentSpec { rank, still, value, .. }: LatentSpec,
    ) -> Result<(Vec<O::Linear>, Vec<O::Linear>), ModelError> {
        let n = heads * (still + value);
        let found = self.source(name, &[n, rank])?;
        if !O::READS {
            return Ok((Vec::new(), Vec::new()));
        }
        let bytes = self.bytes(&found, 0..n)?;
        let source = found.weight(n, &bytes);
        let row = source.bytes.len() / n;
        let (mut k_b, mut v_b) = (Vec::new(), Vec::new());
        for head in source.bytes.chunks_exact((still + value) * row) {
            let (keys, values) = head.split_at(still * row);
            let mut key_rows = vec![0.0; still * rank];
            quant::dequantize(source.ty, keys, &mut key_rows).map_err(|error| {
                let problem = error.to_string();
                ModelError::BadTensor { name: name.to_owned(), ty: source.ty.name(), problem }
            })?;
            let turned: Vec<u8> = (0..rank)
                .flat_map(|column| key_rows[column..].iter().step_by(rank))
                .flat_map(|value| value.to_le_bytes())
                .collect();
            let keys =
                WeightSource { ty: GgmlType::F32, n: rank, k: still, bytes: &turned, ..source };
            k_b.push(self.ops.load_linear(&keys, None)?);
            let values = WeightSource { n: value, k: rank, bytes: values, ..source };
            v_b.push(self.ops.load_linear(&values, None)?);
        }
        Ok((k_b, v_b))
    }
}
