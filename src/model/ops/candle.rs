//! The portable back end: candle tensors on any of its devices, and the CPU kernels' oracle.
//!
//! Correct everywhere before it is fast anywhere: attention gathers each sequence's blocks and works
//! through plain matrix products.

mod recurrence;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{D, DType, Device, Module, Tensor};
use kolosal_kernels::memory::Floats;
use kolosal_kernels::quant::{self, GgmlType};

use recurrence::States;

use super::{Attend, KvBlocks, Load, Norm, Ops, Products, Tensors, WeightSource};
use crate::model::batch::{BLOCK, Batch, Span};
use crate::model::error::ModelError;
use crate::model::runner::KvGrowth;
use crate::model::spec::{ActSpec, AttnSpec, NormKind, RopeSpec, RopeStyle, Xielu};

/// Weights and KV pool on a candle device.
pub struct CandleOps {
    device: Device,
    kv: Vec<LayerKv>,
    states: States,
    positions: Option<Tensor>, // (T) u32
    slots: Vec<u32>,
    spans: Vec<Span>,
    weight_bytes: usize,
    num_blocks: usize,
}

struct LayerKv {
    k: Tensor, // (slots, kv_heads · head_dim), f16
    v: Tensor, // (slots, kv_heads · value_dim), f16
    /// Of linear biases by distance.
    slopes: Option<Tensor>, // (kv_heads, heads / kv_heads, 1, 1)
}

pub struct CandleLinear {
    weight: QMatMul,
    /// Factor on the output, before the bias.
    scale: f32,
    bias: Option<Tensor>,
}

pub struct CandleRope {
    cos: Tensor, // (positions, dim / 2)
    sin: Tensor, // (positions, dim / 2)
    style: RopeStyle,
    dim: usize,
}

impl CandleOps {
    /// A back end on `device`.
    #[must_use]
    pub fn new(device: Device) -> Self {
        let (kv, slots, spans) = (Vec::new(), Vec::new(), Vec::new());
        let states = States::default();
        let (positions, weight_bytes, num_blocks) = (None, 0, 0);
        Self { device, kv, states, positions, slots, spans, weight_bytes, num_blocks }
    }

    fn quantized(&mut self, source: &WeightSource<'_>) -> Result<Arc<QTensor>, ModelError> {
        let shape = (source.n, source.k);
        let tensor = match candle_type(source.ty) {
            Some(dtype) => {
                let bytes = Cow::Borrowed(source.bytes);
                QTensor::new(QStorage::from_data(bytes, &self.device, dtype)?, shape)?
            }
            // A type that candle lacks keeps its values in 16 bits.
            None => {
                let mut values = vec![0.0; source.n * source.k];
                quant::dequantize(source.ty, source.bytes, &mut values).map_err(|error| {
                    ModelError::BadTensor {
                        name: source.name.to_owned(),
                        ty: source.ty.name(),
                        problem: error.to_string(),
                    }
                })?;
                let values = Tensor::from_vec(values, shape, &Device::Cpu)?;
                QTensor::quantize_onto(&values, GgmlDType::F16, &self.device)?
            }
        };
        self.weight_bytes += tensor.storage_size_in_bytes();
        Ok(Arc::new(tensor))
    }

    fn indices(&self, values: &[u32]) -> Result<Tensor, ModelError> {
        Ok(Tensor::from_slice(values, values.len(), &self.device)?)
    }

    /// Writes rows of K or V into the pool, one copy for each run of neighbouring slots.
    fn write(&self, pool: &Tensor, rows: &Tensor) -> Result<(), ModelError> {
        let rows = rows.to_dtype(DType::F16)?;
        let mut from = 0;
        while from < self.slots.len() {
            let mut to = from + 1;
            while to < self.slots.len() && self.slots[to] == self.slots[to - 1] + 1 {
                to += 1;
            }
            let run = rows.narrow(0, from, to - from)?.force_contiguous()?;
            pool.slice_set(&run, 0, self.slots[from] as usize)?;
            from = to;
        }
        Ok(())
    }

    /// One sequence's rows of `q` (rows, heads · head_dim) against its keys: (rows, heads · value_dim).
    fn attend(
        &self,
        kv: &LayerKv,
        q: &Tensor,
        span: &Span,
        (spec, sinks): (&AttnSpec, Option<&Tensor>),
    ) -> Result<Tensor, ModelError> {
        let (rows, keys) = (span.rows.len(), span.kv_len as usize);
        let (heads, groups) = (spec.heads, spec.kv_heads);
        let share = heads / groups;
        let slots: Vec<u32> = (0..keys as u32)
            .map(|pos| span.blocks[pos as usize / BLOCK] * BLOCK as u32 + pos % BLOCK as u32)
            .collect();
        let slots = self.indices(&slots)?;
        let gather = |pool: &Tensor, dim: usize| -> Result<Tensor, ModelError> {
            let rows = pool.index_select(&slots, 0)?.to_dtype(DType::F32)?;
            // (kv_heads, keys, dim)
            Ok(rows.reshape((keys, groups, dim))?.transpose(0, 1)?.contiguous()?)
        };
        let k = gather(&kv.k, spec.head_dim)?;
        let v = gather(&kv.v, spec.value_dim)?;
        // (kv_heads, share · rows, head_dim): the heads of a group lie side by side.
        let q =
            q.narrow(0, span.rows.start as usize, rows)?.reshape((rows, heads, spec.head_dim))?;
        let q = q.transpose(0, 1)?.contiguous()?.reshape((groups, share * rows, spec.head_dim))?;
        let mut scores = (q.matmul(&k.transpose(1, 2)?.contiguous()?)? * f64::from(spec.scale))?;
        if let Some(cap) = spec.softcap {
            scores = ((scores / f64::from(cap))?.tanh()? * f64::from(cap))?;
        }
        let scores = scores.reshape((groups, share, rows, keys))?;
        let mut scores = scores.broadcast_add(&self.mask(rows, keys, spec)?)?;
        if let Some(slopes) = &kv.slopes {
            let biases = slopes.broadcast_mul(&self.distances(rows, keys)?)?;
            scores = scores.broadcast_sub(&biases)?;
        }
        let weights = match sinks {
            None => candle_nn::ops::softmax(&scores, D::Minus1)?,
            Some(sinks) => {
                let sinks =
                    sinks.reshape((groups, share, 1, 1))?.broadcast_as((groups, share, rows, 1))?;
                let all = Tensor::cat(&[&scores, &sinks.contiguous()?], D::Minus1)?;
                candle_nn::ops::softmax(&all, D::Minus1)?.narrow(3, 0, keys)?.contiguous()?
            }
        };
        let mixed = weights.reshape((groups, share * rows, keys))?.matmul(&v)?;
        let mixed = mixed.reshape((heads, rows, spec.value_dim))?.transpose(0, 1)?.contiguous()?;
        Ok(mixed.reshape((rows, heads * spec.value_dim))?)
    }

    /// (rows, keys): 0 where a key is seen, -inf elsewhere; rows are the last positions.
    fn mask(&self, rows: usize, keys: usize, spec: &AttnSpec) -> Result<Tensor, ModelError> {
        let mut mask = vec![f32::NEG_INFINITY; rows * keys];
        for (row, mask) in mask.chunks_exact_mut(keys).enumerate() {
            let position = keys - rows + row;
            let window = spec.window.unwrap_or(usize::MAX);
            let chunk = spec.chunk.map_or(0, |chunk| position / chunk * chunk);
            let first = (position + 1).saturating_sub(window).max(chunk);
            let last = if spec.causal { position + 1 } else { keys };
            mask[first..last.min(position.saturating_add(window))].fill(0.0);
        }
        Ok(Tensor::from_vec(mask, (rows, keys), &self.device)?)
    }

    /// (rows, keys): positions between a row, one of the last, and a key.
    fn distances(&self, rows: usize, keys: usize) -> Result<Tensor, ModelError> {
        let of_row =
            |row: usize| (0..keys).map(move |key| (keys - rows + row).abs_diff(key) as f32);
        let distances: Vec<f32> = (0..rows).flat_map(of_row).collect();
        Ok(Tensor::from_vec(distances, (rows, keys), &self.device)?)
    }

    fn head_parts(x: &Tensor, heads: usize) -> Result<Tensor, ModelError> {
        let (rows, cols) = x.dims2()?;
        Ok(x.reshape((rows, heads, cols / heads))?)
    }
}

fn norm(x: &Tensor, norm: &Norm<Tensor>) -> Result<Tensor, ModelError> {
    let (x, eps) = (x.contiguous()?, norm.spec.eps);
    Ok(match (norm.spec.kind, &norm.bias) {
        (NormKind::Rms, _) => candle_nn::ops::rms_norm(&x, &norm.weight, eps)?,
        (NormKind::Layer, Some(bias)) => candle_nn::ops::layer_norm(&x, &norm.weight, bias, eps)?,
        (NormKind::Layer, None) => {
            candle_nn::ops::layer_norm(&x, &norm.weight, &norm.weight.zeros_like()?, eps)?
        }
    })
}

fn activate(x: &Tensor, act: ActSpec) -> Result<Tensor, ModelError> {
    Ok(match act {
        ActSpec::Silu => x.silu()?,
        ActSpec::LimitedSwiglu { limit } => x.silu()?.minimum(limit)?,
        ActSpec::ClampedSwiglu { limit } => x.minimum(limit)?.silu()?,
        ActSpec::Gelu => x.gelu()?,
        ActSpec::GeluErf => x.gelu_erf()?,
        ActSpec::Relu => x.relu()?,
        ActSpec::Relu2 => x.relu()?.sqr()?,
        ActSpec::Tanh => x.tanh()?,
        ActSpec::Sigmoid => candle_nn::ops::sigmoid(x)?,
        ActSpec::Softplus => (x.relu()? + (x.abs()?.neg()?.exp()? + 1.0)?.log()?)?,
        // σ(1.702 x) · x; the clamps and the +1 are the caller's.
        ActSpec::Xielu(Xielu { p, n, beta, eps }) => {
            let above = (x.relu()?.sqr()? * f64::from(p))?;
            // exp(min(x, eps)) - 1 - x, and 0 where x is above 0.
            let below = x.minimum(0.0)?;
            let below = ((below.minimum(eps)?.exp()? - 1.0)? - below)?;
            let is_below = x.le(0.0)?.to_dtype(DType::F32)?;
            let below = ((below * is_below)? * f64::from(n))?;
            ((above + below)? + (x * f64::from(beta))?)?
        }
        ActSpec::OaiSwiglu => (x * candle_nn::ops::sigmoid(&(x * 1.702)?)?)?,
    })
}

impl Load for CandleOps {
    type Linear = CandleLinear;
    type Vector = Tensor;
    type Rope = CandleRope;
    type Table = Arc<QTensor>;

    fn load_linear(
        &mut self,
        source: &WeightSource<'_>,
        bias: Option<Vec<f32>>,
    ) -> Result<CandleLinear, ModelError> {
        let weight = QMatMul::from_arc(self.quantized(source)?)?;
        let bias = bias.map(|values| self.load_vector(values)).transpose()?;
        Ok(CandleLinear { weight, scale: source.scale, bias })
    }

    fn load_vector(&mut self, values: Vec<f32>) -> Result<Tensor, ModelError> {
        self.weight_bytes += values.len() * 4;
        let len = values.len();
        Ok(Tensor::from_vec(values, len, &self.device)?)
    }

    fn load_table(&mut self, source: &WeightSource<'_>) -> Result<Arc<QTensor>, ModelError> {
        self.quantized(source)
    }

    fn load_tied_table(
        &mut self,
        source: &WeightSource<'_>,
    ) -> Result<(Arc<QTensor>, CandleLinear), ModelError> {
        let table = self.quantized(source)?;
        let weight = QMatMul::from_arc(table.clone())?;
        Ok((table, CandleLinear { weight, scale: 1.0, bias: None }))
    }

    fn load_rope(
        &mut self,
        spec: &RopeSpec,
        factors: Option<&[f32]>,
        context_len: usize,
    ) -> Result<CandleRope, ModelError> {
        let half = spec.dim / 2;
        let (frequencies, magnitude) = spec.frequencies(factors);
        let angles = (0..context_len).flat_map(|position| {
            frequencies.iter().map(move |frequency| position as f64 * frequency)
        });
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles
            .map(|angle| ((angle.cos() * magnitude) as f32, (angle.sin() * magnitude) as f32))
            .unzip();
        Ok(CandleRope {
            cos: Tensor::from_vec(cos, (context_len, half), &self.device)?,
            sin: Tensor::from_vec(sin, (context_len, half), &self.device)?,
            style: spec.style,
            dim: spec.dim,
        })
    }
}

impl Tensors for CandleOps {
    type Tensor = Tensor;

    fn clamp(&mut self, x: Tensor, limit: f32) -> Result<Tensor, ModelError> {
        Ok(x.clamp(-limit, limit)?)
    }

    fn scale(&mut self, x: Tensor, factor: f32) -> Result<Tensor, ModelError> {
        Ok((x * f64::from(factor))?)
    }

    fn scale_rows(&mut self, x: Tensor, factors: &[f32]) -> Result<Tensor, ModelError> {
        let parts = x.reshape((factors.len(), ()))?;
        let factors = Tensor::from_slice(factors, (factors.len(), 1), &self.device)?;
        Ok(parts.broadcast_mul(&factors)?.reshape(x.shape())?)
    }

    fn mul(&mut self, x: Tensor, y: &Tensor) -> Result<Tensor, ModelError> {
        Ok((x * y)?)
    }

    fn activate(&mut self, x: Tensor, act: ActSpec) -> Result<Tensor, ModelError> {
        activate(&x, act)
    }

    fn copy(&mut self, x: &Tensor) -> Result<Tensor, ModelError> {
        // Nothing writes to a tensor's values.
        Ok(x.clone())
    }

    fn scale_columns(&mut self, x: Tensor, factors: &Tensor) -> Result<Tensor, ModelError> {
        Ok(x.broadcast_mul(factors)?)
    }

    fn sparsify(&mut self, x: Tensor, deviations: f32) -> Result<Tensor, ModelError> {
        let mean = x.mean_keepdim(D::Minus1)?;
        let centred = x.broadcast_sub(&mean)?;
        let deviation = centred.sqr()?.mean_keepdim(D::Minus1)?.sqrt()?;
        Ok(centred.broadcast_sub(&(deviation * f64::from(deviations))?)?.relu()?)
    }

    fn add(&mut self, x: Tensor, y: &Tensor, scale: f32) -> Result<Tensor, ModelError> {
        if scale == 1.0 {
            return Ok((x + y)?);
        }
        Ok((x + (y * f64::from(scale))?)?)
    }

    fn part(
        &mut self,
        x: &Tensor,
        heads: usize,
        range: Range<usize>,
    ) -> Result<Tensor, ModelError> {
        let rows = x.dim(0)?;
        let parts = Self::head_parts(x, heads)?.narrow(2, range.start, range.len())?;
        Ok(parts.contiguous()?.reshape((rows, heads * range.len()))?)
    }

    fn join(&mut self, parts: &[&Tensor], heads: usize) -> Result<Tensor, ModelError> {
        let parts: Vec<Tensor> =
            parts.iter().map(|part| Self::head_parts(part, heads)).collect::<Result<_, _>>()?;
        Ok(Tensor::cat(&parts, 2)?.flatten_from(1)?)
    }

    fn rows(&mut self, x: &Tensor, rows: &[u32]) -> Result<Tensor, ModelError> {
        Ok(x.index_select(&self.indices(rows)?, 0)?)
    }

    fn add_rows(
        &mut self,
        x: Tensor,
        rows: &[u32],
        weights: &[f32],
        y: &Tensor,
    ) -> Result<Tensor, ModelError> {
        let weights = Tensor::from_slice(weights, (weights.len(), 1), &self.device)?;
        Ok(x.index_add(&self.indices(rows)?, &y.broadcast_mul(&weights)?, 0)?)
    }

    fn zeros_like(&mut self, like: &Tensor) -> Result<Tensor, ModelError> {
        Ok(like.zeros_like()?)
    }

    fn host(&mut self, x: Tensor) -> Result<Floats, ModelError> {
        Ok(x.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?.into())
    }
}

impl Products for CandleOps {
    type Act = Tensor;

    fn embed(
        &mut self,
        table: &Arc<QTensor>,
        ids: &[u32],
        scale: f32,
    ) -> Result<Tensor, ModelError> {
        let rows = table.embedding(&self.indices(ids)?)?.to_dtype(DType::F32)?;
        Ok((rows * f64::from(scale))?)
    }

    fn norm(&mut self, x: &Tensor, by: &Norm<Tensor>) -> Result<Tensor, ModelError> {
        norm(x, by)
    }

    fn norm_act(&mut self, x: &Tensor, by: &Norm<Tensor>) -> Result<Tensor, ModelError> {
        norm(x, by)
    }

    fn act(&mut self, x: &Tensor) -> Result<Tensor, ModelError> {
        Ok(x.clone())
    }

    fn linear<const N: usize>(
        &mut self,
        x: &Tensor,
        weights: [&CandleLinear; N],
    ) -> Result<[Tensor; N], ModelError> {
        let x = x.contiguous()?;
        let mut out = Vec::with_capacity(N);
        for linear in weights {
            let mut y = linear.weight.forward(&x)?;
            if linear.scale != 1.0 {
                y = (y * f64::from(linear.scale))?;
            }
            out.push(match &linear.bias {
                Some(bias) => y.broadcast_add(bias)?,
                None => y,
            });
        }
        Ok(out.try_into().expect("one output a weight: this is a bug"))
    }

    fn glu_act(&mut self, gate: &Tensor, up: &Tensor, act: ActSpec) -> Result<Tensor, ModelError> {
        if let ActSpec::LimitedSwiglu { limit } | ActSpec::ClampedSwiglu { limit } = act {
            return Ok((activate(gate, act)? * up.clamp(-limit, limit)?)?);
        }
        if act == ActSpec::OaiSwiglu {
            let gate = gate.minimum(7.0)?;
            let up = (up.clamp(-7f32, 7f32)? + 1.0)?;
            return Ok((activate(&gate, act)? * up)?);
        }
        Ok((activate(gate, act)? * up)?)
    }

    fn unary_act(&mut self, x: &Tensor, act: ActSpec) -> Result<Tensor, ModelError> {
        activate(x, act)
    }

    fn head_norm(
        &mut self,
        x: Tensor,
        heads: usize,
        by: &Norm<Tensor>,
    ) -> Result<Tensor, ModelError> {
        Ok(norm(&Self::head_parts(&x, heads)?, by)?.reshape(x.shape())?)
    }
}

impl Attend for CandleOps {
    fn reserve_kv(
        &mut self,
        layers: &[Option<&AttnSpec>],
        blocks: KvBlocks,
    ) -> Result<KvGrowth, ModelError> {
        let slots = blocks.most * BLOCK;
        self.num_blocks = blocks.most;
        for attn in layers {
            let Some(attn) = attn else {
                let none = Tensor::zeros((1, 1), DType::F16, &self.device)?;
                self.kv.push(LayerKv { k: none.clone(), v: none, slopes: None });
                continue;
            };
            // What is another layer's takes no room.
            let slots = if attn.shares_kv.is_some() { 1 } else { slots };
            let pool =
                |dim: usize| Tensor::zeros((slots, attn.kv_heads * dim), DType::F16, &self.device);
            let (k, v) = (pool(attn.head_dim)?, pool(attn.value_dim)?);
            let shape = (attn.kv_heads, attn.heads / attn.kv_heads, 1, 1);
            let slopes = attn.slopes().map(|all| Tensor::from_vec(all, shape, &self.device));
            self.kv.push(LayerKv { k, v, slopes: slopes.transpose()? });
        }
        Ok(KvGrowth::default())
    }

    fn grow_kv(&mut self, _: usize) -> usize {
        self.num_blocks
    }

    fn begin(&mut self, batch: &Batch) -> Result<(), ModelError> {
        self.positions = Some(self.indices(&batch.positions)?);
        self.slots.clone_from(&batch.slots);
        self.spans.clone_from(&batch.spans);
        Ok(())
    }

    fn rope(&mut self, x: Tensor, heads: usize, rope: &CandleRope) -> Result<Tensor, ModelError> {
        let positions = self.positions.as_ref().expect("begin comes first: this is a bug");
        let cos = rope.cos.index_select(positions, 0)?;
        let sin = rope.sin.index_select(positions, 0)?;
        let parts = Self::head_parts(&x, heads)?;
        let head_dim = parts.dim(2)?;
        // (1, heads, T, dim), as candle's rope wants it.
        let turned = parts.narrow(2, 0, rope.dim)?.transpose(0, 1)?.unsqueeze(0)?.contiguous()?;
        let turned = match rope.style {
            RopeStyle::Norm => candle_nn::rotary_emb::rope_i(&turned, &cos, &sin)?,
            RopeStyle::Neox => candle_nn::rotary_emb::rope(&turned, &cos, &sin)?,
        };
        let turned = turned.squeeze(0)?.transpose(0, 1)?.contiguous()?;
        if rope.dim == head_dim {
            return Ok(turned.reshape(x.shape())?);
        }
        let rest = parts.narrow(2, rope.dim, head_dim - rope.dim)?.contiguous()?;
        Ok(Tensor::cat(&[&turned, &rest], 2)?.reshape(x.shape())?)
    }

    fn attention(
        &mut self,
        layer: usize,
        (q, own): (&Tensor, Option<[&Tensor; 2]>),
        spec: &AttnSpec,
        sinks: Option<&Tensor>,
    ) -> Result<Tensor, ModelError> {
        let kv = &self.kv[layer];
        if let Some([k, v]) = own {
            self.write(&kv.k, k)?;
            self.write(&kv.v, v)?;
        }
        let parts = self
            .spans
            .iter()
            .map(|span| self.attend(kv, q, span, (spec, sinks)))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Tensor::cat(&parts, 0)?)
    }
}

impl Ops for CandleOps {
    fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }

    fn device(&self) -> String {
        match self.device.location() {
            candle_core::DeviceLocation::Cpu => "cpu".to_owned(),
            candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
            candle_core::DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
        }
    }
}

/// The candle type of the same layout.
fn candle_type(ty: GgmlType) -> Option<GgmlDType> {
    Some(match ty {
        GgmlType::F32 => GgmlDType::F32,
        GgmlType::F16 => GgmlDType::F16,
        GgmlType::BF16 => GgmlDType::BF16,
        GgmlType::Q4_0 => GgmlDType::Q4_0,
        GgmlType::Q4_1 => GgmlDType::Q4_1,
        GgmlType::Q5_0 => GgmlDType::Q5_0,
        GgmlType::Q5_1 => GgmlDType::Q5_1,
        GgmlType::Q8_0 => GgmlDType::Q8_0,
        GgmlType::Q2K => GgmlDType::Q2K,
        GgmlType::Q3K => GgmlDType::Q3K,
        GgmlType::Q4K => GgmlDType::Q4K,
        GgmlType::Q5K => GgmlDType::Q5K,
        GgmlType::Q6K => GgmlDType::Q6K,
        _ => return None,
    })
}
