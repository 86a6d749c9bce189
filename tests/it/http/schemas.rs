//! Random JSON schemas, and a check of documents against them.

use serde_json::{Map, Value, json};

/// A generator that repeats itself for the same seed.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
        (self.0 >> 33) % end
    }
}

/// A schema of an object whose documents are short.
pub(super) fn object(dice: &mut Dice, depth: u32) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for i in 0..=dice.below(3) {
        let name = format!("k{i}");
        properties.insert(name.clone(), schema(dice, depth));
        if dice.below(3) > 0 {
            required.push(name);
        }
    }
    json!({
        "type": "object", "properties": properties, "required": required,
        "additionalProperties": false,
    })
}

fn schema(dice: &mut Dice, depth: u32) -> Value {
    let kinds = if depth == 0 { 9 } else { 13 };
    match dice.below(kinds) {
        0 => json!({"type": "string", "minLength": dice.below(3), "maxLength": 3 + dice.below(4)}),
        1 => json!({"type": "integer", "minimum": -5, "maximum": dice.below(300)}),
        2 => {
            json!({"type": "number", "minimum": 0, "maximum": 1 + dice.below(9), "multipleOf": 0.5})
        }
        3 => json!({"type": "boolean"}),
        4 => json!({"type": "null"}),
        5 => json!({"enum": ["red", 7, null, true, {"a": [1]}]}),
        6 => json!({"const": {"x": "y\"z", "n": [1, 2]}}),
        7 => json!({"type": "string", "pattern": "^[a-f]{2,4}-[0-9]$"}),
        8 => json!({"type": ["string", "null"], "maxLength": 4}),
        9 => json!({
            "type": "array", "items": schema(dice, depth - 1),
            "minItems": dice.below(2), "maxItems": 1 + dice.below(3),
        }),
        10 => json!({"anyOf": [schema(dice, depth - 1), {"type": "boolean"}]}),
        11 => json!({
            "type": "array", "prefixItems": [schema(dice, depth - 1), {"type": "null"}],
            "items": false, "minItems": 2,
        }),
        _ => object(dice, depth - 1),
    }
}

/// Whether a document follows a schema of the kinds above, and of references in `root`.
pub(super) fn is_valid(schema: &Value, document: &Value, root: &Value) -> bool {
    let Some(schema) = schema.as_object() else { return schema == true };
    schema.iter().all(|(keyword, rule)| follows(keyword, rule, schema, document, root))
}

fn follows(
    keyword: &str,
    rule: &Value,
    schema: &Map<String, Value>,
    document: &Value,
    root: &Value,
) -> bool {
    let number = |limit: &Value| document.as_f64().zip(limit.as_f64());
    let len = |limit: &Value| {
        let len = document.as_str().map(|text| text.chars().count());
        let len = len.or(document.as_array().map(Vec::len));
        len.map(|len| len as u64).zip(limit.as_u64())
    };
    match keyword {
        "type" => match rule.as_array() {
            Some(kinds) => kinds.iter().any(|kind| is_a(kind, document)),
            None => is_a(rule, document),
        },
        "enum" => rule.as_array().unwrap().contains(document),
        "const" => rule == document,
        "minimum" => number(rule).is_none_or(|(value, limit)| value >= limit),
        "maximum" => number(rule).is_none_or(|(value, limit)| value <= limit),
        "multipleOf" => number(rule).is_none_or(|(value, step)| (value / step).fract() == 0.0),
        "minLength" | "minItems" => len(rule).is_none_or(|(len, limit)| len >= limit),
        "maxLength" | "maxItems" => len(rule).is_none_or(|(len, limit)| len <= limit),
        "pattern" => document.as_str().is_none_or(is_code),
        "anyOf" => rule.as_array().unwrap().iter().any(|rule| is_valid(rule, document, root)),
        "$ref" => {
            let path = rule.as_str().unwrap().trim_start_matches('#');
            is_valid(root.pointer(path).unwrap(), document, root)
        }
        "items" => {
            let fixed = schema.get("prefixItems").and_then(Value::as_array).map_or(0, Vec::len);
            let items = document.as_array().map(Vec::as_slice).unwrap_or_default();
            items.iter().skip(fixed).all(|item| is_valid(rule, item, root))
        }
        "prefixItems" => {
            let items = document.as_array().map(Vec::as_slice).unwrap_or_default();
            let rules = rule.as_array().unwrap();
            items.iter().zip(rules).all(|(item, rule)| is_valid(rule, item, root))
        }
        "properties" => {
            rule.as_object().unwrap().iter().all(|(name, rule)| {
                document.get(name).is_none_or(|value| is_valid(rule, value, root))
            })
        }
        "required" => rule.as_array().unwrap().iter().all(|name| {
            document.as_object().is_none_or(|object| object.contains_key(name.as_str().unwrap()))
        }),
        "additionalProperties" => document.as_object().is_none_or(|object| {
            object.keys().all(|name| schema["properties"].get(name).is_some())
        }),
        "$defs" | "description" | "title" => true,
        other => panic!("the check does not know {other}"),
    }
}

fn is_a(kind: &Value, document: &Value) -> bool {
    match kind.as_str().unwrap() {
        "string" => document.is_string(),
        "integer" => document.as_f64().is_some_and(|number| number.fract() == 0.0),
        "number" => document.is_number(),
        "boolean" => document.is_boolean(),
        "null" => document.is_null(),
        "array" => document.is_array(),
        "object" => document.is_object(),
        other => panic!("no type is called {other}"),
    }
}

/// `^[a-f]{2,4}-[0-9]$`
fn is_code(text: &str) -> bool {
    text.split_once('-').is_some_and(|(letters, digit)| {
        (2..=4).contains(&letters.len())
            && letters.bytes().all(|byte| matches!(byte, b'a'..=b'f'))
            && digit.len() == 1
            && digit.bytes().all(|byte| byte.is_ascii_digit())
    })
}
