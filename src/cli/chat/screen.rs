//! Answers on the screen: as they come, or as data.

use serde_json::{Value, json};

use super::answerer::{Answerer, as_json};
use super::settings::Settings;
use crate::cli::args::RunArgs;
use crate::cli::failure::Outcome;
use crate::cli::{App, interruptible};

/// Who answers, and how that is shown.
pub(super) struct Chat<'a> {
    pub(super) app: &'a App,
    pub(super) args: &'a RunArgs,
    pub(super) answerer: Answerer,
    pub(super) runtime: tokio::runtime::Runtime,
}

impl Chat<'_> {
    /// Prints the answer to a conversation as it comes, and returns its text.
    pub(super) fn answer(&self, settings: &Settings, messages: &[Value]) -> Outcome<String> {
        let out = self.app.out;
        let mut told = |text: &str| if out.json { Ok(()) } else { out.piece(text) };
        let answering = self.answerer.answer(settings.body(messages), &mut told);
        let answered = self.runtime.block_on(interruptible(answering))?;
        if out.json {
            out.json(&as_json(&answered))?;
        } else {
            out.line("")?;
        }
        if settings.is_verbose {
            out.note(answered.summary());
        }
        Ok(answered.text)
    }
}

/// A message as requests have it.
pub(super) fn message(role: &str, text: &str) -> Value {
    json!({"role": role, "content": text})
}
