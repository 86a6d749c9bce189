//! The wire request of `POST /v1/chat/completions` and its translation.

use poem_openapi::Object;
use serde::Deserialize;

use super::options::{Modality, Prediction};
use crate::{
    chat::{
        ChatInput,
        generation::{GenerationRequest, OutputRules, PromptInput, ToolUse},
    },
    error::Result,
    param::{Given, Kind},
    server::{
        common::{Message, Tool, ToolChoice, ToolFields, conversation},
        desk::{
            Ask, Draft, Request, WireParam,
            params::{self, FORMS, LOCAL, LOCAL_SERVICE, SAMPLING, join},
        },
        schema::{objects, optional_object, optional_objects},
    },
};

/// A chat completion request. Of parameters that are not listed here, those that decide what an
/// answer is are refused by name, others are ignored and named in `x-kolosal-ignored`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields, rename = "ChatCompletionRequest")]
pub(crate) struct ChatParts {
    /// The engine to ask, by its `engine_id`; may be absent if there is only one.
    #[oai(nullable, validator(min_length = 1))]
    model: Option<String>,
    /// The conversation so far, oldest message first.
    #[oai(validator(min_items = 1, max_items = 8192))]
    #[serde(deserialize_with = "objects")]
    messages: Vec<Message>,
    /// Only `text` can be asked for.
    #[oai(nullable)]
    modalities: Option<Vec<Modality>>,
    /// End the prompt with the header of the assistant's turn; true if absent.
    #[oai(nullable)]
    add_generation_prompt: Option<bool>,
    /// Continue the last message, which is the assistant's, instead of answering it.
    #[oai(nullable)]
    continue_final_message: Option<bool>,
    /// Tools that the model may call.
    #[oai(nullable, validator(max_items = 128))]
    #[serde(default, deserialize_with = "optional_objects")]
    tools: Option<Vec<Tool>>,
    /// `auto`, also if absent: the model decides; `none`: it is not shown the tools; `required`, or one
    /// function: the answer is a call whose arguments follow the schema.
    #[oai(nullable)]
    tool_choice: Option<ToolChoice>,
    /// Whether one answer may hold several calls; true if absent.
    #[oai(nullable)]
    parallel_tool_calls: Option<bool>,
    /// What most of the answer is expected to be. It can make the answer faster and never changes it.
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    prediction: Option<Prediction>,
}

/// A request to answer a conversation.
pub(crate) struct ChatCompletionRequest {
    pub model: Option<String>,
    parts: ChatParts,
    draft: Draft,
}

const OWN: &[WireParam<Draft>] = &[
    params::STREAM,
    params::STREAM_OPTIONS,
    params::MAX_TOKENS.named("max_completion_tokens"),
    params::MAX_TOKENS
        .saying("The older name of `max_completion_tokens`.")
        .remarking("the older one"),
    params::MIN_TOKENS,
    params::IGNORE_EOS,
    params::LOGPROBS,
    params::TOP_LOGPROBS,
    params::REASONING_EFFORT,
    params::CHAT_TEMPLATE_KWARGS,
    params::CHAT_TEMPLATE,
    WireParam::new(
        "store",
        "Answers are not stored: must be absent, null or false.",
        Kind::Switch { set: |_, _| {} },
    )
    .refused("answers are not stored; false is accepted"),
    params::VERBOSITY,
    params::METADATA,
    params::SERVICE_TIER,
    params::USER,
    params::SAFETY_IDENTIFIER,
    params::PROMPT_CACHE_KEY,
    params::PROMPT_CACHE_RETENTION,
];

impl Request for ChatCompletionRequest {
    type Parts = ChatParts;
    type Target = Draft;
    const PARAMS: &'static [WireParam<Draft>] =
        &join::<{ OWN.len() + SAMPLING.len() + FORMS.len() + LOCAL.len() + LOCAL_SERVICE.len() }>(
            &[OWN, &SAMPLING, &FORMS, &LOCAL, &LOCAL_SERVICE],
        );

    fn new(parts: ChatParts, mut draft: Draft, given: Given) -> Result<Self> {
        draft.settle(&given)?;
        Ok(Self { model: parts.model.clone(), parts, draft })
    }
}

impl ChatCompletionRequest {
    /// Checks everything that can be checked without the model.
    pub(super) fn into_ask(mut self) -> Result<Ask> {
        let tools = self.tools()?;
        let input = self.input(tools.as_ref())?;
        let prediction = self.parts.prediction.map(Prediction::into_text).transpose()?;
        let mut draft = self.draft;
        let rules = OutputRules { shape: draft.shapes.pop(), tools };
        let request = draft.request(PromptInput::Chat(input), rules);
        Ok(draft.into_ask(self.model, vec![GenerationRequest { prediction, ..request }]))
    }

    /// The conversation, to have its tokens counted.
    pub(super) fn into_input(mut self) -> Result<ChatInput> {
        let tools = self.tools()?;
        self.input(tools.as_ref())
    }

    fn tools(&mut self) -> Result<Option<ToolUse>> {
        let parts = &mut self.parts;
        let fields = ToolFields {
            tools: parts.tools.take(),
            tool_choice: parts.tool_choice.take(),
            parallel_tool_calls: parts.parallel_tool_calls,
        };
        fields.into_use()
    }

    fn input(&mut self, tools: Option<&ToolUse>) -> Result<ChatInput> {
        let parts = &mut self.parts;
        let input = conversation(
            std::mem::take(&mut parts.messages),
            parts.add_generation_prompt,
            parts.continue_final_message,
        )?;
        Ok(ChatInput {
            tools: tools.map(|tools| tools.definitions.clone()),
            kwargs: std::mem::take(&mut self.draft.kwargs),
            template: self.draft.template.take(),
            ..input
        })
    }
}
