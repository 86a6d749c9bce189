//! A request while it is read: what every dialect that generates can ask for.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::{Map, Value};

use super::{Ask, Wanted};
use crate::{
    chat::{
        DEFAULT_BREAKERS, SamplingDefaults,
        generation::{GenerationRequest, OutputRules, PromptInput, Shape, ThinkingBound},
    },
    engine::{
        LogprobsOf, Sampling,
        sampling::{Adaptive, Mirostat, MirostatVersion},
    },
    error::{Error, Result},
    param::Given,
    registry::KeepAlive,
    server::span::Span,
};

/// Bytes of a label.
const MAX_LABEL_BYTES: usize = 512;

/// What parameters have said so far.
pub(crate) struct Draft {
    /// Its prompt is the dialect's matter.
    pub(crate) request: GenerationRequest,
    pub(crate) stream: Option<bool>,
    /// The forms that are asked for; one, once it is settled.
    pub(crate) shapes: Vec<Shape>,
    /// Variables of the chat template.
    pub(crate) kwargs: Map<String, Value>,
    /// A chat template of the request's own.
    pub(crate) template: Option<String>,
    pub(crate) wanted: Wanted,
    /// Of a conversation that does not fit, the oldest turns may be left out.
    pub(crate) may_cut: bool,
    /// Nobody waits for the answer.
    pub(crate) is_background: bool,
    /// How long its engine stays loaded afterwards.
    pub(crate) stay: Option<KeepAlive>,
    pub(super) logprobs: Logprobs,
    pub(super) mirostat: MirostatDraft,
    pub(super) adaptive: AdaptiveDraft,
    pub(super) keep_alive: Option<Span>,
    pub(super) ttl_s: Option<u64>,
    /// Tokens of reasoning at most.
    pub(super) thinking: Option<u32>,
    pub(super) effort: Option<&'static str>,
    pub(super) verbosity: Option<&'static str>,
    pub(super) labels: Labels,
}

/// Log-probabilities, which several parameters ask for.
#[derive(Debug, Default)]
pub(super) struct Logprobs {
    pub(super) is_wanted: bool,
    pub(super) alternatives: Option<u32>,
    /// By llama-server's name.
    pub(super) n_probs: u32,
}

#[derive(Debug)]
pub(super) struct MirostatDraft {
    pub(super) version: i64,
    pub(super) tau: f32,
    pub(super) eta: f32,
}

#[derive(Debug)]
pub(super) struct AdaptiveDraft {
    pub(super) target: f32,
    pub(super) decay: f32,
    /// It is among the samplers.
    pub(super) is_on: bool,
}

/// What the log alone has of a request.
#[derive(Debug, Default)]
pub(super) struct Labels {
    pub(super) user: Option<String>,
    pub(super) request_id: Option<String>,
    pub(super) metadata: Option<BTreeMap<String, String>>,
    pub(super) priority: Option<i64>,
}

impl Default for Draft {
    fn default() -> Self {
        let prompt = PromptInput::Text(String::new());
        Self {
            request: GenerationRequest {
                dry_breakers: DEFAULT_BREAKERS.map(str::to_owned).to_vec(),
                ..GenerationRequest::new(prompt)
            },
            stream: None,
            shapes: Vec::new(),
            kwargs: Map::new(),
            template: None,
            wanted: Wanted::default(),
            may_cut: false,
            is_background: false,
            stay: None,
            logprobs: Logprobs::default(),
            mirostat: MirostatDraft { version: 0, tau: 5.0, eta: 0.1 },
            adaptive: AdaptiveDraft { target: -1.0, decay: 0.9, is_on: true },
            keep_alive: None,
            ttl_s: None,
            thinking: None,
            effort: None,
            verbosity: None,
            labels: Labels::default(),
        }
    }
}

impl Draft {
    /// Puts together what several parameters say of one thing.
    ///
    /// # Errors
    /// They contradict one another, or need one that is not there; errors bear the client's names.
    pub(crate) fn settle(&mut self, given: &Given) -> Result<()> {
        self.check_stream(given)?;
        self.settle_logprobs(given)?;
        self.settle_sampling(given)?;
        self.settle_keep_alive(given)?;
        self.request.thinking = self.thinking.map(|tokens| ThinkingBound {
            tokens,
            path: given.path("reasoning_budget").unwrap_or("reasoning_budget").to_owned(),
            is_hint: false,
        });
        if let [first, second, ..] = self.shapes.as_slice() {
            let text = format!("{} and {} exclude each other", first.field, second.field);
            return Err(Error::invalid(&second.field, text));
        }
        let request = &self.request;
        if let Some(max_tokens) = request.max_tokens.filter(|max| request.min_tokens > *max) {
            let max = given.path("max_tokens").unwrap_or("max_tokens");
            let text = format!("{} exceeds {max} {max_tokens}", request.min_tokens);
            return Err(given.error("min_tokens", text));
        }
        self.settle_kwargs();
        self.labels.log();
        Ok(())
    }

    /// What is asked of an engine, one answer for each prompt.
    pub(crate) fn into_ask(self, model: Option<String>, prompts: Vec<GenerationRequest>) -> Ask {
        let logprobs = prompts.iter().any(|prompt| prompt.logprobs.is_some());
        Ask {
            model,
            prompts,
            is_stream: self.stream.unwrap_or(false),
            keep_alive: self.stay,
            wanted: Wanted { logprobs, ..self.wanted },
        }
    }

    /// The same of an engine for prompts that are texts.
    pub(crate) fn into_ask_of(mut self, model: Option<String>, inputs: Vec<PromptInput>) -> Ask {
        let rules = Arc::new(OutputRules { shape: self.shapes.pop(), tools: None });
        let prompt = |prompt| GenerationRequest {
            prompt,
            rules: Some(Arc::clone(&rules)),
            ..self.request.clone()
        };
        let prompts = inputs.into_iter().map(prompt).collect();
        self.into_ask(model, prompts)
    }

    /// The one prompt that has these rules.
    pub(crate) fn request(&self, prompt: PromptInput, rules: OutputRules) -> GenerationRequest {
        let rules = Some(Arc::new(rules));
        GenerationRequest { prompt, rules, ..self.request.clone() }
    }

    /// Whether the answer is streamed.
    pub(crate) fn is_stream(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    /// Wants log-probabilities, or none without alternatives.
    pub(crate) fn want_logprobs(&mut self, is_wanted: bool) {
        self.logprobs.is_wanted = is_wanted;
    }

    fn check_stream(&self, given: &Given) -> Result<()> {
        if self.is_stream() {
            return match given.path("prompt_logprobs") {
                Some(_) => Err(given.error("prompt_logprobs", "cannot be streamed")),
                None => Ok(()),
            };
        }
        let needs = "is only allowed when stream is true";
        if self.wanted.progress {
            return Err(given.error("return_progress", needs));
        }
        if given.has("stream_options") {
            return Err(given.error("stream_options", needs));
        }
        Ok(())
    }

    fn settle_logprobs(&mut self, given: &Given) -> Result<()> {
        let Logprobs { is_wanted, alternatives, n_probs } = self.logprobs;
        if alternatives.is_some_and(|count| count > 0) && !is_wanted {
            return Err(given.error("top_logprobs", "needs logprobs to be true"));
        }
        let wanted = is_wanted.then(|| alternatives.unwrap_or(0));
        if n_probs > 0 && wanted.is_some_and(|other| other != 0 && other != n_probs) {
            let text = "is another name for the number of log-probabilities; they differ";
            return Err(given.error("n_probs", text));
        }
        self.request.logprobs = if n_probs > 0 { Some(n_probs) } else { wanted };
        if self.request.logprobs_of == LogprobsOf::Draw && self.request.logprobs.is_none() {
            return Err(given.error("post_sampling_probs", "needs logprobs or n_probs"));
        }
        Ok(())
    }

    fn settle_sampling(&mut self, given: &Given) -> Result<()> {
        self.tell_apart(given);
        let sampling = &mut self.request.sampling;
        let MirostatDraft { version, tau, eta } = self.mirostat;
        let version = match version {
            1 => Some(MirostatVersion::V1),
            2 => Some(MirostatVersion::V2),
            _ => None,
        };
        sampling.mirostat = version.map(|version| Mirostat { version, tau, eta });
        let AdaptiveDraft { target, decay, is_on } = self.adaptive;
        sampling.adaptive = (is_on && target >= 0.0).then_some(Adaptive { target, decay });
        if sampling.adaptive.is_some() && sampling.mirostat.is_some() {
            let text = "and mirostat both choose the token; send one of them";
            return Err(given.error("adaptive_target", text));
        }
        Ok(())
    }

    /// What was said, and what holds where neither that nor the model says anything.
    fn tell_apart(&mut self, given: &Given) {
        let Sampling { temperature, top_p, top_k, min_p, repetition_penalty, .. } =
            self.request.sampling;
        let those = |is_one: &dyn Fn(&str) -> bool| SamplingDefaults {
            temperature: is_one("temperature").then_some(temperature),
            top_p: is_one("top_p").then_some(top_p),
            top_k: is_one("top_k").then_some(top_k),
            min_p: is_one("min_p").then_some(min_p),
            repetition_penalty: is_one("repetition_penalty").then_some(repetition_penalty),
        };
        self.request.said = those(&|key| given.has(key));
        let of_dialect = those(&|key| given.is_defaulted(key));
        self.request.otherwise = of_dialect.or(SamplingDefaults::OURS);
    }

    fn settle_keep_alive(&mut self, given: &Given) -> Result<()> {
        self.stay = match (&self.keep_alive, self.ttl_s) {
            (Some(_), Some(_)) => {
                return Err(given.error("ttl", "is another form of keep_alive; send one of them"));
            }
            (Some(span), None) => Some(span.keep_alive()?),
            (None, ttl) => ttl.map(|ttl| KeepAlive::After(Duration::from_secs(ttl))),
        };
        Ok(())
    }

    /// What is handed to the template by its own name comes before what parameters make of it.
    fn settle_kwargs(&mut self) {
        let mut set = |name: &str, value: Value| {
            self.kwargs.entry(name).or_insert(value);
        };
        if let Some(effort) = self.effort {
            set("reasoning_effort", effort.into());
            if effort == "none" {
                // The names that templates have for it.
                set("enable_thinking", false.into());
                set("thinking", false.into());
            }
        }
        if let Some(verbosity) = self.verbosity {
            set("verbosity", verbosity.into());
        }
    }
}

impl Labels {
    fn log(&self) {
        let Self { user, request_id, metadata, priority } = self;
        if user.is_some() || request_id.is_some() || metadata.is_some() || priority.is_some() {
            let (user, id) = (user.as_deref().map(label), request_id.as_deref().map(label));
            tracing::debug!(?user, request_id = ?id, ?metadata, ?priority, "labels of a request");
        }
    }
}

/// As much of a text as the log takes.
fn label(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_LABEL_BYTES)]
}
