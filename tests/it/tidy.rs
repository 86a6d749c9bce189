//! The house rules that a machine can check: import directions, sizes, words, documentation.
//!
//! A rule that hurts is argued about here, in one place, instead of being bent somewhere in the tree.

mod circles;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Lines of a file, tests included.
const MAX_FILE_LINES: usize = 600;
/// Lines of a file of tests, which is a list of cases.
const MAX_TEST_FILE_LINES: usize = 800;
/// Lines of a function; 70 are wanted.
const MAX_FUNCTION_LINES: usize = 100;

/// Files that are tables: their length is their data's.
const DATA_FILES: &[&str] = &[
    "src/chat/tokenizer/pre_table.rs",
    "src/chat/tokenizer/unicode_table.rs",
    "kernels/src/quant/iq_tables.rs",
];
/// Functions that are one table or one match over a closed list, as `file::function`.
const DATA_FUNCTIONS: &[&str] = &[];

/// Layers from the top down; a module may import those in later rows, itself, and [`BELOW_ALL`].
const LAYERS: &[&[&str]] =
    &[&["main"], &["cli"], &["server"], &["registry"], &["chat", "hub"], &["engine"], &["model"]];
/// Dialects of the server: none imports another.
const DIALECTS: &[&str] = &["anthropic", "native", "ollama", "openai"];
/// Imports between dialects that are left, as `file: dialect`; this list only shrinks.
const LEFT_BETWEEN_DIALECTS: &[&str] = &[];
/// What every layer may import, and what these may import themselves.
const BELOW_ALL: &[(&str, &[&str])] =
    &[("error", &[]), ("config", &["error"]), ("trace", &["config", "error"]), ("shutdown", &[])];
/// Crates that belong to some modules alone.
const PRIVATE_CRATES: &[(&str, &[&str])] = &[
    ("candle_core", &["model"]),
    ("candle_nn", &["model"]),
    ("candle_transformers", &["model"]),
    ("poem", &["server"]),
    ("poem_openapi", &["server"]),
    ("clap", &["cli"]),
    ("minijinja", &["chat"]),
    ("tokenizers", &["chat"]),
];
/// Crates that stay out of the lower floors: below `chat` there is neither text nor JSON.
const KEPT_OUT: &[(&str, &[&str])] = &[("serde_json", &["engine", "model"])];
/// Model files that are themselves JSON.
const JSON_FILES: &str = "src/model/safetensors/";

struct File {
    /// Relative to the repository, with forward slashes.
    name: String,
    text: String,
    /// `text` with the insides of comments, strings and test modules blanked; lines stay in place.
    code: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let skipped =
            name == "target" || name == "Cargo.lock" || name == ".git" || name == "shared";
        if path.is_dir() && !skipped {
            walk(&path, found);
        } else if path.is_file() && !skipped {
            found.push(path);
        }
    }
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/")
}

fn rust_files(folders: &[&str]) -> Vec<File> {
    let mut paths = Vec::new();
    folders.iter().map(|folder| root().join(folder)).filter(|dir| dir.exists()).for_each(|dir| {
        walk(&dir, &mut paths);
    });
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    paths
        .iter()
        .map(|path| {
            let text = std::fs::read_to_string(path).unwrap();
            let code = blank_tests(&blank_text(&text));
            File { name: relative(path), text, code }
        })
        .collect()
}

/// Files that are tests from beginning to end.
fn is_test(name: &str) -> bool {
    name.starts_with("tests/") || name.ends_with("/tests.rs") || name.contains("/tests/")
}

/// Replaces what stands in comments, strings and character literals by spaces.
fn blank_text(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut i = 0;
    while i < bytes.len() {
        let end = match &bytes[i..] {
            [b'/', b'/', ..] => find(bytes, i, b"\n"),
            [b'/', b'*', ..] => end_of_block_comment(bytes, i),
            [b'r', b'"' | b'#', ..] if !is_word(bytes, i) => end_of_raw_string(bytes, i),
            [b'"', ..] => end_of_string(bytes, i),
            [b'\'', b'\\', ..] => find(bytes, i + 3, b"'") + 1,
            [b'\'', _, b'\'', ..] => i + 3,
            _ => i,
        };
        let end = end.clamp(i, bytes.len());
        out[i..end].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
        i = end.max(i + 1);
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn find(bytes: &[u8], from: usize, needle: &[u8]) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    from + rest.windows(needle.len()).position(|window| window == needle).unwrap_or(rest.len())
}

fn is_word(bytes: &[u8], i: usize) -> bool {
    i > 0 && (bytes[i - 1].is_ascii_alphanumeric() || bytes[i - 1] == b'_')
}

fn end_of_block_comment(bytes: &[u8], start: usize) -> usize {
    let mut depth = 0;
    let mut i = start;
    while i < bytes.len() {
        match &bytes[i..] {
            [b'/', b'*', ..] => (depth, i) = (depth + 1, i + 2),
            [b'*', b'/', ..] => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            break;
        }
    }
    i
}

fn end_of_raw_string(bytes: &[u8], start: usize) -> usize {
    let hashes = bytes[start + 1..].iter().take_while(|byte| **byte == b'#').count();
    if bytes.get(start + 1 + hashes) != Some(&b'"') {
        return start;
    }
    let mut close = vec![b'"'];
    close.extend(std::iter::repeat_n(b'#', hashes));
    find(bytes, start + 2 + hashes, &close) + close.len()
}

fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut i = start + 1;
    while i < bytes.len() && bytes[i] != b'"' {
        i += 1 + usize::from(bytes[i] == b'\\');
    }
    i + 1
}

/// Blanks modules and functions under `#[cfg(test)]`.
fn blank_tests(code: &str) -> String {
    let mut out = code.to_owned();
    let mut from = 0;
    while let Some(found) = out[from..].find("#[cfg(test)]") {
        let start = from + found;
        let end = end_of_item(&out, start);
        let blank: String =
            out[start..end].chars().map(|c| if c == '\n' { c } else { ' ' }).collect();
        out.replace_range(start..end, &blank);
        from = start + blank.len();
    }
    out
}

/// The end of the item that begins at `start`: its `;`, or the brace that closes its first one.
fn end_of_item(code: &str, start: usize) -> usize {
    let mut depth = 0_i32;
    let mut brackets = 0_i32;
    for (offset, byte) in code[start..].bytes().enumerate() {
        match byte {
            b'[' | b'(' => brackets += 1,
            b']' | b')' => brackets -= 1,
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if (byte == b'}' && depth == 0) || (byte == b';' && depth == 0 && brackets == 0) {
            return start + offset + 1;
        }
    }
    code.len()
}

/// The words of code, with their byte offsets.
fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let mut from = 0;
    std::iter::from_fn(move || {
        let start = from + code[from..].find(is_part)?;
        let length = code[start..].find(|c| !is_part(c)).unwrap_or(code.len() - start);
        from = start + length;
        Some((start, &code[start..start + length]))
    })
}

fn line_of(code: &str, offset: usize) -> usize {
    code[..offset].matches('\n').count() + 1
}

/// The top-level module of a file under `src/`.
fn module(name: &str) -> &str {
    let rest = name.trim_start_matches("src/");
    rest.split(['/', '.']).next().unwrap()
}

fn may_import(from: &str, to: &str) -> bool {
    let level = |module: &str| LAYERS.iter().position(|row| row.contains(&module));
    if from == to || from == "lib" || from == "main" {
        return true;
    }
    if let Some((_, allowed)) = BELOW_ALL.iter().find(|(name, _)| *name == from) {
        return allowed.contains(&to);
    }
    let is_below_all = BELOW_ALL.iter().any(|(name, _)| *name == to);
    is_below_all || matches!((level(from), level(to)), (Some(from), Some(to)) if from < to)
}

/// Modules of this crate that a file names after `crate::`, groups in braces included.
fn imports(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (start, word) in words(code).filter(|(_, word)| *word == "crate") {
        let rest = &code[start + word.len()..];
        let Some(rest) = rest.strip_prefix("::") else { continue };
        let line = line_of(code, start);
        match rest.strip_prefix('{') {
            None => found.extend(words(rest).next().map(|(_, word)| (line, word.to_owned()))),
            Some(group) => {
                found.extend(group_items(group).into_iter().map(|item| (line, item)));
            }
        }
    }
    found
}

/// First words of the items of `{a::b, c}`, given what follows the brace.
fn group_items(group: &str) -> Vec<String> {
    let mut depth = 0_i32;
    let mut items = vec![String::new()];
    for c in group.chars() {
        match c {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => items.push(String::new()),
            _ => {}
        }
        items.last_mut().unwrap().push(c);
    }
    items.iter().filter_map(|item| words(item).next()).map(|(_, word)| word.to_owned()).collect()
}

/// Fails with a list of what is wrong, one line each.
fn check(rule: &str, violations: &[String]) {
    let list = violations.iter().fold(String::new(), |mut list, violation| {
        let _infallible = write!(list, "\n  {violation}");
        list
    });
    assert!(violations.is_empty(), "{rule}:{list}");
}

#[test]
fn imports_point_downwards() {
    let mut violations = Vec::new();
    let modules: Vec<&str> = LAYERS.iter().flat_map(|row| row.iter().copied()).collect();
    for file in rust_files(&["src"]).iter().filter(|file| !is_test(&file.name)) {
        let from = module(&file.name);
        for (line, to) in imports(&file.code) {
            let known = modules.contains(&to.as_str()) || BELOW_ALL.iter().any(|(n, _)| *n == to);
            if known && !may_import(from, &to) {
                violations.push(format!("{}:{line}: {from} imports {to}", file.name));
            }
        }
    }
    check("imports point downwards only", &violations);
}

/// What several dialects need is at the desk, or in front of it.
#[test]
fn no_dialect_imports_another() {
    let mut violations = Vec::new();
    let mut left = LEFT_BETWEEN_DIALECTS.to_vec();
    for file in rust_files(&["src/server"]).iter().filter(|file| !is_test(&file.name)) {
        let rest = file.name.trim_start_matches("src/server/");
        let Some(here) = DIALECTS.iter().find(|name| rest.starts_with(&format!("{name}/"))) else {
            continue;
        };
        let mut others: Vec<_> = words(&file.code)
            .filter(|(start, word)| {
                let is_path = file.code[start + word.len()..].starts_with("::");
                is_path && word != here && DIALECTS.contains(word)
            })
            .map(|(_, word)| format!("{}: {word}", file.name))
            .collect();
        others.dedup();
        for other in others {
            match left.iter().position(|known| *known == other) {
                Some(at) => _ = left.remove(at),
                None => violations.push(other),
            }
        }
    }
    check("no dialect imports another", &violations);
    assert!(left.is_empty(), "no longer imported, so no longer listed: {left:?}");
}

#[test]
fn crates_stay_in_their_rooms() {
    let mut violations = Vec::new();
    for file in rust_files(&["src"]).iter().filter(|file| !is_test(&file.name)) {
        let here = module(&file.name);
        for (offset, word) in words(&file.code) {
            let private =
                PRIVATE_CRATES.iter().find(|(name, homes)| *name == word && !homes.contains(&here));
            let kept_out =
                KEPT_OUT.iter().find(|(name, rooms)| *name == word && rooms.contains(&here));
            let kept_out = kept_out.filter(|_| !file.name.starts_with(JSON_FILES));
            let is_path = file.code[offset + word.len()..].trim_start().starts_with("::");
            if (private.is_some() || kept_out.is_some()) && is_path {
                let line = line_of(&file.code, offset);
                violations.push(format!("{}:{line}: {word} in {here}", file.name));
            }
        }
    }
    check("a crate is used in its own rooms alone", &violations);
}

#[test]
fn unsafe_code_is_in_kernels() {
    let mut violations = Vec::new();
    for file in rust_files(&["src", "benches"]) {
        for (offset, _) in words(&file.code).filter(|(_, word)| *word == "unsafe") {
            violations.push(format!("{}:{}", file.name, line_of(&file.code, offset)));
        }
    }
    for file in rust_files(&["src", "kernels/src"]) {
        let lines: Vec<&str> = file.text.lines().collect();
        for (offset, _) in words(&file.code).filter(|(_, word)| *word == "unsafe") {
            let is_block = file.code[offset + 6..].trim_start().starts_with('{');
            let line = line_of(&file.code, offset);
            let above = &lines[line.saturating_sub(8)..line];
            if is_block && !above.iter().any(|text| text.contains("SAFETY:")) {
                violations.push(format!("{}:{line}: no SAFETY comment", file.name));
            }
        }
    }
    check("unsafe code has a place and a reason", &violations);
}

#[test]
fn files_are_short() {
    let files = rust_files(&["src", "kernels/src", "tests", "benches"]);
    let too_long = |file: &&File| {
        let limit = if is_test(&file.name) { MAX_TEST_FILE_LINES } else { MAX_FILE_LINES };
        file.text.lines().count() > limit && !DATA_FILES.contains(&file.name.as_str())
    };
    let violations: Vec<String> = files
        .iter()
        .filter(too_long)
        .map(|file| format!("{}: {} lines", file.name, file.text.lines().count()))
        .collect();
    check("a file has at most 600 lines, one of tests 800", &violations);
}

#[test]
fn functions_are_short() {
    let mut violations = Vec::new();
    for file in rust_files(&["src", "kernels/src", "tests", "benches"]) {
        for (start, _) in words(&file.code).filter(|(_, word)| *word == "fn") {
            let Some((_, name)) = words(&file.code[start + 2..]).next() else { continue };
            // `fn(…)` is a type.
            if file.code[start + 2..].trim_start().starts_with('(') {
                continue;
            }
            let end = end_of_item(&file.code, start);
            let lines = file.code[start..end].matches('\n').count() + 1;
            let full_name = format!("{}::{name}", file.name);
            if lines > MAX_FUNCTION_LINES && !DATA_FUNCTIONS.contains(&full_name.as_str()) {
                violations.push(format!("{full_name}: {lines} lines"));
            }
        }
    }
    check("a function has at most 100 lines", &violations);
}

#[test]
fn banned_words_are_absent() {
    let everywhere = ["todo!", "unimplemented!", "dbg!"];
    let outside_tests = [".unwrap()", "println!", "eprintln!", "print!", "eprint!"];
    let mut violations = Vec::new();
    for file in rust_files(&["src", "kernels/src", "tests", "benches"]) {
        let printing = file.name.starts_with("benches/") || is_test(&file.name);
        for (index, line) in file.code.lines().enumerate() {
            let banned = everywhere.iter().chain(outside_tests.iter().filter(|_| !printing));
            for word in banned.filter(|word| holds(line, word)) {
                violations.push(format!("{}:{}: {word}", file.name, index + 1));
            }
        }
    }
    check("words that have no place in finished code", &violations);
}

/// Whether the line holds the word, not as the tail of a longer one.
fn holds(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        word.starts_with('.') || !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_')
    })
}

/// A file that no `mod` names is never compiled: its tests would be green by absence.
#[test]
fn every_file_is_compiled() {
    let files = rust_files(&["src", "kernels/src", "tests/it"]);
    let declares = |parent: &str, module: &str| {
        files.iter().filter(|file| file.name == parent).any(|file| {
            blank_text(&file.text).lines().any(|line| {
                let (_, declared) = line.rsplit_once("mod ").unwrap_or_default();
                declared.trim_end() == format!("{module};")
            })
        })
    };
    let mut orphans = Vec::new();
    for file in &files {
        let path = file.name.trim_end_matches(".rs").trim_end_matches("/mod");
        let Some((folder, module)) = path.rsplit_once('/') else { continue };
        let is_root = matches!(module, "lib" | "main");
        let parents = ["/mod.rs", "/lib.rs", "/main.rs", ".rs"].map(|end| format!("{folder}{end}"));
        if !is_root && !parents.iter().any(|parent| declares(parent, module)) {
            orphans.push(&file.name);
        }
    }
    assert!(orphans.is_empty(), "no `mod` names {orphans:?}");
}

#[test]
fn every_file_says_what_it_is() {
    let files = rust_files(&["src", "kernels/src", "tests", "benches"]);
    let undocumented = |file: &&File| !file.text.trim_start().starts_with("//!");
    let violations: Vec<String> =
        files.iter().filter(undocumented).map(|file| file.name.clone()).collect();
    check("every file begins with a module comment", &violations);
}

/// Texts name no package registry's host and no path of the machine they were written on.
#[test]
fn texts_travel() {
    // Put together here, so that this file does not contain them.
    let hosts = ["crates#io", "pypi#org", "pythonhosted#org", "npmjs#org", "debian#org"];
    let banned: Vec<String> = hosts
        .iter()
        .map(|host| host.replace('#', "."))
        .chain(["work", "root"].map(|folder| format!("/{folder}/")))
        .collect();
    let mut paths = Vec::new();
    walk(root(), &mut paths);
    let mut violations = Vec::new();
    for path in paths {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        for (index, line) in text.lines().enumerate() {
            for word in banned.iter().filter(|word| line.contains(word.as_str())) {
                violations.push(format!("{}:{}: {word}", relative(&path), index + 1));
            }
        }
    }
    check("texts name no registry host and no path of a machine", &violations);
}

/// The documented list of architectures is the decoder's.
#[test]
fn the_documents_list_every_architecture() {
    let document = std::fs::read_to_string(root().join("docs/architectures.md")).unwrap();
    use kolosal_server::model::arch;
    let known = arch::all().map(|known| (known.name, known.models));
    let rows = known.map(|(name, models)| format!("| `{name}` | {models} |"));
    let violations: Vec<String> = rows.filter(|row| !document.contains(row)).collect();
    check("docs/architectures.md has a row for each architecture", &violations);
}

/// Files that documents name in code marks are there.
#[test]
fn documents_name_files_that_exist() {
    let mut paths = ["README.md", "CONTRIBUTING.md"].map(|name| root().join(name)).to_vec();
    walk(&root().join("docs"), &mut paths);
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    let mut violations = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        let named = text.split('`').skip(1).step_by(2).filter(|word| {
            let folders = ["src/", "kernels/", "tests/", "benches/"];
            folders.iter().any(|folder| word.starts_with(folder)) && !word.contains(' ')
        });
        let missing = named.filter(|name| !root().join(name).exists());
        violations.extend(missing.map(|name| format!("{}: {name}", relative(&path))));
    }
    check("documents name files that exist", &violations);
}

#[test]
fn the_checks_see_what_they_should() {
    let text = "use crate::{model::x, engine};\n// crate::cli\nlet s = \"crate::server\";\ncrate::chat::f();";
    let code = blank_text(text);
    let found: Vec<String> = imports(&code).into_iter().map(|(_, name)| name).collect();
    assert_eq!(found, ["model", "engine", "chat"]);
    assert!(!may_import("engine", "chat") && may_import("registry", "hub"));
    assert!(!may_import("chat", "hub") && !may_import("hub", "chat"));
    assert!(!may_import("config", "engine") && may_import("engine", "config"));
    let code =
        blank_tests("fn a() {}\n#[cfg(test)]\nmod tests { fn b() { x.unwrap() } }\nfn c() {}");
    assert!(code.contains("fn c") && !code.contains("unwrap"));
    assert!(blank_text("'\"' \"a\" r#\"b\"# '\\'' c").contains('c'));
    assert!(!blank_text("r#\"b\"#").contains('b'));
    assert!(holds("  print!(x)", "print!") && !holds("eprint!(x)", "print!"));
}
