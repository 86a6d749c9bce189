//! The filter `indent` as Jinja2 has it: a final line break stays.

use minijinja::value::{Kwargs, Value};
use minijinja::{Error, ErrorKind};

/// Widest indentation; templates use up to 8.
const MAX_WIDTH: usize = 256;

/// `indent(text, width=4, first=False, blank=False)`; `width` is a number of spaces or a text.
pub(super) fn indent(
    text: &str,
    width: Option<Value>,
    first: Option<bool>,
    blank: Option<bool>,
    options: Kwargs,
) -> Result<String, Error> {
    let width = match width {
        Some(width) => Some(width),
        None => options.get("width")?,
    };
    let first = match first {
        Some(first) => first,
        None => options.get::<Option<bool>>("first")?.unwrap_or(false),
    };
    let blank = match blank {
        Some(blank) => blank,
        None => options.get::<Option<bool>>("blank")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    let indentation = match width.filter(|width| !width.is_undefined()) {
        None => " ".repeat(4),
        Some(width) => match (width.as_str(), usize::try_from(width.clone())) {
            (Some(text), _) => text.to_owned(),
            (None, Ok(width)) if width <= MAX_WIDTH => " ".repeat(width),
            _ => {
                let problem = format!("indent: the width must be a text or up to {MAX_WIDTH}");
                return Err(Error::new(ErrorKind::InvalidOperation, problem));
            }
        },
    };
    let mut out = String::with_capacity(text.len() * 2);
    for (i, line) in lines(text).into_iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        let is_indented = if i == 0 { first } else { blank || !line.is_empty() };
        if is_indented {
            out.push_str(&indentation);
        }
        out.push_str(line);
    }
    Ok(out)
}

/// Lines by every break that Python's `splitlines` knows; behind a final break comes an empty line.
fn lines(text: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_break) {
        let (line, tail) = rest.split_at(at);
        lines.push(line);
        let len = if tail.starts_with("\r\n") {
            2
        } else {
            tail.chars().next().map_or(0, char::len_utf8)
        };
        rest = &tail[len..];
    }
    lines.push(rest);
    lines
}

fn is_break(c: char) -> bool {
    matches!(
        c,
        '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The results are those of Jinja2 3.1.
    #[test]
    fn lines_are_indented_as_in_python() {
        let mut env = minijinja::Environment::new();
        env.add_filter("indent", indent);
        for (expression, expected) in [
            (r#"{{ "a\nb\n"|indent }}"#, "a\n    b\n"),
            (r#"{{ "a\n\nb"|indent(2) }}"#, "a\n\n  b"),
            (r#"{{ "a\n\nb\n"|indent(2, true, true) }}"#, "  a\n  \n  b\n  "),
            (r#"{{ "a\nb"|indent(width="> ", first=true) }}"#, "> a\n> b"),
            (r#"{{ "\n"|indent(first=true) }}"#, "    \n"),
            (r#"{{ "a\r\nb"|indent(1) }}"#, "a\n b"),
            (r#"{{ ""|indent }}"#, ""),
        ] {
            assert_eq!(env.render_str(expression, ()).unwrap(), expected, "{expression}");
        }
        assert!(env.render_str("{{ 'a'|indent(9999999) }}", ()).is_err());
    }
}
