//! Files of distributions, in the format of `llama-perplexity --save-all-logits`.
//!
//! All numbers are little-endian: the mark `_logits_`, then `n_ctx`, the vocabulary's size and the number of
//! chunks (i32 each), the tokens of all chunks (i32 each), and for every scored position 4 + V u16, V the
//! vocabulary's size made even: a scale and an offset (f32 each), and one code for each token. A
//! token's log-probability is `offset + scale * code`; those more than 16 below the likeliest are cut there.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use crate::cli::failure::{Context, Failure, Outcome};
use crate::cli::lanes::log_sum_exp;

const MARK: &[u8; 8] = b"_logits_";
/// Log-probabilities further below the likeliest token's are not told apart.
const DEPTH: f32 = 16.0;
/// Tokens in a file that is read.
const MAX_TOKENS: usize = 1 << 26;
/// Tokens of a vocabulary.
const MAX_VOCABULARY: usize = 1 << 24;

/// One position's distribution: log-probabilities in codes.
#[derive(Debug)]
pub(super) struct Coded {
    scale: f32,
    offset: f32,
    codes: Vec<u16>,
}

impl Coded {
    pub(super) fn new(row: &[f32]) -> Self {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let min = row.iter().copied().fold(f32::INFINITY, f32::min).max(max - DEPTH);
        let scale = (max - min) / 65535.0;
        let code = |&logit: &f32| {
            if scale > 0.0 { ((logit - min) / scale).round().clamp(0.0, 65535.0) as u16 } else { 0 }
        };
        let offset = (f64::from(min) - log_sum_exp(row)) as f32;
        Self { scale, offset, codes: row.iter().map(code).collect() }
    }

    /// Log-probabilities by token id.
    pub(super) fn logprobs(&self) -> impl Iterator<Item = f32> + '_ {
        self.codes.iter().map(|&code| self.scale.mul_add(f32::from(code), self.offset))
    }
}

/// Bytes of one position.
fn row_len(vocab_size: usize) -> usize {
    2 * (vocab_size.next_multiple_of(2) + 4)
}

/// Writes a file position by position.
pub(super) struct BaseWriter {
    file: BufWriter<File>,
    row: Vec<u8>,
}

impl BaseWriter {
    /// `tokens` are whole chunks of `n_ctx`.
    pub(super) fn create(
        path: &Path,
        n_ctx: usize,
        vocab_size: usize,
        tokens: &[u32],
    ) -> Outcome<Self> {
        let mut file = BufWriter::new(File::create(path).context(path.display())?);
        let sizes = [n_ctx, vocab_size, tokens.len() / n_ctx].map(|size| size as u32);
        let mut head = MARK.to_vec();
        head.extend(sizes.iter().chain(tokens).flat_map(|number| number.to_le_bytes()));
        file.write_all(&head).context(path.display())?;
        Ok(Self { file, row: Vec::with_capacity(row_len(vocab_size)) })
    }

    /// The next position's logits.
    pub(super) fn write(&mut self, row: &[f32]) -> Outcome {
        let coded = Coded::new(row);
        self.row.clear();
        self.row.extend([coded.scale, coded.offset].iter().flat_map(|value| value.to_le_bytes()));
        self.row.extend(coded.codes.iter().flat_map(|code| code.to_le_bytes()));
        self.row.resize(row_len(row.len()), 0);
        self.file.write_all(&self.row).context("writing distributions")
    }

    pub(super) fn finish(mut self) -> Outcome {
        self.file.flush().context("writing distributions")
    }
}

/// Reads a file position by position.
pub(super) struct BaseReader {
    file: BufReader<File>,
    n_ctx: usize,
    vocab_size: usize,
    tokens: Vec<u32>,
}

impl BaseReader {
    pub(super) fn open(path: &Path) -> Outcome<Self> {
        let file = File::open(path).context(path.display())?;
        let size = file.metadata().context(path.display())?.len();
        let mut file = BufReader::new(file);
        let mut head = [0; 20];
        file.read_exact(&mut head).context(path.display())?;
        let number = |at: usize| {
            u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize
        };
        let [n_ctx, vocab_size, num_chunks] = [8, 12, 16].map(number);
        let num_tokens = n_ctx.saturating_mul(num_chunks);
        let sizes_hold = (8..=1_000_000).contains(&n_ctx)
            && (1..=MAX_VOCABULARY).contains(&vocab_size)
            && (n_ctx..=MAX_TOKENS).contains(&num_tokens);
        let scored = n_ctx.saturating_sub(1 + n_ctx / 2);
        let positions = num_chunks.saturating_mul(scored);
        let rows = positions.saturating_mul(row_len(vocab_size));
        let expected = rows.saturating_add(num_tokens.saturating_mul(4)).saturating_add(20);
        if head[..8] != *MARK || !sizes_hold || size != expected as u64 {
            let text = format!("{} is no whole file of distributions", path.display());
            return Err(Failure::failed(text));
        }
        let mut bytes = vec![0; 4 * num_tokens];
        file.read_exact(&mut bytes).context(path.display())?;
        let tokens = bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let tokens = tokens.collect();
        Ok(Self { file, n_ctx, vocab_size, tokens })
    }

    pub(super) fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// The text, once.
    pub(super) fn take_tokens(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.tokens)
    }

    pub(super) fn expect_vocabulary(&self, vocab_size: usize) -> Outcome {
        if self.vocab_size == vocab_size {
            return Ok(());
        }
        let theirs = self.vocab_size;
        Err(Failure::failed(format!(
            "the distributions are over {theirs} tokens, the model has {vocab_size}"
        )))
    }

    /// The next position's distribution.
    pub(super) fn read(&mut self) -> Outcome<Coded> {
        let mut row = vec![0; row_len(self.vocab_size)];
        self.file.read_exact(&mut row).context("reading distributions")?;
        let float =
            |at: usize| f32::from_le_bytes([row[at], row[at + 1], row[at + 2], row[at + 3]]);
        let codes = row[8..].chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
        let codes = codes.take(self.vocab_size).collect();
        Ok(Coded { scale: float(0), offset: float(4), codes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_come_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("base");
        let rows = [[0.5_f32, 2.0, -1.0], [7.0, -50.0, 6.0], [1.0, 1.0, 1.0]];
        let tokens = [0, 1, 2, 0, 1, 2, 0, 1];
        let mut writer = BaseWriter::create(&path, 8, 3, &tokens).expect("created");
        for row in &rows {
            writer.write(row).expect("written");
        }
        writer.finish().expect("flushed");
        let mut reader = BaseReader::open(&path).expect("opened");
        assert_eq!((reader.n_ctx(), reader.take_tokens()), (8, tokens.to_vec()));
        reader.expect_vocabulary(3).expect("three tokens");
        reader.expect_vocabulary(4).expect_err("another vocabulary");
        for row in &rows {
            let norm = log_sum_exp(row);
            let floor = row.iter().copied().fold(f32::NEG_INFINITY, f32::max) - DEPTH;
            let coded = reader.read().expect("a row");
            for (&logit, logprob) in row.iter().zip(coded.logprobs()) {
                let expected = f64::from(logit.max(floor)) - norm;
                assert!((f64::from(logprob) - expected).abs() < 3e-4, "{row:?}: {logprob}");
            }
        }
    }

    #[test]
    fn broken_files_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("base");
        let mut file = MARK.to_vec();
        for number in [8_u32, 3, 1, 0, 1, 2, 0, 1, 2, 0, 1] {
            file.extend(number.to_le_bytes());
        }
        file.extend([0; 3 * 16]);
        std::fs::write(&path, &file).expect("written");
        BaseReader::open(&path).expect("whole");
        let with = |at: usize, number: u32| {
            let mut file = file.clone();
            file[at..at + 4].copy_from_slice(&number.to_le_bytes());
            file
        };
        let cases = [
            file[..12].to_vec(),
            file[..file.len() - 1].to_vec(),
            with(0, 0),
            with(8, 0),
            with(8, u32::MAX),
            with(12, 0),
            with(12, u32::MAX),
            with(16, 0),
            with(16, u32::MAX),
        ];
        for (index, case) in cases.iter().enumerate() {
            std::fs::write(&path, case).expect("written");
            assert!(BaseReader::open(&path).is_err(), "case {index}");
        }
    }
}
