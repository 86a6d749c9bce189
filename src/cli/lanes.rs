//! Sequences fed to a [`Runner`] by hand, for measurements that need no scheduler.

use crate::model::{BLOCK, Batch, Logits, Runner, Span, SpanState};

use super::failure::{Context, Failure, Outcome};

/// Which rows' logits a lane wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    Nothing,
    Last,
    All,
}

/// Sequences that each own an equal, fixed share of the KV pool.
pub(super) struct Lanes {
    /// Positions in each lane so far.
    lengths: Vec<u32>,
    blocks_per_lane: u32,
}

impl Lanes {
    /// `count` empty sequences of up to `positions` each.
    ///
    /// # Errors
    /// The runner's pool is too small for them.
    pub(super) fn new(runner: &mut dyn Runner, count: usize, positions: usize) -> Outcome<Self> {
        let blocks_per_lane = positions.div_ceil(BLOCK).max(1);
        let spec = runner.spec();
        let needed = blocks_per_lane.saturating_mul(count);
        if positions > spec.context_len {
            let limit = spec.context_len;
            return Err(Failure::failed(format!(
                "{positions} positions exceed the context of {limit}"
            )));
        }
        if needed > spec.num_blocks {
            return Err(Failure::failed(format!(
                "{count} sequences of {positions} positions need {needed} KV blocks, there are {}",
                spec.num_blocks
            )));
        }
        if (1..count).contains(&spec.num_states) {
            let pages = spec.num_states;
            return Err(Failure::failed(format!(
                "{count} sequences need as many pages of state, there are {pages}"
            )));
        }
        let there = runner.grow_kv(needed);
        if there < needed {
            return Err(Failure::failed(format!(
                "there is no memory for {needed} KV blocks, only for {there}"
            )));
        }
        Ok(Self { lengths: vec![0; count], blocks_per_lane: blocks_per_lane as u32 })
    }

    /// Adds the next tokens of lane `lane` to a batch.
    pub(super) fn push(&mut self, batch: &mut Batch, lane: usize, tokens: &[u32], want: Want) {
        let first_block = lane as u32 * self.blocks_per_lane;
        let start = self.lengths[lane];
        let first_row = batch.tokens.len() as u32;
        for (offset, &token) in tokens.iter().enumerate() {
            let position = start + offset as u32;
            batch.tokens.push(token);
            batch.positions.push(position);
            // A lane's blocks are adjacent, so its slots are too.
            batch.slots.push(first_block * BLOCK as u32 + position);
        }
        let end_row = batch.tokens.len() as u32;
        match want {
            Want::Nothing => {}
            Want::Last => batch.logit_rows.extend((first_row..end_row).last()),
            Want::All => batch.logit_rows.extend(first_row..end_row),
        }
        let kv_len = start + tokens.len() as u32;
        let blocks = (first_block..).take((kv_len as usize).div_ceil(BLOCK)).collect();
        // A lane's state stays in one page.
        let page = lane as u32;
        let state = SpanState { from: (start > 0).then_some(page), to: page, saves: Vec::new() };
        batch.spans.push(Span { rows: first_row..end_row, kv_len, blocks, state: Some(state) });
        self.lengths[lane] = kv_len;
    }

    /// Runs a whole prompt through one lane in batches of at most `runner.spec().max_rows`, and returns
    /// the logits of its last token.
    pub(super) fn prefill(
        &mut self,
        runner: &mut dyn Runner,
        lane: usize,
        tokens: &[u32],
    ) -> Outcome<Logits> {
        let max_rows = runner.spec().max_rows;
        let mut logits = Logits::default();
        let num_chunks = tokens.len().div_ceil(max_rows);
        for (index, chunk) in tokens.chunks(max_rows).enumerate() {
            let want = if index + 1 == num_chunks { Want::Last } else { Want::Nothing };
            let mut batch = Batch::default();
            self.push(&mut batch, lane, chunk, want);
            logits = forward(runner, &batch)?;
        }
        Ok(logits)
    }
}

/// One forward pass.
pub(super) fn forward(runner: &mut dyn Runner, batch: &Batch) -> Outcome<Logits> {
    runner.forward(batch).context("forward pass")
}

/// Checks ids that a person gave.
pub(super) fn check_tokens(runner: &dyn Runner, tokens: &[u32]) -> Outcome {
    let vocab_size = runner.spec().vocab_size;
    match tokens.iter().find(|&&token| token as usize >= vocab_size) {
        Some(token) => {
            Err(Failure::usage(format!("token {token} is outside the vocabulary of {vocab_size}")))
        }
        None => Ok(()),
    }
}

/// Natural logarithm of the sum of exponentials, the normaliser of log-probabilities.
pub(super) fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from((x - max).exp())).sum();
    f64::from(max) + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_sum_exp_is_stable() {
        assert!((log_sum_exp(&[0.0, 0.0]) - std::f64::consts::LN_2).abs() < 1e-7);
        assert!((log_sum_exp(&[1000.0, 1000.0]) - 1000.0 - std::f64::consts::LN_2).abs() < 1e-6);
    }

    #[test]
    fn lanes_keep_to_their_blocks() {
        let mut lanes = Lanes { lengths: vec![0; 2], blocks_per_lane: 2 };
        let mut batch = Batch::default();
        lanes.push(&mut batch, 0, &[1, 2, 3], Want::Last);
        lanes.push(&mut batch, 1, &[4], Want::Nothing);
        lanes.push(&mut batch, 1, &[5; 40], Want::All);
        assert_eq!(&batch.slots[..5], &[0, 1, 2, 64, 65]);
        let state = |from, to| Some(SpanState { from, to, saves: Vec::new() });
        let (first, last) = (state(None, 0), state(Some(1), 1));
        assert_eq!(batch.spans[0], Span { rows: 0..3, kv_len: 3, blocks: vec![0], state: first });
        let blocks = vec![2, 3];
        assert_eq!(batch.spans[2], Span { rows: 4..44, kv_len: 41, blocks, state: last });
        assert_eq!(batch.logit_rows[..2], [2, 4]);
        assert_eq!(batch.logit_rows.len(), 41);
    }
}
