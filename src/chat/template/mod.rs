//! Chat templates: conversations as the text that a model was trained on.
//!
//! A template is a program from a stranger. It runs with a budget of work, memory, recursion and
//! output, sees nothing but its input, and cannot change what it is given. Rendering takes the
//! caller's thread for up to some hundred milliseconds; asynchronous callers use a blocking task.

mod bounds;
mod environment;
mod fallback;
mod indent;
mod json;
mod messages;
mod probe;
mod protect;
mod time;
mod written;

pub use fallback::builtin as builtin_template;
#[cfg(test)]
pub(crate) use messages::json as message_json;
pub(crate) use time::strftime;

use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::{Serde, Value as JinjaValue};
use minijinja::{Environment, ErrorKind};
use serde_json::{Map, Value};

use super::{ChatInput, Tokenizer, partial};
use crate::error::Error;
use crate::model::gguf::Metadata;
use environment::{NAME, NOW, Raised};
use messages::Forms;
use written::Written;

/// Longest template; the longest published ones have 20 KB.
const MAX_SOURCE_LEN: usize = 128 << 10;
/// Longest rendered conversation.
const MAX_OUTPUT_LEN: usize = 64 << 20;
/// What templates are given by us and requests may not set.
const RESERVED: &[&str] = &[
    "messages",
    "tools",
    "add_generation_prompt",
    "continue_final_message",
    "bos_token",
    "eos_token",
    "unk_token",
    "pad_token",
    "sep_token",
    "raise_exception",
    "strftime_now",
    NOW,
];

/// A conversation as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    pub text: String,
    /// Byte offsets, ascending, over which no special token reaches: there the text is a user's.
    pub protected: Vec<usize>,
    /// What messages before the last had that the model cannot read, by the client's paths.
    pub left_out: Vec<String>,
}

/// Where a template comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TemplateOrigin {
    /// The model file.
    File,
    /// The file has none; its vocabulary has the tokens of ChatML.
    ChatMl,
    /// The file has none, and nothing tells what the model was trained on.
    Plain,
    /// Whoever registered the engine, or a request.
    Given,
}

/// The chat template of a model.
pub struct ChatTemplate {
    main: Result<Compiled, String>,
    /// The variant for conversations with tools.
    tool_use: Option<Compiled>,
    origin: TemplateOrigin,
    /// Names and texts of special tokens that templates refer to.
    tokens: Vec<(&'static str, String)>,
    warning: Option<String>,
}

struct Compiled {
    env: Environment<'static>,
    source: String,
    forms: Forms,
}

impl ChatTemplate {
    /// The template of a model file, or a fallback. A template that cannot be compiled is an error
    /// of each conversation and not of the model, which may serve other requests.
    pub fn from_gguf(meta: &Metadata, tokenizer: &Tokenizer) -> Self {
        let tokens = token_texts(meta, tokenizer);
        let text = |key: &str| meta.str(key).map_err(|e| e.to_string());
        let mut template = match text("tokenizer.chat_template") {
            Ok(Some(source)) => Self::new(source, TemplateOrigin::File, tokens),
            Ok(None) => Self::fallback(tokenizer, tokens),
            Err(error) => Self {
                main: Err(error.clone()),
                tool_use: None,
                origin: TemplateOrigin::File,
                tokens,
                warning: Some(error),
            },
        };
        if let Ok(Some(source)) = text("tokenizer.chat_template.tool_use") {
            template.tool_use = Compiled::new(source, &template.tokens).ok();
        }
        template
    }

    /// A template in place of the file's own, by its text or its name.
    ///
    /// # Errors
    /// It cannot be compiled.
    pub fn in_place(source: &str, meta: &Metadata, tokenizer: &Tokenizer) -> Result<Self, Error> {
        Self::given(source, token_texts(meta, tokenizer))
    }

    /// Another template of the same model, by its text or its name.
    ///
    /// # Errors
    /// It cannot be compiled.
    pub fn other(&self, source: &str) -> Result<Self, Error> {
        Self::given(source, self.tokens.clone())
    }

    fn given(source: &str, tokens: Vec<(&'static str, String)>) -> Result<Self, Error> {
        let source = builtin_template(source).unwrap_or(source);
        let template = Self::new(source, TemplateOrigin::Given, tokens);
        match &template.main {
            Ok(_) => Ok(template),
            Err(problem) => Err(Error::invalid("chat_template", problem.clone())),
        }
    }

    /// The template `source`, with the texts of the tokens it refers to (`bos_token`, …).
    pub fn from_source(source: &str, tokens: Vec<(&'static str, String)>) -> Self {
        Self::new(source, TemplateOrigin::File, tokens)
    }

    fn new(source: &str, origin: TemplateOrigin, tokens: Vec<(&'static str, String)>) -> Self {
        let main = Compiled::new(source, &tokens);
        let warning = main.as_ref().err().cloned();
        Self { main, tool_use: None, origin, tokens, warning }
    }

    fn fallback(tokenizer: &Tokenizer, tokens: Vec<(&'static str, String)>) -> Self {
        let has = |text| tokenizer.special_id(text).is_some();
        let (source, origin, name) = if has("<|im_start|>") && has("<|im_end|>") {
            (fallback::CHATML, TemplateOrigin::ChatMl, "ChatML")
        } else {
            (fallback::PLAIN, TemplateOrigin::Plain, "plain User and Assistant turns")
        };
        let warning = format!("the model file has no chat template; using {name}");
        Self { warning: Some(warning), ..Self::new(source, origin, tokens) }
    }

    pub fn origin(&self) -> TemplateOrigin {
        self.origin
    }

    /// Text of the template; empty if there is none that compiles.
    pub fn source(&self) -> &str {
        self.main.as_ref().map_or("", |main| main.source.as_str())
    }

    /// Text of the template for conversations with tools.
    pub fn tool_source(&self) -> &str {
        self.tool_use.as_ref().map_or_else(|| self.source(), |compiled| compiled.source.as_str())
    }

    /// What a person should know about this template.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// Renders a conversation now; `special_places` finds the special tokens in a user's string, as
    /// byte offsets inside them.
    ///
    /// # Errors
    /// The template refuses the conversation or cannot render it, a variable is not the request's to
    /// set, or a limit is reached. All are the request's.
    pub fn render(
        &self,
        input: &ChatInput,
        special_places: &dyn Fn(&str) -> Vec<usize>,
    ) -> Result<Rendered, Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
        self.render_at(input, special_places, now)
    }

    /// [`Self::render`] at a given time, in seconds since 1970.
    pub fn render_at(
        &self,
        input: &ChatInput,
        special_places: &dyn Fn(&str) -> Vec<usize>,
        now_s: i64,
    ) -> Result<Rendered, Error> {
        if let Some(name) = RESERVED.iter().find(|name| input.kwargs.contains_key(**name)) {
            let param = format!("chat_template_kwargs.{name}");
            return Err(Error::invalid(param, format!("{name} is not for requests to set")));
        }
        let with_tools = input.tools.as_ref().is_some_and(|tools| !tools.is_null());
        let compiled = match (&self.tool_use, &self.main) {
            (Some(tool_use), _) if with_tools => tool_use,
            (_, Ok(main)) => main,
            (_, Err(problem)) => return Err(Error::invalid("messages", problem.clone())),
        };
        let context = Context { input, tokens: &self.tokens, special_places, now_s };
        let text = compiled.conversation(&context)?;
        let (text, protected) = protect::unmark(&text);
        Ok(Rendered { text, protected, left_out: Vec::new() })
    }
}

/// All that a rendering depends on.
struct Context<'a> {
    input: &'a ChatInput,
    tokens: &'a [(&'static str, String)],
    special_places: &'a dyn Fn(&str) -> Vec<usize>,
    now_s: i64,
}

impl Compiled {
    fn new(source: &str, tokens: &[(&'static str, String)]) -> Result<Self, String> {
        if source.len() > MAX_SOURCE_LEN {
            let (len, limit) = (source.len(), MAX_SOURCE_LEN);
            return Err(format!("the chat template has {len} bytes; the limit is {limit}"));
        }
        let env = environment::environment(source)
            .map_err(|e| format!("the chat template does not compile: {}", describe(&e)))?;
        let source = source.to_owned();
        let mut compiled = Self { env, source, forms: Forms::AS_THEY_ARE };
        compiled.forms = Forms::probe(&|messages, tools| {
            let input = ChatInput { tools, add_generation_prompt: true, ..Default::default() };
            let places = |_: &str| Vec::new();
            let context = Context { input: &input, tokens, special_places: &places, now_s: 0 };
            let messages = messages.iter().map(jinja).collect();
            compiled.execute(&context, messages).ok()
        });
        environment::refuel(&mut compiled.env);
        Ok(compiled)
    }

    /// Renders the conversation, a second time with gaps filled if the template stumbles over them.
    fn conversation(&self, context: &Context<'_>) -> Result<String, Error> {
        let input = context.input;
        let messages =
            input.messages.iter().map(|message| marked(&messages::json(message), context));
        let mut messages: Vec<Value> = messages.collect();
        self.forms.apply(&mut messages);
        if let Some(tools) = &input.tools {
            self.forms.describe(&mut messages, &marked(tools, context));
        }
        if input.continue_final_message && !messages::mark_last(&mut messages, protect::CONTINUE) {
            let problem = "the last message has no text to go on with";
            return Err(Error::invalid("messages", problem));
        }
        let shown = |messages: &[Value]| messages.iter().map(|m| self.shown(m, context)).collect();
        let text = match self.execute(context, shown(&messages)) {
            Err(first) if !is_refusal(&first) => {
                messages::fill_gaps(&mut messages);
                let filled = filled(context);
                let context = Context { input: &filled, ..*context };
                self.execute(&context, shown(&messages)).map_err(|_| first)
            }
            other => other,
        };
        let text = text.map_err(|e| Self::refused(&e))?;
        if !input.continue_final_message {
            return Ok(text);
        }
        let problem = "the chat template does not write the last message, so it cannot go on";
        protect::cut(&text).map(str::to_owned).ok_or_else(|| Error::invalid("messages", problem))
    }

    /// A message as the template sees it.
    fn shown(&self, message: &Value, context: &Context<'_>) -> JinjaValue {
        let Some(calls) = message.get("tool_calls").and_then(Value::as_array) else {
            return jinja(message);
        };
        let call = |call: &Value| {
            let text = call.pointer("/function/arguments").and_then(Value::as_str);
            let Some(text) = text.filter(|_| self.forms.reads_arguments()) else {
                return jinja(call);
            };
            // Signs are set anew, as escapes may hide special tokens from those in the text.
            let object = Value::Object(partial::object(&protect::unmark(text).0));
            let arguments = Written::value(jinja(&marked(&object, context)), text.to_owned());
            let function = replaced(&call["function"], "arguments", arguments);
            replaced(call, "function", function)
        };
        replaced(message, "tool_calls", calls.iter().map(call).collect())
    }

    fn execute(
        &self,
        context: &Context<'_>,
        messages: JinjaValue,
    ) -> Result<String, minijinja::Error> {
        let input = context.input;
        let mut variables: Vec<(String, JinjaValue)> = Vec::new();
        let mut set = |name: &str, value: JinjaValue| variables.push((name.to_owned(), value));
        // Absent tools and documents are None, as in transformers, and not undefined.
        set("documents", JinjaValue::from(()));
        for (name, value) in &input.kwargs {
            set(name, jinja(&marked(value, context)));
        }
        for (name, text) in context.tokens {
            set(name, JinjaValue::from(text.as_str()));
        }
        let tools = input.tools.as_ref().map(|tools| jinja(&marked(tools, context)));
        set("tools", tools.unwrap_or_else(|| JinjaValue::from(())));
        set("messages", messages);
        let generate = input.add_generation_prompt && !input.continue_final_message;
        set("add_generation_prompt", JinjaValue::from(generate));
        set(NOW, JinjaValue::from(context.now_s));
        let template = self.env.get_template(NAME)?;
        let mut out = Limited { bytes: Vec::new() };
        let variables = JinjaValue::from_pairs(variables);
        template.render_captured_to(variables, &mut out)?;
        String::from_utf8(out.bytes).map_err(|_| {
            minijinja::Error::new(ErrorKind::InvalidOperation, "the output is not UTF-8")
        })
    }

    fn refused(error: &minijinja::Error) -> Error {
        let message = if is_refusal(error) {
            format!("the chat template refuses: {}", error.detail().unwrap_or("no reason given"))
        } else {
            format!("the chat template cannot render this conversation: {}", describe(error))
        };
        Error::invalid("messages", message)
    }
}

/// The request with what some templates need and transformers leaves to the caller: a list of tools
/// even if empty, and the same as text with the date for those written before `tools` existed.
fn filled(context: &Context<'_>) -> ChatInput {
    let mut input = context.input.clone();
    let tools = input.tools.take().unwrap_or_else(|| Value::Array(vec![]));
    let set = |kwargs: &mut Map<String, Value>, name: &str, text: String| {
        kwargs.entry(name).or_insert(Value::String(text));
    };
    set(&mut input.kwargs, "functions", serde_json::to_string_pretty(&tools).unwrap_or_default());
    set(&mut input.kwargs, "datetime", time::strftime(context.now_s, "%b %d %Y %H:%M:%S UTC"));
    input.tools = Some(tools);
    input
}

/// Whether the template itself raised the error.
#[allow(clippy::redundant_closure_for_method_calls)]
fn is_refusal(error: &minijinja::Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<Raised>())
}

fn describe(error: &minijinja::Error) -> String {
    let line = error.line().map(|line| format!(" (line {line})")).unwrap_or_default();
    let detail = error.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
    format!("{}{detail}{line}", error.kind())
}

/// A copy of `value` with the special tokens in its strings marked as text.
fn marked(value: &Value, context: &Context<'_>) -> Value {
    let mark = |text: &str| protect::mark(text, &(context.special_places)(text)).into_owned();
    match value {
        Value::String(text) => Value::String(mark(text)),
        Value::Array(items) => items.iter().map(|item| marked(item, context)).collect(),
        Value::Object(entries) => {
            let entries = entries.iter().map(|(key, item)| (mark(key), marked(item, context)));
            Value::Object(entries.collect())
        }
        other => other.clone(),
    }
}

/// An object with another value for one of its keys.
fn replaced(object: &Value, key: &str, value: JinjaValue) -> JinjaValue {
    let entries = object.as_object().into_iter().flatten();
    let shown = |(name, old): (&String, &Value)| {
        (name.clone(), if name == key { value.clone() } else { jinja(old) })
    };
    JinjaValue::from_pairs(entries.map(shown).collect::<Vec<_>>())
}

fn jinja(value: &Value) -> JinjaValue {
    JinjaValue::from(Serde(value))
}

/// Names that templates use for special tokens, where the model has them.
fn token_texts(meta: &Metadata, tokenizer: &Tokenizer) -> Vec<(&'static str, String)> {
    let by_key = |key: &str| meta.u32(key).ok().flatten();
    let ids = [
        ("bos_token", tokenizer.bos()),
        ("eos_token", tokenizer.eos()),
        ("unk_token", by_key("tokenizer.ggml.unknown_token_id")),
        ("pad_token", by_key("tokenizer.ggml.padding_token_id")),
    ];
    let text = |id| tokenizer.token(id).map(str::to_owned);
    ids.into_iter().filter_map(|(name, id)| Some((name, text(id?)?))).collect()
}

/// Output up to a limit.
struct Limited {
    bytes: Vec<u8>,
}

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > MAX_OUTPUT_LEN {
            return Err(io::Error::other(format!("the output exceeds {MAX_OUTPUT_LEN} bytes")));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
