//! How models write tool calls: one row a family, and the sign in a template that tells which.

/// How a model writes tool calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolFormat {
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`: Hermes, Qwen; asked of models whose
    /// template has no form of its own.
    Hermes,
    /// `<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>`.
    QwenXml,
    /// As `QwenXml`, between `<seed:tool_call>` and its end.
    Seed,
    /// `<tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value></tool_call>`.
    Glm,
    /// `<minimax:tool_call><invoke name="NAME"><parameter name="KEY">VALUE</parameter></invoke>…`.
    MiniMax,
    /// `<｜DSML｜tool_calls>`, and within as `MiniMax`: DeepSeek from V3.2 on.
    Dsml,
    /// `<|open|>call tool="NAME"<|sep|><|open|>argument key="KEY"<|sep|>VALUE<|close|>…`.
    KimiK3,
    /// `[TOOL_CALLS][{"name": …, "arguments": {…}}]` or `[TOOL_CALLS]NAME[ARGS]{…}`.
    Mistral,
    /// `{"name": …, "parameters": {…}}` as the whole answer, perhaps after `<|python_tag|>`.
    Llama,
    /// `[NAME(KEY=VALUE), …]` as the whole answer: Llama 4 and the small ones of 3.2.
    Pythonic,
    /// `<function=NAME>{…}</function>`.
    Functionary,
    /// `<｜tool▁call▁begin｜>…NAME…{…}<｜tool▁call▁end｜>`.
    DeepSeek,
    /// `<|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>{…}<|tool_call_end|>`.
    Kimi,
    /// `<|tool_call:begin|>ID<|tool_call:name|>NAME<|tool_call:args|>{…}<|tool_call:end|>`.
    Solar,
    /// `<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{…}`.
    Harmony,
    /// `<|tool_call>call:NAME{KEY:VALUE,…}<tool_call|>`, texts between `<|"|>`.
    Gemma,
    /// `<|tool_call_start|>[NAME(KEY=VALUE), …]<|tool_call_end|>`.
    Lfm,
    /// `<function_calls>`, a line `NAME(KEY=VALUE)` for each call, `</function_calls>`.
    Olmo,
    /// `<TOOLCALL>[{"name": …, "arguments": {…}}]</TOOLCALL>`.
    Nemotron,
    /// `<tool_calls>[{"name": …, "arguments": {…}}]</tool_calls>`: Apriel, Jamba.
    ToolCalls,
    /// `<|tool_call|>[{"name": …, "arguments": {…}}]`: Granite 3, Phi 4.
    Granite,
    /// `<|START_ACTION|>[{"tool_name": …, "parameters": {…}}]<|END_ACTION|>`.
    Cohere,
    /// `<|function_call|>{"name": …, "arguments": {…}}`.
    GigaChat,
    /// `<|action_start|><|plugin|>{"name": …, "parameters": {…}}<|action_end|>`.
    InternLm,
    /// `functools[{"name": …, "arguments": {…}}]`.
    Firefunction,
    /// `<|tools_prefix|>[{"NAME": {…}}]<|tools_suffix|>`.
    Apertus,
}

/// What stands between the marks of a call.
#[derive(Clone, Copy, Debug)]
pub(super) enum Body {
    /// Objects with a name and arguments.
    Json,
    /// Objects whose only key is the name.
    JsonByName,
    /// A head with the name, then the arguments as JSON.
    Headed(fn(&str) -> Option<&str>),
    /// Arguments one by one, with marks around keys and values.
    Pairs(&'static Pairs),
    /// Arguments in a notation of their own.
    Loose(Loose),
}

/// Marks around names, keys and values.
#[derive(Debug)]
pub(super) struct Pairs {
    /// Before the name; empty where the body begins with it.
    pub(super) call: &'static str,
    /// Behind the name.
    pub(super) name_end: &'static str,
    /// What ends the mark that holds the name; empty if `name_end` does, or if it opens a key.
    pub(super) head_end: &'static str,
    /// `name_end` opens the first key.
    pub(super) name_end_opens_key: bool,
    pub(super) key: &'static str,
    pub(super) key_end: &'static str,
    /// What ends the mark that holds the key.
    pub(super) value: &'static str,
    pub(super) value_end: &'static str,
    pub(super) call_end: &'static str,
    /// A line end on either side of a value is no part of it.
    pub(super) on_lines: bool,
    /// In the mark of a key: its value is text.
    pub(super) is_text: &'static str,
}

/// Calls that look like code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loose {
    /// `NAME(KEY=VALUE)`, literals of Python.
    Python,
    /// `call:NAME{KEY:VALUE}`.
    Gemma,
}

/// One row: the marks of a format.
#[derive(Debug)]
pub(super) struct Marks {
    /// Texts that open a call, or a list of calls.
    pub(super) open: &'static [&'static str],
    /// The text that closes it; empty: the end of the answer.
    pub(super) close: &'static str,
    /// Texts around calls that are no part of the answer.
    pub(super) noise: &'static [&'static str],
    /// Control tokens within a call that a reader must see.
    pub(super) inner: &'static [&'static str],
    /// An answer that begins with this is a call, without a mark.
    pub(super) bare: Option<char>,
    pub(super) body: Body,
}

const NO_MARKS: Marks =
    Marks { open: &[], close: "", noise: &[], inner: &[], bare: None, body: Body::Json };

pub(super) const QWEN_XML: Pairs = Pairs {
    call: "<function=",
    name_end: ">",
    head_end: "",
    name_end_opens_key: false,
    key: "<parameter=",
    key_end: ">",
    value: "",
    value_end: "</parameter>",
    call_end: "</function>",
    on_lines: true,
    is_text: "",
};
const GLM: Pairs = Pairs {
    call: "",
    name_end: "<arg_key>",
    head_end: "",
    name_end_opens_key: true,
    key: "<arg_key>",
    key_end: "</arg_key>",
    value: "<arg_value>",
    value_end: "</arg_value>",
    call_end: "",
    on_lines: false,
    is_text: "",
};
const MINIMAX: Pairs = Pairs {
    call: "<invoke name=\"",
    name_end: "\"",
    head_end: ">",
    name_end_opens_key: false,
    key: "<parameter name=\"",
    key_end: "\"",
    value: ">",
    value_end: "</parameter>",
    call_end: "</invoke>",
    on_lines: false,
    is_text: "",
};
const DSML: Pairs = Pairs {
    call: "<｜DSML｜invoke name=\"",
    key: "<｜DSML｜parameter name=\"",
    value_end: "</｜DSML｜parameter>",
    call_end: "</｜DSML｜invoke>",
    is_text: "string=\"true\"",
    ..MINIMAX
};
const KIMI_K3: Pairs = Pairs {
    call: "<|open|>call tool=\"",
    name_end: "\"",
    head_end: "<|sep|>",
    name_end_opens_key: false,
    key: "<|open|>argument key=\"",
    key_end: "\"",
    value: "<|sep|>",
    value_end: "<|close|>argument<|sep|>",
    call_end: "<|close|>call<|sep|>",
    on_lines: false,
    is_text: "type=\"string\"",
};

/// What tells a format in a template, the most telling first.
const DETECTED_BY: &[(&str, ToolFormat)] = &[
    ("<|channel|>", ToolFormat::Harmony),
    ("｜DSML｜", ToolFormat::Dsml),
    ("<｜tool▁call▁begin｜>", ToolFormat::DeepSeek),
    ("<|tool_call_begin|>", ToolFormat::Kimi),
    ("<|tool_call:begin|>", ToolFormat::Solar),
    ("<|tool_call_start|>", ToolFormat::Lfm),
    ("<|tool_call>", ToolFormat::Gemma),
    ("<|tool_call|>", ToolFormat::Granite),
    ("<|START_ACTION|>", ToolFormat::Cohere),
    ("<|function_call|>", ToolFormat::GigaChat),
    ("<|action_start|>", ToolFormat::InternLm),
    ("<|tools_prefix|>", ToolFormat::Apertus),
    ("open_tag('argument'", ToolFormat::KimiK3),
    ("<|open|>argument", ToolFormat::KimiK3),
    ("[TOOL_CALLS]", ToolFormat::Mistral),
    ("minimax:tool_call", ToolFormat::MiniMax),
    ("<seed:tool_call>", ToolFormat::Seed),
    ("<TOOLCALL>", ToolFormat::Nemotron),
    ("<arg_key>", ToolFormat::Glm),
    ("<parameter=", ToolFormat::QwenXml),
    ("<tool_calls>[", ToolFormat::ToolCalls),
    ("<tool_call>", ToolFormat::Hermes),
    ("<tool_calls>", ToolFormat::ToolCalls),
    ("<function_calls>", ToolFormat::Olmo),
    ("functools[", ToolFormat::Firefunction),
    ("[func_name1(", ToolFormat::Pythonic),
    ("<function=", ToolFormat::Functionary),
    ("\"parameters\": ", ToolFormat::Llama),
    ("<|python_tag|>", ToolFormat::Llama),
];

impl ToolFormat {
    /// The format that a chat template teaches, Hermes if it teaches none.
    pub fn detect(template: &str) -> Self {
        let known = DETECTED_BY.iter().find(|(mark, _)| template.contains(mark));
        known.map_or(Self::Hermes, |&(_, format)| format)
    }

    /// Whether calls are a mark that nothing else begins with and then JSON in one form, so that a
    /// grammar can follow a call that the model began by itself.
    pub(in crate::chat) fn is_marked_json(self) -> bool {
        use ToolFormat::{Functionary, Granite, Hermes, Nemotron, ToolCalls};
        matches!(self, Hermes | Functionary | Granite | Nemotron | ToolCalls)
    }

    pub(super) fn marks(self) -> Marks {
        match self {
            Self::Hermes => tags(&["<tool_call>"], "</tool_call>"),
            Self::QwenXml => {
                Marks { body: Body::Pairs(&QWEN_XML), ..tags(&["<tool_call>"], "</tool_call>") }
            }
            Self::Seed => Marks {
                body: Body::Pairs(&QWEN_XML),
                ..tags(&["<seed:tool_call>"], "</seed:tool_call>")
            },
            Self::Glm => Marks {
                body: Body::Pairs(&GLM),
                inner: &["<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"],
                ..tags(&["<tool_call>"], "</tool_call>")
            },
            Self::MiniMax => Marks {
                body: Body::Pairs(&MINIMAX),
                ..tags(&["<minimax:tool_call>"], "</minimax:tool_call>")
            },
            Self::Dsml => Marks {
                body: Body::Pairs(&DSML),
                inner: &["｜DSML｜"],
                ..tags(&["<｜DSML｜tool_calls>"], "</｜DSML｜tool_calls>")
            },
            Self::KimiK3 => Marks {
                body: Body::Pairs(&KIMI_K3),
                inner: &["<|open|>", "<|sep|>", "<|close|>"],
                ..tags(&["<|open|>tools<|sep|>"], "<|close|>tools<|sep|>")
            },
            Self::Mistral => Marks {
                inner: &["[ARGS]", "[CALL_ID]", "[TOOL_CONTENT]"],
                body: Body::Headed(mistral_name),
                ..tags(&["[TOOL_CALLS]"], "")
            },
            Self::Llama => Marks { bare: Some('{'), ..tags(&["<|python_tag|>"], "") },
            Self::Pythonic => Marks {
                bare: Some('['),
                body: Body::Loose(Loose::Python),
                ..tags(&["<|python_start|>"], "<|python_end|>")
            },
            Self::Functionary => Marks {
                body: Body::Headed(|head| before(head, ">")),
                ..tags(&["<function="], "</function>")
            },
            Self::DeepSeek => Marks {
                noise: &["<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"],
                inner: &["<｜tool▁sep｜>"],
                body: Body::Headed(deepseek_name),
                ..tags(&["<｜tool▁call▁begin｜>"], "<｜tool▁call▁end｜>")
            },
            Self::Kimi => Marks {
                noise: &["<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"],
                inner: &["<|tool_call_argument_begin|>"],
                body: Body::Headed(|head| before(head, "<|tool_call_argument_begin|>")),
                ..tags(&["<|tool_call_begin|>"], "<|tool_call_end|>")
            },
            Self::Solar => Marks {
                noise: &["<|tool_calls|>", "<|calls|>"],
                inner: &["<|tool_call:name|>", "<|tool_call:args|>"],
                body: Body::Headed(solar_name),
                ..tags(&["<|tool_call:begin|>"], "<|tool_call:end|>")
            },
            Self::Harmony => Marks {
                inner: &["<|channel|>", "<|message|>", "<|constrain|>", "<|start|>"],
                body: Body::Headed(|head| before(head, "<|message|>")),
                ..tags(&["<|channel|>commentary to=functions.", " to=functions."], "<|call|>")
            },
            _ => self.lists(),
        }
    }

    /// Formats in which one mark opens a list of calls.
    fn lists(self) -> Marks {
        match self {
            Self::Gemma => Marks {
                inner: &["<|\"|>"],
                body: Body::Loose(Loose::Gemma),
                ..tags(&["<|tool_call>"], "<tool_call|>")
            },
            Self::Lfm => Marks {
                body: Body::Loose(Loose::Python),
                ..tags(&["<|tool_call_start|>"], "<|tool_call_end|>")
            },
            Self::Olmo => Marks {
                body: Body::Loose(Loose::Python),
                ..tags(&["<function_calls>"], "</function_calls>")
            },
            Self::Nemotron => tags(&["<TOOLCALL>"], "</TOOLCALL>"),
            Self::ToolCalls => tags(&["<tool_calls>"], "</tool_calls>"),
            Self::Granite => tags(&["<|tool_call|>"], "<|/tool_call|>"),
            Self::Cohere => tags(&["<|START_ACTION|>"], "<|END_ACTION|>"),
            Self::GigaChat => tags(&["<|function_call|>"], ""),
            Self::InternLm => Marks {
                inner: &["<|plugin|>"],
                ..tags(&["<|action_start|><|plugin|>"], "<|action_end|>")
            },
            Self::Firefunction => tags(&["functools"], ""),
            Self::Apertus => {
                Marks { body: Body::JsonByName, ..tags(&["<|tools_prefix|>"], "<|tools_suffix|>") }
            }
            _ => NO_MARKS,
        }
    }

    /// All texts that a tokenizer must show for calls to be seen.
    pub fn shown(self) -> Vec<&'static str> {
        let marks = self.marks();
        // A mark of two control tokens is shown as both.
        let parts = |mark: &'static str| mark.split_inclusive("|>");
        let outer = marks.open.iter().copied().chain([marks.close]).flat_map(parts);
        outer
            .chain(marks.open.iter().copied())
            .chain([marks.close])
            .chain(marks.inner.iter().chain(marks.noise).copied())
            .filter(|text| !text.is_empty())
            .collect()
    }
}

const fn tags(open: &'static [&'static str], close: &'static str) -> Marks {
    Marks { open, close, ..NO_MARKS }
}

/// The name before a mark. Prefixes and positions around it are dropped, as in `functions.NAME:0` and
/// `NAME <|constrain|>json`.
fn before<'a>(head: &'a str, mark: &str) -> Option<&'a str> {
    let (head, _) = head.split_once(mark)?;
    let head = head.split(['<', ' ']).next()?.trim();
    let head = head.strip_prefix("functions.").unwrap_or(head);
    head.split(':').next()
}

/// `NAME[ARGS]`, perhaps with `[CALL_ID]…` between; some leave the mark out.
fn mistral_name(head: &str) -> Option<&str> {
    let head = head.split("[ARGS]").next()?;
    Some(head.split("[CALL_ID]").next()?.trim())
}

/// `NAME<｜tool▁sep｜>`, or the older form with a word before and a fence behind.
fn deepseek_name(head: &str) -> Option<&str> {
    let (head, rest) = head.split_once("<｜tool▁sep｜>")?;
    let name = rest.split("```").next()?.trim();
    Some(if name.is_empty() { head.trim() } else { name })
}

fn solar_name(head: &str) -> Option<&str> {
    let (_, rest) = head.split_once("<|tool_call:name|>")?;
    rest.split("<|tool_call:args|>").next().map(str::trim)
}
