//! `docs/compatibility.md` against the generated document and the running server.

use std::{collections::BTreeSet, path::Path};

use kolosal_server::server::{Parameter, openapi_json, parameters};
use serde_json::{Value, json};

use super::harness::Server;

/// Path, parameter, status, remark.
fn table() -> Vec<[String; 4]> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/compatibility.md");
    let text = std::fs::read_to_string(file).expect("the table");
    let mut path = String::new();
    let mut rows = Vec::new();
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            heading.strip_prefix("POST ").unwrap_or_default().clone_into(&mut path);
        }
        let Some(row) = line.strip_prefix("| `").filter(|_| !path.is_empty()) else { continue };
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let name = cells[0].trim_end_matches('`').to_owned();
        rows.push([path.clone(), name, cells[1].to_owned(), cells[2].to_owned()]);
    }
    rows
}

#[test]
fn every_parameter_is_in_the_table() {
    let document: Value = serde_json::from_str(openapi_json()).expect("JSON");
    let rows = table();
    let paths: BTreeSet<_> = rows.iter().map(|[path, ..]| path.as_str()).collect();
    let expected = [
        "/api/chat",
        "/api/embed",
        "/api/embeddings",
        "/api/generate",
        "/api/pull",
        "/completion",
        "/embedding",
        "/infill",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/inference/chat/completions",
        "/v1/inference/completions",
        "/v1/messages",
        "/v1/rerank",
        "/v1/responses",
        "/v1/score",
    ];
    assert_eq!(paths, BTreeSet::from(expected));
    for path in paths {
        let body = &document["paths"][path]["post"]["requestBody"]["content"]["application/json"];
        let name = body["schema"]["$ref"].as_str().and_then(|name| name.rsplit('/').next());
        let schema = &document["components"]["schemas"][name.expect("a reference")];
        let known: BTreeSet<_> =
            schema["properties"].as_object().expect("fields").keys().map(String::as_str).collect();
        let mut listed = BTreeSet::new();
        let of_path = rows.iter().filter(|row| row[0] == path && !row[1].contains('.'));
        for [_, name, status, remark] in of_path {
            assert!(listed.insert(name.as_str()), "{path} {name} is listed twice");
            match status.as_str() {
                "implemented" => assert!(known.contains(name.as_str()), "{path} {name}"),
                "no effect" => {
                    assert!(known.contains(name.as_str()) && !remark.is_empty(), "{path} {name}");
                }
                status => {
                    let is_known = ["refused", "ignored"].contains(&status);
                    assert!(is_known && !remark.is_empty(), "{path} {name}");
                }
            }
        }
        let missing: Vec<_> = known.difference(&listed).collect();
        assert!(missing.is_empty(), "{path}: {missing:?} are not in docs/compatibility.md");
    }
}

/// The table's rows say what the code says; with `KOLOSAL_TEST_UPDATE` they are made to.
#[test]
fn rows_are_those_of_the_code() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/compatibility.md");
    let text = std::fs::read_to_string(&file).expect("the table");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for Parameter { route, name, status, remark } in parameters() {
        let row = format!("| `{name}` | {status} | {remark} |").replace("|  |", "| |");
        let section = lines.iter().position(|line| *line == format!("## POST {route}"));
        let section = section.unwrap_or_else(|| panic!("{route} has no section"));
        let end = lines[section + 1..].iter().position(|line| line.starts_with("## "));
        let end = end.map_or(lines.len(), |end| section + 1 + end);
        let is_it = |line: &String| line.starts_with(&format!("| `{name}` |"));
        match lines[section..end].iter().position(is_it) {
            Some(at) => lines[section + at] = row,
            None => {
                let table = &lines[section..end];
                let last = table.iter().rposition(|line| line.starts_with('|')).expect("a table");
                lines.insert(section + last + 1, row);
            }
        }
    }
    let made = lines.join("\n") + "\n";
    if std::env::var_os("KOLOSAL_TEST_UPDATE").is_some() {
        std::fs::write(&file, &made).expect("written");
    }
    assert!(text == made, "docs/compatibility.md differs from the code; set KOLOSAL_TEST_UPDATE");
}

#[tokio::test]
async fn what_is_refused_is_refused_by_name_and_what_is_ignored_is_told() {
    let server = Server::new();
    server.load("e").await;
    let rows = table().into_iter();
    for [path, name, status, ..] in rows.filter(|row| ["refused", "ignored"].contains(&&*row[2])) {
        let mut body = match path.as_str() {
            "/v1/completions" | "/v1/inference/completions" | "/api/generate" => {
                json!({"model": "e", "prompt": "a"})
            }
            "/v1/responses" | "/api/embed" => json!({"model": "e", "input": "a"}),
            "/api/pull" => json!({"model": "e"}),
            "/infill" => json!({"model": "e", "input_prefix": "a", "input_suffix": "b"}),
            "/completion" => json!({"prompt": "a"}),
            "/embedding" => json!({"content": "a"}),
            "/v1/score" => json!({"text_1": "a", "text_2": "b"}),
            "/v1/rerank" => json!({"model": "e", "query": "a", "documents": ["a"]}),
            _ => json!({"model": "e", "messages": [{"role": "user", "content": "a"}]}),
        };
        if path == "/v1/messages" {
            body["max_tokens"] = 1.into();
        }
        // A value of the type that the parameter has, where this server knows it.
        let (outer, inner) = name.split_once('.').unwrap_or((&name, ""));
        if !inner.is_empty() {
            body[outer] = json!({ inner: true });
            body["stream"] = true.into();
        }
        let value = match name.as_str() {
            "store" | "background" | "truncate" | "insecure" => true.into(),
            "seqId" => 1.into(),
            "images" => json!(["x"]),
            "context" => json!([1]),
            "embd_normalize" => 3.into(),
            "n_indent" | "n_probs" | "prompt_logprobs" => 1.into(),
            "post_sampling_probs" => true.into(),
            _ => "x".into(),
        };
        if inner.is_empty() {
            body[outer] = value;
        }
        let reply = server.post(&path, body.to_string()).await;
        if status == "ignored" {
            let told = reply.header("x-kolosal-ignored").unwrap_or_default();
            assert!(reply.status == 200 && told.contains(&name), "{path} {name}: {}", reply.text);
            continue;
        }
        assert!(reply.status == 400 && reply.text.contains(&name), "{path} {name}: {}", reply.text);
    }
}
