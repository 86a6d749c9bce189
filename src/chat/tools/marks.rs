//! What a notation of tool calls is made of: the marks that a reader looks for, and the pieces that a
//! grammar writes.

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

/// No more than what opens and closes a call.
pub(super) const fn tags(open: &'static [&'static str], close: &'static str) -> Marks {
    Marks { open, close, ..NO_MARKS }
}

/// The pieces around names and arguments; texts that are control tokens stand alone.
pub(super) struct Form {
    /// Before all calls and after them.
    pub(super) outer: (&'static [&'static str], &'static [&'static str]),
    /// `outer` is announced once, whatever the number of calls.
    pub(super) is_list: bool,
    /// What announces a call.
    pub(super) marker: &'static [&'static str],
    pub(super) before_name: &'static [&'static str],
    pub(super) before_arguments: &'static [&'static str],
    pub(super) after_arguments: &'static [&'static str],
    pub(super) between_calls: Between,
}

/// What stands between calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Between {
    Text(&'static str),
    /// One call is all that an answer can hold.
    Never,
}

/// Each call between marks of its own.
pub(super) const fn marked(
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
pub(super) const fn list(before: &'static [&'static str], after: &'static [&'static str]) -> Form {
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
pub(super) const fn headed(
    marker: &'static [&'static str],
    before_arguments: &'static [&'static str],
    after_arguments: &'static [&'static str],
) -> Form {
    Form { before_name: &[], before_arguments, ..marked(marker, after_arguments, "") }
}
