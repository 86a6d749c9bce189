//! Softmax attention: weights, and the way of a batch through them.

use super::error::ModelError;
use super::loader::Loader;
use super::ops::{Load, Norm, Ops};
use super::spec::{ActSpec, AttnSpec, GateAct, GateSpec, GateWidth, NormSpec, QkNorm};

/// Weights of one layer.
pub(super) struct Attention<O: Load> {
    qkv: Qkv<O>,
    /// What makes the gate, where it is no part of the queries' matrix.
    gate: Option<O::Linear>,
    out: O::Linear,
    q_norm: Option<HeadNorm<O>>,
    k_norm: Option<HeadNorm<O>>,
    v_norm: Option<Norm<O::Vector>>,
    sinks: Option<O::Vector>,
}

/// A norm on queries or keys.
struct HeadNorm<O: Load> {
    norm: Norm<O::Vector>,
    /// Factors of the columns after the norm, where each head has its own.
    columns: Option<O::Vector>,
}

/// What queries, keys and values are made of.
enum Qkv<O: Load> {
    Heads([O::Linear; 3]),
    /// Values are the keys before their norm.
    QueriesAndKeys([O::Linear; 2]),
    /// Keys and values are another layer's.
    Queries(O::Linear),
}

/// Where in a model and a batch a layer is at work.
pub(super) struct Place<'a, O: Ops> {
    /// The layer's number.
    pub(super) index: usize,
    /// Those of the model.
    pub(super) ropes: &'a [O::Rope],
    pub(super) positions: &'a [u32], // (T)
    /// Of each layer, where layers have inputs of their own.
    pub(super) inputs: Option<&'a O::Tensor>, // (T, layers · width)
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
            Qkv::Heads([q, k, v]) => {
                let [q, k, v] = ops.linear(input, [q, k, v])?;
                let k = placed(ops, place, k, (spec.kv_heads, self.k_norm.as_ref()), spec)?;
                (q, Some([k, self.values(ops, v, spec)?]))
            }
            Qkv::QueriesAndKeys([q, k]) => {
                let [q, k] = ops.linear(input, [q, k])?;
                let v = ops.copy(&k)?;
                let k = placed(ops, place, k, (spec.kv_heads, self.k_norm.as_ref()), spec)?;
                (q, Some([k, self.values(ops, v, spec)?]))
            }
            Qkv::Queries(q) => {
                let [q] = ops.linear(input, [q])?;
                (q, None)
            }
        };
        let (q, gate) = self.gate(ops, input, q, spec)?;
        let q = placed(ops, place, q, (spec.heads, self.q_norm.as_ref()), spec)?;
        let kv = kv.as_ref().map(|[k, v]| [k, v]);
        let mixed = place.attend(ops, (q, kv), spec, self.sinks.as_ref())?;
        let mixed = match (gate, spec.gate) {
            (Some(gate), Some(spec)) => gated(ops, mixed, gate, spec)?,
            _ => ops.act(&mixed)?,
        };
        let [out] = ops.linear(&mixed, [&self.out])?;
        Ok(out)
    }

    /// Values of all heads (T, kv_heads · value_dim), as attention takes them.
    fn values(
        &self,
        ops: &mut O,
        mut v: O::Tensor,
        spec: &AttnSpec,
    ) -> Result<O::Tensor, ModelError> {
        if let Some(limit) = spec.clamp {
            v = ops.clamp(v, limit)?;
        }
        if let Some(norm) = &self.v_norm {
            v = ops.head_norm(v, spec.kv_heads, norm)?;
        }
        match spec.value_scale {
            1.0 => Ok(v),
            scale => ops.scale(v, scale),
        }
    }

    /// The queries (T, heads · head_dim) of what their matrix makes, and the gate before its activation.
    fn gate(
        &self,
        ops: &mut O,
        input: &O::Act,
        q: O::Tensor,
        spec: &AttnSpec,
    ) -> Result<(O::Tensor, Option<O::Tensor>), ModelError> {
        if let Some(gate) = &self.gate {
            let [gate] = ops.linear(input, [gate])?;
            return Ok((q, Some(gate)));
        }
        if !spec.gate.is_some_and(|gate| gate.width == GateWidth::BesideQueries) {
            return Ok((q, None));
        }
        let gate = ops.part(&q, spec.heads, spec.head_dim..spec.head_dim + spec.value_dim)?;
        Ok((ops.part(&q, spec.heads, 0..spec.head_dim)?, Some(gate)))
    }
}

/// Queries or keys of `heads` heads (T, heads · head_dim): normed and turned by their positions.
fn placed<O: Ops>(
    ops: &mut O,
    place: &Place<'_, O>,
    mut x: O::Tensor,
    (heads, norm): (usize, Option<&HeadNorm<O>>),
    spec: &AttnSpec,
) -> Result<O::Tensor, ModelError> {
    if let Some(limit) = spec.clamp {
        x = ops.clamp(x, limit)?;
    }
    if let (Some(norm), false) = (norm, spec.qk_norm_late) {
        x = normed(ops, x, (heads, norm), spec.qk_norm)?;
    }
    if let Some(rope) = spec.rope {
        x = ops.rope(x, heads, &place.ropes[rope])?;
    }
    if let (Some(norm), true) = (norm, spec.qk_norm_late) {
        x = normed(ops, x, (heads, norm), spec.qk_norm)?;
    }
    Ok(x)
}

fn normed<O: Ops>(
    ops: &mut O,
    x: O::Tensor,
    (heads, by): (usize, &HeadNorm<O>),
    kind: QkNorm,
) -> Result<O::Tensor, ModelError> {
    if kind == QkNorm::Full {
        return ops.norm(&x, &by.norm);
    }
    let x = ops.head_norm(x, heads, &by.norm)?;
    match &by.columns {
        Some(columns) => ops.scale_columns(x, columns),
        None => Ok(x),
    }
}

/// `mixed` (T, heads · value_dim) times what the activation makes of the gate, as an input.
fn gated<O: Ops>(
    ops: &mut O,
    mixed: O::Tensor,
    gate: O::Tensor,
    spec: GateSpec,
) -> Result<O::Act, ModelError> {
    if spec.width != GateWidth::Head {
        let act = match spec.act {
            GateAct::Sigmoid => ActSpec::Sigmoid,
            GateAct::Softplus => ActSpec::Softplus,
        };
        return ops.glu_act(&gate, &mixed, act);
    }
    let mut factors = ops.host(gate)?;
    factors.iter_mut().for_each(|factor| *factor = spec.act.apply(*factor));
    let mixed = ops.scale_rows(mixed, &factors)?;
    ops.recycle(factors);
    ops.act(&mixed)
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
        let q_width = spec.heads * spec.query_width();
        let qkv = if spec.shares_kv.is_some() {
            // Files hold keys and values that nothing reads.
            let unread = ["attn_k", "attn_v", "attn_k_norm"].map(|part| name(part) + ".weight");
            self.used.extend(unread);
            Qkv::Queries(self.linear(&name("attn_q"), q_width, hidden)?)
        } else if spec.values_of_keys {
            let q = self.linear(&name("attn_q"), q_width, hidden)?;
            let k = self.linear(&name("attn_k"), spec.kv_heads * spec.head_dim, hidden)?;
            Qkv::QueriesAndKeys([q, k])
        } else {
            Qkv::Heads(self.qkv(index, hidden, spec)?)
        };
        let gate = match spec.gate.map(|gate| gate.width) {
            None | Some(GateWidth::BesideQueries) => None,
            Some(GateWidth::Head) => Some(spec.heads),
            Some(GateWidth::Value) => Some(spec.heads * spec.value_dim),
        };
        let gate = gate.map(|width| self.linear(&name("attn_gate"), width, hidden)).transpose()?;
        let q_norm = self.qk_norm(&name("attn_q_norm"), spec.heads, (spec, norm))?;
        let k_norm = match spec.shares_kv {
            Some(_) => None,
            None => self.qk_norm(&name("attn_k_norm"), spec.kv_heads, (spec, norm))?,
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
        Ok(Attention { qkv, gate, out, q_norm, k_norm, v_norm, sinks })
    }

    /// Query, key and value projections, from three tensors or one that holds them in this order.
    fn qkv(
        &mut self,
        index: usize,
        hidden: usize,
        attn: &AttnSpec,
    ) -> Result<[O::Linear; 3], ModelError> {
        let widths = [
            attn.heads * attn.query_width(),
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

    /// The norm on the queries or keys of `heads` heads.
    fn qk_norm(
        &mut self,
        name: &str,
        heads: usize,
        (attn, norm): (&AttnSpec, NormSpec),
    ) -> Result<Option<HeadNorm<O>>, ModelError> {
        let width = heads * attn.head_dim;
        let (norm, columns) = match attn.qk_norm {
            QkNorm::None => return Ok(None),
            QkNorm::PerHead => (self.norm(name, attn.head_dim, norm)?, None),
            QkNorm::Full => (self.norm(name, width, norm)?, None),
            QkNorm::Plain => (self.ones(attn.head_dim, norm)?, None),
            // The weights of each head are factors of the columns after the norm.
            QkNorm::EachHead => {
                let values = self.floats(&format!("{name}.weight"), width)?;
                (self.ones(attn.head_dim, norm)?, Some(self.ops.load_vector(values)?))
            }
        };
        Ok(Some(HeadNorm { norm, columns }))
    }

    /// A norm without weights.
    pub(super) fn ones(
        &mut self,
        width: usize,
        spec: NormSpec,
    ) -> Result<Norm<O::Vector>, ModelError> {
        Ok(Norm { weight: self.ops.load_vector(vec![1.0; width])?, bias: None, spec })
    }
}
