//! Where readers of calls put what they have read.

use std::hash::{BuildHasher, RandomState};

use super::ToolFormat;
use super::call::{AnswerPart, CallDelta, CallStart};

/// Parts of an answer, in order, and the numbers of its calls.
pub(super) struct Sink {
    format: ToolFormat,
    pub(super) parts: Vec<AnswerPart>,
    pub(super) num_started: u32,
    pub(super) num_ended: u32,
}

impl Sink {
    pub(super) fn new(format: ToolFormat) -> Self {
        Self { format, parts: Vec::new(), num_started: 0, num_ended: 0 }
    }

    pub(super) fn text(&mut self, text: &str) {
        match self.parts.last_mut() {
            _ if text.is_empty() => {}
            Some(AnswerPart::Text(last)) => last.push_str(text),
            _ => self.parts.push(AnswerPart::Text(text.to_owned())),
        }
    }

    /// A call begins; the one before has ended.
    pub(super) fn start(&mut self, name: &str) {
        self.end();
        let index = self.num_started;
        self.num_started += 1;
        let start = CallStart { id: new_id(self.format, index), name: name.to_owned() };
        self.parts.push(AnswerPart::Call(CallDelta {
            index,
            start: Some(start),
            arguments: String::new(),
            ends: false,
        }));
    }

    /// Arguments of the open call.
    pub(super) fn arguments(&mut self, text: &str) {
        if self.is_open() && !text.is_empty() {
            self.delta().arguments.push_str(text);
        }
    }

    /// The open call, if there is one, is complete.
    pub(super) fn end(&mut self) {
        if self.is_open() {
            self.delta().ends = true;
            self.num_ended = self.num_started;
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.num_ended < self.num_started
    }

    /// The delta that the open call goes on with.
    fn delta(&mut self) -> &mut CallDelta {
        let index = self.num_started - 1;
        if !matches!(self.parts.last(), Some(AnswerPart::Call(last)) if last.index == index) {
            self.parts.push(AnswerPart::Call(CallDelta { index, ..CallDelta::default() }));
        }
        match self.parts.last_mut() {
            Some(AnswerPart::Call(last)) => last,
            _ => unreachable!("a call was pushed above"),
        }
    }
}

/// Templates of Mistral accept nine letters and digits only.
fn new_id(format: ToolFormat, index: u32) -> String {
    // Each state is keyed differently, from the system's randomness.
    let random = RandomState::new();
    let (high, low) = (random.hash_one(index), random.hash_one(!index));
    match format {
        ToolFormat::Mistral => format!("{:09x}", high >> 28),
        _ => format!("call_{:024x}", u128::from(high) << 32 ^ u128::from(low)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_the_form_that_templates_accept() {
        let mistral = new_id(ToolFormat::Mistral, 0);
        assert!(mistral.len() == 9 && mistral.chars().all(|c| c.is_ascii_alphanumeric()));
        assert_ne!(new_id(ToolFormat::Hermes, 0), new_id(ToolFormat::Hermes, 0));
    }
}
