//! The wire requests of `/v1/responses` and their translation.

use std::collections::BTreeMap;

use poem_openapi::{Object, registry::MetaSchema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    conversation::messages,
    input::{self, ResponsesInputItem, missing},
    items::{ResponsesItem, ResponsesMessage},
    object::{ConversationName, ResponseKind, ResponseObject, ResponseStatus},
    settings::{
        Include, ReasoningEffort, ResponsesReasoningOptions, ResponsesText, Truncation, Verbosity,
    },
    store::{Owner, ResponseStore},
    tools::{ResponsesTool, ResponsesToolChoice, tool_use},
};
use crate::{
    chat::{
        ChatInput,
        generation::{OutputRules, PromptInput},
    },
    error::{Error, Result},
    param::{Given, Kind},
    server::{
        common::{MAX_MESSAGES, ToolMode},
        desk::{Ask, Draft, Request, WireParam, params, random_id, unix_time_s},
        openai::options::{ServiceTier, check_metadata},
        schema::{TextOr, optional_object, optional_objects, text_or_objects, wire_type},
    },
};

/// A request for a response. Of parameters that are not listed here, those that decide what an
/// answer is are refused by name, others are ignored and named in `x-kolosal-ignored`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields, rename = "CreateResponse")]
pub(crate) struct ResponseParts {
    /// The engine to ask, by its `engine_id`; may be absent if there is only one.
    #[oai(nullable, validator(min_length = 1))]
    model: Option<String>,
    /// Text, or a list of items: messages, calls of functions and their outputs, reasoning.
    #[serde(default, deserialize_with = "text_or_objects")]
    input: Option<TextOr<ResponsesInputItem>>,
    /// The system message; not taken over from the previous response.
    #[oai(nullable)]
    instructions: Option<String>,
    /// Continue this stored response: its input and output precede `input`.
    #[oai(nullable)]
    previous_response_id: Option<String>,
    /// Continue this conversation, and add to it; in place of `previous_response_id`.
    #[oai(nullable)]
    conversation: Option<ConversationRef>,
    /// Keep the response, so that it can be retrieved and continued; true if absent, as far as the
    /// server keeps any.
    #[oai(nullable)]
    store: Option<bool>,
    /// What the answer includes beside the usual.
    #[oai(nullable)]
    include: Option<Vec<Include>>,
    /// Tools that the model may call.
    #[oai(nullable, validator(max_items = 128))]
    #[serde(default, deserialize_with = "optional_objects")]
    tools: Option<Vec<ResponsesTool>>,
    /// `auto`, also if absent: the model decides; `none`: it is not shown the tools; `required`, or one
    /// function: the answer is a call whose arguments follow the schema.
    #[oai(nullable)]
    tool_choice: Option<ResponsesToolChoice>,
    /// Whether one answer may hold several calls; true if absent.
    #[oai(nullable)]
    parallel_tool_calls: Option<bool>,
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    text: Option<ResponsesText>,
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    reasoning: Option<ResponsesReasoningOptions>,
    /// Up to 16 labels, which the response shows.
    #[oai(nullable, validator(max_properties = 16))]
    metadata: Option<BTreeMap<String, String>>,
    /// Who asks; opaque to this server.
    #[oai(nullable)]
    user: Option<String>,
    /// Who asks; opaque to this server.
    #[oai(nullable)]
    safety_identifier: Option<String>,
    /// A hint where to look for a cached prefix; this server looks in one cache and finds it without.
    #[oai(nullable)]
    prompt_cache_key: Option<String>,
}

/// A request for a response.
pub(crate) struct CreateResponse {
    parts: ResponseParts,
    draft: Draft,
    given: Given,
}

/// Calls of tools that a server runs.
const MAX_TOOL_CALLS: &str = "max_tool_calls";

impl Request for CreateResponse {
    type Parts = ResponseParts;
    type Target = Draft;
    const PARAMS: &'static [WireParam<Draft>] = &[
        params::STREAM.saying("Send the answer in pieces, as named server-sent events."),
        WireParam::new(
            "stream_options",
            "Options of a streamed response; only with `stream`.",
            Kind::Table {
                title: "ResponsesStreamOptions",
                params: &[params::INCLUDE_OBFUSCATION],
            },
        )
        .serves()
        .remarking("`include_obfuscation` is refused"),
        params::MAX_TOKENS
            .named("max_output_tokens")
            .saying("Tokens to generate at most, reasoning included; absent: until the context is full."),
        params::TEMPERATURE,
        params::TOP_P,
        params::PRESENCE_PENALTY,
        params::FREQUENCY_PENALTY,
        params::TOP_LOGPROBS
            .saying("Return log-probabilities with so many of the likeliest alternatives per token."),
        WireParam::integer(
            MAX_TOOL_CALLS,
            "Bounds calls of tools that the server runs; it runs none.",
            (1, u32::MAX as i64),
            |_, _| {},
        )
        .unbounded()
        .idle("the server runs no tools"),
        WireParam::new(
            "truncation",
            "`auto`: of a conversation that does not fit, the oldest turns are left out; `disabled`, also if \
             absent: it is refused.",
            Kind::Choice {
                words: &["disabled", "auto"],
                open: true,
                set: |draft: &mut Draft, word| draft.may_cut = word == "auto",
            },
        )
        .remarking("`auto`: the oldest turns are left out, and told; else nothing is cut"),
        WireParam::switch(
            "background",
            "Answer at once, and go on without the client, which looks the response up; only if it is kept, \
             and not with `stream`.",
            |draft: &mut Draft, is_on| draft.is_background = is_on,
        )
        .serves()
        .remarking("only if the response is kept; not with `stream`"),
        params::SERVICE_TIER,
        params::PROMPT_CACHE_RETENTION,
    ];

    fn new(parts: ResponseParts, mut draft: Draft, given: Given) -> Result<Self> {
        let includes = parts.include.as_ref();
        let is_included = includes.is_some_and(|all| all.contains(&Include::Logprobs));
        draft.want_logprobs(is_included || given.number("top_logprobs").is_some_and(|x| x > 0.0));
        draft.settle(&given)?;
        Ok(Self { parts, draft, given })
    }
}

/// A request whose tokens are counted. Of parameters that are not listed here, those that decide
/// what an answer is are refused by name, others are ignored and named in `x-kolosal-ignored`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct CountResponseTokens {
    /// The engine to ask, by its `engine_id`.
    #[oai(validator(min_length = 1))]
    pub model: String,
    /// Text, or a list of items.
    #[serde(default, deserialize_with = "text_or_objects")]
    pub input: Option<TextOr<ResponsesInputItem>>,
    #[oai(nullable)]
    pub instructions: Option<String>,
    #[oai(nullable)]
    pub previous_response_id: Option<String>,
    #[oai(nullable, validator(max_items = 128))]
    #[serde(default, deserialize_with = "optional_objects")]
    pub tools: Option<Vec<ResponsesTool>>,
    #[oai(nullable)]
    pub tool_choice: Option<ResponsesToolChoice>,
    #[oai(nullable)]
    pub parallel_tool_calls: Option<bool>,
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    pub text: Option<ResponsesText>,
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    pub reasoning: Option<ResponsesReasoningOptions>,
    #[oai(nullable)]
    pub truncation: Option<Truncation>,
}

/// What decides the prompt, and the rules of what follows it.
struct Prompting<'a> {
    input: Option<TextOr<ResponsesInputItem>>,
    instructions: Option<&'a str>,
    previous: Option<&'a str>,
    conversation: Option<&'a str>,
    tools: &'a [ResponsesTool],
    tool_choice: Option<&'a ResponsesToolChoice>,
    parallel: bool,
    text: Option<&'a ResponsesText>,
    reasoning: Option<&'a ResponsesReasoningOptions>,
}

/// A conversation and what the request adds to it.
struct Prompted {
    chat: ChatInput,
    rules: OutputRules,
    items: Vec<ResponsesItem>,
}

impl Prompting<'_> {
    fn read(self, store: &ResponseStore, owner: &Owner) -> Result<Prompted> {
        let before = match (self.previous, self.conversation) {
            (Some(_), Some(_)) => {
                let text =
                    "conversation: it stands in place of previous_response_id, not beside it";
                return Err(Error::invalid("conversation", text));
            }
            (Some(id), None) => store.conversation(owner, id)?,
            (None, Some(id)) => store.conversations.items(owner, id)?,
            (None, None) => Vec::new(),
        };
        let items = items(self.input, store, owner)?;
        let count = before.len() + items.len();
        if count > MAX_MESSAGES {
            let text = format!("input: a conversation of {count} items, limit {MAX_MESSAGES}");
            return Err(Error::invalid("input", text));
        }
        let messages = messages(self.instructions, &before, &items);
        let shape = match self.text.and_then(|text| text.format.as_ref()) {
            Some(format) => format.shape()?,
            None => None,
        };
        let tools = tool_use(self.tools, self.tool_choice, self.parallel)?;
        let mut chat = ChatInput {
            messages,
            tools: tools.as_ref().map(|tools| tools.definitions.clone()),
            add_generation_prompt: true,
            ..ChatInput::default()
        };
        let mut set = |name: &str, value: Value| drop(chat.kwargs.insert(name.to_owned(), value));
        if let Some(effort) = self.reasoning.and_then(|reasoning| reasoning.effort) {
            set("reasoning_effort", effort.wire_text().into());
            if effort == ReasoningEffort::None {
                set("enable_thinking", false.into());
            }
        }
        if let Some(verbosity) = self.text.and_then(|text| text.verbosity) {
            set("verbosity", verbosity.wire_text().into());
        }
        Ok(Prompted { chat, rules: OutputRules { shape, tools }, items })
    }
}

fn items(
    input: Option<TextOr<ResponsesInputItem>>,
    store: &ResponseStore,
    owner: &Owner,
) -> Result<Vec<ResponsesItem>> {
    match input {
        None => Err(missing("input")),
        Some(TextOr::Text(text)) => {
            let id = format!("msg_{}", random_id());
            Ok(vec![ResponsesItem::Message(ResponsesMessage::of_user(id, text))])
        }
        Some(TextOr::Items(items)) if items.is_empty() => {
            Err(Error::invalid("input", "input: at least one item is required"))
        }
        Some(TextOr::Items(items)) => read_items(items, "input", (store, owner)),
    }
}

/// Items as they are kept; `field` is how the client calls them.
///
/// # Errors
/// What is wrong with one, with its path; one that refers to an item that is not stored.
pub(super) fn read_items(
    items: Vec<ResponsesInputItem>,
    field: &str,
    (store, owner): (&ResponseStore, &Owner),
) -> Result<Vec<ResponsesItem>> {
    let read = |(i, item): (usize, ResponsesInputItem)| {
        let path = format!("{field}[{i}]");
        match item.read(&path)? {
            input::Given::Item(item) => Ok(item),
            input::Given::Reference(id) => store.item(owner, &id).ok_or_else(|| {
                let field = format!("{path}.id");
                let shown: String = id.chars().take(64).collect();
                let text = format!("{field}: no stored response has an item {shown}");
                Error::invalid(field, text)
            }),
        }
    };
    items.into_iter().enumerate().map(read).collect()
}

/// A conversation by its id, or as an object with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected the id of a conversation, or an object with it")]
pub(crate) enum ConversationRef {
    Id(String),
    Object(ConversationId),
}

/// A conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct ConversationId {
    pub id: String,
}

wire_type!(
    ConversationRef,
    "conversation",
    {
        let one_of = vec![String::schema_ref(), ConversationId::schema_ref()];
        MetaSchema { one_of, ..MetaSchema::ANY }
    },
    ConversationId
);

impl ConversationRef {
    fn id(&self) -> &str {
        match self {
            Self::Id(id) | Self::Object(ConversationId { id }) => id,
        }
    }

    fn into_name(self) -> ConversationName {
        match self {
            Self::Id(id) | Self::Object(ConversationId { id }) => ConversationName { id },
        }
    }
}

/// A checked request.
pub(super) struct Asked {
    pub(super) ask: Ask,
    /// The response as it begins.
    pub(super) response: ResponseObject,
    /// What the request added to the conversation.
    pub(super) items: Vec<ResponsesItem>,
}

impl CreateResponse {
    /// Checks everything that can be checked without the model.
    pub(super) fn into_asked(mut self, store: &ResponseStore, owner: &Owner) -> Result<Asked> {
        let parts = &mut self.parts;
        if parts.store == Some(true) && !store.is_on() {
            let text = "store: this server is configured to keep no responses";
            return Err(Error::invalid("store", text));
        }
        check_metadata(parts.metadata.as_ref())?;
        let tools = parts.tools.take().unwrap_or_default();
        let prompted = Prompting {
            input: parts.input.take(),
            instructions: parts.instructions.as_deref(),
            previous: parts.previous_response_id.as_deref(),
            conversation: parts.conversation.as_ref().map(ConversationRef::id),
            tools: &tools,
            tool_choice: parts.tool_choice.as_ref(),
            parallel: parts.parallel_tool_calls.unwrap_or(true),
            text: parts.text.as_ref(),
            reasoning: parts.reasoning.as_ref(),
        }
        .read(store, owner)?;
        let keeps = parts.store.unwrap_or(true) && store.is_on();
        let mut draft = self.draft;
        if draft.is_background && (!keeps || draft.is_stream()) {
            let text = "background: only for a response that is kept (store), and not with stream";
            return Err(Error::invalid("background", text));
        }
        let mut prompted = prompted;
        prompted.chat.may_cut = draft.may_cut;
        let mut response = response(self.parts, tools, (&self.given, keeps));
        response.background = draft.is_background;
        response.truncation = if draft.may_cut { Truncation::Auto } else { Truncation::Disabled };
        draft.request.prompt_path = Some("input");
        let request = draft.request(PromptInput::Chat(prompted.chat), prompted.rules);
        let ask = draft
            .into_ask(Some(response.model.clone()).filter(|name| !name.is_empty()), vec![request]);
        Ok(Asked { ask, response, items: prompted.items })
    }
}

/// The response as it begins; it shows the rules that hold, also those that are by default, and whether
/// it will be kept.
fn response(
    parts: ResponseParts,
    mut tools: Vec<ResponsesTool>,
    (given, store): (&Given, bool),
) -> ResponseObject {
    tools.iter_mut().for_each(ResponsesTool::complete);
    let count = |key: &str| given.number(key).and_then(|x| (x > 0.0).then_some(x as u32));
    let mut text = parts.text.unwrap_or_default();
    text.format.get_or_insert_default();
    text.verbosity.get_or_insert(Verbosity::Medium);
    let effort = parts.reasoning.and_then(|reasoning| reasoning.effort);
    ResponseObject {
        id: format!("resp_{}", random_id()),
        object: ResponseKind::Only,
        created_at: unix_time_s(),
        status: ResponseStatus::InProgress,
        completed_at: None,
        error: None,
        incomplete_details: None,
        instructions: parts.instructions,
        model: parts.model.unwrap_or_default(),
        output: Vec::new(),
        previous_response_id: parts.previous_response_id,
        store,
        background: false,
        conversation: parts.conversation.map(ConversationRef::into_name),
        prompt: None,
        max_output_tokens: count("max_tokens"),
        max_tool_calls: count(MAX_TOOL_CALLS),
        parallel_tool_calls: parts.parallel_tool_calls.unwrap_or(true),
        tool_choice: parts.tool_choice.unwrap_or(ResponsesToolChoice::Mode(ToolMode::Auto)),
        tools,
        temperature: given.number("temperature").unwrap_or(1.0),
        top_p: given.number("top_p").unwrap_or(1.0),
        presence_penalty: given.number("presence_penalty").unwrap_or(0.0),
        frequency_penalty: given.number("frequency_penalty").unwrap_or(0.0),
        top_logprobs: count("top_logprobs").unwrap_or(0),
        reasoning: ResponsesReasoningOptions { effort, summary: None },
        text,
        truncation: Truncation::Disabled,
        service_tier: ServiceTier::Default,
        metadata: parts.metadata.unwrap_or_default(),
        user: parts.user,
        safety_identifier: parts.safety_identifier,
        prompt_cache_key: parts.prompt_cache_key,
        usage: None,
    }
}

impl CountResponseTokens {
    /// The conversation that is counted.
    pub(super) fn into_input(self, store: &ResponseStore, owner: &Owner) -> Result<ChatInput> {
        let tools = self.tools.unwrap_or_default();
        let prompted = Prompting {
            input: self.input,
            instructions: self.instructions.as_deref(),
            previous: self.previous_response_id.as_deref(),
            conversation: None,
            tools: &tools,
            tool_choice: self.tool_choice.as_ref(),
            parallel: self.parallel_tool_calls.unwrap_or(true),
            text: self.text.as_ref(),
            reasoning: self.reasoning.as_ref(),
        }
        .read(store, owner)?;
        Ok(prompted.chat)
    }
}
