//! Objects whose JSON text broke off.

use serde_json::{Map, Value};

use super::json_pieces::JsonValue;

/// The object that `text` is or begins: what is complete of it, and texts as far as they came. A
/// number or word at the end is left out, as the rest might have changed it. Empty if it begins none.
pub(crate) fn object(text: &str) -> Map<String, Value> {
    if let Ok(object) = serde_json::from_str(text) {
        return object;
    }
    let (mut follower, mut stable, mut end) = (JsonValue::new(), 0, 0);
    for (at, c) in text.char_indices() {
        match follower.push(c) {
            Ok(_) => end = at + c.len_utf8(),
            Err(_) => break,
        }
        // What a comma ends is complete, as no number is before it.
        if follower.may_close() {
            stable = end;
        } else if c == ',' && !follower.in_text() {
            stable = at;
        }
    }
    let read = &text[..end];
    // An escape that is cut, or half of a pair, is no character.
    let mut ends = vec![end];
    let escapes = read.rmatch_indices('\\').map(|(at, _)| at).take(3);
    ends.extend(escapes.filter(|at| end - at <= 12));
    let in_text = if follower.in_text() { ends } else { Vec::new() };
    let texts = in_text.into_iter().map(|end| format!("{}\"{}", &text[..end], follower.closers()));
    let whole = std::iter::once(closed(&text[..stable]));
    let read = |text: String| serde_json::from_str(&text).ok();
    texts.chain(whole).find_map(read).unwrap_or_default()
}

/// `text`, whose last value is complete, with the ends of what is open.
fn closed(text: &str) -> String {
    let mut follower = JsonValue::new();
    let is_json = text.chars().all(|c| follower.push(c).is_ok());
    if is_json { format!("{text}{}", follower.closers()) } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_came_of_an_object_is_kept() {
        for (text, expected) in [
            ("", json!({})),
            ("{", json!({})),
            ("{\"a", json!({})),
            ("{\"a\"", json!({})),
            ("{\"a\": ", json!({})),
            ("{\"a\": \"x", json!({"a": "x"})),
            ("{\"a\": \"x\\", json!({"a": "x"})),
            ("{\"a\": \"x\\\\", json!({"a": "x\\"})),
            ("{\"a\": \"x\\u00", json!({"a": "x"})),
            ("{\"a\": \"x\\ud83d", json!({"a": "x"})),
            ("{\"a\": \"x\\ud83d\\ude", json!({"a": "x"})),
            ("{\"a\": \"x\\u00e9", json!({"a": "xé"})),
            ("{\"a\": 1, \"b\": 12", json!({"a": 1})),
            ("{\"a\": tr", json!({})),
            ("{\"a\": [1, {\"b\": \"c\"}, ", json!({"a": [1, {"b": "c"}]})),
            ("{\"a\": [1, {\"b\": \"c", json!({"a": [1, {"b": "c"}]})),
            ("{\"a\": 1,", json!({"a": 1})),
            ("{\"a\": 1, \"b\": }", json!({"a": 1})),
            ("{\"a\": 1}", json!({"a": 1})),
            ("[1]", json!({})),
            ("nope", json!({})),
        ] {
            assert_eq!(Value::Object(object(text)), expected, "{text}");
        }
    }
}
