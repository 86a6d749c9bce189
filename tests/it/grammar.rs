//! Grammars at work: whatever a drunk sampler picks among the allowed tokens is a valid document.

use std::sync::Arc;

use kolosal_server::chat::Tokenizer;
use kolosal_server::chat::grammar::{Grammar, GrammarCompiler};
use serde_json::{Value, json};

use crate::tiny::Tiny;

fn tokenizer() -> Arc<Tokenizer> {
    Arc::new(Tokenizer::from_gguf(Tiny::default().gguf().metadata()).unwrap())
}

/// Random allowed tokens until the grammar is complete; `None` when `limit` tokens were not enough.
fn walk(
    compiler: &GrammarCompiler,
    tokenizer: &Tokenizer,
    grammar: &Grammar,
    seed: u64,
) -> Option<String> {
    let mut constraint = compiler.compile(grammar).unwrap().constraint();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut mask = vec![0; tokenizer.vocab_size().div_ceil(32)];
    let mut out = Vec::new();
    for _ in 0..400 {
        constraint.mask(&mut mask).unwrap();
        let allowed: Vec<u32> = (0..tokenizer.vocab_size() as u32)
            .filter(|id| mask[*id as usize / 32] >> (id % 32) & 1 == 1)
            .collect();
        assert!(!allowed.is_empty(), "{grammar:?} after {:?}", String::from_utf8_lossy(&out));
        // Ending and closing are likelier than their share, or strings would never end.
        let closing = |id: &&u32| {
            tokenizer.eog().contains(id) || matches!(tokenizer.bytes(**id), b"\"" | b"}" | b"]")
        };
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let pick = match allowed.iter().find(closing) {
            Some(&id) if state >> 62 == 0 => id,
            _ => allowed[(state >> 33) as usize % allowed.len()],
        };
        if tokenizer.eog().contains(&pick) {
            return Some(String::from_utf8(out).unwrap());
        }
        constraint.accept(pick).unwrap();
        out.extend(tokenizer.bytes(pick));
        if constraint.is_finished() {
            return Some(String::from_utf8(out).unwrap());
        }
    }
    None
}

#[test]
fn random_walks_end_in_valid_documents() {
    let tokenizer = tokenizer();
    let compiler = GrammarCompiler::new(tokenizer.clone(), 1 << 20).unwrap();
    let schema = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 8},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3}
        },
        "required": ["name", "age", "tags"],
        "additionalProperties": false
    });
    let mut complete = 0;
    for seed in 0..40 {
        let grammar = Grammar::JsonSchema(schema.clone());
        if let Some(text) = walk(&compiler, &tokenizer, &grammar, seed) {
            let value: Value = serde_json::from_str(&text).unwrap();
            assert!(value["age"].as_u64().unwrap() <= 150, "{text}");
            assert!(value["name"].as_str().unwrap().chars().count() <= 8, "{text}");
            assert!(value["tags"].as_array().unwrap().len() <= 3, "{text}");
            complete += 1;
        }
        if let Some(text) = walk(&compiler, &tokenizer, &Grammar::JsonObject, seed) {
            match serde_json::from_str::<Value>(&text) {
                Ok(value) => assert!(value.is_object(), "{text}"),
                // JSON has numbers that no f64 holds.
                Err(error) => assert!(error.to_string().contains("out of range"), "{text}"),
            }
        }
    }
    assert!(complete > 20, "{complete} of 40 walks came to an end");
}

#[test]
fn texts_follow_regex_choice_lark_and_gbnf() {
    let tokenizer = tokenizer();
    let compiler = GrammarCompiler::new(tokenizer.clone(), 1 << 20).unwrap();
    let gbnf = "root ::= \"<\" word (\"-\" word){1,2} \">\"\nword ::= [a-c]{2,3} | \"x\"";
    for seed in 0..20 {
        let text = walk(&compiler, &tokenizer, &Grammar::Regex("[a-f]{3}-[0-9]+x".into()), seed);
        let text = text.unwrap();
        assert!(text.len() > 5 && text.as_bytes()[3] == b'-' && text.ends_with('x'), "{text}");
        // Forced text whose characters are several tokens each.
        let constant = Grammar::JsonSchema(json!({"const": "üü-日本\u{1f999}"}));
        let text = walk(&compiler, &tokenizer, &constant, seed).unwrap();
        assert_eq!(text, "\"üü-日本\u{1f999}\"");
        let choices = vec!["yes".to_owned(), "no \"way\"".to_owned()];
        let text = walk(&compiler, &tokenizer, &Grammar::Choice(choices.clone()), seed).unwrap();
        assert!(choices.contains(&text), "{text}");
        let lark = Grammar::Lark("start: \"a\" | \"b\" start".to_owned());
        let text = walk(&compiler, &tokenizer, &lark, seed).unwrap();
        assert!(text.trim_start_matches('b') == "a", "{text}");
        let text = walk(&compiler, &tokenizer, &Grammar::Gbnf(gbnf.to_owned()), seed).unwrap();
        let words: Vec<&str> = text.trim_matches(['<', '>']).split('-').collect();
        assert!((2..=3).contains(&words.len()), "{text}");
        assert!(words.iter().all(|word| *word == "x" || (2..=3).contains(&word.len())), "{text}");
    }
}

#[test]
fn long_chains_of_rules_end_no_process() {
    let compiler = GrammarCompiler::new(tokenizer(), 1 << 20).unwrap();
    let chain = |arrow: &str, num: usize| {
        let rule = |i: usize| format!("r{i}{arrow} r{}\n", i + 1);
        (0..num).map(rule).collect::<String>() + &format!("r{num}{arrow} \"a\"\n")
    };
    let gbnf = format!("root ::= r0\n{}", chain(" ::=", 4_900));
    let lark = format!("start: r0\n{}", chain(":", 4_900));
    let mut definitions = serde_json::Map::new();
    for i in 0..2_000 {
        let next = json!({"type": "array", "items": {"$ref": format!("#/$defs/d{}", i + 1)}});
        definitions.insert(format!("d{i}"), next);
    }
    definitions.insert("d2000".to_owned(), json!({"type": "string"}));
    let schema = json!({"$ref": "#/$defs/d0", "$defs": definitions});
    // Compiled or refused, whichever.
    for grammar in [Grammar::Gbnf(gbnf), Grammar::Lark(lark), Grammar::JsonSchema(schema)] {
        let _ = compiler.compile(&grammar);
    }
    let long = Grammar::Lark(format!("start: r0\n{}", chain(":", 6_000)));
    assert!(compiler.compile(&long).unwrap_err().to_string().contains("limit is 5000"));
}

#[test]
fn what_cannot_be_compiled_is_refused_with_a_reason() {
    let compiler = GrammarCompiler::new(tokenizer(), 1 << 20).unwrap();
    let mut deep = json!({"type": "string"});
    for _ in 0..200 {
        deep = json!({"type": "array", "items": deep});
    }
    for (grammar, reason) in [
        (Grammar::JsonSchema(json!({"type": "nonsense"})), "nonsense"),
        (Grammar::JsonSchema(json!({"type": 5})), "type"),
        (Grammar::JsonSchema(json!({"not": {"type": "string"}})), "not"),
        (Grammar::JsonSchema(json!({"$ref": "https://example.com/x.json"})), "ref"),
        (Grammar::JsonSchema(deep), "deep"),
        (Grammar::JsonSchema(json!({"const": "x".repeat(2 << 20)})), "limit"),
        (Grammar::Regex("(a".to_owned()), "regex"),
        (Grammar::Lark("start: missing".to_owned()), "missing"),
        (Grammar::Gbnf("root ::= (".to_owned()), "line 1"),
        (Grammar::Choice(Vec::new()), "empty"),
    ] {
        let error = compiler.compile(&grammar).unwrap_err().to_string();
        assert!(error.to_lowercase().contains(reason), "{reason}: {error}");
    }
}

#[test]
fn what_is_too_large_behind_its_beginning_is_refused() {
    let many: Vec<String> = (0..3000).map(|i| format!("a{i}")).collect();
    let rules: Vec<String> = (0..3000).map(|i| format!("a{i}: \"x{i}\" a{i} | \"y{i}\"")).collect();
    let compiler = GrammarCompiler::new(tokenizer(), 1 << 20).unwrap();
    for start in ["\"Well, \"", "(\"a\" | \"b\")"] {
        let lark = format!("start: {start} ({})\n{}\n", many.join(" | "), rules.join("\n"));
        let error = compiler.compile(&Grammar::Lark(lark)).unwrap_err().to_string();
        assert!(error.contains("items"), "{start}: {error}");
    }
}
