//! `kolosal perplexity`: how surprised a model is by a text, by the procedure of llama-perplexity.
//!
//! The text's tokens are cut into chunks of `n_ctx`. In each chunk the first token is replaced by the
//! beginning-of-sequence token where the model wants one, and the second half is scored given all that
//! stands before in the chunk. The distributions can be saved, and those of another run, program or
//! precision compared with this model's.

mod base;
mod divergence;

use serde::Serialize;

use super::App;
use super::args::PerplexityArgs;
use super::compute::{Opened, Room};
use super::failure::{Context, Failure, Outcome};
use super::lanes::{Lanes, Want, check_tokens, forward, log_sum_exp};
use crate::chat::Special;
use crate::model::{Batch, Runner};

use base::{BaseReader, BaseWriter};
use divergence::Divergence;

/// Rows whose logits are computed in one pass; a vocabulary of 262,144 takes 1 MiB a row.
const SCORED_ROWS: usize = 128;

/// Negative log-likelihoods so far.
#[derive(Clone, Copy, Debug, Default)]
struct Score {
    sum: f64,
    sum_of_squares: f64,
    count: usize,
}

#[derive(Debug, Serialize)]
struct Estimate {
    perplexity: f64,
    error: f64,
    chunks: usize,
    n_ctx: usize,
    tokens: usize,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    divergence: Option<divergence::Summary>,
}

impl Score {
    fn add(&mut self, surprise: f64) {
        self.sum += surprise;
        self.sum_of_squares += surprise * surprise;
        self.count += 1;
    }

    fn perplexity(self) -> f64 {
        (self.sum / self.count as f64).exp()
    }

    /// Standard error of the perplexity.
    fn error(self) -> f64 {
        let count = self.count as f64;
        let mean = self.sum / count;
        let variance = self.sum_of_squares / count - mean * mean;
        if variance > 0.0 && self.count > 1 {
            (variance / (count - 1.0)).sqrt() * self.perplexity()
        } else {
            0.0
        }
    }
}

/// What is done with the logits of a scored position beside the perplexity.
enum Company {
    Nobody,
    Save(BaseWriter),
    Compare(BaseReader, Box<Divergence>),
}

impl Company {
    /// Takes the row of one position; `next` is the token that follows in the text.
    fn take(&mut self, row: &[f32], next: u32) -> Outcome {
        match self {
            Self::Nobody => Ok(()),
            Self::Save(writer) => writer.write(row),
            Self::Compare(reader, divergence) => {
                divergence.add(&reader.read()?, row, next);
                Ok(())
            }
        }
    }

    /// Everything scored has been taken.
    fn finish(self) -> Outcome<Option<divergence::Summary>> {
        match self {
            Self::Nobody => Ok(None),
            Self::Save(writer) => writer.finish().map(|()| None),
            Self::Compare(_, divergence) => Ok(Some(divergence.summary())),
        }
    }
}

pub(super) fn run(app: &App, args: &PerplexityArgs) -> Outcome {
    let mut base = args.kl_divergence.as_deref().map(BaseReader::open).transpose()?;
    let n_ctx = base.as_ref().map_or(args.n_ctx as usize, BaseReader::n_ctx);
    let mut opened = Opened::open(app, &args.runner, Room { positions: n_ctx, sequences: 1 })?;
    let mut tokens = match &mut base {
        Some(base) => base.take_tokens(),
        None => text_tokens(&opened, args, n_ctx)?,
    };
    check_tokens(opened.runner.as_ref(), &tokens)?;
    let num_chunks = (tokens.len() / n_ctx).min(args.chunks.unwrap_or(usize::MAX)).max(1);
    tokens.truncate(num_chunks * n_ctx);
    let vocab_size = opened.runner.spec().vocab_size;
    let mut company = match (base, &args.save_logits) {
        (Some(base), _) => {
            base.expect_vocabulary(vocab_size)?;
            Company::Compare(base, Box::default())
        }
        (None, Some(path)) => Company::Save(BaseWriter::create(path, n_ctx, vocab_size, &tokens)?),
        (None, None) => Company::Nobody,
    };
    app.out.note(format!("{num_chunks} chunks of {n_ctx} tokens"));
    let mut score = Score::default();
    for (index, chunk) in tokens.chunks_exact(n_ctx).enumerate() {
        score_chunk(opened.runner.as_mut(), chunk, &mut score, &mut company)?;
        app.out.note(format!("[{}] {:.4}", index + 1, score.perplexity()));
    }
    let estimate = Estimate {
        perplexity: score.perplexity(),
        error: score.error(),
        chunks: num_chunks,
        n_ctx,
        tokens: score.count,
        divergence: company.finish()?,
    };
    if app.out.json {
        return app.out.json(&estimate);
    }
    let Estimate { perplexity, error, divergence, .. } = estimate;
    app.out.line(format!("Final estimate: PPL = {perplexity:.4} +/- {error:.5}"))?;
    divergence.map_or(Ok(()), |divergence| app.out.table(&divergence.table()))
}

/// The text's tokens as the chunks have them: each begins as the model wants texts to begin.
fn text_tokens(opened: &Opened, args: &PerplexityArgs, n_ctx: usize) -> Outcome<Vec<u32>> {
    let Some(file) = &args.file else {
        return Err(Failure::usage("--file or --kl-divergence is needed"));
    };
    let text = std::fs::read_to_string(file).context(file.display())?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let tokenizer = opened.tokenizer()?;
    let mut tokens = tokenizer.encode(text, Special::Plain);
    tokenizer.add_bos_to(&mut tokens);
    if tokens.len() < 2 * n_ctx {
        let found = tokens.len();
        let needed = 2 * n_ctx;
        return Err(Failure::failed(format!(
            "the text has {found} tokens, at least {needed} are needed"
        )));
    }
    if let Some(bos) = tokenizer.bos().filter(|_| tokenizer.add_bos()) {
        for chunk in tokens.chunks_exact_mut(n_ctx) {
            chunk[0] = bos;
        }
    }
    Ok(tokens)
}

/// Scores the second half of a chunk, all but its last token's successor.
fn score_chunk(
    runner: &mut dyn Runner,
    chunk: &[u32],
    score: &mut Score,
    company: &mut Company,
) -> Outcome {
    let mut lanes = Lanes::new(runner, 1, chunk.len())?;
    let scored = chunk.len() / 2;
    let max_rows = runner.spec().max_rows;
    for piece in chunk[..scored].chunks(max_rows) {
        let mut batch = Batch::default();
        lanes.push(&mut batch, 0, piece, Want::Nothing);
        forward(runner, &batch)?;
    }
    // The last token has no successor to be scored on.
    let rows = &chunk[scored..chunk.len() - 1];
    let mut next = scored + 1;
    for piece in rows.chunks(SCORED_ROWS.min(max_rows)) {
        let mut batch = Batch::default();
        lanes.push(&mut batch, 0, piece, Want::All);
        let logits = forward(runner, &batch)?;
        for row in 0..piece.len() {
            let row = logits.row(row);
            score.add(log_sum_exp(row) - f64::from(row[chunk[next] as usize]));
            company.take(row, chunk[next])?;
            next += 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_become_perplexity_and_error() {
        let mut score = Score::default();
        for surprise in [1.0, 2.0, 3.0] {
            score.add(surprise);
        }
        assert!((score.perplexity() - 2.0_f64.exp()).abs() < 1e-12);
        let expected = ((2.0 / 3.0) / 2.0_f64).sqrt() * 2.0_f64.exp();
        assert!((score.error() - expected).abs() < 1e-12);
    }
}
