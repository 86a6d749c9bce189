//! Grammars of tool calls, in the form that each model writes them.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::ToolFormat;
use super::call::Callable;
use crate::chat::Tokenizer;
use crate::chat::gate::Wait;
use crate::chat::gbnf::quote;
use crate::chat::grammar::{Grammar, configured};

/// Calls in one answer at most, where several are allowed.
const CALLS_MAX: usize = 32;

/// The pieces around names and arguments; texts that are control tokens stand alone.
struct Form {
    /// Before all calls and after them.
    outer: (&'static [&'static str], &'static [&'static str]),
    /// `outer` is announced once, whatever the number of calls.
    is_list: bool,
    /// What announces a call.
    marker: &'static [&'static str],
    before_name: &'static [&'static str],
    before_arguments: &'static [&'static str],
    after_arguments: &'static [&'static str],
    between_calls: Between,
}

/// What stands between calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Between {
    Text(&'static str),
    /// One call is all that an answer can hold.
    Never,
}

/// Each call between marks of its own.
const fn marked(
    marker: &'static [&'static str],
    after_arguments: &'static [&'static str],
    between: &'static str,
) -> Form {
    Form {
        outer: (&[], &[]),
        is_list: false,
        marker,
        before_name: &["\n{\"name\": \""],
        before_arguments: &["\", \"arguments\": "],
        after_arguments,
        between_calls: Between::Text(between),
    }
}

/// All calls in one list.
const fn list(before: &'static [&'static str], after: &'static [&'static str]) -> Form {
    Form {
        outer: (before, after),
        is_list: true,
        marker: &[],
        before_name: &["{\"name\": \""],
        before_arguments: &["\", \"arguments\": "],
        after_arguments: &["}"],
        between_calls: Between::Text(", "),
    }
}

/// A name and the arguments, each behind a mark.
const fn headed(
    marker: &'static [&'static str],
    before_arguments: &'static [&'static str],
    after_arguments: &'static [&'static str],
) -> Form {
    Form { before_name: &[], before_arguments, ..marked(marker, after_arguments, "") }
}

/// The formats whose arguments are not JSON are asked for the JSON form, which their parser reads too.
fn form(format: ToolFormat) -> Form {
    match format {
        ToolFormat::Hermes | ToolFormat::QwenXml | ToolFormat::Glm => {
            marked(&["<tool_call>"], &["}\n", "</tool_call>"], "\n")
        }
        ToolFormat::Seed => marked(&["<seed:tool_call>"], &["}\n", "</seed:tool_call>"], "\n"),
        ToolFormat::MiniMax => {
            marked(&["<minimax:tool_call>"], &["}\n", "</minimax:tool_call>"], "\n")
        }
        ToolFormat::Dsml => marked(
            &["<", "｜DSML｜", "tool_calls>"],
            &["}\n", "</", "｜DSML｜", "tool_calls>"],
            "\n",
        ),
        ToolFormat::KimiK3 => marked(
            &["<|open|>", "tools", "<|sep|>"],
            &["}\n", "<|close|>", "tools", "<|sep|>"],
            "\n",
        ),
        ToolFormat::InternLm => Form {
            before_arguments: &["\", \"parameters\": "],
            ..marked(&["<|action_start|>", "<|plugin|>"], &["}\n", "<|action_end|>"], "\n")
        },
        ToolFormat::Gemma => Form {
            before_name: &["{\"name\": \""],
            ..marked(&["<|tool_call>"], &["}", "<tool_call|>"], "")
        },
        ToolFormat::GigaChat => Form {
            before_name: &["{\"name\": \""],
            between_calls: Between::Never,
            ..marked(&["<|function_call|>"], &["}"], "")
        },
        ToolFormat::Functionary => headed(&["<function="], &[">"], &["</function>"]),
        ToolFormat::DeepSeek => Form {
            outer: (&["<｜tool▁calls▁begin｜>"], &["<｜tool▁calls▁end｜>"]),
            ..headed(&["<｜tool▁call▁begin｜>"], &["<｜tool▁sep｜>"], &["<｜tool▁call▁end｜>"])
        },
        ToolFormat::Kimi => Form {
            outer: (&["<|tool_calls_section_begin|>"], &["<|tool_calls_section_end|>"]),
            before_name: &["functions."],
            ..headed(
                &["<|tool_call_begin|>"],
                &[":0", "<|tool_call_argument_begin|>"],
                &["<|tool_call_end|>"],
            )
        },
        ToolFormat::Solar => Form {
            outer: (&["<|tool_calls|>"], &[]),
            before_name: &["call000000", "<|tool_call:name|>"],
            ..headed(&["<|tool_call:begin|>"], &["<|tool_call:args|>"], &["<|tool_call:end|>"])
        },
        ToolFormat::Harmony => Form {
            // What ends the call ends the answer.
            between_calls: Between::Never,
            ..headed(
                &["<|channel|>", "commentary to=functions."],
                &[" ", "<|constrain|>", "json", "<|message|>"],
                &[],
            )
        },
        ToolFormat::Mistral => list(&["[TOOL_CALLS]", "["], &["]"]),
        ToolFormat::Nemotron => list(&["<TOOLCALL>", "["], &["]", "</TOOLCALL>"]),
        ToolFormat::ToolCalls => list(&["<tool_calls>", "["], &["]", "</tool_calls>"]),
        ToolFormat::Granite => list(&["<|tool_call|>", "["], &["]"]),
        ToolFormat::Firefunction => list(&["functools", "["], &["]"]),
        ToolFormat::Pythonic => list(&["["], &["]"]),
        ToolFormat::Lfm => list(&["<|tool_call_start|>", "["], &["]", "<|tool_call_end|>"]),
        ToolFormat::Olmo => list(&["<function_calls>", "["], &["]", "</function_calls>"]),
        ToolFormat::Cohere => Form {
            before_name: &["{\"tool_name\": \""],
            before_arguments: &["\", \"parameters\": "],
            ..list(&["<|START_ACTION|>", "["], &["]", "<|END_ACTION|>"])
        },
        ToolFormat::Apertus => Form {
            before_name: &["{\""],
            before_arguments: &["\": "],
            ..list(&["<|tools_prefix|>", "["], &["]", "<|tools_suffix|>"])
        },
        ToolFormat::Llama => Form {
            before_arguments: &["\", \"parameters\": "],
            between_calls: Between::Text("; "),
            ..list(&[], &[])
        },
    }
}

/// Calls as a model may write them.
pub(in crate::chat) struct Calls<'a> {
    pub(in crate::chat) format: ToolFormat,
    pub(in crate::chat) tokenizer: &'a Tokenizer,
    pub(in crate::chat) tools: &'a [Callable],
    pub(in crate::chat) parallel: bool,
    /// Blanks may stand wherever JSON allows them: what a model writes by itself is met halfway.
    pub(in crate::chat) lenient: bool,
}

impl Calls<'_> {
    /// A grammar of answers that are calls, or else `content`, a Lark expression.
    pub(in crate::chat) fn answer(&self, content: Option<&str>) -> String {
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
    pub(in crate::chat) fn after_marker(&self) -> String {
        let form = form(self.format);
        if form.is_list {
            let before = form.outer.0.get(1..).unwrap_or_default();
            // Without a marker, the first letter is part of it.
            let before = if self.is_bare(&form) { form.outer.0 } else { before };
            let calls = self.sequence(&form, before, form.outer.1);
            return format!("start: {calls}\n{}", self.rules(&form, &[]));
        }
        format!("start: call\n{}", self.rules(&form, &[]))
    }

    /// What comes before a call in an answer that is free otherwise.
    pub(in crate::chat) fn wait(&self) -> Wait {
        let form = form(self.format);
        match (self.format.marks().bare, form.is_list) {
            (Some(first), _) => Wait::Start(first),
            (None, true) => Wait::Marker(form.outer.0.first().copied().unwrap_or_default().into()),
            (None, false) => Wait::Marker(form.marker.concat()),
        }
    }

    fn is_bare(&self, form: &Form) -> bool {
        form.is_list && self.format.marks().bare.is_some()
    }

    fn sequence(&self, form: &Form, before: &[&str], after: &[&str]) -> String {
        let more = match (self.parallel, form.between_calls) {
            (false, _) | (_, Between::Never) => String::new(),
            (true, Between::Text("")) => format!("call{{0,{}}}", CALLS_MAX - 1),
            (true, Between::Text(between)) => {
                format!("({} call){{0,{}}}", self.literal(between), CALLS_MAX - 1)
            }
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
            let mut schema = parameters(&tool.parameters);
            if let (Value::Object(schema), true) = (&mut schema, self.lenient) {
                schema.insert("x-guidance".to_owned(), json!({"whitespace_flexible": true}));
            }
            let schema = configured(schema, tool.loose);
            let _ = writeln!(out, "call_{i}: {head} {name} {middle} arguments_{i} {tail}");
            let _ = writeln!(out, "arguments_{i}: %json {schema}");
        }
        if self.lenient {
            out.push_str("blanks: BLANKS?\nBLANKS: /[ \\t\\r\\n]{1,16}/\n");
        }
        out
    }

    fn literals(&self, pieces: &[&str]) -> String {
        pieces.iter().map(|piece| self.literal(piece)).collect::<Vec<_>>().join(" ")
    }

    fn literal(&self, piece: &str) -> String {
        match self.tokenizer.special_id(piece) {
            Some(id) if self.tokenizer.is_control(id) => format!("<[{id}]>"),
            _ if self.lenient => loose(piece),
            _ => quote(piece),
        }
    }
}

/// A piece of JSON with blanks where they may be. A quotation mark at its start ends a string.
fn loose(piece: &str) -> String {
    let (mut out, mut text) = (Vec::new(), String::new());
    let mut in_string = piece.starts_with('"');
    for c in piece.chars() {
        match c {
            '{' | '}' | '[' | ']' | ':' | ',' if !in_string => {
                let before = std::mem::take(&mut text);
                out.extend((!before.is_empty()).then(|| quote(&before)));
                out.extend(["blanks".to_owned(), quote(&c.to_string()), "blanks".to_owned()]);
                continue;
            }
            c if c.is_whitespace() && !in_string => continue,
            '"' => in_string = !in_string,
            _ => {}
        }
        text.push(c);
    }
    out.extend((!text.is_empty()).then(|| quote(&text)));
    out.join(" ")
}

/// The schema of arguments, which are an object whether it says so or not.
pub(in crate::chat) fn parameters(schema: &Value) -> Value {
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
            if is_a_list_of_fields(map) {
                map.insert("additionalProperties".to_owned(), false.into());
            }
            schema
        }
        _ => schema,
    }
}

/// Whether a schema says no more than which fields there are. Who lists the fields of a tool means no
/// others, and small models like to invent some.
fn is_a_list_of_fields(map: &Map<String, Value>) -> bool {
    const PLAIN: [&str; 9] = [
        "type",
        "properties",
        "required",
        "title",
        "description",
        "$schema",
        "$id",
        "$defs",
        "definitions",
    ];
    let Some(Value::Object(properties)) = map.get("properties") else { return false };
    let required = map.get("required").and_then(Value::as_array).into_iter().flatten();
    map.keys().all(|key| PLAIN.contains(&key.as_str()))
        && required.filter_map(Value::as_str).all(|name| properties.contains_key(name))
}

/// A grammar as a Lark expression, where it can be one.
pub(in crate::chat) fn content(grammar: &Grammar) -> Option<String> {
    match grammar {
        Grammar::JsonObject => {
            Some(format!("%json {}", configured(json!({"type": "object"}), false)))
        }
        Grammar::JsonSchema(schema) => Some(format!("%json {}", configured(schema.clone(), false))),
        Grammar::LooseSchema(schema) => Some(format!("%json {}", configured(schema.clone(), true))),
        Grammar::Choice(choices) if !choices.is_empty() => {
            Some(choices.iter().map(|choice| quote(choice)).collect::<Vec<_>>().join(" | "))
        }
        Grammar::Choice(_) | Grammar::Regex(_) | Grammar::Lark(_) | Grammar::Gbnf(_) => None,
    }
}
