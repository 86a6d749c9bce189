//! Ollama's requests and their translation.

use poem_openapi::{
    Object,
    registry::{MetaSchema, MetaSchemaRef},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    chat::{
        ChatInput, Infill,
        conversation::{Arguments, Call, Media, Message, Part, Role, Source},
        generation::{OutputRules, PromptInput, Shape, ToolUse},
        grammar::Grammar,
    },
    error::{Error, Result},
    param::{Given, Kind, Scalar},
    registry::KeepAlive,
    server::{
        common::{MAX_MESSAGES, Tool, ToolFields},
        desk::{Ask, Draft, Request, WireParam, params},
        schema::{FreeObject, object, optional_objects, wire_enum, wire_type},
    },
};

/// Whether and how much a reasoning model thinks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a boolean, \"low\", \"medium\" or \"high\"")]
pub(crate) enum Think {
    Switch(bool),
    Effort(Effort),
}

wire_type!(Think, "think", {
    let one_of = vec![bool::schema_ref(), Effort::schema_ref()];
    MetaSchema { one_of, ..MetaSchema::ANY }
});

/// The form of an answer: `json` for any object, or a JSON schema; an empty text asks for none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected \"json\" or a JSON schema")]
pub(crate) enum Format {
    Name(String),
    Schema(FreeObject),
}

wire_type!(Format, "format", {
    let names =
        MetaSchema { enum_items: vec!["json".into(), "".into()], ..MetaSchema::new("string") };
    let one_of = vec![MetaSchemaRef::Inline(Box::new(names)), FreeObject::schema_ref()];
    MetaSchema { one_of, ..MetaSchema::ANY }
});

impl Format {
    fn into_shape(self) -> Result<Option<Shape>> {
        let grammar = match self {
            Self::Name(name) if name.is_empty() => return Ok(None),
            Self::Name(name) if name == "json" => Grammar::JsonObject,
            Self::Name(_) => {
                let text = "format: \"json\" or a JSON schema is expected";
                return Err(Error::invalid("format", text));
            }
            Self::Schema(schema) => Grammar::JsonSchema(Value::Object(schema.0)),
        };
        Ok(Some(Shape { grammar, field: "format".to_owned(), strict: false }))
    }
}

wire_enum! {
    /// How much a reasoning model thinks.
    pub(crate) enum Effort {
        Low = "low",
        Medium = "medium",
        High = "high",
    }
}

wire_enum! {
    /// Who speaks.
    pub(crate) enum Speaker {
        System = "system",
        User = "user",
        Assistant = "assistant",
        Tool = "tool",
    }
}

/// A function that the assistant called.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Object)]
pub(crate) struct OllamaFunction {
    pub name: String,
    pub arguments: FreeObject,
}

/// A call of a function in an earlier turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Object)]
pub(crate) struct OllamaToolCall {
    /// As the answer had it.
    #[oai(nullable)]
    pub id: Option<String>,
    #[serde(deserialize_with = "object")]
    pub function: OllamaFunction,
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Deserialize, Object)]
pub(crate) struct OllamaMessage {
    pub role: Speaker,
    #[serde(default)]
    pub content: String,
    /// What the assistant thought before it answered; templates decide whether it shows.
    #[oai(nullable)]
    pub thinking: Option<String>,
    /// In base 64. Refused in the last message where the model reads text only, and left out of earlier
    /// ones.
    #[oai(nullable)]
    pub images: Option<Vec<String>>,
    /// Functions that the assistant called.
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_objects")]
    pub tool_calls: Option<Vec<OllamaToolCall>>,
    /// Of which function this `tool` message is the result.
    #[oai(nullable)]
    pub tool_name: Option<String>,
    /// Of which call this `tool` message is the result.
    #[oai(nullable)]
    pub tool_call_id: Option<String>,
}

/// The context that a client needs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OllamaOptions {
    pub(super) num_ctx: Option<u32>,
}

impl OllamaOptions {
    /// What the engine's context is too small for, if anything: a larger one is a hint.
    pub(super) fn context_note(self, context: usize) -> Option<String> {
        let wanted = self.num_ctx.filter(|wanted| *wanted as usize > context)?;
        Some(format!("options.num_ctx ({wanted}; the engine has {context})"))
    }

    pub(super) fn of(given: &Given) -> Self {
        Self { num_ctx: given.number(NUM_CTX.key).map(|count| count as u32) }
    }
}

type Row = WireParam<Draft>;

pub(super) const NUM_CTX: Row = Row::integer(
    "num_ctx",
    "The context that is needed; told if the engine's is smaller.",
    (0, u32::MAX as i64),
    |_, _| {},
)
.idle("an engine has the context that it was loaded with; `x-kolosal-ignored` names a larger one");

/// An option about how an engine runs.
const fn of_server(name: &'static str) -> Row {
    let doc = "No effect: how an engine runs is the server's matter.";
    Row::integer(name, doc, (i64::MIN, i64::MAX), |_, _| {})
        .idle("how an engine runs is the server's matter")
}

/// How tokens are chosen, by Ollama's names and with its defaults.
pub(super) const OLLAMA_OPTIONS: &[Row] = &[
    params::TEMPERATURE.within(0.0, 100.0).defaulting(Scalar::Number(0.8)),
    params::TOP_K.defaulting(Scalar::Integer(40)),
    params::TOP_P.defaulting(Scalar::Number(0.9)),
    params::MIN_P,
    params::TYPICAL_P,
    params::MIROSTAT,
    params::MIROSTAT_TAU,
    params::MIROSTAT_ETA,
    params::REPEAT_LAST_N,
    params::REPEAT_PENALTY,
    params::PRESENCE_PENALTY,
    params::FREQUENCY_PENALTY,
    params::SEED_OR_RANDOM,
    params::STOP,
    Row::integer(
        "num_predict",
        "Tokens to generate at most; negative or absent: until the context is full.",
        (i64::MIN, u32::MAX as i64),
        |draft, x| draft.request.max_tokens = u32::try_from(x).ok(),
    )
    .being("max_tokens"),
    NUM_CTX,
    params::N_KEEP.named("num_keep"),
    of_server("num_batch"),
    of_server("num_gpu"),
    of_server("main_gpu"),
    of_server("num_thread"),
    Row::switch("use_mmap", "No effect: how an engine runs is the server's matter.", |_, _| {})
        .idle("how an engine runs is the server's matter"),
];

const OPTIONS: Row = Row::new(
    "options",
    "How tokens are chosen. What is not listed here is named in `x-kolosal-ignored`.",
    Kind::Table { title: "OllamaOptions", params: OLLAMA_OPTIONS },
);

/// What requests for text share.
const SHARED: [Row; 3] = [
    params::STREAM.saying("One object a line as the answer comes; true if absent."),
    OPTIONS,
    params::KEEP_ALIVE,
];

/// A chat request. Of parameters that are not listed here, those that decide what an answer is are
/// refused by name, others are ignored and named in `x-kolosal-ignored`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields, rename = "OllamaChatRequest")]
pub(crate) struct ChatParts {
    /// The engine to ask; `:latest` may follow its `engine_id`.
    #[oai(validator(min_length = 1))]
    model: String,
    /// The conversation so far; empty: only load the model, or unload it with `keep_alive` 0.
    #[oai(nullable, validator(max_items = 8192))]
    #[serde(default, deserialize_with = "optional_objects")]
    messages: Option<Vec<OllamaMessage>>,
    #[oai(nullable)]
    think: Option<Think>,
    /// Tools that the model may call; the model decides.
    #[oai(nullable, validator(max_items = 128))]
    #[serde(default, deserialize_with = "optional_objects")]
    tools: Option<Vec<Tool>>,
    #[oai(nullable)]
    format: Option<Format>,
}

/// A request to answer a conversation.
pub(crate) struct OllamaChatRequest {
    parts: ChatParts,
    draft: Draft,
    given: Given,
}

impl Request for OllamaChatRequest {
    type Parts = ChatParts;
    type Target = Draft;
    const PARAMS: &'static [Row] = &SHARED;

    fn new(parts: ChatParts, mut draft: Draft, given: Given) -> Result<Self> {
        draft.settle(&given)?;
        Ok(Self { parts, draft, given })
    }
}

/// What to do for a request.
pub(super) struct Asked {
    pub(super) model: String,
    pub(super) is_stream: bool,
    pub(super) keep_alive: Option<KeepAlive>,
    pub(super) options: OllamaOptions,
    /// `None`: only load or unload.
    pub(super) ask: Option<Ask>,
}

impl Asked {
    fn new(model: String, draft: &Draft, given: &Given) -> Self {
        Self {
            model,
            is_stream: draft.stream.unwrap_or(true),
            keep_alive: draft.stay,
            options: OllamaOptions::of(given),
            ask: None,
        }
    }
}

impl OllamaChatRequest {
    pub(super) fn into_asked(self) -> Result<Asked> {
        let Self { parts, draft, given } = self;
        let shape = parts.format.map_or(Ok(None), Format::into_shape)?;
        let tools = ToolFields { tools: parts.tools, ..ToolFields::default() }.into_use()?;
        let asked = Asked::new(parts.model, &draft, &given);
        let messages = parts.messages.unwrap_or_default();
        if messages.is_empty() {
            return Ok(asked);
        }
        let input = input(conversation(messages)?, parts.think, tools.as_ref());
        let (prompt, rules) = (PromptInput::Chat(input), OutputRules { shape, tools });
        Ok(asked.generating(draft, prompt, rules))
    }
}

impl Asked {
    fn generating(self, mut draft: Draft, prompt: PromptInput, rules: OutputRules) -> Self {
        draft.stream = Some(self.is_stream);
        let request = draft.request(prompt, rules);
        Self { ask: Some(draft.into_ask(None, vec![request])), ..self }
    }
}

/// A request to answer or continue a prompt. Of parameters that are not listed here, those that
/// decide what an answer is are refused by name, others are ignored and named in
/// `x-kolosal-ignored`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields, rename = "OllamaGenerateRequest")]
pub(crate) struct GenerateParts {
    /// The engine to ask; `:latest` may follow its `engine_id`.
    #[oai(validator(min_length = 1))]
    model: String,
    /// What to answer; empty: only load the model, or unload it with `keep_alive` 0.
    #[oai(nullable)]
    prompt: Option<String>,
    /// The system message.
    #[oai(nullable)]
    system: Option<String>,
    /// Continue the prompt as it is, without the chat template.
    #[oai(nullable)]
    raw: Option<bool>,
    #[oai(nullable)]
    think: Option<Think>,
    /// Text that follows the answer, which fills the gap between; for models that have tokens for it.
    #[oai(nullable)]
    suffix: Option<String>,
    /// In base 64. Refused where the model reads text only.
    #[oai(nullable)]
    images: Option<Vec<String>>,
    #[oai(nullable)]
    format: Option<Format>,
    /// What an earlier answer has as its `context`: what was said until then. `/api/chat` takes a
    /// conversation as it is.
    #[oai(nullable, validator(max_items = 1_048_576))]
    context: Option<Vec<u32>>,
}

/// A request to answer or continue a prompt.
pub(crate) struct OllamaGenerateRequest {
    parts: GenerateParts,
    draft: Draft,
    given: Given,
}

const REFUSED: [Row; 1] =
    [Row::text("template", "Not supported: must be absent, null or empty.", 0, |_, _| {})
        .refused("this parameter is not supported here")];

/// Token ids of what was said before.
const MAX_CONTEXT: usize = 1 << 20;

impl Request for OllamaGenerateRequest {
    type Parts = GenerateParts;
    type Target = Draft;
    const PARAMS: &'static [Row] =
        &params::join::<{ SHARED.len() + REFUSED.len() }>(&[&SHARED, &REFUSED]);

    fn new(parts: GenerateParts, mut draft: Draft, given: Given) -> Result<Self> {
        draft.settle(&given)?;
        Ok(Self { parts, draft, given })
    }
}

impl OllamaGenerateRequest {
    pub(super) fn into_asked(self) -> Result<Asked> {
        let Self { parts, mut draft, given } = self;
        draft.request.prompt_path = Some("prompt");
        let has = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        let raw = parts.raw.unwrap_or(false);
        let suffix = parts.suffix.filter(|suffix| !suffix.is_empty());
        if (raw || suffix.is_some()) && (has(&parts.system) || parts.think.is_some()) {
            let name = if parts.think.is_some() { "think" } else { "system" };
            let text = format!("{name} needs the template, which raw and suffix leave out");
            return Err(Error::invalid(name, text));
        }
        let images = parts.images.unwrap_or_default();
        // Only the template has a place for them.
        refuse("images", !images.is_empty() && (raw || suffix.is_some()))?;
        let context = parts.context.filter(|context| !context.is_empty());
        if context.as_ref().is_some_and(|context| context.len() > MAX_CONTEXT) {
            let text = format!("context: more than {MAX_CONTEXT} token ids");
            return Err(Error::invalid("context", text));
        }
        if context.is_some() && (raw || suffix.is_some()) {
            let text = "context: raw and suffix go on with the prompt alone";
            return Err(Error::invalid("context", text));
        }
        let shape = parts.format.map_or(Ok(None), Format::into_shape)?;
        let rules = OutputRules { shape, tools: None };
        let asked = Asked::new(parts.model, &draft, &given);
        let prompt = parts.prompt.unwrap_or_default();
        let prompt = if let Some(suffix) = suffix {
            let (prefix, extra) = (prompt, Vec::new());
            PromptInput::Infill(Infill { prefix, suffix, extra, field: "suffix" })
        } else if prompt.is_empty() && images.is_empty() {
            return Ok(asked);
        } else if raw {
            PromptInput::Text(prompt)
        } else {
            let system = parts.system.filter(|system| !system.is_empty());
            let system = system.map(|system| Message::text(Role::System, system));
            let user = Message::new(Role::User, self::parts(prompt, images, "images"));
            let messages = system.into_iter().chain([user]).collect();
            let chat = input(messages, parts.think, None);
            // The answer tells what was said until then.
            draft.wanted.tokens = true;
            match context {
                Some(before) => {
                    draft.request.prompt_path = Some("context");
                    PromptInput::Following { before, chat }
                }
                None => PromptInput::Chat(chat),
            }
        };
        Ok(asked.generating(draft, prompt, rules))
    }
}

fn refuse(name: &str, is_given: bool) -> Result<()> {
    if is_given {
        return Err(Error::invalid(name, format!("{name}: this parameter is not supported here")));
    }
    Ok(())
}

fn conversation(messages: Vec<OllamaMessage>) -> Result<Vec<Message>> {
    if messages.len() > MAX_MESSAGES {
        let text = format!("messages: {} messages, limit {MAX_MESSAGES}", messages.len());
        return Err(Error::invalid("messages", text));
    }
    Ok(messages.into_iter().enumerate().map(|(i, message)| message.normalise(i)).collect())
}

impl OllamaMessage {
    fn normalise(self, index: usize) -> Message {
        let role = match self.role {
            Speaker::System => Role::System,
            Speaker::User => Role::User,
            Speaker::Assistant => Role::Assistant,
            Speaker::Tool => Role::Tool,
        };
        let call = |(n, call): (usize, OllamaToolCall)| {
            let OllamaFunction { name, arguments } = call.function;
            let id = call.id.unwrap_or_else(|| format!("call_{index}_{n}"));
            Call { id, name, arguments: Arguments::Object(arguments.0) }
        };
        let calls = self.tool_calls.unwrap_or_default();
        let images = self.images.unwrap_or_default();
        Message {
            role,
            parts: parts(self.content, images, &format!("messages[{index}].images")),
            calls: calls.into_iter().enumerate().map(call).collect(),
            reasoning: self.thinking,
            name: self.tool_name,
            call_id: self.tool_call_id,
        }
    }
}

/// A text, and the images beside it.
fn parts(text: String, images: Vec<String>, field: &str) -> Vec<Part> {
    let image = |data| Media {
        field: field.to_owned(),
        kind: "images",
        media_type: None,
        source: Some(Source::Base64(data)),
    };
    let images = images.into_iter().map(|data| Part::Image(image(data)));
    std::iter::once(Part::Text(text)).chain(images).collect()
}

fn input(messages: Vec<Message>, think: Option<Think>, tools: Option<&ToolUse>) -> ChatInput {
    let mut input = ChatInput {
        messages,
        tools: tools.map(|tools| tools.definitions.clone()),
        add_generation_prompt: true,
        ..ChatInput::default()
    };
    let mut set = |name: &str, value: Value| drop(input.kwargs.insert(name.to_owned(), value));
    match think {
        None => {}
        Some(Think::Switch(thinks)) => set("enable_thinking", thinks.into()),
        Some(Think::Effort(effort)) => {
            let effort = match effort {
                Effort::Low => "low",
                Effort::Medium => "medium",
                Effort::High => "high",
            };
            set("enable_thinking", true.into());
            set("reasoning_effort", effort.into());
        }
    }
    input
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::{desk, ignored::Ignored};

    #[test]
    fn sampling_is_ollamas_where_nothing_is_said() {
        let asked = |options: &str| {
            let body = format!(r#"{{"model": "m", "prompt": "a"{options}}}"#);
            let request: OllamaGenerateRequest =
                desk::read(body.as_bytes(), &Ignored::default()).unwrap();
            let ask = request.into_asked().unwrap().ask.unwrap();
            ask.prompts.into_iter().next().unwrap().sampling
        };
        for options in ["", r#", "options": null"#, r#", "options": {}"#] {
            let sampling = asked(options);
            let got = (sampling.temperature, sampling.top_k, sampling.top_p);
            assert_eq!(got, (0.8, 40, 0.9), "{options}");
        }
        let sampling = asked(r#", "options": {"temperature": 0, "top_k": -1}"#);
        assert_eq!((sampling.temperature, sampling.top_k, sampling.top_p), (0.0, 0, 0.9));
    }
}
