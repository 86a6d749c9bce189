//! `kolosal logits`: log-probabilities of the next token, for comparison with other programs.

use serde::Serialize;

use super::App;
use super::args::LogitsArgs;
use super::compute::{Opened, Room};
use super::failure::Outcome;
use super::lanes::{Lanes, check_tokens, log_sum_exp};

#[derive(Debug, Serialize)]
struct Candidate {
    id: u32,
    token: String,
    logprob: f64,
}

pub(super) fn run(app: &App, args: &LogitsArgs) -> Outcome {
    let room = Room { positions: args.tokens.len(), sequences: 1 };
    let mut opened = Opened::open(app, &args.runner, room)?;
    let tokenizer = opened.tokenizer()?;
    let runner = opened.runner.as_mut();
    check_tokens(runner, &args.tokens)?;
    let mut lanes = Lanes::new(runner, 1, args.tokens.len())?;
    let logits = lanes.prefill(runner, 0, &args.tokens)?;
    let row = logits.row(0);
    let normaliser = log_sum_exp(row);
    let candidates: Vec<Candidate> = best(row, args.top)
        .into_iter()
        .map(|id| Candidate {
            id,
            token: String::from_utf8_lossy(tokenizer.bytes(id)).into_owned(),
            logprob: f64::from(row[id as usize]) - normaliser,
        })
        .collect();
    if app.out.json {
        return app.out.json(&candidates);
    }
    let heading = ["ID", "LOGPROB", "TOKEN"].map(str::to_owned).to_vec();
    let rows = candidates
        .iter()
        .map(|c| vec![c.id.to_string(), format!("{:.5}", c.logprob), format!("{:?}", c.token)]);
    app.out.table(&std::iter::once(heading).chain(rows).collect::<Vec<_>>())
}

/// Ids of the `count` largest logits, largest first, lower ids first among equals.
fn best(row: &[f32], count: usize) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..row.len() as u32).collect();
    ids.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]).then(a.cmp(&b)));
    ids.truncate(count);
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_come_first() {
        assert_eq!(best(&[0.5, 2.0, -1.0, 2.0], 3), [1, 3, 0]);
        assert_eq!(best(&[0.5], 3), [0]);
    }
}
