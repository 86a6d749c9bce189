//! Alternating updates (arXiv 2301.13310) as Gemma 3n has them: several residual streams of which a
//! layer computes one, a low-rank way past attention (LAuReL), and a small input of its own for each
//! layer. What a layer does to the other streams are weighted sums, whose weights each row computes.

use std::f32::consts::FRAC_1_SQRT_2;

use super::attention::Place;
use super::error::ModelError;
use super::layer::Layer;
use super::layer_inputs::{LayerInputs, OwnInput};
use super::loader::Loader;
use super::ops::{Load, Norm, Ops};
use super::spec::{AltUpSpec, LayerSpec, ModelSpec, NormSpec};

/// Smallest mean square that a stream is divided by.
const SQUARE_MIN: f64 = 1e-5;

/// Weights beside those of the layers.
pub struct AltUp<O: Load> {
    spec: AltUpSpec,
    inputs: LayerInputs<O>,
    /// From the embedding to each stream but the first.
    spread: Vec<O::Linear>,
    /// And back.
    gather: Vec<O::Linear>,
    layers: Vec<AltUpLayer<O>>,
}

/// Weights of one layer.
struct AltUpLayer<O: Load> {
    router_norm: Norm<O::Vector>,
    router: O::Linear,
    /// (streams², streams), row-major.
    predict: Vec<f32>,
    /// (streams, streams), row-major.
    correct: Vec<f32>,
    correct_scale: O::Vector,
    input: OwnInput<O>,
    laurel: [O::Linear; 2],
    laurel_norm: Norm<O::Vector>,
}

/// A layer, its description, and where it is at work.
type Step<'a, O> = (&'a Layer<O>, &'a LayerSpec, Place<'a, O>);

impl<O: Ops> AltUp<O> {
    /// The stack of layers between the embedding `x` (T, hidden) and the last norm: (T, hidden).
    pub(super) fn run<'a>(
        &self,
        ops: &mut O,
        (tokens, x): (&[u32], O::Tensor),
        steps: impl Iterator<Item = Step<'a, O>>,
    ) -> Result<O::Tensor, ModelError>
    where
        O: 'a,
    {
        let inputs = self.inputs.of(ops, tokens, &x)?;
        let mut streams = self.spread(ops, x)?;
        for (step, weights) in steps.zip(&self.layers) {
            streams = weights.run(ops, &step, streams, &inputs)?;
        }
        self.gather(ops, streams)
    }

    /// The streams, all as large as the first, which is `x`.
    fn spread(&self, ops: &mut O, x: O::Tensor) -> Result<Vec<O::Tensor>, ModelError> {
        let target = magnitudes(ops, &x, self.spec.hidden)?;
        let act = ops.act(&x)?;
        let mut streams = vec![x];
        for linear in &self.spread {
            let [stream] = ops.linear(&act, [linear])?;
            streams.push(as_large(ops, stream, &target, self.spec.hidden)?);
        }
        Ok(streams)
    }

    /// Their mean, the others brought back.
    fn gather(&self, ops: &mut O, streams: Vec<O::Tensor>) -> Result<O::Tensor, ModelError> {
        let target = magnitudes(ops, &streams[0], self.spec.hidden)?;
        let share = 1.0 / streams.len() as f32;
        let mut streams = streams.into_iter();
        let first = streams.next().ok_or_else(|| ModelError::Limit("no stream".to_owned()))?;
        let mut sum = ops.scale(first, share)?;
        for (linear, stream) in self.gather.iter().zip(streams) {
            let act = ops.act(&stream)?;
            let [stream] = ops.linear(&act, [linear])?;
            let stream = as_large(ops, stream, &target, self.spec.hidden)?;
            sum = ops.add(sum, &stream, share)?;
        }
        Ok(sum)
    }
}

impl<O: Ops> AltUpLayer<O> {
    /// One layer over all streams; `inputs` (T, layers · width) are those of all layers.
    fn run(
        &self,
        ops: &mut O,
        step: &Step<'_, O>,
        streams: Vec<O::Tensor>,
        inputs: &O::Tensor,
    ) -> Result<Vec<O::Tensor>, ModelError> {
        let count = streams.len();
        let shares = self.weights(ops, &streams[0], &self.predict, count)?;
        let all: Vec<u32> = (0..shares.len() as u32).collect();
        let mut predicted = Vec::with_capacity(count);
        for target in 0..count {
            let mut sum = ops.copy(&streams[target])?;
            for (source, stream) in streams.iter().enumerate() {
                let column: Vec<f32> =
                    shares.iter().map(|row| row[target * count + source]).collect();
                sum = ops.add_rows(sum, &all, &column, stream)?;
            }
            predicted.push(sum);
        }
        let activated = self.active(ops, step, &predicted[0])?;
        let shares = self.weights(ops, &activated, &self.correct, count)?;
        let innovation = ops.add(activated, &predicted[0], -1.0)?;
        let mut corrected = Vec::with_capacity(count);
        for (target, stream) in predicted.into_iter().enumerate() {
            let column: Vec<f32> = shares.iter().map(|row| row[target] + 1.0).collect();
            corrected.push(ops.add_rows(stream, &all, &column, &innovation)?);
        }
        let first = ops.copy(&corrected[0])?;
        let first = ops.scale_columns(first, &self.correct_scale)?;
        let own = self.input.run(ops, &first, (step.2.index, inputs))?;
        let mut streams = Vec::with_capacity(count);
        for (index, stream) in corrected.into_iter().enumerate() {
            streams.push(if index == 0 { stream } else { ops.add(stream, &own, 1.0)? });
        }
        Ok(streams)
    }

    /// The layer with LAuReL beside its attention: what becomes of the stream that is computed.
    fn active(
        &self,
        ops: &mut O,
        (layer, spec, place): &Step<'_, O>,
        x: &O::Tensor,
    ) -> Result<O::Tensor, ModelError> {
        let missing = || ModelError::Limit("alternating updates need a norm first".to_owned());
        let normed = ops.norm(x, layer.norm.as_ref().ok_or_else(missing)?)?;
        let act = ops.act(&normed)?;
        let [low] = ops.linear(&act, [&self.laurel[0]])?;
        let low = ops.act(&low)?;
        let [laurel] = ops.linear(&low, [&self.laurel[1]])?;
        let laurel = ops.norm(&laurel, &self.laurel_norm)?;
        let mixed = layer.mix(ops, (place, spec), &act)?;
        let mut sum = ops.add(mixed, x, 1.0)?;
        sum = ops.add(sum, &normed, 1.0)?;
        sum = ops.add(sum, &laurel, 1.0)?;
        let x = ops.scale(sum, FRAC_1_SQRT_2)?;
        let fed = layer.feed(ops, &layer.input(&x), spec)?;
        ops.add(x, &fed, 1.0)
    }

    /// For each row `rows` numbers: a matrix (rows, streams) applied to how the row is routed.
    fn weights(
        &self,
        ops: &mut O,
        x: &O::Tensor,
        matrix: &[f32],
        streams: usize,
    ) -> Result<Vec<Vec<f32>>, ModelError> {
        let act = ops.norm_act(x, &self.router_norm)?;
        let [routed] = ops.linear(&act, [&self.router])?;
        let routed = ops.host(routed)?;
        let dot = |row: &[f32], modes: &[f32]| row.iter().zip(modes).map(|(a, b)| a * b).sum();
        let of_row = |modes: &[f32]| {
            let modes: Vec<f32> = modes.iter().map(|mode| mode.tanh()).collect();
            matrix.chunks_exact(streams).map(|row| dot(row, &modes)).collect()
        };
        Ok(routed.chunks_exact(streams).map(of_row).collect())
    }
}

/// Root mean squares of the rows.
fn magnitudes<O: Ops>(ops: &mut O, x: &O::Tensor, hidden: usize) -> Result<Vec<f64>, ModelError> {
    let values = ops.copy(x)?;
    let values = ops.host(values)?;
    let square = |row: &[f32]| row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
    let all = values.chunks_exact(hidden).map(|row| (square(row) / hidden as f64).sqrt());
    let all = all.collect();
    ops.recycle(values);
    Ok(all)
}

/// `x` with the magnitudes `target`.
fn as_large<O: Ops>(
    ops: &mut O,
    x: O::Tensor,
    target: &[f64],
    hidden: usize,
) -> Result<O::Tensor, ModelError> {
    let own = magnitudes(ops, &x, hidden)?;
    let factor = |(target, own): (&f64, f64)| (target / own.max(SQUARE_MIN.sqrt())) as f32;
    let factors: Vec<f32> = target.iter().zip(own).map(factor).collect();
    ops.scale_rows(x, &factors)
}

impl<O: Load> Loader<'_, O> {
    pub(super) fn altup(
        &mut self,
        model: &ModelSpec,
        spec: &AltUpSpec,
    ) -> Result<AltUp<O>, ModelError> {
        let (hidden, layers) = (model.hidden, model.layers.len());
        let inputs = self.layer_inputs(model, spec.width)?;
        let layers = (0..layers)
            .map(|index| self.altup_layer(index, hidden, (spec, model.norm)))
            .collect::<Result<_, _>>()?;
        let others = spec.streams - 1;
        Ok(AltUp {
            spec: spec.clone(),
            inputs,
            spread: self.experts("altup_proj", others, hidden, hidden)?,
            gather: self.experts("altup_unembd_proj", others, hidden, hidden)?,
            layers,
        })
    }

    fn altup_layer(
        &mut self,
        index: usize,
        hidden: usize,
        (spec, norm): (&AltUpSpec, NormSpec),
    ) -> Result<AltUpLayer<O>, ModelError> {
        let name = |part: &str| format!("blk.{index}.{part}");
        let weight = |part: &str| format!("blk.{index}.{part}.weight");
        let streams = spec.streams;
        // Routers see their input divided by its width.
        let mut router_norm = self.floats(&weight("altup_router_norm"), hidden)?;
        router_norm.iter_mut().for_each(|value| *value /= hidden as f32);
        let correct_scale = self.floats(&weight("altup_correct_scale"), hidden)?;
        Ok(AltUpLayer {
            router_norm: Norm {
                weight: self.ops.load_vector(router_norm)?,
                bias: None,
                spec: norm,
            },
            router: self.linear(&name("altup_router"), streams, hidden)?,
            predict: self.floats(&weight("altup_predict_coef"), streams * streams * streams)?,
            correct: self.floats(&weight("altup_correct_coef"), streams * streams)?,
            correct_scale: self.ops.load_vector(correct_scale)?,
            input: self.own_input(index, (hidden, spec.width), norm)?,
            laurel: [
                self.linear(&name("laurel_l"), spec.rank, hidden)?,
                self.linear(&name("laurel_r"), hidden, spec.rank)?,
            ],
            laurel_norm: self.norm(&name("laurel_post_norm"), hidden, norm)?,
        })
    }
}
