//! Mixture of experts: rows are grouped by expert, so that each expert sees one dense batch.

use super::error::ModelError;
use super::gated::Gated;
use super::loader::Loader;
use super::ops::{Load, Ops};
use super::spec::{Groups, MoeScore, MoeSpec};

/// Weights of one layer.
pub(super) struct Moe<O: Load> {
    router: O::Linear,
    /// Added to the scores when experts are chosen, not to their weights (deepseek).
    selection_bias: Option<Vec<f32>>,
    experts: Vec<Gated<O>>,
    shared: Option<Gated<O>>,
    shared_gate: Option<O::Linear>,
    /// To what the chosen experts read, and back from what they make.
    latent: Option<[O::Linear; 2]>,
}

/// What the tensor `ffn_gate_inp.scale` holds, where there is one.
#[derive(Clone, Copy)]
pub(super) enum RouterScale {
    OfResults,
    /// A factor for each column of the router's input.
    OfInputs,
}

impl<O: Ops> Moe<O> {
    /// Routes each row of `x` (T, hidden), the normed input, to its experts: (T, hidden). The router reads
    /// `routed`, or the same.
    pub(super) fn run(
        &self,
        ops: &mut O,
        (x, routed): (&O::Tensor, Option<&O::Act>),
        spec: &MoeSpec,
    ) -> Result<O::Tensor, ModelError> {
        let input = &ops.act(x)?;
        let [router] = ops.linear(routed.unwrap_or(input), [&self.router])?;
        let router = ops.host(router)?;
        // (expert) → rows that take it and their weights.
        let mut takers: Vec<(Vec<u32>, Vec<f32>)> = vec![Default::default(); spec.experts];
        for (row, logits) in router.chunks_exact(spec.experts).enumerate() {
            for (expert, weight) in route(logits, self.selection_bias.as_deref(), spec) {
                takers[expert].0.push(row as u32);
                takers[expert].1.push(weight);
            }
        }
        let shared = self.run_shared(ops, input, spec)?;
        let Some([down, up]) = &self.latent else {
            let out = match shared {
                Some(shared) => shared,
                None => ops.zeros_like(x)?,
            };
            return self.run_chosen(ops, (x, out), &takers, spec);
        };
        let [x] = ops.linear(input, [down])?;
        let out = ops.zeros_like(&x)?;
        let out = self.run_chosen(ops, (&x, out), &takers, spec)?;
        let out = ops.act(&out)?;
        let [out] = ops.linear(&out, [up])?;
        match shared {
            Some(shared) => ops.add(out, &shared, 1.0),
            None => Ok(out),
        }
    }

    /// What the experts that every token takes make of their input: (T, hidden).
    fn run_shared(
        &self,
        ops: &mut O,
        input: &O::Act,
        spec: &MoeSpec,
    ) -> Result<Option<O::Tensor>, ModelError> {
        let Some(shared) = &self.shared else { return Ok(None) };
        let mut out = shared.run(ops, input, spec.shared_act.unwrap_or(spec.act))?;
        if let Some(gate) = &self.shared_gate {
            let [gate] = ops.linear(input, [gate])?;
            let gate: Vec<f32> = ops.host(gate)?.iter().copied().map(sigmoid).collect();
            out = ops.scale_rows(out, &gate)?;
        }
        if spec.shared_scale != 1.0 {
            out = ops.scale(out, spec.shared_scale)?;
        }
        Ok(Some(out))
    }

    /// Adds to `out` what the experts that rows of `x` choose make of them, both (T, width).
    fn run_chosen(
        &self,
        ops: &mut O,
        (x, mut out): (&O::Tensor, O::Tensor),
        takers: &[(Vec<u32>, Vec<f32>)],
        spec: &MoeSpec,
    ) -> Result<O::Tensor, ModelError> {
        // Ascending experts: a row's sum has the same order in every batch.
        for (expert, (rows, shares)) in self.experts.iter().zip(takers) {
            if rows.is_empty() {
                continue;
            }
            let mut picked = ops.rows(x, rows)?;
            let ones = vec![1.0; rows.len()];
            let mut after = shares;
            if spec.weigh_input {
                picked = ops.scale_rows(picked, shares)?;
                after = &ones;
            }
            let picked = ops.act(&picked)?;
            let y = expert.run(ops, &picked, spec.act)?;
            out = ops.add_rows(out, rows, after, &y)?;
        }
        Ok(out)
    }
}

impl<O: Load> Loader<'_, O> {
    /// The experts of layer `index`.
    pub(super) fn moe(
        &mut self,
        index: usize,
        (hidden, router): (usize, RouterScale),
        spec: &MoeSpec,
    ) -> Result<Moe<O>, ModelError> {
        let name = |part: &str| format!("blk.{index}.{part}");
        let (experts, read) = (spec.experts, spec.latent.unwrap_or(hidden));
        let gates_and_ups = match spec.gated {
            true => self.gates_and_ups(index, read, spec)?,
            false => {
                let ups = self.experts(&name("ffn_up_exps"), experts, spec.width, read)?;
                ups.into_iter().map(|up| (None, up)).collect()
            }
        };
        let downs = self.experts(&name("ffn_down_exps"), experts, read, spec.width)?;
        let experts = gates_and_ups
            .into_iter()
            .zip(downs)
            .map(|((gate, up), down)| Gated { gate, up, down })
            .collect();
        // Some converters leave the end of the name out.
        let bias = ["exp_probs_b.bias", "exp_probs_b"].map(name);
        let bias = bias.into_iter().find(|bias| self.gguf.tensor(bias).is_some());
        let router = match router {
            RouterScale::OfResults => self.linear(&name("ffn_gate_inp"), spec.experts, hidden)?,
            RouterScale::OfInputs => {
                self.bare_linear(&name("ffn_gate_inp"), spec.experts, hidden)?
            }
        };
        Ok(Moe {
            router,
            selection_bias: match bias {
                Some(bias) => Some(self.floats(&bias, spec.experts)?),
                None => None,
            },
            experts,
            shared: match spec.shared_width {
                Some(width) if spec.gated => Some(self.gated(index, "_shexp", hidden, width)?),
                Some(width) => Some(self.plain(index, "_shexp", hidden, width)?),
                None => None,
            },
            shared_gate: match spec.shared_gate {
                true => Some(self.linear(&name("ffn_gate_inp_shexp"), 1, hidden)?),
                false => None,
            },
            latent: match spec.latent {
                Some(width) => Some([
                    self.linear(&name("ffn_latent_down"), width, hidden)?,
                    self.linear(&name("ffn_latent_up"), hidden, width)?,
                ]),
                None => None,
            },
        })
    }

    /// Of all experts, from two tensors, or from one that holds each expert's gate above its up projection.
    fn gates_and_ups(
        &mut self,
        index: usize,
        hidden: usize,
        spec: &MoeSpec,
    ) -> Result<Vec<(Option<O::Linear>, O::Linear)>, ModelError> {
        let name = |part: &str| format!("blk.{index}.ffn_{part}_exps");
        let (experts, width, fused) = (spec.experts, spec.width, name("gate_up"));
        if self.gguf.tensor(&format!("{fused}.weight")).is_none() {
            let gates = self.experts(&name("gate"), experts, width, hidden)?;
            let ups = self.experts(&name("up"), experts, width, hidden)?;
            return Ok(gates.into_iter().map(Some).zip(ups).collect());
        }
        let mut halves = self.halves_of_experts(&fused, experts, width, hidden)?.into_iter();
        let mut all = Vec::with_capacity(experts);
        while let (Some(gate), Some(up)) = (halves.next(), halves.next()) {
            all.push((Some(gate), up));
        }
        Ok(all)
    }
}

/// The experts that a token takes and their weights.
fn route(logits: &[f32], bias: Option<&[f32]>, spec: &MoeSpec) -> Vec<(usize, f32)> {
    let mut scores = logits.to_vec();
    match spec.score {
        MoeScore::SparseMixer => return sparse_mixer(logits, spec.used),
        MoeScore::Softmax => softmax(&mut scores),
        MoeScore::Sigmoid => scores.iter_mut().for_each(|score| *score = sigmoid(*score)),
        MoeScore::SoftmaxAfter => {}
    }
    let mut ranks = scores.clone();
    for (rank, bias) in ranks.iter_mut().zip(bias.unwrap_or_default()) {
        *rank += bias;
    }
    if let Some(groups) = spec.groups {
        leave_groups(&mut ranks, groups);
    }
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| ranks[b].total_cmp(&ranks[a]).then(a.cmp(&b)));
    order.truncate(spec.used);
    let mut shares: Vec<f32> = order.iter().map(|&expert| scores[expert]).collect();
    if spec.score == MoeScore::SoftmaxAfter {
        softmax(&mut shares);
    }
    if spec.normalise {
        // The floor keeps a row whose sigmoids all underflow finite (deepseek's 1e-20).
        let sum = shares.iter().sum::<f32>().max(1e-20);
        shares.iter_mut().for_each(|share| *share /= sum);
    }
    order.into_iter().zip(shares.into_iter().map(|share| share * spec.scale)).collect()
}

/// One expert after the other: the best of those left, weighed against those left that come near it.
fn sparse_mixer(logits: &[f32], used: usize) -> Vec<(usize, f32)> {
    /// Twice the jitter that the router was trained with.
    const NEAR: f32 = 0.02;
    let mut taken: Vec<(usize, f32)> = Vec::with_capacity(used);
    for _ in 0..used {
        let is_left = |expert: &usize| taken.iter().all(|(other, _)| other != expert);
        let left: Vec<usize> = (0..logits.len()).filter(is_left).collect();
        let order = |a: &&usize, b: &&usize| logits[**a].total_cmp(&logits[**b]).then(b.cmp(a));
        let Some(&best) = left.iter().max_by(order) else { break };
        let max = logits[best];
        let near = left.iter().map(|expert| logits[*expert]);
        let near = near.filter(|logit| (max - logit) / logit.abs().max(max) <= NEAR);
        taken.push((best, near.map(|logit| (logit - max).exp()).sum::<f32>().recip()));
    }
    taken
}

/// Sinks the ranks of all experts outside the best groups.
fn leave_groups(ranks: &mut [f32], groups: Groups) {
    let width = ranks.len() / groups.count;
    let worth = |group: &[f32]| -> f32 {
        let mut best = group.to_vec();
        best.sort_by(|a, b| b.total_cmp(a));
        best.iter().take(groups.best).sum()
    };
    let worths: Vec<f32> = ranks.chunks_exact(width).map(worth).collect();
    let mut order: Vec<usize> = (0..worths.len()).collect();
    order.sort_by(|&a, &b| worths[b].total_cmp(&worths[a]).then(a.cmp(&b)));
    for &group in order.iter().skip(groups.used) {
        ranks[group * width..][..width].fill(f32::NEG_INFINITY);
    }
}

fn softmax(values: &mut [f32]) {
    let max = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    values.iter_mut().for_each(|value| *value = (*value - max).exp());
    let sum: f32 = values.iter().sum();
    values.iter_mut().for_each(|value| *value /= sum);
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::spec::ActSpec;

    fn spec(score: MoeScore, normalise: bool) -> MoeSpec {
        MoeSpec {
            experts: 4,
            used: 2,
            width: 8,
            act: ActSpec::Silu,
            gated: true,
            score,
            normalise,
            scale: 1.0,
            shared_width: None,
            shared_gate: false,
            shared_act: None,
            shared_scale: 1.0,
            groups: None,
            early: false,
            weigh_input: false,
            latent: None,
        }
    }

    #[test]
    fn routes_to_the_largest_scores() {
        let logits = [0.0, 2.0, 1.0, -1.0];
        let plain = route(&logits, None, &spec(MoeScore::Softmax, false));
        assert_eq!(plain.iter().map(|taken| taken.0).collect::<Vec<_>>(), [1, 2]);
        let total: f32 = logits.iter().map(|logit: &f32| logit.exp()).sum();
        assert!((plain[0].1 - 2f32.exp() / total).abs() < 1e-6);
        let normalised = route(&logits, None, &spec(MoeScore::Softmax, true));
        assert!((normalised[0].1 + normalised[1].1 - 1.0).abs() < 1e-6);
        let after = route(&logits, None, &spec(MoeScore::SoftmaxAfter, false));
        assert!((after[0].1 - normalised[0].1).abs() < 1e-6);
    }

    #[test]
    fn sparse_mixing_weighs_an_expert_against_those_near_it() {
        let taken = route(&[1.0, 3.0, 2.97, 0.5], None, &spec(MoeScore::SparseMixer, false));
        // 2.97 is within 2 of 100 of 3; nothing that is left is near 2.97.
        let first = 1.0 / (1.0 + (-0.03_f32).exp());
        assert_eq!(taken.iter().map(|taken| taken.0).collect::<Vec<_>>(), [1, 2]);
        assert!((taken[0].1 - first).abs() < 1e-6 && (taken[1].1 - 1.0).abs() < 1e-6, "{taken:?}");
        let below = route(&[-2.0, -1.0, -1.01, -9.0], None, &spec(MoeScore::SparseMixer, false));
        assert_eq!(below.iter().map(|taken| taken.0).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn experts_of_groups_left_out_are_not_taken() {
        let grouped = |best| MoeSpec {
            groups: Some(Groups { count: 2, used: 1, best }),
            ..spec(MoeScore::Sigmoid, false)
        };
        let taken = |best| -> Vec<usize> {
            let routed = route(&[2.0, -9.0, 1.0, 1.5], None, &grouped(best));
            routed.into_iter().map(|taken| taken.0).collect()
        };
        // By its best expert the first group wins, by its best two the second.
        assert_eq!(taken(1), [0, 1]);
        assert_eq!(taken(2), [3, 2]);
    }

    #[test]
    fn selection_bias_chooses_but_does_not_weigh() {
        let bias = [10.0, 0.0, 0.0, 0.0];
        let taken = route(&[0.0, 2.0, 1.0, -1.0], Some(&bias), &spec(MoeScore::Sigmoid, false));
        assert_eq!(taken[0], (0, 0.5));
    }
}
