//! Weights read from a file: found by their names, checked, and put into the back end's form.

use std::collections::HashSet;

use kolosal_kernels::quant;

use crate::model::error::ModelError;
use crate::model::gguf::{Gguf, TensorInfo};
use crate::model::ops::{Norm, Ops, WeightSource};
use crate::model::quantize::{Quantised, Quantize};
use crate::model::spec::{
    AttnSpec, FfnSpec, HeadSpec, LayerSpec, ModelSpec, MoeSpec, NormSpec, QkNorm, RopeFactors,
};

use super::progress::Progress;
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
pub fn load<O: Ops>(
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
    let mut loader = Loader { ops, gguf, quantize, learned, used: HashSet::new() };
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

pub(in crate::model) struct Loader<'a, O> {
    pub(in crate::model) ops: &'a mut O,
    pub(in crate::model) gguf: &'a Gguf,
    quantize: Option<Quantize>,
    /// Norms have weights in the file.
    learned: bool,
    pub(in crate::model) used: HashSet<String>,
}

impl<O: Ops> Loader<'_, O> {
    fn model(&mut self, spec: &ModelSpec, context_len: usize) -> Result<Weights<O>, ModelError> {
        let (table, head) = self.table_and_head(spec)?;
        let types = match spec.token_types {
            0 => None,
            rows => {
                let source = self.source("token_types.weight", &[rows, spec.hidden])?;
                Some(self.ops.load_table(&source)?)
            }
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
            let source = self.source("position_embd.weight", &[info.shape[0], spec.hidden])?;
            Some(self.ops.load_table(&source)?)
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
                progress.loaded(index);
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
        let embd = self.source("token_embd.weight", &[spec.vocab_size, hidden])?;
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
        let gates = self.experts(&name("ffn_gate_exps"), experts, spec.width, hidden)?;
        let ups = self.experts(&name("ffn_up_exps"), experts, spec.width, hidden)?;
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

    /// The matrices of a 3-D tensor (experts, n, k), with the rows of a bias (experts, n).
    pub(in crate::model) fn experts(
        &mut self,
        name: &str,
        experts: usize,
        n: usize,
        k: usize,
    ) -> Result<Vec<O::Linear>, ModelError> {
        let weight = format!("{name}.weight");
        let source = self.source(&weight, &[experts, n, k])?;
        let bias = format!("{name}.bias");
        let bias = match self.gguf.tensor(&bias).is_some() {
            true => Some(self.floats(&bias, experts * n)?),
            false => None,
        };
        let quantised = self.quantised(&WeightSource { n: experts * n, ..source })?;
        let whole = quantised.as_ref().map_or(source, |quantised| quantised.source(&source));
        let source = WeightSource { n, ..whole };
        let stride = source.bytes.len() / experts;
        (0..experts)
            .map(|expert| {
                let bytes = &source.bytes[expert * stride..][..stride];
                let part = WeightSource { n, k, bytes, ..source };
                let bias = bias.as_ref().map(|values| values[expert * n..][..n].to_vec());
                self.ops.load_linear(&part, bias)
            })
            .collect()
    }

    /// A tensor of stacked matrices, cut by rows.
    fn split(
        &mut self,
        name: &str,
        widths: &[usize],
        k: usize,
    ) -> Result<Vec<O::Linear>, ModelError> {
        let n = widths.iter().sum();
        let weight = format!("{name}.weight");
        let source = self.source(&weight, &[n, k])?;
        let quantised = self.quantised(&source)?;
        let source = quantised.as_ref().map_or(source, |quantised| quantised.source(&source));
        let bias = self.bias(name, n)?;
        let row = source.bytes.len() / n;
        let mut from = 0;
        widths
            .iter()
            .map(|&width| {
                let bytes = &source.bytes[from * row..][..width * row];
                let part = WeightSource { bytes, n: width, k, ..source };
                let bias = bias.as_ref().map(|values| values[from..][..width].to_vec());
                from += width;
                self.ops.load_linear(&part, bias)
            })
            .collect()
    }

    pub(in crate::model) fn linear(
        &mut self,
        name: &str,
        n: usize,
        k: usize,
    ) -> Result<O::Linear, ModelError> {
        let weight = format!("{name}.weight");
        let source = self.source(&weight, &[n, k])?;
        let quantised = self.quantised(&source)?;
        let source = quantised.as_ref().map_or(source, |quantised| quantised.source(&source));
        let bias = self.bias(name, n)?;
        self.ops.load_linear(&source, bias)
    }

    /// The matrix in the wanted type, if it is one to be brought there.
    fn quantised(&self, source: &WeightSource<'_>) -> Result<Option<Quantised>, ModelError> {
        match self.quantize.filter(|target| target.takes(source.name, source.ty, source.k)) {
            Some(target) => target.quantise(source).map(Some),
            None => Ok(None),
        }
    }

    fn bias(&mut self, name: &str, n: usize) -> Result<Option<Vec<f32>>, ModelError> {
        let bias = format!("{name}.bias");
        match self.gguf.tensor(&bias).is_some() {
            true => Ok(Some(self.floats(&bias, n)?)),
            false => Ok(None),
        }
    }

    fn norm_if(
        &mut self,
        wanted: bool,
        name: &str,
        width: usize,
        spec: NormSpec,
    ) -> Result<Option<Norm<O::Vector>>, ModelError> {
        match wanted {
            true => Ok(Some(self.norm(name, width, spec)?)),
            false => Ok(None),
        }
    }

    pub(in crate::model) fn norm(
        &mut self,
        name: &str,
        width: usize,
        spec: NormSpec,
    ) -> Result<Norm<O::Vector>, ModelError> {
        let weight = match self.learned {
            true => self.floats(&format!("{name}.weight"), width)?,
            false => vec![1.0; width],
        };
        let weight = self.ops.load_vector(weight)?;
        let bias = match self.bias(name, width)? {
            Some(values) => Some(self.ops.load_vector(values)?),
            None => None,
        };
        Ok(Norm { weight, bias, spec })
    }

    /// A tensor of `len` numbers in any type, as f32.
    pub(in crate::model) fn floats(
        &mut self,
        name: &str,
        len: usize,
    ) -> Result<Vec<f32>, ModelError> {
        let info = self.info(name)?;
        let found: usize = info.shape.iter().product();
        if found != len {
            return Err(ModelError::Shape {
                name: name.to_owned(),
                found: info.shape.clone(),
                expected: vec![len],
            });
        }
        let mut values = vec![0.0; len];
        quant::dequantize(info.ty, self.gguf.data(info), &mut values)
            .map_err(|error| bad(name, info, error.to_string()))?;
        Ok(values)
    }
}

impl<'a, O> Loader<'a, O> {
    fn info(&mut self, name: &str) -> Result<&'a TensorInfo, ModelError> {
        self.used.insert(name.to_owned());
        let gguf: &'a Gguf = self.gguf;
        gguf.tensor(name).ok_or_else(|| ModelError::MissingTensor(name.to_owned()))
    }

    /// A tensor of two or three dimensions whose shape must be `expected`.
    pub(in crate::model) fn source<'n>(
        &mut self,
        name: &'n str,
        expected: &[usize],
    ) -> Result<WeightSource<'n>, ModelError>
    where
        'a: 'n,
    {
        let info = self.info(name)?;
        if info.shape != expected {
            // A matrix of one row may be stored as a vector.
            let squeezed = expected[0] == 1 && info.shape == expected[1..];
            if !squeezed {
                return Err(ModelError::Shape {
                    name: name.to_owned(),
                    found: info.shape.clone(),
                    expected: expected.to_vec(),
                });
            }
        }
        let (n, k) = (expected[expected.len() - 2], expected[expected.len() - 1]);
        Ok(WeightSource { name, ty: info.ty, n, k, bytes: self.gguf.data(info) })
    }
}

fn bad(name: &str, info: &TensorInfo, problem: String) -> ModelError {
    ModelError::BadTensor { name: name.to_owned(), ty: info.ty.name(), problem }
}
