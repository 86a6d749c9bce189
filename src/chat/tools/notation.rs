//! The table of tool formats: by what a template shows that it teaches one, what a reader looks for, and
//! what a grammar writes.

use super::format::ToolFormat;
use super::marks::{Between, Body, Form, Loose, Marks, Pairs, headed, list, marked, tags};

/// One format.
struct Notation {
    format: ToolFormat,
    /// A template that holds one of these teaches it; the first row that is taught counts.
    taught_by: &'static [&'static str],
    /// The same where no row is taught.
    hinted_by: &'static [&'static str],
    read: Marks,
    /// Formats whose arguments are not JSON are asked for the JSON form, which their reader takes too.
    write: Form,
}

/// The most telling first.
static NOTATIONS: &[Notation] = &[
    Notation {
        format: ToolFormat::Harmony,
        taught_by: &["<|channel|>"],
        hinted_by: &[],
        read: Marks {
            inner: &["<|channel|>", "<|message|>", "<|constrain|>", "<|start|>"],
            body: Body::Headed(|head| before(head, "<|message|>")),
            ..tags(&["<|channel|>commentary to=functions.", " to=functions."], "<|call|>")
        },
        write: Form {
            // What ends the call ends the answer.
            between_calls: Between::Never,
            ..headed(
                &["<|channel|>", "commentary to=functions."],
                &[" ", "<|constrain|>", "json", "<|message|>"],
                &[],
            )
        },
    },
    Notation {
        format: ToolFormat::Dsml,
        taught_by: &["｜DSML｜"],
        hinted_by: &[],
        read: Marks {
            body: Body::Pairs(&DSML),
            inner: &["｜DSML｜"],
            ..tags(&["<｜DSML｜tool_calls>"], "</｜DSML｜tool_calls>")
        },
        write: marked(
            &["<", "｜DSML｜", "tool_calls>"],
            &["}\n", "</", "｜DSML｜", "tool_calls>"],
            "\n",
        ),
    },
    Notation {
        format: ToolFormat::DeepSeek,
        taught_by: &["<｜tool▁call▁begin｜>"],
        hinted_by: &[],
        read: Marks {
            noise: &["<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"],
            inner: &["<｜tool▁sep｜>"],
            body: Body::Headed(deepseek_name),
            ..tags(&["<｜tool▁call▁begin｜>"], "<｜tool▁call▁end｜>")
        },
        write: Form {
            outer: (&["<｜tool▁calls▁begin｜>"], &["<｜tool▁calls▁end｜>"]),
            ..headed(&["<｜tool▁call▁begin｜>"], &["<｜tool▁sep｜>"], &["<｜tool▁call▁end｜>"])
        },
    },
    Notation {
        format: ToolFormat::Kimi,
        taught_by: &["<|tool_call_begin|>"],
        hinted_by: &[],
        read: Marks {
            noise: &["<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"],
            inner: &["<|tool_call_argument_begin|>"],
            body: Body::Headed(|head| before(head, "<|tool_call_argument_begin|>")),
            ..tags(&["<|tool_call_begin|>"], "<|tool_call_end|>")
        },
        write: Form {
            outer: (&["<|tool_calls_section_begin|>"], &["<|tool_calls_section_end|>"]),
            before_name: &["functions."],
            ..headed(
                &["<|tool_call_begin|>"],
                &[":0", "<|tool_call_argument_begin|>"],
                &["<|tool_call_end|>"],
            )
        },
    },
    Notation {
        format: ToolFormat::Solar,
        taught_by: &["<|tool_call:begin|>"],
        hinted_by: &[],
        read: Marks {
            noise: &["<|tool_calls|>", "<|calls|>"],
            inner: &["<|tool_call:name|>", "<|tool_call:args|>"],
            body: Body::Headed(solar_name),
            ..tags(&["<|tool_call:begin|>"], "<|tool_call:end|>")
        },
        write: Form {
            outer: (&["<|tool_calls|>"], &[]),
            before_name: &["call000000", "<|tool_call:name|>"],
            ..headed(&["<|tool_call:begin|>"], &["<|tool_call:args|>"], &["<|tool_call:end|>"])
        },
    },
    Notation {
        format: ToolFormat::Lfm,
        taught_by: &["<|tool_call_start|>"],
        hinted_by: &[],
        read: Marks {
            body: Body::Loose(Loose::Python),
            ..tags(&["<|tool_call_start|>"], "<|tool_call_end|>")
        },
        write: list(&["<|tool_call_start|>", "["], &["]", "<|tool_call_end|>"]),
    },
    Notation {
        format: ToolFormat::Gemma,
        taught_by: &["<|tool_call>"],
        hinted_by: &[],
        read: Marks {
            inner: &["<|\"|>"],
            body: Body::Loose(Loose::Gemma),
            ..tags(&["<|tool_call>"], "<tool_call|>")
        },
        write: Form {
            before_name: &["{\"name\": \""],
            ..marked(&["<|tool_call>"], &["}", "<tool_call|>"], "")
        },
    },
    Notation {
        format: ToolFormat::Granite,
        taught_by: &["<|tool_call|>"],
        hinted_by: &[],
        read: tags(&["<|tool_call|>"], "<|/tool_call|>"),
        write: list(&["<|tool_call|>", "["], &["]"]),
    },
    Notation {
        format: ToolFormat::Cohere,
        taught_by: &["<|START_ACTION|>"],
        hinted_by: &[],
        read: tags(&["<|START_ACTION|>"], "<|END_ACTION|>"),
        write: Form {
            before_name: &["{\"tool_name\": \""],
            before_arguments: &["\", \"parameters\": "],
            ..list(&["<|START_ACTION|>", "["], &["]", "<|END_ACTION|>"])
        },
    },
    Notation {
        format: ToolFormat::GigaChat,
        taught_by: &["<|function_call|>"],
        hinted_by: &[],
        read: tags(&["<|function_call|>"], ""),
        write: Form {
            before_name: &["{\"name\": \""],
            between_calls: Between::Never,
            ..marked(&["<|function_call|>"], &["}"], "")
        },
    },
    Notation {
        format: ToolFormat::InternLm,
        taught_by: &["<|action_start|>"],
        hinted_by: &[],
        read: Marks {
            inner: &["<|plugin|>"],
            ..tags(&["<|action_start|><|plugin|>"], "<|action_end|>")
        },
        write: Form {
            before_arguments: &["\", \"parameters\": "],
            ..marked(&["<|action_start|>", "<|plugin|>"], &["}\n", "<|action_end|>"], "\n")
        },
    },
    Notation {
        format: ToolFormat::Apertus,
        taught_by: &["<|tools_prefix|>"],
        hinted_by: &[],
        read: Marks { body: Body::JsonByName, ..tags(&["<|tools_prefix|>"], "<|tools_suffix|>") },
        write: Form {
            before_name: &["{\""],
            before_arguments: &["\": "],
            ..list(&["<|tools_prefix|>", "["], &["]", "<|tools_suffix|>"])
        },
    },
    Notation {
        format: ToolFormat::KimiK3,
        taught_by: &["open_tag('argument'", "<|open|>argument"],
        hinted_by: &[],
        read: Marks {
            body: Body::Pairs(&KIMI_K3),
            inner: &["<|open|>", "<|sep|>", "<|close|>"],
            ..tags(&["<|open|>tools<|sep|>"], "<|close|>tools<|sep|>")
        },
        write: marked(
            &["<|open|>", "tools", "<|sep|>"],
            &["}\n", "<|close|>", "tools", "<|sep|>"],
            "\n",
        ),
    },
    Notation {
        format: ToolFormat::Mistral,
        taught_by: &["[TOOL_CALLS]"],
        hinted_by: &[],
        read: Marks {
            inner: &["[ARGS]", "[CALL_ID]", "[TOOL_CONTENT]"],
            body: Body::Headed(mistral_name),
            ..tags(&["[TOOL_CALLS]"], "")
        },
        write: list(&["[TOOL_CALLS]", "["], &["]"]),
    },
    Notation {
        format: ToolFormat::MiniMax,
        taught_by: &["minimax:tool_call"],
        hinted_by: &[],
        read: Marks {
            body: Body::Pairs(&MINIMAX),
            ..tags(&["<minimax:tool_call>"], "</minimax:tool_call>")
        },
        write: marked(&["<minimax:tool_call>"], &["}\n", "</minimax:tool_call>"], "\n"),
    },
    Notation {
        format: ToolFormat::Seed,
        taught_by: &["<seed:tool_call>"],
        hinted_by: &[],
        read: Marks {
            body: Body::Pairs(&QWEN_XML),
            ..tags(&["<seed:tool_call>"], "</seed:tool_call>")
        },
        write: marked(&["<seed:tool_call>"], &["}\n", "</seed:tool_call>"], "\n"),
    },
    Notation {
        format: ToolFormat::Nemotron,
        taught_by: &["<TOOLCALL>"],
        hinted_by: &[],
        read: tags(&["<TOOLCALL>"], "</TOOLCALL>"),
        write: list(&["<TOOLCALL>", "["], &["]", "</TOOLCALL>"]),
    },
    Notation {
        format: ToolFormat::Glm,
        taught_by: &["<arg_key>"],
        hinted_by: &[],
        read: Marks {
            body: Body::Pairs(&GLM),
            inner: &["<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"],
            ..tags(&["<tool_call>"], "</tool_call>")
        },
        write: marked(&["<tool_call>"], &["}\n", "</tool_call>"], "\n"),
    },
    Notation {
        format: ToolFormat::QwenXml,
        taught_by: &["<parameter="],
        hinted_by: &[],
        read: Marks { body: Body::Pairs(&QWEN_XML), ..tags(&["<tool_call>"], "</tool_call>") },
        write: marked(&["<tool_call>"], &["}\n", "</tool_call>"], "\n"),
    },
    Notation {
        format: ToolFormat::ToolCalls,
        taught_by: &["<tool_calls>["],
        hinted_by: &["<tool_calls>"],
        read: tags(&["<tool_calls>"], "</tool_calls>"),
        write: list(&["<tool_calls>", "["], &["]", "</tool_calls>"]),
    },
    Notation {
        format: ToolFormat::Hermes,
        taught_by: &["<tool_call>"],
        hinted_by: &[],
        read: tags(&["<tool_call>"], "</tool_call>"),
        write: marked(&["<tool_call>"], &["}\n", "</tool_call>"], "\n"),
    },
    Notation {
        format: ToolFormat::Olmo,
        taught_by: &[],
        hinted_by: &["<function_calls>"],
        read: Marks {
            body: Body::Loose(Loose::Python),
            ..tags(&["<function_calls>"], "</function_calls>")
        },
        write: list(&["<function_calls>", "["], &["]", "</function_calls>"]),
    },
    Notation {
        format: ToolFormat::Firefunction,
        taught_by: &[],
        hinted_by: &["functools["],
        read: tags(&["functools"], ""),
        write: list(&["functools", "["], &["]"]),
    },
    Notation {
        format: ToolFormat::Pythonic,
        taught_by: &[],
        hinted_by: &["[func_name1("],
        read: Marks {
            bare: Some('['),
            body: Body::Loose(Loose::Python),
            ..tags(&["<|python_start|>"], "<|python_end|>")
        },
        write: list(&["["], &["]"]),
    },
    Notation {
        format: ToolFormat::Functionary,
        taught_by: &[],
        hinted_by: &["<function="],
        read: Marks {
            body: Body::Headed(|head| before(head, ">")),
            ..tags(&["<function="], "</function>")
        },
        write: headed(&["<function="], &[">"], &["</function>"]),
    },
    Notation {
        format: ToolFormat::Llama,
        taught_by: &[],
        hinted_by: &["\"parameters\": ", "<|python_tag|>"],
        read: Marks { bare: Some('{'), ..tags(&["<|python_tag|>"], "") },
        write: Form {
            before_arguments: &["\", \"parameters\": "],
            between_calls: Between::Text("; "),
            ..list(&[], &[])
        },
    },
];

impl ToolFormat {
    /// The format that a chat template teaches, Hermes if it teaches none.
    pub fn detect(template: &str) -> Self {
        let shows = |signs: &[&str]| signs.iter().any(|sign| template.contains(sign));
        let taught = NOTATIONS.iter().find(|known| shows(known.taught_by));
        let known = taught.or_else(|| NOTATIONS.iter().find(|known| shows(known.hinted_by)));
        known.map_or(Self::Hermes, |known| known.format)
    }

    /// Whether calls are a mark that nothing else begins with and then JSON in one form, so that a
    /// grammar can follow a call that the model began by itself.
    pub(in crate::chat) fn is_marked_json(self) -> bool {
        use ToolFormat::{Functionary, Granite, Hermes, Nemotron, ToolCalls};
        matches!(self, Hermes | Functionary | Granite | Nemotron | ToolCalls)
    }

    /// How calls of this format are read.
    pub(super) fn marks(self) -> &'static Marks {
        &self.notation().read
    }

    /// How they are written.
    pub(super) fn form(self) -> &'static Form {
        &self.notation().write
    }

    fn notation(self) -> &'static Notation {
        let known = NOTATIONS.iter().find(|known| known.format == self);
        known.expect("every format has a row: this is a bug")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_count_in_their_order() {
        for (template, format) in [
            ("", ToolFormat::Hermes),
            ("<tool_calls>[ <tool_call>", ToolFormat::ToolCalls),
            ("<tool_calls> <tool_call>", ToolFormat::Hermes),
            ("<tool_calls> \"parameters\": ", ToolFormat::ToolCalls),
            ("<tool_call> <parameter=", ToolFormat::QwenXml),
            ("<function= <|python_tag|>", ToolFormat::Functionary),
            ("open_tag('argument'", ToolFormat::KimiK3),
        ] {
            assert_eq!(ToolFormat::detect(template), format, "{template}");
        }
    }
}
