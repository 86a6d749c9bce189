//! JSON that comes in pieces: is it well formed so far, and where does a value end?

/// Deepest nesting of a call's arguments.
const DEPTH_MAX: usize = 256;

/// What stands next in a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Value,
    /// A value or the end of the list.
    ValueOrEnd,
    /// A key or the end of the object.
    KeyOrEnd,
    Key,
    Colon,
    /// A comma or the end of what holds the value.
    CommaOrEnd,
    /// The rest of a string, which may be a key.
    Text {
        is_key: bool,
    },
    /// Behind a backslash.
    Escape {
        is_key: bool,
    },
    /// Digits of `\u`.
    Hex {
        is_key: bool,
        left: u8,
    },
    /// The rest of a number or a word.
    Word,
    Done,
}

/// Follows one object or list, character by character.
#[derive(Debug)]
pub(super) struct JsonValue {
    /// True for an object.
    open: Vec<bool>,
    next: Next,
    word: String,
}

/// It is not JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotJson;

impl JsonValue {
    pub(super) fn new() -> Self {
        Self { open: Vec::new(), next: Next::Value, word: String::new() }
    }

    /// Takes a character; whether the value is complete with it.
    pub(super) fn push(&mut self, c: char) -> Result<bool, NotJson> {
        self.next = match self.next {
            Next::Text { is_key } => match c {
                '"' if is_key => Next::Colon,
                '"' => self.after_value(),
                '\\' => Next::Escape { is_key },
                c if c < ' ' => return Err(NotJson),
                _ => Next::Text { is_key },
            },
            Next::Escape { is_key } => match c {
                'u' => Next::Hex { is_key, left: 4 },
                '"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't' => Next::Text { is_key },
                _ => return Err(NotJson),
            },
            Next::Hex { is_key, left } if c.is_ascii_hexdigit() => match left {
                1 => Next::Text { is_key },
                left => Next::Hex { is_key, left: left - 1 },
            },
            Next::Hex { .. } => return Err(NotJson),
            Next::Word if matches!(c, '0'..='9' | 'a'..='z' | 'E' | '+' | '-' | '.') => {
                self.word.push(c);
                Next::Word
            }
            Next::Word => {
                let word: Result<serde_json::Value, _> = serde_json::from_str(&self.word);
                if word.is_err() {
                    return Err(NotJson);
                }
                self.word.clear();
                self.next = self.after_value();
                return self.push(c);
            }
            next if matches!(c, ' ' | '\n' | '\r' | '\t') => next,
            next => self.mark(next, c)?,
        };
        Ok(self.next == Next::Done)
    }

    /// Whether all that has come is complete: the ends of what is open make it whole.
    pub(super) fn may_close(&self) -> bool {
        matches!(self.next, Next::ValueOrEnd | Next::KeyOrEnd | Next::CommaOrEnd | Next::Done)
    }

    /// The ends of what is open.
    pub(super) fn closers(&self) -> String {
        self.open.iter().rev().map(|is_object| if *is_object { '}' } else { ']' }).collect()
    }

    /// Takes what is no text and no blank.
    fn mark(&mut self, next: Next, c: char) -> Result<Next, NotJson> {
        Ok(match (next, c) {
            (Next::ValueOrEnd, ']') | (Next::KeyOrEnd, '}') => self.close(),
            (Next::CommaOrEnd, '}') if self.open.last() == Some(&true) => self.close(),
            (Next::CommaOrEnd, ']') if self.open.last() == Some(&false) => self.close(),
            (Next::CommaOrEnd, ',') if self.open.last() == Some(&true) => Next::Key,
            (Next::CommaOrEnd, ',') => Next::Value,
            (Next::Colon, ':') => Next::Value,
            (Next::Key | Next::KeyOrEnd, '"') => Next::Text { is_key: true },
            (Next::Value | Next::ValueOrEnd, _) => self.begin(c)?,
            _ => return Err(NotJson),
        })
    }

    fn begin(&mut self, c: char) -> Result<Next, NotJson> {
        if matches!(c, '{' | '[') {
            self.open.push(c == '{');
            let is_deep = self.open.len() > DEPTH_MAX;
            let next = if c == '{' { Next::KeyOrEnd } else { Next::ValueOrEnd };
            return if is_deep { Err(NotJson) } else { Ok(next) };
        }
        match c {
            '"' => Ok(Next::Text { is_key: false }),
            // Where a number at the very top ends, only what follows could tell.
            '0'..='9' | '-' | 'a'..='z' if !self.open.is_empty() => {
                self.word.push(c);
                Ok(Next::Word)
            }
            _ => Err(NotJson),
        }
    }

    fn close(&mut self) -> Next {
        self.open.pop();
        self.after_value()
    }

    fn after_value(&self) -> Next {
        if self.open.is_empty() { Next::Done } else { Next::CommaOrEnd }
    }

    /// Whether what comes next is within a string.
    pub(super) fn in_text(&self) -> bool {
        matches!(self.next, Next::Text { .. } | Next::Escape { .. } | Next::Hex { .. })
    }
}

/// Text as it stands within a JSON string.
pub(super) fn escaped(text: &str) -> String {
    let quoted = serde_json::to_string(text).unwrap_or_default();
    quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default().to_owned()
}

/// The text if it is a JSON object, `{}` if there is none.
pub(super) fn as_object(text: &str) -> Option<String> {
    let text = text.trim();
    let text = if text.is_empty() { "{}" } else { text };
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    value.is_object().then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bytes of the value at the start of the text; `None` if it is not complete.
    fn value_len(text: &str) -> Result<Option<usize>, NotJson> {
        let mut value = JsonValue::new();
        for (at, c) in text.char_indices() {
            if value.push(c)? {
                return Ok(Some(at + c.len_utf8()));
            }
        }
        Ok(None)
    }

    #[test]
    fn ends_are_found() {
        for (text, end) in [
            ("{} x", Ok(Some(2))),
            (r#"{"a": [1, -2.5e3, "}\"\u00e9", {"b": null}], "c": true }, 1"#, Ok(Some(56))),
            ("{\"a\": 1", Ok(None)),
            ("{\"a\" 1}", Err(NotJson)),
            ("{\"a\": 01}", Err(NotJson)),
            ("{\"a\": nil}", Err(NotJson)),
            ("{\"a\": 1,}", Err(NotJson)),
            ("[1 2]", Err(NotJson)),
            ("{\"a\": \"\n\"}", Err(NotJson)),
            ("{]", Err(NotJson)),
        ] {
            assert_eq!(value_len(text), end, "{text}");
        }
        assert_eq!(value_len(&"[".repeat(300)), Err(NotJson));
        assert_eq!(escaped("a\"\n"), "a\\\"\\n");
    }

    proptest! {
        #[test]
        fn agrees_with_serde(text in r#"[\[{][\[\]{},:"\\ n1a-]{0,8}[\]}]"#) {
            let is_json = serde_json::from_str::<serde_json::Value>(&text).is_ok();
            let is_whole = value_len(&text) == Ok(Some(text.len()));
            prop_assert_eq!(is_json, is_whole, "{}", text);
        }
    }
}
