//! The wire request of `POST /v1/chat/completions` and its translation.

use std::{collections::BTreeMap, sync::Arc};

use poem_openapi::Object;
use serde::Deserialize;
use serde_json::Value;

use super::{
    local::{Extras, with_local_fields},
    message::{Message, conversation},
    options::{
        CacheRetention, Modality, Prediction, ServiceTier, StreamOptions, Verbosity,
        check_metadata, check_stream_options, log_labels,
    },
    sampling::{LogitBias, SamplingFields},
    structured::{GrammarField, ResponseFormat, StructuredFields, StructuredOutputs},
    tools::{Tool, ToolChoice, ToolFields},
};
use crate::{
    chat::{
        ChatInput,
        generation::{GenerationRequest, MAX_LOGPROBS, OutputRules, PromptInput},
    },
    error::{Error, Result},
    server::schema::{FreeObject, TextOr, objects, optional_object, optional_objects, wire_enum},
};

wire_enum! {
    /// How much a reasoning model thinks. Handed to the chat template, which may know it.
    pub(crate) enum ReasoningEffort {
        None = "none",
        Minimal = "minimal",
        Low = "low",
        Medium = "medium",
        High = "high",
        Xhigh = "xhigh",
        Max = "max",
    }
}

impl ReasoningEffort {
    fn text(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Minimal => "minimal",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Xhigh => "xhigh",
            Self::Max => "max",
        }
    }
}

with_local_fields! {
/// A chat completion request. Of parameters that are not listed here, those that decide what an
/// answer is are refused by name, others are ignored and named in `x-kolosal-ignored`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct ChatCompletionRequest {
    /// The engine to ask, by its `engine_id`.
    #[oai(validator(min_length = 1))]
    pub model: String,
    /// The conversation so far, oldest message first.
    #[oai(validator(min_items = 1, max_items = 8192))]
    #[serde(deserialize_with = "objects")]
    pub messages: Vec<Message>,
    /// Send the answer in pieces, as server-sent events.
    #[oai(nullable)]
    pub stream: Option<bool>,
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    pub stream_options: Option<StreamOptions>,
    /// Tokens to generate at most; absent: until the context is full.
    #[oai(nullable, validator(minimum(value = "1")))]
    pub max_completion_tokens: Option<u32>,
    /// The older name of `max_completion_tokens`.
    #[oai(nullable, validator(minimum(value = "1")))]
    pub max_tokens: Option<u32>,
    /// The model may not stop before it has generated so many tokens.
    #[oai(nullable)]
    pub min_tokens: Option<u32>,
    /// How many answers to generate.
    #[oai(nullable, validator(minimum(value = "1"), maximum(value = "128")))]
    pub n: Option<u32>,
    /// 0 always takes the likeliest token; 1 samples from the model's own distribution.
    #[oai(nullable, validator(minimum(value = "0"), maximum(value = "2")))]
    pub temperature: Option<f64>,
    /// Sample from the likeliest tokens that together have this probability.
    #[oai(nullable, validator(minimum(value = "0"), maximum(value = "1")))]
    pub top_p: Option<f64>,
    /// Sample from so many likeliest tokens; 0 or -1: all.
    #[oai(nullable, validator(minimum(value = "-1"), maximum(value = "4294967295")))]
    pub top_k: Option<i64>,
    /// Drop tokens less likely than this share of the likeliest.
    #[oai(nullable, validator(minimum(value = "0"), maximum(value = "1")))]
    pub min_p: Option<f64>,
    /// Taken off the score of tokens that have occurred in the answer.
    #[oai(nullable, validator(minimum(value = "-2"), maximum(value = "2")))]
    pub presence_penalty: Option<f64>,
    /// Taken off the score of a token for each time it has occurred in the answer.
    #[oai(nullable, validator(minimum(value = "-2"), maximum(value = "2")))]
    pub frequency_penalty: Option<f64>,
    /// Divides the score of tokens seen in prompt or answer; 1: off.
    #[oai(nullable, validator(minimum(value = "0.01"), maximum(value = "100")))]
    pub repetition_penalty: Option<f64>,
    /// Another name of `repetition_penalty`.
    #[oai(nullable, validator(minimum(value = "0.01"), maximum(value = "100")))]
    pub repeat_penalty: Option<f64>,
    /// Token ids and what to add to their scores, -100 to 100; -100 or false bans a token. Also as a list
    /// of pairs, in which a text stands for each of its tokens.
    #[oai(nullable)]
    pub logit_bias: Option<LogitBias>,
    /// Same request, same seed: same answer.
    #[oai(nullable)]
    pub seed: Option<i64>,
    /// Up to 16 strings that end the answer; they are not part of it.
    #[oai(nullable)]
    pub stop: Option<TextOr<String>>,
    /// Token ids that end the answer, beside the model's own.
    #[oai(nullable, validator(max_items = 256))]
    pub stop_token_ids: Option<Vec<u32>>,
    /// Go on after the model's end token, until `max_completion_tokens`.
    #[oai(nullable)]
    pub ignore_eos: Option<bool>,
    /// Return the log-probabilities of the answer's tokens.
    #[oai(nullable)]
    pub logprobs: Option<bool>,
    /// Also return so many of the likeliest alternatives per token; needs `logprobs`.
    #[oai(nullable, validator(maximum(value = "20")))]
    pub top_logprobs: Option<u32>,
    /// The form of the answer. Only one of this and the following six fields may ask for one.
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    pub response_format: Option<ResponseFormat>,
    /// A grammar of the answer: GBNF (or Lark if it has no `::=`), or an object with type and value.
    #[oai(nullable)]
    pub grammar: Option<GrammarField>,
    /// A JSON schema of the answer, or its text.
    #[oai(nullable)]
    pub guided_json: Option<Value>,
    /// A regular expression of the whole answer.
    #[oai(nullable)]
    pub guided_regex: Option<String>,
    /// The answer is one of these texts.
    #[oai(nullable, validator(max_items = 10000))]
    pub guided_choice: Option<Vec<String>>,
    /// GBNF, or Lark if it has no `::=`.
    #[oai(nullable)]
    pub guided_grammar: Option<String>,
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    pub structured_outputs: Option<StructuredOutputs>,
    /// Only `text` can be asked for.
    #[oai(nullable)]
    pub modalities: Option<Vec<Modality>>,
    #[oai(nullable)]
    pub reasoning_effort: Option<ReasoningEffort>,
    /// Handed to the chat template as variables.
    #[oai(nullable)]
    pub chat_template_kwargs: Option<FreeObject>,
    /// End the prompt with the header of the assistant's turn; true if absent.
    #[oai(nullable)]
    pub add_generation_prompt: Option<bool>,
    /// Continue the last message, which is the assistant's, instead of answering it.
    #[oai(nullable)]
    pub continue_final_message: Option<bool>,
    /// Requests share cached prefixes only with requests of the same salt.
    #[oai(nullable, validator(max_length = 1024))]
    pub cache_salt: Option<String>,
    /// Tools that the model may call.
    #[oai(nullable, validator(max_items = 128))]
    #[serde(default, deserialize_with = "optional_objects")]
    pub tools: Option<Vec<Tool>>,
    /// `auto`, also if absent: the model decides; `none`: it is not shown the tools; `required`, or one
    /// function: the answer is a call whose arguments follow the schema.
    #[oai(nullable)]
    pub tool_choice: Option<ToolChoice>,
    /// Whether one answer may hold several calls; true if absent.
    #[oai(nullable)]
    pub parallel_tool_calls: Option<bool>,
    /// Answers are not stored: must be absent, null or false.
    #[oai(nullable)]
    pub store: Option<bool>,
    /// What most of the answer is expected to be. It can make the answer faster and never changes it.
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    pub prediction: Option<Prediction>,
    /// How many words the answer has. Handed to the chat template, which may know it.
    #[oai(nullable)]
    pub verbosity: Option<Verbosity>,
    /// Up to 16 labels of the request; kept in the log alone, as answers are not stored.
    #[oai(nullable, validator(max_properties = 16))]
    pub metadata: Option<BTreeMap<String, String>>,
    /// There is one tier, whatever is asked for: `default`.
    #[oai(nullable)]
    pub service_tier: Option<ServiceTier>,
    /// Who asks; opaque to this server.
    #[oai(nullable)]
    pub user: Option<String>,
    /// Who asks; opaque to this server.
    #[oai(nullable)]
    pub safety_identifier: Option<String>,
    /// A hint where to look for a cached prefix; this server looks in one cache and finds it without.
    #[oai(nullable)]
    pub prompt_cache_key: Option<String>,
    /// No effect: prefixes stay in memory until others need the room.
    #[oai(nullable)]
    pub prompt_cache_retention: Option<CacheRetention>,
}
}

impl ChatCompletionRequest {
    /// Checks everything that can be checked without the model.
    pub(crate) fn into_generation(mut self) -> Result<(GenerationRequest, Extras)> {
        self.refuse_unsupported()?;
        log_labels(self.user.as_deref(), self.metadata.as_ref());
        let local = self.take_local();
        let logprobs = self.logprobs_wanted()?;
        let max_tokens = self.max_tokens()?;
        let mut kwargs = self.chat_template_kwargs.unwrap_or_default().0;
        if let Some(effort) = self.reasoning_effort {
            kwargs.entry("reasoning_effort").or_insert_with(|| effort.text().into());
            if effort == ReasoningEffort::None {
                // The names that templates have for it.
                for name in ["enable_thinking", "thinking"] {
                    kwargs.entry(name).or_insert(Value::Bool(false));
                }
            }
        }
        if let Some(verbosity) = self.verbosity {
            kwargs.entry("verbosity").or_insert_with(|| verbosity.text().into());
        }
        let input =
            conversation(self.messages, self.add_generation_prompt, self.continue_final_message)?;
        let shape = StructuredFields {
            response_format: self.response_format,
            grammar: self.grammar,
            guided_json: self.guided_json,
            guided_regex: self.guided_regex,
            guided_choice: self.guided_choice,
            guided_grammar: self.guided_grammar,
            structured_outputs: self.structured_outputs,
        }
        .into_shape()?;
        let tools = ToolFields {
            tools: self.tools,
            tool_choice: self.tool_choice,
            parallel_tool_calls: self.parallel_tool_calls,
        }
        .into_use()?;
        let tools_shown = tools.as_ref().map(|tools| tools.definitions.clone());
        let input = ChatInput { tools: tools_shown, kwargs, ..input };
        let mut request = GenerationRequest {
            max_tokens,
            min_tokens: self.min_tokens.unwrap_or(0),
            ignore_eos: self.ignore_eos.unwrap_or(false),
            logprobs,
            prediction: self.prediction.map(Prediction::into_text).transpose()?,
            rules: Some(Arc::new(OutputRules { shape, tools })),
            ..GenerationRequest::new(PromptInput::Chat(input))
        };
        SamplingFields {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            repetition_penalty: self.repetition_penalty,
            repeat_penalty: self.repeat_penalty,
            logit_bias: self.logit_bias,
            seed: self.seed,
            stop: self.stop,
            stop_token_ids: self.stop_token_ids,
            n: self.n,
            cache_salt: self.cache_salt,
        }
        .apply(&mut request)?;
        let extras = local.apply(&mut request)?;
        Ok((request, extras))
    }

    /// Whether a stream ends with a chunk of token counts.
    pub(crate) fn includes_usage(&self) -> bool {
        self.stream_options.as_ref().is_some_and(|options| options.include_usage == Some(true))
    }

    fn refuse_unsupported(&self) -> Result<()> {
        let is_stream = self.stream.unwrap_or(false);
        check_stream_options(is_stream, self.stream_options.as_ref())?;
        check_metadata(self.metadata.as_ref())?;
        if self.store == Some(true) {
            return Err(Error::invalid("store", "store: answers cannot be stored"));
        }
        Ok(())
    }

    fn logprobs_wanted(&self) -> Result<Option<u32>> {
        let wanted = self.logprobs.unwrap_or(false);
        match self.top_logprobs {
            Some(count) if count > MAX_LOGPROBS => {
                let text = format!("top_logprobs must be from 0 to {MAX_LOGPROBS}, is {count}");
                Err(Error::invalid("top_logprobs", text))
            }
            Some(count) if count > 0 && !wanted => {
                let text = "top_logprobs needs logprobs to be true";
                Err(Error::invalid("top_logprobs", text))
            }
            Some(count) if wanted => Ok(Some(count)),
            _ => Ok(wanted.then_some(0)),
        }
    }

    fn max_tokens(&self) -> Result<Option<u32>> {
        if self.n_predict.is_some() && (self.max_completion_tokens.or(self.max_tokens)).is_some() {
            let text = "n_predict is another name of max_completion_tokens; send one of them";
            return Err(Error::invalid("n_predict", text));
        }
        let new = at_least_one("max_completion_tokens", self.max_completion_tokens)?;
        let old = at_least_one("max_tokens", self.max_tokens)?;
        match (new, old) {
            (Some(new), Some(old)) if new != old => {
                let text = "max_tokens is the older name of max_completion_tokens; they differ";
                Err(Error::invalid("max_tokens", text))
            }
            (new, old) => Ok(new.or(old)),
        }
    }
}

fn at_least_one(name: &str, value: Option<u32>) -> Result<Option<u32>> {
    match value {
        Some(0) => Err(Error::invalid(name, format!("{name} must be 1 or more, is 0"))),
        value => Ok(value),
    }
}
