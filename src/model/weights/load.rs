//! Weights read from a file: found by their names, checked, and put into the back end's form.

use std::collections::HashSet;

use crate::model::error::ModelError;
use crate::model::gguf::Gguf;
use crate::model::ops::{Load, Norm};
use crate::model::quantize::Quantize;
use crate::model::spec::{
    AttnSpec, FfnSpec, HeadSpec, LayerSpec, ModelSpec, MoeSpec, NormSpec, QkNorm, RopeFactors,
};

use super::progress::Progress;
use super::read::Loader;
use super::{Ffn, Gated, Head, Layer, Moe, Qkv, Weights};

/// Tensors that files carry and inference does not need.
const IGNORED: [&str; 5] =
    ["attn_rot_embd", "attn.masked_bias", "rope_freqs", "rope_factors", "position_ids"];

/// Where weights come from, and what becomes of those in floats.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    pub gguf: &'a Gguf,
    pub quantize: Option<Quantize>,
}

/// Reads all weights of `spec` from `files`.
///
/// # Errors
/// A tensor that is missing, misshapen, or that nothing would use: a model that is only half
/// understood must not answer.
pub fn load<O: Load>(
    ops: &mut O,
    spec: &ModelSpec,
    files: Files<'_>,
    context_len: usize,
) -> Result<Weights<O>, ModelError> {
    let Files { gguf, quantize } = files;
    if let Some(target) = quantize {
        target.check(gguf)?;
    }
    let learned = spec.norms_learned;
    let mut loader =
        Loader { ops, gguf, quantize, learned, used: HashSet::new(), spare: Vec::new() };
    let weights = loader.model(spec, context_len)?;
    let unused: Vec<&str> = gguf
        .tensors()
        .iter()
        .map(|tensor| tensor.name.as_str())
        .filter(|name| !loader.used.contains(*name))
        .filter(|name| !IGNORED.iter().any(|ignored| name.contains(ignored)))
        .filter(|name| !is_spare(name, spec))
        .collect();
    if unused.is_empty() {
        return Ok(weights);
    }
    let more = unused.len().saturating_sub(4);
    let mut names = unused[..unused.len() - more].join(", ");
    if more > 0 {
        names = format!("{names} and {more} more");
    }
    Err(ModelError::UnusedTensors { architecture: spec.architecture.clone(), names })
}

/// The tensor belongs to a block after the layers, as [`ModelSpec::spare_blocks`] counts them.
fn is_spare(name: &str, spec: &ModelSpec) -> bool {
    let block = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next());
    let block = block.and_then(|block| block.parse::<usize>().ok());
    let first = spec.layers.len();
    block.is_some_and(|block| (first..first + spec.spare_blocks).contains(&block))
}

impl<O: Load> Loader<'_, O> {
    fn model(&mut self, spec: &ModelSpec, context_len: usize) -> Result<Weights<O>, ModelError> {
        let (table, head) = self.table_and_head(spec)?;
        let types = match spec.token_types {
            0 => None,
            rows => Some(self.table("token_types.weight", &[rows, spec.hidden])?),
        };
        let positions = if spec.learned_positions {
            let info = self.info("position_embd.weight")?;
            if info.shape[0] < context_len {
                return Err(ModelError::Shape {
                    name: info.name.clone(),
                    found: info.shape.clone(),
                    expected: vec![context_len, spec.hidden],
                });
            }
            Some(self.table("position_embd.weight", &[info.shape[0], spec.hidden])?)
        } else {
            None
        };
        let embed_norm = match spec.embed_norm {
            true => Some(self.norm("token_embd_norm", spec.hidden, spec.norm)?),
            false => None,
        };
        let ropes = spec
            .ropes
            .iter()
            .map(|rope| {
                let factors = match rope.factors {
                    RopeFactors::None => None,
                    RopeFactors::Always(name) => Some(self.floats(name, rope.dim / 2)?),
                    RopeFactors::BySize { short, long, original_context } => {
                        let name = if context_len > original_context { long } else { short };
                        Some(self.floats(name, rope.dim / 2)?)
                    }
                };
                self.ops.load_rope(rope, factors.as_deref(), context_len)
            })
            .collect::<Result<_, _>>()?;
        let mut progress = Progress::new(spec.layers.len());
        let layers = spec
            .layers
            .iter()
            .enumerate()
            .map(|(index, layer)| -> Result<_, ModelError> {
                let layer = self.layer(spec, index, layer)?;
                if O::READS {
                    progress.loaded(index);
                }
                Ok(layer)
            })
            .collect::<Result<_, _>>()?;
        let altup = match &spec.altup {
            Some(altup) => Some(self.altup(spec, altup)?),
            None => None,
        };
        Ok(Weights { table, positions, types, embed_norm, layers, head, ropes, altup })
    }

    fn table_and_head(&mut self, spec: &ModelSpec) -> Result<(O::Table, Head<O>), ModelError> {
        let hidden = spec.hidden;
        let found = self.source("token_embd.weight", &[spec.vocab_size, hidden])?;
        let bytes = self.bytes(&found, 0..spec.vocab_size)?;
        let embd = found.weight(spec.vocab_size, &bytes);
        let buffer;
        let embd = {
            buffer = self.quantised(&embd)?;
            buffer.as_ref().map_or(embd, |quantised| quantised.source(&embd))
        };
        Ok(match spec.head {
            HeadSpec::Logits => {
                let (table, out) = if self.gguf.tensor("output.weight").is_some() {
                    let table = self.ops.load_table(&embd)?;
                    (table, self.linear("output", spec.vocab_size, hidden)?)
                } else {
                    self.ops.load_tied_table(&embd)?
                };
                (table, Head::Logits { norm: self.norm("output_norm", hidden, spec.norm)?, out })
            }
            HeadSpec::None => (self.ops.load_table(&embd)?, Head::None),
            HeadSpec::Norm => {
                let table = self.ops.load_table(&embd)?;
                (table, Head::Norm(self.norm("output_norm", hidden, spec.norm)?))
            }
            HeadSpec::Classifier { inner, scores } => {
                let table = self.ops.load_table(&embd)?;
                let inner = match inner {
                    true => Some(self.linear("cls", hidden, hidden)?),
                    false => None,
                };
                (table, Head::Classifier { inner, out: self.linear("cls.output", scores, hidden)? })
            }
        })
    }

    fn layer(
        &mut self,
        spec: &ModelSpec,
        index: usize,
        layer: &LayerSpec,
    ) -> Result<Layer<O>, ModelError> {
        let name = |part: &str| format!("blk.{index}.{part}");
        let hidden = spec.hidden;
        let attn = &layer.attn;
        let (qkv, o_width) = match attn.latent {
            Some(latent) => {
                let weights = self.latent(index, hidden, attn.heads, (latent, spec.norm))?;
                (Qkv::Latent(Box::new(weights)), attn.heads * latent.value)
            }
            None if attn.shares_kv.is_some() => {
                // Files hold keys and values that nothing reads.
                let unread = ["attn_k", "attn_v", "attn_k_norm"].map(|part| name(part) + ".weight");
                self.used.extend(unread);
                let q = self.linear(&name("attn_q"), attn.heads * attn.head_dim, hidden)?;
                (Qkv::Queries(q), attn.heads * attn.value_dim)
            }
            None => (Qkv::Heads(self.qkv(index, hidden, attn)?), attn.heads * attn.value_dim),
        };
        let (q_norm, k_norm) = self.qk_norms(index, attn, spec.norm)?;
        let qk_columns = match attn.qk_norm {
            QkNorm::EachHead => {
                let mut columns = |part: &str, heads: usize| {
                    let values = self.floats(&name(part), heads * attn.head_dim)?;
                    self.ops.load_vector(values)
                };
                let q = columns("attn_q_norm.weight", attn.heads)?;
                Some([q, columns("attn_k_norm.weight", attn.kv_heads)?])
            }
            QkNorm::None | QkNorm::PerHead | QkNorm::Plain | QkNorm::Full => None,
        };
        let sinks = match attn.sinks {
            true => {
                let values = self.floats(&name("attn_sinks.weight"), attn.heads)?;
                Some(self.ops.load_vector(values)?)
            }
            false => None,
        };
        Ok(Layer {
            attn_norm: match layer.norms.attn {
                Some(part) => Some(self.norm(&name(part), hidden, spec.norm)?),
                None => None,
            },
            qkv,
            o: self.linear(&name("attn_output"), hidden, o_width)?,
            q_norm,
            k_norm,
            qk_columns,
            v_norm: match attn.value_norm {
                true => Some(self.ones(attn.value_dim, spec.norm)?),
                false => None,
            },
            sinks,
            attn_post: self.norm_if(
                layer.norms.attn_post,
                &name("post_attention_norm"),
                hidden,
                spec.norm,
            )?,
            attn_sum: self.norm_if(
                layer.norms.residual,
                &name("attn_output_norm"),
                hidden,
                spec.norm,
            )?,
            ffn_norm: match layer.norms.ffn {
                Some(part) => Some(self.norm(&name(part), hidden, spec.norm)?),
                None => None,
            },
            ffn: self.ffn(index, hidden, &layer.ffn)?,
            ffn_post: self.norm_if(
                layer.norms.ffn_post,
                &name("post_ffw_norm"),
                hidden,
                spec.norm,
            )?,
            ffn_sum: self.norm_if(
                layer.norms.residual,
                &name("layer_output_norm"),
                hidden,
                spec.norm,
            )?,
        })
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
            QkNorm::Plain => {
                let mut ones = || self.ones(attn.head_dim, norm).map(Some);
                return Ok((ones()?, ones()?));
            }
            QkNorm::PerHead => (attn.head_dim, attn.head_dim),
            // The weights are factors of the columns after it.
            QkNorm::EachHead => {
                let mut ones = || self.ones(attn.head_dim, norm).map(Some);
                return Ok((ones()?, ones()?));
            }
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

    fn ffn(&mut self, index: usize, hidden: usize, spec: &FfnSpec) -> Result<Ffn<O>, ModelError> {
        let name = |part: &str| format!("blk.{index}.ffn_{part}");
        match spec {
            FfnSpec::Gated { width, .. } => {
                if self.gguf.tensor(&name("gate.weight")).is_some() {
                    return Ok(Ffn::Gated(self.gated(index, "", hidden, *width)?));
                }
                // One tensor holds the gate above the up projection (phi3, glm4).
                let mut parts = self.split(&name("up"), &[*width, *width], hidden)?.into_iter();
                let mut next =
                    || parts.next().ok_or(ModelError::MissingTensor(name("gate.weight")));
                let (gate, up) = (next()?, next()?);
                Ok(Ffn::Gated(Gated {
                    gate,
                    up,
                    down: self.linear(&name("down"), hidden, *width)?,
                }))
            }
            FfnSpec::Plain { width, .. } => Ok(Ffn::Plain {
                up: self.linear(&name("up"), *width, hidden)?,
                down: self.linear(&name("down"), hidden, *width)?,
            }),
            FfnSpec::Moe(moe) => Ok(Ffn::Moe(self.moe(index, hidden, moe)?)),
        }
    }

    fn gated(
        &mut self,
        index: usize,
        suffix: &str,
        hidden: usize,
        width: usize,
    ) -> Result<Gated<O>, ModelError> {
        let name = |part: &str| format!("blk.{index}.ffn_{part}{suffix}");
        Ok(Gated {
            gate: self.linear(&name("gate"), width, hidden)?,
            up: self.linear(&name("up"), width, hidden)?,
            down: self.linear(&name("down"), hidden, width)?,
        })
    }

    fn moe(&mut self, index: usize, hidden: usize, spec: &MoeSpec) -> Result<Moe<O>, ModelError> {
        let name = |part: &str| format!("blk.{index}.{part}");
        let experts = spec.experts;
        let [gates, ups] = self.gates_and_ups(index, hidden, spec)?;
        let downs = self.experts(&name("ffn_down_exps"), experts, hidden, spec.width)?;
        let experts = gates
            .into_iter()
            .zip(ups)
            .zip(downs)
            .map(|((gate, up), down)| Gated { gate, up, down })
            .collect();
        let bias = name("exp_probs_b.bias");
        Ok(Moe {
            router: self.linear(&name("ffn_gate_inp"), spec.experts, hidden)?,
            selection_bias: match self.gguf.tensor(&bias).is_some() {
                true => Some(self.floats(&bias, spec.experts)?),
                false => None,
            },
            experts,
            shared: match spec.shared_width {
                Some(width) => Some(self.gated(index, "_shexp", hidden, width)?),
                None => None,
            },
            shared_gate: match spec.shared_gate {
                true => Some(self.linear(&name("ffn_gate_inp_shexp"), 1, hidden)?),
                false => None,
            },
        })
    }

    /// Of all experts, from two tensors, or from one that holds each expert's gate above its up projection.
    fn gates_and_ups(
        &mut self,
        index: usize,
        hidden: usize,
        spec: &MoeSpec,
    ) -> Result<[Vec<O::Linear>; 2], ModelError> {
        let name = |part: &str| format!("blk.{index}.ffn_{part}_exps");
        let (experts, width, fused) = (spec.experts, spec.width, name("gate_up"));
        if self.gguf.tensor(&format!("{fused}.weight")).is_none() {
            let gates = self.experts(&name("gate"), experts, width, hidden)?;
            return Ok([gates, self.experts(&name("up"), experts, width, hidden)?]);
        }
        let mut halves = self.halves_of_experts(&fused, experts, width, hidden)?.into_iter();
        let (mut gates, mut ups) = (Vec::with_capacity(experts), Vec::with_capacity(experts));
        while let (Some(gate), Some(up)) = (halves.next(), halves.next()) {
            gates.push(gate);
            ups.push(up);
        }
        Ok([gates, ups])
    }
}
