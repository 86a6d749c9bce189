//! Turns what the scheduler chose into the flat batch that the runner computes.

use super::scheduler::{Plan, Scheduler};
use crate::model::{BLOCK, Batch, Span};

/// Rows of all pieces, in the plan's order; pieces of sequences that are gone are left out.
#[must_use]
pub fn assemble(plan: &Plan, scheduler: &Scheduler) -> Batch {
    let mut batch = Batch::default();
    batch.tokens.reserve(plan.num_rows);
    batch.positions.reserve(plan.num_rows);
    batch.slots.reserve(plan.num_rows);
    for piece in &plan.pieces {
        let Some(sequence) = scheduler.sequence(piece.sequence) else { continue };
        let first = batch.len() as u32;
        let end = piece.start + piece.num_rows;
        let blocks = &sequence.blocks()[..end.div_ceil(BLOCK)];
        for position in piece.start..end {
            let token = sequence.token_at(position);
            batch.tokens.push(token.expect("a row has a token or a draft: this is a bug"));
            batch.positions.push(position as u32);
            batch.slots.push(blocks[position / BLOCK] * BLOCK as u32 + (position % BLOCK) as u32);
        }
        if let Some(second) = sequence.second_from() {
            batch.types.resize(first as usize, 0);
            batch.types.extend((piece.start..end).map(|at| u32::from(at >= second as usize)));
        }
        let wanted =
            if sequence.is_embedded() { &mut batch.hidden_rows } else { &mut batch.logit_rows };
        wanted.extend(piece.logits.clone().map(|row| first + row as u32));
        batch.spans.push(Span {
            rows: first..batch.len() as u32,
            kv_len: end as u32,
            blocks: blocks.to_vec(),
            state: piece.state.clone(),
        });
    }
    if !batch.types.is_empty() {
        batch.types.resize(batch.len(), 0);
    }
    batch
}
