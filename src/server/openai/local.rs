//! Parameters that OpenAI does not have and local servers do (llama-server, vLLM, LM Studio): what
//! chat and text completions share of them.

use std::time::Duration;

use super::sampling::within;
use crate::{
    chat::{
        DEFAULT_BREAKERS,
        generation::{GenerationRequest, MAX_LOGPROBS},
    },
    engine::{
        LogprobsOf, Sampling,
        sampling::{Adaptive, Dry, MAX_STAGES, Mirostat, MirostatVersion, Stage, Xtc},
    },
    error::{Error, Result},
    registry::KeepAlive,
    server::{schema::TextOr, span::Span},
};

/// Bytes of a label.
const MAX_LABEL_BYTES: usize = 512;
/// Characters of a request's id.
const MAX_ID_CHARS: usize = 512;
/// Longest time limit of an answer: a day.
const MAX_PREDICT_MS: i64 = 86_400_000;

/// Declares a request with fields of its own and those of this file, and takes the latter out of it.
macro_rules! with_local_fields {
    ($(#[$meta:meta])* pub(crate) struct $name:ident { $($own:tt)* }) => {
        $(#[$meta])*
        pub(crate) struct $name {
            $($own)*
            /// Sample from tokens whose surprise is near the mean, together of this probability; 1: off.
            #[oai(nullable, validator(minimum(value = "0"), maximum(value = "1")))]
            pub typical_p: Option<f64>,
            /// Drop tokens whose score is so many standard deviations below the best; 0 or -1: off.
            #[oai(nullable, validator(minimum(value = "-1"), maximum(value = "100")))]
            pub top_n_sigma: Option<f64>,
            /// How often the likeliest tokens are left out, down to the last that `xtc_threshold` allows.
            #[oai(nullable, validator(minimum(value = "0"), maximum(value = "1")))]
            pub xtc_probability: Option<f64>,
            /// Tokens at least so likely may be left out by XTC; 0.1 if absent, above 0.5: none.
            #[oai(nullable, validator(minimum(value = "0"), maximum(value = "1")))]
            pub xtc_threshold: Option<f64>,
            /// Strength of DRY, which is hard on repeated sequences; 0: off.
            #[oai(nullable, validator(minimum(value = "0"), maximum(value = "100")))]
            pub dry_multiplier: Option<f64>,
            /// DRY's penalty grows by this factor with each repeated token; 1.75 if absent.
            #[oai(nullable, validator(minimum(value = "1"), maximum(value = "100")))]
            pub dry_base: Option<f64>,
            /// Repeated tokens that DRY allows; 2 if absent.
            #[oai(nullable)]
            pub dry_allowed_length: Option<u32>,
            /// Last tokens that DRY looks at; 0: off, -1 or absent: all.
            #[oai(nullable, validator(minimum(value = "-1"), maximum(value = "2147483647")))]
            pub dry_penalty_last_n: Option<i64>,
            /// Texts over which DRY's repetitions do not reach; line break, `:`, `"` and `*` if absent.
            #[oai(nullable, validator(max_items = 32))]
            pub dry_sequence_breakers: Option<Vec<String>>,
            /// 1 or 2: keep the surprise of tokens near `mirostat_tau`, in place of every truncation.
            #[oai(nullable, validator(maximum(value = "2")))]
            pub mirostat: Option<u32>,
            /// The surprise that mirostat aims at, in bits; 5 if absent.
            #[oai(nullable, validator(minimum(value = "0"), maximum(value = "100")))]
            pub mirostat_tau: Option<f64>,
            /// How fast mirostat learns; 0.1 if absent.
            #[oai(nullable, validator(minimum(value = "0"), maximum(value = "1")))]
            pub mirostat_eta: Option<f64>,
            /// Prefer tokens of about this probability, and keep the mean of the chosen ones there, after all
            /// other samplers; negative or absent: off.
            #[oai(nullable, validator(minimum(value = "-1"), maximum(value = "1")))]
            pub adaptive_target: Option<f64>,
            /// How slowly that mean forgets, up to 0.99; 0.9 if absent.
            #[oai(nullable, validator(minimum(value = "0"), maximum(value = "0.99")))]
            pub adaptive_decay: Option<f64>,
            /// The temperature moves by so much around `temperature`, with the entropy; 0: off.
            #[oai(nullable, validator(minimum(value = "0"), maximum(value = "100")))]
            pub dynatemp_range: Option<f64>,
            /// Exponent of the entropy that moves the temperature; 1 if absent.
            #[oai(nullable, validator(minimum(value = "0"), maximum(value = "100")))]
            pub dynatemp_exponent: Option<f64>,
            /// Last tokens that repetition, presence and frequency penalty look at; -1 or absent: all.
            #[oai(nullable, validator(minimum(value = "-1"), maximum(value = "2147483647")))]
            pub repeat_last_n: Option<i64>,
            /// Tokens that truncations leave at least.
            #[oai(nullable)]
            pub min_keep: Option<u32>,
            /// The samplers in their order and no others, by llama.cpp's names or as its text of letters.
            /// If absent: penalties, dry, temperature, top_n_sigma, top_k, typ_p, top_p, min_p, xtc; with
            /// `dynatemp_range`, temperature comes last.
            #[oai(nullable)]
            pub samplers: Option<TextOr<String>>,
            /// Another name for the number of alternatives whose log-probabilities are returned.
            #[oai(nullable, validator(maximum(value = "20")))]
            pub n_probs: Option<u32>,
            /// Log-probabilities are those that the tokens were drawn by, after the samplers.
            #[oai(nullable)]
            pub post_sampling_probs: Option<bool>,
            /// Return log-probabilities of the prompt's tokens and of so many alternatives; not streamed.
            #[oai(nullable, validator(maximum(value = "20")))]
            pub prompt_logprobs: Option<u32>,
            /// The stop string that ended the answer is part of it.
            #[oai(nullable)]
            pub include_stop_str_in_output: Option<bool>,
            /// Up to 256 words that may not occur in the answer.
            #[oai(nullable, validator(max_items = 256))]
            pub bad_words: Option<Vec<String>>,
            /// Another name of `max_tokens`; -1: until the context is full.
            #[oai(nullable, validator(minimum(value = "-1"), maximum(value = "4294967295")))]
            pub n_predict: Option<i64>,
            /// End so many milliseconds after the first token, if there is a line break by then; 0: off.
            #[oai(nullable, validator(minimum(value = "-1"), maximum(value = "86400000")))]
            pub t_max_predict_ms: Option<i64>,
            /// Send `timings` with every piece of a stream, and not with the last alone.
            #[oai(nullable)]
            pub timings_per_token: Option<bool>,
            /// Send how much of the prompt has been read; only with `stream`.
            #[oai(nullable)]
            pub return_progress: Option<bool>,
            /// Another name of `return_token_ids`.
            #[oai(nullable)]
            pub return_tokens: Option<bool>,
            /// Return the ids of the prompt's and the answer's tokens.
            #[oai(nullable)]
            pub return_token_ids: Option<bool>,
            /// False: take nothing from the prefix cache; true if absent.
            #[oai(nullable)]
            pub cache_prompt: Option<bool>,
            /// No effect: there are no slots, and every cached prefix is found without.
            #[oai(nullable)]
            pub id_slot: Option<i64>,
            /// No effect: a context is never cut.
            #[oai(nullable)]
            pub n_keep: Option<i64>,
            /// No effect: a context is never cut.
            #[oai(nullable)]
            pub n_discard: Option<i64>,
            /// Not supported: must be absent, null or 0.
            #[oai(nullable, validator(maximum(value = "0")))]
            pub n_indent: Option<u32>,
            /// How long the engine stays loaded afterwards: seconds or a text such as `5m`; negative: for ever.
            #[oai(nullable)]
            pub keep_alive: Option<$crate::server::span::Span>,
            /// The same in seconds.
            #[oai(nullable)]
            pub ttl: Option<u32>,
            /// No effect but in the log: requests are served in their order.
            #[oai(nullable)]
            pub priority: Option<i64>,
            /// No effect but in the log.
            #[oai(nullable, validator(max_length = 512))]
            pub request_id: Option<String>,
        }

        impl $name {
            fn take_local(&mut self) -> $crate::server::openai::LocalFields {
                $crate::server::openai::LocalFields {
                    typical_p: self.typical_p,
                    top_n_sigma: self.top_n_sigma,
                    xtc_probability: self.xtc_probability,
                    xtc_threshold: self.xtc_threshold,
                    dry_multiplier: self.dry_multiplier,
                    dry_base: self.dry_base,
                    dry_allowed_length: self.dry_allowed_length,
                    dry_penalty_last_n: self.dry_penalty_last_n,
                    dry_sequence_breakers: self.dry_sequence_breakers.take(),
                    mirostat: self.mirostat,
                    mirostat_tau: self.mirostat_tau,
                    mirostat_eta: self.mirostat_eta,
                    adaptive_target: self.adaptive_target,
                    adaptive_decay: self.adaptive_decay,
                    dynatemp_range: self.dynatemp_range,
                    dynatemp_exponent: self.dynatemp_exponent,
                    repeat_last_n: self.repeat_last_n,
                    min_keep: self.min_keep,
                    samplers: self.samplers.take(),
                    n_probs: self.n_probs,
                    post_sampling_probs: self.post_sampling_probs.unwrap_or(false),
                    prompt_logprobs: self.prompt_logprobs,
                    include_stop: self.include_stop_str_in_output.unwrap_or(false),
                    bad_words: self.bad_words.take(),
                    n_predict: self.n_predict,
                    t_max_predict_ms: self.t_max_predict_ms,
                    timings_per_token: self.timings_per_token.unwrap_or(false),
                    return_progress: self.return_progress.unwrap_or(false),
                    return_tokens: self.return_tokens.unwrap_or(false)
                        || self.return_token_ids.unwrap_or(false),
                    cache_prompt: self.cache_prompt.unwrap_or(true),
                    n_indent: self.n_indent,
                    keep_alive: self.keep_alive.take(),
                    ttl: self.ttl,
                    priority: self.priority,
                    request_id: self.request_id.take(),
                    is_stream: self.stream.unwrap_or(false),
                }
            }
        }
    };
}

pub(crate) use with_local_fields;

/// The fields of [`with_local_fields`], as they came.
#[derive(Clone, Debug, Default)]
pub(crate) struct LocalFields {
    pub typical_p: Option<f64>,
    pub top_n_sigma: Option<f64>,
    pub xtc_probability: Option<f64>,
    pub xtc_threshold: Option<f64>,
    pub dry_multiplier: Option<f64>,
    pub dry_base: Option<f64>,
    pub dry_allowed_length: Option<u32>,
    pub dry_penalty_last_n: Option<i64>,
    pub dry_sequence_breakers: Option<Vec<String>>,
    pub mirostat: Option<u32>,
    pub mirostat_tau: Option<f64>,
    pub mirostat_eta: Option<f64>,
    pub adaptive_target: Option<f64>,
    pub adaptive_decay: Option<f64>,
    pub dynatemp_range: Option<f64>,
    pub dynatemp_exponent: Option<f64>,
    pub repeat_last_n: Option<i64>,
    pub min_keep: Option<u32>,
    pub samplers: Option<TextOr<String>>,
    pub n_probs: Option<u32>,
    pub post_sampling_probs: bool,
    pub prompt_logprobs: Option<u32>,
    pub include_stop: bool,
    pub bad_words: Option<Vec<String>>,
    pub n_predict: Option<i64>,
    pub t_max_predict_ms: Option<i64>,
    pub timings_per_token: bool,
    pub return_progress: bool,
    pub return_tokens: bool,
    pub cache_prompt: bool,
    pub n_indent: Option<u32>,
    pub keep_alive: Option<Span>,
    pub ttl: Option<u32>,
    pub priority: Option<i64>,
    pub request_id: Option<String>,
    pub is_stream: bool,
}

/// What an answer has beyond OpenAI's, and how long its engine stays.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Extras {
    pub keep_alive: Option<KeepAlive>,
    /// Pieces of a stream have their timings.
    pub timings: bool,
    /// A stream tells how much of the prompt was read.
    pub progress: bool,
    /// Token ids of prompt and answer.
    pub tokens: bool,
}

impl LocalFields {
    /// Checks every range and completes the request, whose other fields are set.
    pub(crate) fn apply(mut self, request: &mut GenerationRequest) -> Result<Extras> {
        if self.request_id.as_ref().is_some_and(|id| id.chars().nth(MAX_ID_CHARS).is_some()) {
            let text = format!("request_id: at most {MAX_ID_CHARS} characters");
            return Err(Error::invalid("request_id", text));
        }
        self.log();
        if let Some(indent) = self.n_indent.filter(|indent| *indent > 0) {
            let text = format!("n_indent: this parameter is not supported, is {indent}");
            return Err(Error::invalid("n_indent", text));
        }
        if self.return_progress && !self.is_stream {
            let text = "return_progress is only allowed when stream is true";
            return Err(Error::invalid("return_progress", text));
        }
        self.set_sampling(&mut request.sampling)?;
        self.set_logprobs(request)?;
        self.set_length(request)?;
        let default = || DEFAULT_BREAKERS.map(str::to_owned).to_vec();
        request.dry_breakers = self.dry_sequence_breakers.take().unwrap_or_else(default);
        request.bad_words = self.bad_words.take().unwrap_or_default();
        request.include_stop = self.include_stop;
        request.cache_apart = !self.cache_prompt;
        Ok(Extras {
            keep_alive: self.keep_alive()?,
            timings: self.timings_per_token,
            progress: self.return_progress,
            tokens: self.return_tokens,
        })
    }

    fn set_sampling(&mut self, sampling: &mut Sampling) -> Result<()> {
        let number = |name: &str, value: Option<f64>, default: f32, max: f64| match value {
            Some(value) => within(name, value, 0.0..=max).map(|value| value as f32),
            None => Ok(default),
        };
        sampling.typical_p = number("typical_p", self.typical_p, 1.0, 1.0)?;
        if let Some(value) = self.top_n_sigma {
            sampling.top_n_sigma = within("top_n_sigma", value, -1.0..=100.0)?.max(0.0) as f32;
        }
        sampling.xtc = Xtc {
            probability: number("xtc_probability", self.xtc_probability, 0.0, 1.0)?,
            threshold: number("xtc_threshold", self.xtc_threshold, 0.1, 1.0)?,
        };
        sampling.dry = Dry {
            multiplier: number("dry_multiplier", self.dry_multiplier, 0.0, 100.0)?,
            base: match self.dry_base {
                Some(value) => within("dry_base", value, 1.0..=100.0)? as f32,
                None => 1.75,
            },
            allowed_length: self.dry_allowed_length.unwrap_or(2),
            last_n: last_n("dry_penalty_last_n", self.dry_penalty_last_n)?,
            ..Dry::default()
        };
        let tau = number("mirostat_tau", self.mirostat_tau, 5.0, 100.0)?;
        let eta = number("mirostat_eta", self.mirostat_eta, 0.1, 1.0)?;
        sampling.mirostat = mirostat("mirostat", self.mirostat.unwrap_or(0), tau, eta)?;
        sampling.temperature_range = number("dynatemp_range", self.dynatemp_range, 0.0, 100.0)?;
        sampling.temperature_exponent =
            number("dynatemp_exponent", self.dynatemp_exponent, 1.0, 100.0)?;
        sampling.penalty_last_n = last_n("repeat_last_n", self.repeat_last_n)?;
        sampling.min_keep = self.min_keep.unwrap_or(0);
        let (order, is_adaptive) = match self.samplers.take() {
            Some(samplers) => stages(samplers).map(|(order, adaptive)| (Some(order), adaptive))?,
            None => (None, true),
        };
        sampling.order = order;
        let target = self.adaptive_target.unwrap_or(-1.0);
        let target = within("adaptive_target", target, -1.0..=1.0)? as f32;
        let decay =
            within("adaptive_decay", self.adaptive_decay.unwrap_or(0.9), 0.0..=0.99)? as f32;
        sampling.adaptive = (is_adaptive && target >= 0.0).then_some(Adaptive { target, decay });
        if sampling.adaptive.is_some() && sampling.mirostat.is_some() {
            let text = "adaptive_target and mirostat both choose the token; send one of them";
            return Err(Error::invalid("adaptive_target", text));
        }
        Ok(())
    }

    fn set_logprobs(&self, request: &mut GenerationRequest) -> Result<()> {
        let counts = [("n_probs", self.n_probs), ("prompt_logprobs", self.prompt_logprobs)];
        for (name, count) in counts {
            if let Some(count) = count.filter(|count| *count > MAX_LOGPROBS) {
                let text = format!("{name} must be from 0 to {MAX_LOGPROBS}, is {count}");
                return Err(Error::invalid(name, text));
            }
        }
        if let Some(wanted) = self.n_probs.filter(|count| *count > 0) {
            if request.logprobs.is_some_and(|other| other != 0 && other != wanted) {
                let text =
                    "n_probs is another name for the number of log-probabilities; they differ";
                return Err(Error::invalid("n_probs", text));
            }
            request.logprobs = Some(wanted);
        }
        if self.post_sampling_probs {
            if request.logprobs.is_none() {
                let text = "post_sampling_probs needs logprobs or n_probs";
                return Err(Error::invalid("post_sampling_probs", text));
            }
            request.logprobs_of = LogprobsOf::Draw;
        }
        if self.prompt_logprobs.is_some() && self.is_stream {
            let text = "prompt_logprobs cannot be streamed";
            return Err(Error::invalid("prompt_logprobs", text));
        }
        request.prompt_logprobs = self.prompt_logprobs;
        Ok(())
    }

    fn set_length(&self, request: &mut GenerationRequest) -> Result<()> {
        if let Some(wanted) = self.n_predict {
            let count = u32::try_from(wanted).ok();
            if wanted < -1 || (wanted >= 0 && count.is_none()) {
                let text = format!("n_predict must be from -1 to {}, is {wanted}", u32::MAX);
                return Err(Error::invalid("n_predict", text));
            }
            request.max_tokens = count;
        }
        if let Some(limit) = self.t_max_predict_ms {
            if !(-1..=MAX_PREDICT_MS).contains(&limit) {
                let text =
                    format!("t_max_predict_ms must be from -1 to {MAX_PREDICT_MS}, is {limit}");
                return Err(Error::invalid("t_max_predict_ms", text));
            }
            let limit = u64::try_from(limit).ok().filter(|limit| *limit > 0);
            request.time_limit = limit.map(Duration::from_millis);
        }
        Ok(())
    }

    fn keep_alive(&self) -> Result<Option<KeepAlive>> {
        match (&self.keep_alive, self.ttl) {
            (Some(_), Some(_)) => {
                let text = "ttl is another form of keep_alive; send one of them";
                Err(Error::invalid("ttl", text))
            }
            (Some(span), None) => span.keep_alive().map(Some),
            (None, ttl) => Ok(ttl.map(|ttl| KeepAlive::After(Duration::from_secs(u64::from(ttl))))),
        }
    }

    fn log(&self) {
        if self.priority.is_some() || self.request_id.is_some() {
            let id = self.request_id.as_deref().map(label);
            tracing::debug!(priority = ?self.priority, request_id = ?id, "labels of a request");
        }
    }
}

/// As much of a text as the log takes.
pub(crate) fn label(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_LABEL_BYTES)]
}

/// How many last tokens are meant; -1 is all.
pub(crate) fn last_n(name: &str, value: Option<i64>) -> Result<Option<u32>> {
    match value {
        None | Some(-1) => Ok(None),
        Some(value) => match i32::try_from(value) {
            Ok(count) if count >= 0 => Ok(Some(count.cast_unsigned())),
            _ => {
                let text = format!("{name} must be from -1 (all) to {}, is {value}", i32::MAX);
                Err(Error::invalid(name, text))
            }
        },
    }
}

/// The version of mirostat, 0 for none.
pub(crate) fn mirostat(name: &str, version: u32, tau: f32, eta: f32) -> Result<Option<Mirostat>> {
    let version = match version {
        0 => return Ok(None),
        1 => MirostatVersion::V1,
        2 => MirostatVersion::V2,
        _ => {
            let text = format!("{name} must be 0 (off), 1 or 2, is {version}");
            return Err(Error::invalid(name, text));
        }
    };
    Ok(Some(Mirostat { version, tau, eta }))
}

/// llama.cpp's name and letter of adaptive-p, which comes last wherever it stands.
const ADAPTIVE: (&str, &str) = ("adaptivep", "a");

/// llama.cpp's samplers with the letters of its short form.
const STAGES: &[(&str, char, Stage)] = &[
    ("penalties", 'e', Stage::Penalties),
    ("dry", 'd', Stage::Dry),
    ("topnsigma", 's', Stage::TopNSigma),
    ("topk", 'k', Stage::TopK),
    ("typp", 'y', Stage::TypicalP),
    ("typ", 'y', Stage::TypicalP),
    ("typicalp", 'y', Stage::TypicalP),
    ("topp", 'p', Stage::TopP),
    ("nucleus", 'p', Stage::TopP),
    ("minp", 'm', Stage::MinP),
    ("xtc", 'x', Stage::Xtc),
    ("temperature", 't', Stage::Temperature),
    ("temp", 't', Stage::Temperature),
];

/// The stages, and whether adaptive-p is among the samplers.
fn stages(samplers: TextOr<String>) -> Result<(Vec<Stage>, bool)> {
    let (names, are_letters): (Vec<String>, bool) = match samplers {
        TextOr::Text(text) => (text.chars().take(MAX_STAGES + 1).map(String::from).collect(), true),
        TextOr::Items(names) => (names, false),
    };
    if names.len() > MAX_STAGES {
        let text = format!("samplers has {} entries, limit {MAX_STAGES}", names.len());
        return Err(Error::invalid("samplers", text));
    }
    let plain = |name: &str| name.replace(['_', '-'], "").to_lowercase();
    let adaptive = if are_letters { ADAPTIVE.1 } else { ADAPTIVE.0 };
    let is_adaptive = |name: &str| plain(name) == adaptive;
    let stage = |(i, name): (usize, &String)| {
        let plain = plain(name);
        let known = STAGES.iter().find(|(long, short, _)| {
            if are_letters { plain.starts_with(*short) } else { plain == *long }
        });
        known.map(|(_, _, stage)| *stage).ok_or_else(|| {
            let name: String = name.chars().take(32).collect();
            let text = format!("samplers: there is no sampler {name:?}");
            Error::invalid(format!("samplers[{i}]"), text)
        })
    };
    let others = names.iter().enumerate().filter(|(_, name)| !is_adaptive(name));
    let stages = others.map(stage).collect::<Result<_>>()?;
    Ok((stages, names.iter().any(|name| is_adaptive(name))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::generation::PromptInput;

    fn apply(fields: LocalFields) -> Result<(GenerationRequest, Extras)> {
        let mut request = GenerationRequest::new(PromptInput::Text("x".to_owned()));
        let extras = LocalFields { cache_prompt: true, ..fields }.apply(&mut request)?;
        Ok((request, extras))
    }

    #[test]
    fn absent_fields_change_nothing() {
        let (request, extras) = apply(LocalFields::default()).expect("valid");
        assert_eq!((request.sampling, extras), (Sampling::default(), Extras::default()));
        assert_eq!((request.max_tokens, request.cache_apart), (None, false));
    }

    #[test]
    fn ranges_are_checked_and_named() {
        let base = LocalFields::default;
        let names = |names: &[&str]| {
            Some(TextOr::Items(names.iter().map(|&name| name.to_owned()).collect()))
        };
        let cases = [
            (LocalFields { typical_p: Some(1.5), ..base() }, "typical_p"),
            (LocalFields { top_n_sigma: Some(f64::NAN), ..base() }, "top_n_sigma"),
            (LocalFields { xtc_probability: Some(-0.1), ..base() }, "xtc_probability"),
            (LocalFields { dry_base: Some(0.5), ..base() }, "dry_base"),
            (LocalFields { dry_penalty_last_n: Some(-2), ..base() }, "dry_penalty_last_n"),
            (LocalFields { repeat_last_n: Some(1 << 40), ..base() }, "repeat_last_n"),
            (LocalFields { mirostat: Some(3), ..base() }, "mirostat"),
            (LocalFields { adaptive_target: Some(1.5), ..base() }, "adaptive_target"),
            (LocalFields { adaptive_decay: Some(1.0), ..base() }, "adaptive_decay"),
            (
                LocalFields { adaptive_target: Some(0.5), mirostat: Some(2), ..base() },
                "adaptive_target",
            ),
            (LocalFields { samplers: names(&["top_k", "infill"]), ..base() }, "samplers[1]"),
            (LocalFields { samplers: Some(TextOr::Text("kz".into())), ..base() }, "samplers[1]"),
            (LocalFields { samplers: names(&["dry"; 40]), ..base() }, "samplers"),
            (LocalFields { n_probs: Some(21), ..base() }, "n_probs"),
            (LocalFields { post_sampling_probs: true, ..base() }, "post_sampling_probs"),
            (
                LocalFields { prompt_logprobs: Some(1), is_stream: true, ..base() },
                "prompt_logprobs",
            ),
            (LocalFields { n_predict: Some(-2), ..base() }, "n_predict"),
            (LocalFields { t_max_predict_ms: Some(i64::MAX), ..base() }, "t_max_predict_ms"),
            (LocalFields { t_max_predict_ms: Some(-5), ..base() }, "t_max_predict_ms"),
            (LocalFields { request_id: Some("x".repeat(600)), ..base() }, "request_id"),
            (LocalFields { return_progress: true, ..base() }, "return_progress"),
            (LocalFields { n_indent: Some(4), ..base() }, "n_indent"),
            (LocalFields { ttl: Some(1), keep_alive: Some(Span::Seconds(1.0)), ..base() }, "ttl"),
        ];
        for (fields, param) in cases {
            let error = apply(fields.clone()).expect_err("refused");
            assert_eq!(error.param.as_deref(), Some(param), "{fields:?}");
        }
    }

    #[test]
    fn samplers_have_names_and_letters() {
        use Stage::{Dry, MinP, Penalties, Temperature, TopK, TopNSigma, TopP, TypicalP, Xtc};
        let all = [Penalties, Dry, TopNSigma, TopK, TypicalP, TopP, MinP, Xtc, Temperature];
        let names =
            ["penalties", "dry", "top_n_sigma", "TOP-K", "typ_p", "topp", "min_p", "xtc", "temp"];
        let names = TextOr::Items(names.map(str::to_owned).to_vec());
        for samplers in [names, TextOr::Text("edskypmxt".to_owned())] {
            assert_eq!(stages(samplers).expect("known"), (all.to_vec(), false));
        }
        let names = TextOr::Items(vec!["adaptive_p".to_owned(), "top_k".to_owned()]);
        for samplers in [names, TextOr::Text("ka".to_owned())] {
            assert_eq!(stages(samplers).expect("known"), (vec![TopK], true));
        }
    }
}
