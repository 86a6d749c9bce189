//! Softmax attention: weights, and the way of a batch through them.

use super::error::ModelError;
use super::loader::Loader;
use super::ops::{Load, Norm, Ops};
use super::spec::{AttnSpec, NormSpec, QkNorm};

/// Weights of one layer.
pub(super) struct Attention<O: Load> {
    qkv: Qkv<O>,
    out: O::Linear,
    q_norm: Option<Norm<O::Vector>>,
    k_norm: Option<Norm<O::Vector>>,
    /// Factors of the columns of queries and keys after their norms, where each head has its own.
    qk_columns: Option<[O::Vector; 2]>,
    v_norm: Option<Norm<O::Vector>>,
    sinks: Option<O::Vector>,
}

/// What queries, keys and values are made of.
enum Qkv<O: Load> {
    Heads([O::Linear; 3]),
    /// Keys and values are another layer's.
    Queries(O::Linear),
}

/// Where in a model and a batch a layer is at work.
pub(super) struct Place<'a, O: Load> {
    /// The layer's number.
    pub(super) index: usize,
    /// Those of the model.
    pub(super) ropes: &'a [O::Rope],
    pub(super) positions: &'a [u32], // (T)
}

impl<O: Ops> Place<'_, O> {
    /// What the queries `q` (T, heads · head_dim) find, (T, heads · value_dim); `kv` are keys and values
    /// of these rows, where they are not another layer's.
    pub(super) fn attend(
        &self,
        ops: &mut O,
        (q, kv): (O::Tensor, Option<[&O::Tensor; 2]>),
        spec: &AttnSpec,
        sinks: Option<&O::Vector>,
    ) -> Result<O::Tensor, ModelError> {
        let q = match spec.temperature {
            None => q,
            Some(temperature) => {
                let factors: Vec<f32> =
                    self.positions.iter().map(|&position| temperature.at(position)).collect();
                ops.scale_rows(q, &factors)?
            }
        };
        ops.attention(spec.shares_kv.unwrap_or(self.index), (&q, kv), spec, sinks)
    }
}

impl<O: Ops> Attention<O> {
    /// (T, hidden).
    pub(super) fn run(
        &self,
        ops: &mut O,
        place: &Place<'_, O>,
        input: &O::Act,
        spec: &AttnSpec,
    ) -> Result<O::Tensor, ModelError> {
        let (q, kv) = match &self.qkv {
            Qkv::Heads(weights) => {
                let [q, k, v] = self.heads(ops, place, (input, weights), spec)?;
                (q, Some([k, v]))
            }
            Qkv::Queries(weight) => (self.queries(ops, place, (input, weight), spec)?, None),
        };
        let kv = kv.as_ref().map(|[k, v]| [k, v]);
        let mixed = place.attend(ops, (q, kv), spec, self.sinks.as_ref())?;
        let mixed = ops.act(&mixed)?;
        let [out] = ops.linear(&mixed, [&self.out])?;
        Ok(out)
    }

    /// Queries, keys and values of all heads.
    fn heads(
        &self,
        ops: &mut O,
        place: &Place<'_, O>,
        (input, [q, k, v]): (&O::Act, &[O::Linear; 3]),
        spec: &AttnSpec,
    ) -> Result<[O::Tensor; 3], ModelError> {
        let [mut q, mut k, mut v] = ops.linear(input, [q, k, v])?;
        if let Some(limit) = spec.clamp {
            q = ops.clamp(q, limit)?;
            k = ops.clamp(k, limit)?;
            v = ops.clamp(v, limit)?;
        }
        if !spec.qk_norm_late {
            (q, k) = self.normed(ops, (q, k), spec)?;
        }
        if let Some(rope) = spec.rope {
            q = ops.rope(q, spec.heads, &place.ropes[rope])?;
            k = ops.rope(k, spec.kv_heads, &place.ropes[rope])?;
        }
        if spec.qk_norm_late {
            (q, k) = self.normed(ops, (q, k), spec)?;
        }
        if let Some(norm) = &self.v_norm {
            v = ops.head_norm(v, spec.kv_heads, norm)?;
        }
        Ok([q, k, v])
    }

    /// Queries alone.
    fn queries(
        &self,
        ops: &mut O,
        place: &Place<'_, O>,
        (input, weight): (&O::Act, &O::Linear),
        spec: &AttnSpec,
    ) -> Result<O::Tensor, ModelError> {
        let [mut q] = ops.linear(input, [weight])?;
        if let Some(norm) = &self.q_norm {
            q = ops.head_norm(q, spec.heads, norm)?;
        }
        match spec.rope {
            Some(rope) => ops.rope(q, spec.heads, &place.ropes[rope]),
            None => Ok(q),
        }
    }

    fn normed(
        &self,
        ops: &mut O,
        (q, k): (O::Tensor, O::Tensor),
        spec: &AttnSpec,
    ) -> Result<(O::Tensor, O::Tensor), ModelError> {
        match (&self.q_norm, &self.k_norm) {
            (Some(q_norm), Some(k_norm)) if spec.qk_norm == QkNorm::Full => {
                Ok((ops.norm(&q, q_norm)?, ops.norm(&k, k_norm)?))
            }
            (Some(q_norm), Some(k_norm)) => {
                let q = ops.head_norm(q, spec.heads, q_norm)?;
                let k = ops.head_norm(k, spec.kv_heads, k_norm)?;
                match &self.qk_columns {
                    Some([of_q, of_k]) => {
                        Ok((ops.scale_columns(q, of_q)?, ops.scale_columns(k, of_k)?))
                    }
                    None => Ok((q, k)),
                }
            }
            _ => Ok((q, k)),
        }
    }
}

impl<O: Load> Loader<'_, O> {
    /// Attention of layer `index`.
    pub(super) fn attention(
        &mut self,
        index: usize,
        hidden: usize,
        (spec, norm): (&AttnSpec, NormSpec),
    ) -> Result<Attention<O>, ModelError> {
        let name = |part: &str| format!("blk.{index}.{part}");
        let qkv = if spec.shares_kv.is_some() {
            // Files hold keys and values that nothing reads.
            let unread = ["attn_k", "attn_v", "attn_k_norm"].map(|part| name(part) + ".weight");
            self.used.extend(unread);
            Qkv::Queries(self.linear(&name("attn_q"), spec.heads * spec.head_dim, hidden)?)
        } else {
            Qkv::Heads(self.qkv(index, hidden, spec)?)
        };
        let (q_norm, k_norm) = self.qk_norms(index, spec, norm)?;
        let qk_columns = match spec.qk_norm {
            QkNorm::EachHead => {
                let mut columns = |part: &str, heads: usize| {
                    let values = self.floats(&name(part), heads * spec.head_dim)?;
                    self.ops.load_vector(values)
                };
                let q = columns("attn_q_norm.weight", spec.heads)?;
                Some([q, columns("attn_k_norm.weight", spec.kv_heads)?])
            }
            QkNorm::None | QkNorm::PerHead | QkNorm::Plain | QkNorm::Full => None,
        };
        let sinks = match spec.sinks {
            true => {
                let values = self.floats(&name("attn_sinks.weight"), spec.heads)?;
                Some(self.ops.load_vector(values)?)
            }
            false => None,
        };
        let v_norm = match spec.value_norm {
            true => Some(self.ones(spec.value_dim, norm)?),
            false => None,
        };
        let out = self.linear(&name("attn_output"), hidden, spec.heads * spec.value_dim)?;
        Ok(Attention { qkv, out, q_norm, k_norm, qk_columns, v_norm, sinks })
    }

    /// Query, key and value projections, from three tensors or one that holds them in this order.
    fn qkv(
        &mut self,
        index: usize,
        hidden: usize,
        attn: &AttnSpec,
    ) -> Result<[O::Linear; 3], ModelError> {
        let widths = [
            attn.heads * attn.head_dim,
            attn.kv_heads * attn.head_dim,
            attn.kv_heads * attn.value_dim,
        ];
        let fused = format!("blk.{index}.attn_qkv");
        if self.gguf.tensor(&format!("{fused}.weight")).is_none() {
            let name = |part: &str| format!("blk.{index}.attn_{part}");
            return Ok([
                self.linear(&name("q"), widths[0], hidden)?,
                self.linear(&name("k"), widths[1], hidden)?,
                self.linear(&name("v"), widths[2], hidden)?,
            ]);
        }
        let mut parts = self.split(&fused, &widths, hidden)?.into_iter();
        let mut next = || parts.next().ok_or_else(|| ModelError::MissingTensor(fused.clone()));
        Ok([next()?, next()?, next()?])
    }

    fn qk_norms(
        &mut self,
        index: usize,
        attn: &AttnSpec,
        norm: NormSpec,
    ) -> Result<(Option<Norm<O::Vector>>, Option<Norm<O::Vector>>), ModelError> {
        let (q, k) = match attn.qk_norm {
            QkNorm::None => return Ok((None, None)),
            // The weights of each head are factors of the columns after it.
            QkNorm::Plain | QkNorm::EachHead => {
                let mut ones = || self.ones(attn.head_dim, norm).map(Some);
                return Ok((ones()?, ones()?));
            }
            QkNorm::PerHead => (attn.head_dim, attn.head_dim),
            QkNorm::Full => (attn.heads * attn.head_dim, attn.kv_heads * attn.head_dim),
        };
        let q = self.norm(&format!("blk.{index}.attn_q_norm"), q, norm)?;
        if attn.shares_kv.is_some() {
            return Ok((Some(q), None));
        }
        Ok((Some(q), Some(self.norm(&format!("blk.{index}.attn_k_norm"), k, norm)?)))
    }

    /// A norm without weights.
    fn ones(&mut self, width: usize, spec: NormSpec) -> Result<Norm<O::Vector>, ModelError> {
        Ok(Norm { weight: self.ops.load_vector(vec![1.0; width])?, bias: None, spec })
    }
}
