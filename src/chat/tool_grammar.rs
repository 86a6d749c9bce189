//! Grammars of tool calls, in the form that each model writes them.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::gate::Wait;
use super::generation::Callable;
use super::grammar::{Grammar, quote, strict};
use super::{Tokenizer, ToolFormat};

/// Calls in one answer at most, where several are allowed.
const CALLS_MAX: usize = 32;

/// The pieces around names and arguments; texts that are control tokens stand alone.
struct Form {
    /// Before all calls and after them.
    outer: (&'static [&'static str], &'static [&'static str]),
    /// What announces a call.
    marker: &'static [&'static str],
    before_name: &'static [&'static str],
    before_arguments: &'static [&'static str],
    after_arguments: &'static [&'static str],
    between_calls: &'static str,
}

/// The formats whose arguments are not JSON are asked for the JSON form, which their parser reads too.
fn form(format: ToolFormat) -> Form {
    match format {
        ToolFormat::Hermes | ToolFormat::QwenXml | ToolFormat::Glm => Form {
            outer: (&[], &[]),
            marker: &["<tool_call>"],
            before_name: &["\n{\"name\": \""],
            before_arguments: &["\", \"arguments\": "],
            after_arguments: &["}\n", "</tool_call>"],
            between_calls: "\n",
        },
        ToolFormat::Llama => Form {
            outer: (&[], &[]),
            marker: &[],
            before_name: &["{\"name\": \""],
            before_arguments: &["\", \"parameters\": "],
            after_arguments: &["}"],
            between_calls: "; ",
        },
        ToolFormat::Mistral => Form {
            outer: (&["[TOOL_CALLS]", "["], &["]"]),
            marker: &[],
            before_name: &["{\"name\": \""],
            before_arguments: &["\", \"arguments\": "],
            after_arguments: &["}"],
            between_calls: ", ",
        },
        ToolFormat::Functionary => Form {
            outer: (&[], &[]),
            marker: &["<function="],
            before_name: &[],
            before_arguments: &[">"],
            after_arguments: &["</function>"],
            between_calls: "",
        },
        ToolFormat::DeepSeek => Form {
            outer: (&["<｜tool▁calls▁begin｜>"], &["<｜tool▁calls▁end｜>"]),
            marker: &["<｜tool▁call▁begin｜>"],
            before_name: &[],
            before_arguments: &["<｜tool▁sep｜>"],
            after_arguments: &["<｜tool▁call▁end｜>"],
            between_calls: "",
        },
        ToolFormat::Kimi => Form {
            outer: (&["<|tool_calls_section_begin|>"], &["<|tool_calls_section_end|>"]),
            marker: &["<|tool_call_begin|>"],
            before_name: &["functions."],
            before_arguments: &[":0", "<|tool_call_argument_begin|>"],
            after_arguments: &["<|tool_call_end|>"],
            between_calls: "",
        },
        ToolFormat::Harmony => Form {
            outer: (&[], &[]),
            marker: &["<|channel|>", "commentary to=functions."],
            before_name: &[],
            before_arguments: &[" ", "<|constrain|>", "json", "<|message|>"],
            // What ends the call ends the answer.
            after_arguments: &[],
            between_calls: "",
        },
    }
}

/// Calls as a model may write them.
pub(super) struct Calls<'a> {
    pub(super) format: ToolFormat,
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) tools: &'a [Callable],
    pub(super) parallel: bool,
}

impl Calls<'_> {
    /// A grammar of answers that are calls, or else `content`, a Lark expression.
    pub(super) fn answer(&self, content: Option<&str>) -> String {
        let form = form(self.format);
        let calls = self.sequence(&form, form.outer.0, form.outer.1);
        let head = match self.format {
            ToolFormat::Harmony => self.literals(&["<|channel|>", "final", "<|message|>"]),
            _ => String::new(),
        };
        let content = content.map(|c| format!("start: calls | {head} content\ncontent: {c}\n"));
        let start = content.unwrap_or_else(|| "start: calls\n".to_owned());
        format!("{start}calls: {calls}\n{}", self.rules(&form, form.marker))
    }

    /// A grammar of what follows the marker of a call, up to its end.
    pub(super) fn after_marker(&self) -> String {
        let form = form(self.format);
        match self.format {
            // One marker for all.
            ToolFormat::Mistral => {
                let calls = self.sequence(&form, &form.outer.0[1..], form.outer.1);
                format!("start: {calls}\n{}", self.rules(&form, &[]))
            }
            ToolFormat::Llama => {
                let calls = self.sequence(&form, &[], &[]);
                format!("start: {calls}\n{}", self.rules(&form, &[]))
            }
            _ => format!("start: call\n{}", self.rules(&form, &[])),
        }
    }

    /// What comes before a call in an answer that is free otherwise.
    pub(super) fn wait(&self) -> Wait {
        let form = form(self.format);
        match self.format {
            ToolFormat::Llama => Wait::Start('{'),
            ToolFormat::Mistral => Wait::Marker(form.outer.0[0].to_owned()),
            _ => Wait::Marker(form.marker.concat()),
        }
    }

    fn sequence(&self, form: &Form, before: &[&str], after: &[&str]) -> String {
        let more = match (self.parallel, form.between_calls) {
            // Harmony's answers end with a call.
            _ if self.format == ToolFormat::Harmony => String::new(),
            (false, _) => String::new(),
            (true, "") => format!("call{{0,{}}}", CALLS_MAX - 1),
            (true, between) => format!("({} call){{0,{}}}", quote(between), CALLS_MAX - 1),
        };
        let parts = [self.literals(before), "call".to_owned(), more, self.literals(after)];
        parts.join(" ")
    }

    /// One rule for each tool.
    fn rules(&self, form: &Form, marker: &[&str]) -> String {
        let names: Vec<String> = (0..self.tools.len()).map(|i| format!("call_{i}")).collect();
        let mut out = format!("call: {}\n", names.join(" | "));
        for (i, tool) in self.tools.iter().enumerate() {
            let head = self.literals(&[marker, form.before_name].concat());
            let name = quote(&tool.name);
            let (middle, tail) =
                (self.literals(form.before_arguments), self.literals(form.after_arguments));
            let schema = strict(parameters(&tool.parameters));
            let _ = writeln!(out, "call_{i}: {head} {name} {middle} arguments_{i} {tail}");
            let _ = writeln!(out, "arguments_{i}: %json {schema}");
        }
        out
    }

    fn literals(&self, pieces: &[&str]) -> String {
        let literal = |piece: &&str| match self.tokenizer.special_id(piece) {
            Some(id) if self.tokenizer.is_control(id) => format!("<[{id}]>"),
            _ => quote(piece),
        };
        pieces.iter().map(literal).collect::<Vec<_>>().join(" ")
    }
}

/// The schema of arguments, which are an object whether it says so or not.
pub(super) fn parameters(schema: &Value) -> Value {
    let mut schema = schema.clone();
    match &mut schema {
        Value::Object(map) if map.is_empty() => {
            json!({"type": "object", "properties": {}, "additionalProperties": false})
        }
        Value::Object(map) => {
            if !["type", "$ref", "anyOf", "oneOf", "allOf"].iter().any(|key| map.contains_key(*key))
            {
                map.insert("type".to_owned(), "object".into());
            }
            schema
        }
        _ => schema,
    }
}

/// A grammar as a Lark expression, where it can be one.
pub(super) fn content(grammar: &Grammar) -> Option<String> {
    match grammar {
        Grammar::JsonObject => Some(format!("%json {}", strict(json!({"type": "object"})))),
        Grammar::JsonSchema(schema) => Some(format!("%json {}", strict(schema.clone()))),
        Grammar::Choice(choices) if !choices.is_empty() => {
            Some(choices.iter().map(|choice| quote(choice)).collect::<Vec<_>>().join(" | "))
        }
        Grammar::Choice(_) | Grammar::Regex(_) | Grammar::Lark(_) | Grammar::Gbnf(_) => None,
    }
}
