//! What a template may not do to the stack.
//!
//! A namespace outlives the turns of a loop, so a template can put a list into a list as often as it
//! has fuel, or a namespace into itself; printing or merely dropping such a value recurses until the
//! stack ends, which ends the process. Every assignment to a namespace therefore goes through a
//! filter that refuses what is nested deeper than any conversation. Assignments are found in the
//! source: only `{% set a.b = … %}` makes one.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

/// Name of the filter.
pub(super) const FILTER: &str = "_kolosal_bounded";
/// Deepest value in a namespace; messages with tool schemas stay below 20.
const MAX_DEPTH: usize = 64;
/// Values looked at for one unit of fuel.
const VISITS_PER_FUEL: u64 = 8;

/// The value, or an error if it nests too deep or could hold itself.
pub(super) fn bounded(state: &mut State<'_, '_>, value: Value) -> Result<Value, Error> {
    let mut visits = 0;
    let value = plain(&value, 0, &mut visits)?;
    state.consume_fuel(visits / VISITS_PER_FUEL)?;
    Ok(value)
}

fn plain(value: &Value, depth: usize, visits: &mut u64) -> Result<Value, Error> {
    *visits += 1;
    if depth > MAX_DEPTH {
        return Err(refused(format!("nests deeper than {MAX_DEPTH} levels")));
    }
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Result<Vec<Value>, Error> =
                value.try_iter()?.map(|item| plain(&item, depth + 1, visits)).collect();
            // Lazy sequences hold what they are made from, so they are replaced by what they yield.
            let kept = value.downcast_object_ref::<Vec<Value>>().is_some();
            items.map(|items| if kept { value.clone() } else { Value::from(items) })
        }
        ValueKind::Map => {
            if value.as_object().is_some_and(|o| o.type_name().contains("Namespace")) {
                return Err(refused("is a namespace".to_owned()));
            }
            for key in value.try_iter()? {
                plain(&value.get_item(&key)?, depth + 1, visits)?;
            }
            Ok(value.clone())
        }
        ValueKind::Plain => Err(refused("is a function".to_owned())),
        _ => Ok(value.clone()),
    }
}

fn refused(problem: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("a value for a namespace {problem}"))
}

/// `source` with the filter at every assignment to a namespace.
///
/// Every place that could be such a tag is treated as one, even inside strings and comments, so that
/// none can hide.
pub(super) fn with_bounds(source: &str) -> String {
    let mut insertions: Vec<(usize, &str)> = Vec::new();
    let closing = format!(")|{FILTER} ");
    for (at, _) in source.match_indices("{%") {
        if let Some((start, end)) = assigned(source, at + 2) {
            insertions.push((start, "("));
            insertions.push((end, &closing));
        }
    }
    insertions.sort_by_key(|&(at, _)| at);
    let mut out = String::with_capacity(source.len() + insertions.len() * closing.len());
    let mut done = 0;
    for (at, text) in insertions {
        out.push_str(&source[done..at]);
        out.push_str(text);
        done = at;
    }
    out.push_str(&source[done..]);
    out
}

/// Where the expression lies that a `set` tag assigns to a namespace; `at` is after the `{%`.
fn assigned(source: &str, at: usize) -> Option<(usize, usize)> {
    let tag = source[at..].trim_start_matches(['-', '+']).trim_start().strip_prefix("set")?;
    let target = tag.split(['=', '%', '|']).next()?;
    if !target.contains('.') || !tag[target.len()..].starts_with('=') {
        return None;
    }
    let start = source.len() - tag.len() + target.len() + 1;
    let bytes = source.as_bytes();
    let mut quote = None;
    let mut i = start;
    while i < bytes.len() {
        match (quote, bytes[i]) {
            (Some(_), b'\\') => i += 1,
            (Some(open), byte) if byte == open => quote = None,
            (None, byte @ (b'"' | b'\'')) => quote = Some(byte),
            (None, b'%') if bytes.get(i + 1) == Some(&b'}') => {
                let controlled = matches!(bytes[i - 1], b'-' | b'+');
                return Some((start, if controlled { i - 1 } else { i }));
            }
            _ => {}
        }
        i += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_to_namespaces_are_found() {
        let cases = [
            ("{% set a.b = [1] %}", "{% set a.b =( [1] )|_kolosal_bounded %}"),
            ("{%-set a.b='%}'-%}", "{%-set a.b=('%}')|_kolosal_bounded -%}"),
            ("{% set a = b.c %}", "{% set a = b.c %}"),
            ("{% set a.b %}x{% endset %}", "{% set a.b %}x{% endset %}"),
            ("{% set a.b = 'é", "{% set a.b = 'é"),
        ];
        for (source, expected) in cases {
            assert_eq!(with_bounds(source), expected);
        }
    }
}
