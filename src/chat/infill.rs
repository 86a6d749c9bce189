//! Texts whose middle is missing: the prompt that asks a model to fill it in.
//!
//! ```text
//! [repository] name [file] name, text ... [file] name [prefix] before [suffix] after [middle]
//! ```
//!
//! The bracketed are tokens of the model; those of repository and files are there for other files only,
//! and only if the model has them.

use super::text_model::Unread;
use super::tokenizer::{FillIn, Special, Stopped, Tokenizer, Until};
use crate::error::Error;

/// Stands between files if the model has no token for that.
const SNIPPET: &str = "\n\n--- snippet ---\n\n";
/// Names for what the request has none.
const REPOSITORY: &str = "project\n";
const FILE: &str = "file\n";

/// A text with a gap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Infill {
    pub prefix: String,
    pub suffix: String,
    /// Other files, which help to understand the text.
    pub extra: Vec<ExtraFile>,
    /// The wire's name of the suffix, for errors.
    pub field: &'static str,
}

/// Another file of the same project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtraFile {
    pub name: String,
    pub text: String,
}

impl Infill {
    /// Bytes of all texts.
    pub(super) fn num_bytes(&self) -> usize {
        let extra = self.extra.iter().map(|file| file.name.len() + file.text.len());
        self.prefix.len() + self.suffix.len() + extra.sum::<usize>()
    }

    /// The prompt. What the texts contain is text, whatever it looks like.
    ///
    /// # Errors
    /// The model has no tokens for this; the texts are too long, or nobody waits.
    pub(super) fn tokens(&self, tokenizer: &Tokenizer, until: &Until) -> Result<Vec<u32>, Unread> {
        let FillIn { prefix, suffix, middle, repository, file } = tokenizer.fill_in();
        let (Some(before), Some(after), Some(middle)) = (prefix, suffix, middle) else {
            let field = self.field;
            let text = format!("{field}: this model has no tokens to fill in a middle");
            return Err(Error::invalid(field, text).with_code("infill_not_supported").into());
        };
        let mut tokens = Vec::new();
        let text = |tokens: &mut Vec<u32>, text: &str| -> Result<(), Stopped> {
            let read = tokenizer.encode_until(text, Special::Plain, until)?;
            tokens.extend(read);
            let at_least = tokens.len();
            if at_least > until.max_tokens { Err(Stopped::TooLong { at_least }) } else { Ok(()) }
        };
        if !self.extra.is_empty() {
            if let Some(repository) = repository {
                tokens.push(repository);
                text(&mut tokens, REPOSITORY)?;
            }
            for ExtraFile { name, text: content } in &self.extra {
                if let Some(file) = file {
                    tokens.push(file);
                    text(&mut tokens, &format!("{name}\n"))?;
                } else {
                    text(&mut tokens, SNIPPET)?;
                }
                text(&mut tokens, content)?;
            }
            if let Some(file) = file {
                tokens.push(file);
                text(&mut tokens, FILE)?;
            }
        }
        tokens.push(before);
        text(&mut tokens, &self.prefix)?;
        tokens.push(after);
        text(&mut tokens, &self.suffix)?;
        tokens.push(middle);
        tokenizer.add_bos_to(&mut tokens);
        Ok(tokens)
    }
}
