//! The whole output at once, for replies that are not streamed.

use crate::chat::ToolCall;
use crate::engine::{Timings, Usage};
use crate::error::Result;

use super::choice::TextLogprobs;
use super::running::Running;
use super::{FinishReason, Generation, Group, Output};

/// Everything that a generation brought forth.
#[derive(Clone, Debug, PartialEq)]
pub struct Collected {
    /// In order of request, then of choice; the `n` best of each request, best first, where more were
    /// generated.
    pub choices: Vec<CollectedChoice>,
    /// Of all candidates, chosen or not.
    pub usage: Usage,
    /// Of the completion tokens, those that are reasoning.
    pub reasoning_tokens: u32,
    /// The longest of each kind among the candidates.
    pub timings: Timings,
}

/// One complete choice.
#[derive(Clone, Debug, PartialEq)]
pub struct CollectedChoice {
    pub index: u32,
    pub text: String,
    pub reasoning: String,
    pub calls: Vec<ToolCall>,
    pub tokens: Vec<u32>,
    /// One for each of `tokens` if asked for, else empty.
    pub logprobs: Vec<TextLogprobs>,
    pub reason: FinishReason,
    pub stop_string: Option<String>,
    /// Tokens of its prompt.
    pub prompt: Vec<u32>,
    /// One for each of `prompt` if asked for.
    pub prompt_logprobs: Option<Vec<TextLogprobs>>,
}

impl Generation {
    /// Waits for all choices.
    ///
    /// # Errors
    /// The failure of any choice; the others are cancelled.
    pub async fn collect(mut self) -> Result<Collected> {
        let empty = CollectedChoice {
            index: 0,
            text: String::new(),
            reasoning: String::new(),
            calls: Vec::new(),
            tokens: Vec::new(),
            logprobs: Vec::new(),
            reason: FinishReason::Stop,
            stop_string: None,
            prompt: Vec::new(),
            prompt_logprobs: None,
        };
        let mut candidates = vec![empty; self.running.len()];
        let mut timings = Timings::default();
        while let Some(output) = self.next().await {
            match output {
                Output::Prefill { .. } => {}
                Output::Delta(delta) => {
                    let Some(choice) = candidates.get_mut(delta.index as usize) else { continue };
                    choice.text.push_str(&delta.text);
                    choice.reasoning.push_str(&delta.reasoning);
                    for call in delta.calls {
                        call.add_to(&mut choice.calls);
                    }
                    choice.tokens.extend(delta.tokens);
                    choice.logprobs.extend(delta.logprobs);
                }
                Output::Finished(finished) => {
                    timings = longest(&timings, &finished.timings);
                    let Some(choice) = candidates.get_mut(finished.index as usize) else {
                        continue;
                    };
                    choice.reason = finished.reason;
                    choice.stop_string = finished.stop_string;
                }
                Output::Failed { error, .. } => return Err(error),
            }
        }
        let (usage, reasoning_tokens) = (self.usage(), self.reasoning_tokens());
        for (at, candidate) in candidates.iter_mut().enumerate() {
            candidate.prompt = self.prompt(at as u32).to_vec();
            candidate.prompt_logprobs = self.running.get(at).and_then(Running::prompt_logprobs);
        }
        let mut candidates: Vec<_> = candidates.into_iter().map(Some).collect();
        let chosen = self.groups.iter().flat_map(|group| self.best(group));
        let choices = chosen.filter_map(|at| candidates.get_mut(at)?.take()).enumerate();
        let choices = choices.map(|(at, choice)| CollectedChoice { index: at as u32, ..choice });
        Ok(Collected { choices: choices.collect(), usage, reasoning_tokens, timings })
    }

    /// The candidates of a request that are returned: the first of equals comes first.
    fn best(&self, group: &Group) -> Vec<usize> {
        let mut candidates: Vec<usize> =
            (group.first..group.first + group.num_candidates).collect();
        if group.num_candidates > group.n {
            candidates.sort_by(|a, b| self.mean_logprob(*b).total_cmp(&self.mean_logprob(*a)));
            candidates.truncate(group.n);
        }
        candidates
    }

    /// Lowest for a candidate without tokens: saying nothing is no achievement.
    fn mean_logprob(&self, at: usize) -> f64 {
        match self.running.get(at).map(|running| &running.choice) {
            Some(choice) if choice.num_tokens > 0 => {
                choice.logprob_sum / f64::from(choice.num_tokens)
            }
            _ => f64::NEG_INFINITY,
        }
    }
}

pub(super) fn longest(a: &Timings, b: &Timings) -> Timings {
    Timings {
        queue_ms: a.queue_ms.max(b.queue_ms),
        prefill_ms: a.prefill_ms.max(b.prefill_ms),
        ttft_ms: a.ttft_ms.max(b.ttft_ms),
        decode_ms: a.decode_ms.max(b.decode_ms),
    }
}
