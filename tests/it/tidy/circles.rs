//! No circle of imports within a folder: whoever reads a file can first read what it builds on.
//!
//! Each folder is a graph: its files, and each of its sub-folders as one. There is an arrow from one to
//! another when code of the first names an item that the second declares, in a `use` or in the midst of
//! code, by `crate::`, `super::`, `self::` or the name of a child.
//!
//! A `mod.rs` is the face of its folder and a file like the others. What it only passes on (`use`,
//! public or not) counts for whoever asks for it, as an import of the file that declares it: so a child may
//! ask its parent for what a sibling made. What a `mod.rs` declares is its own: a child that asks for that
//! must not be used by other code of the `mod.rs`. `mod` lines are no imports, tests do not count.

use std::collections::{BTreeMap, BTreeSet};

use super::{File, blank_tests, check, line_of, rust_files, words};

/// Circles that are still to be broken: the folder and all that may be in its circle. The list may only
/// shrink: what is no circle any more has to be struck out.
const STILL_CIRCULAR: &[(&str, &[&str])] = &[
    ("src/chat/generation", &["request", "rules"]),
    ("src/cli", &["compute", "inspect", "models"]),
    ("src/server", &["auth", "body", "desk", "error", "lenient", "reply", "sse"]),
    ("src/server", &["front", "operations", "spec"]),
    ("src/server/ollama", &["models", "store"]),
];
/// Folders whose `mod.rs` declares what its children use, and uses them: there the other files alone are
/// looked at. This list may only shrink too.
const FACES_WITH_A_BODY: &[&str] = &[
    "src/chat/generation",
    "src/cli",
    "src/cli/selftest",
    "src/engine",
    "src/engine/sampler",
    "src/server",
];

/// Names that code of a file uses, as paths: `["super", "pool", "Pool"]`, and whether a `use` only passes
/// them on.
struct Named {
    path: Vec<String>,
    line: usize,
    /// The name under which a `use` binds it.
    binding: Option<String>,
}

/// A file as a module.
struct Module {
    file: String,
    named: Vec<Named>,
    code: String,
}

/// All modules of a crate by their paths from its root.
struct Crate {
    root: &'static str,
    modules: BTreeMap<Vec<String>, Module>,
}

impl Crate {
    fn read(root: &'static str) -> Crate {
        let files = rust_files(&[root]);
        let is_test = |file: &&File| !file.name.ends_with("/tests.rs");
        let modules = files.iter().filter(is_test).map(|file| {
            let module = Module {
                file: file.name.clone(),
                named: named(&file.code),
                code: file.code.clone(),
            };
            (module_path(&file.name[root.len() + 1..]), module)
        });
        Crate { root, modules: modules.collect() }
    }

    /// The module that declares what `path` names in the module `from`, if it is of this crate.
    fn declarer(&self, from: &[String], path: &[String], depth: usize) -> Option<Vec<String>> {
        let mut rest = path;
        let mut at = match path[0].as_str() {
            "crate" => Vec::new(),
            "self" | "super" => from.to_vec(),
            first => {
                // A child. Other names are of other crates, or bound by a `use` that counts by itself.
                let mut child = from.to_vec();
                child.push(first.to_owned());
                self.modules.contains_key(&child).then_some(child)?
            }
        };
        if path[0] != "super" {
            rest = &path[1..];
        }
        while let Some((first, others)) = rest.split_first() {
            if first == "super" {
                at.pop();
            } else if first != "self" {
                let mut child = at.clone();
                child.push(first.clone());
                if !self.modules.contains_key(&child) {
                    return Some(self.passed_on(&at, rest, depth).unwrap_or(at));
                }
                at = child;
            }
            rest = others;
        }
        Some(at)
    }

    /// Who declares `path` when the module `at` has it by a `use`.
    fn passed_on(&self, at: &[String], path: &[String], depth: usize) -> Option<Vec<String>> {
        // A module may bind a name that it has from a module that binds it.
        if depth > 8 {
            return None;
        }
        let module = self.modules.get(at)?;
        let mut bindings = module.named.iter();
        if let Some(found) = bindings.find(|named| named.binding.as_ref() == Some(&path[0])) {
            let longer = [&found.path[..], &path[1..]].concat();
            return self.declarer(at, &longer, depth + 1);
        }
        let globs = module.named.iter().filter(|named| named.binding.as_deref() == Some("*"));
        let mut targets = globs.filter_map(|named| self.declarer(at, &named.path, depth + 1));
        targets.find(|target| self.declares(target, &path[0]))
    }

    fn declares(&self, module: &[String], item: &str) -> bool {
        let Some(module) = self.modules.get(module) else { return false };
        let mut previous = "";
        words(&module.code).any(|(_, word)| {
            let keyword = std::mem::replace(&mut previous, word);
            let kinds = ["fn", "struct", "enum", "trait", "const", "static", "type"];
            word == item && kinds.contains(&keyword)
        })
    }

    /// The arrows within each folder, with what causes the first of each kind.
    fn arrows(&self) -> BTreeMap<String, Arrows> {
        let mut folders: BTreeMap<String, Arrows> = BTreeMap::new();
        for (from, module) in &self.modules {
            let is_face = module.file.ends_with("/mod.rs") || module.file.ends_with("/lib.rs");
            for named in &module.named {
                // A face passes on what it binds; if it uses that itself, its code names it again.
                if is_face && named.binding.as_deref().is_some_and(|name| !uses(module, name)) {
                    continue;
                }
                let Some(to) = self.declarer(from, &named.path, 0) else { continue };
                let Some(target) = self.modules.get(&to) else { continue };
                if let Some((folder, a, b)) = self.parting(&module.file, &target.file) {
                    let cause = format!("{}:{} {}", module.file, named.line, named.path.join("::"));
                    folders.entry(folder).or_default().entry((a, b)).or_insert(cause);
                }
            }
        }
        folders
    }

    /// The folder in which two files part, and the name there of each: a file's or a folder's.
    fn parting(&self, a: &str, b: &str) -> Option<(String, String, String)> {
        let strip = |file: &str| file[self.root.len() + 1..].trim_end_matches(".rs").to_owned();
        let (a, b) = (strip(a), strip(b));
        let (mut a, mut b) = (a.split('/'), b.split('/'));
        let mut folder = self.root.to_owned();
        loop {
            let (x, y) = (a.next()?, b.next()?);
            if x != y {
                return Some((folder, x.to_owned(), y.to_owned()));
            }
            folder = format!("{folder}/{x}");
        }
    }
}

/// Arrows within a folder: from, to, and a place that causes it.
type Arrows = BTreeMap<(String, String), String>;

/// Whether code beside `use` and `mod` says the name.
fn uses(module: &Module, name: &str) -> bool {
    let (mut previous, mut end_of_use) = ("", 0);
    words(&module.code).any(|(start, word)| {
        let keyword = std::mem::replace(&mut previous, word);
        if word == "use" {
            end_of_use = start + module.code[start..].find(';').unwrap_or_default();
        }
        word == name && keyword != "mod" && start >= end_of_use
    })
}

fn module_path(file: &str) -> Vec<String> {
    let path = file.trim_end_matches(".rs");
    let mut path: Vec<String> = path.split('/').map(str::to_owned).collect();
    if path.last().is_some_and(|last| ["mod", "lib"].contains(&last.as_str())) {
        path.pop();
    }
    path
}

/// What code names: the leaves of `use` trees, and paths in the midst of code.
fn named(code: &str) -> Vec<Named> {
    let mut found = Vec::new();
    let mut end_of_use = 0;
    for (start, word) in words(code) {
        if start < end_of_use {
            continue;
        }
        if word == "use" {
            let length = code[start..].find(';').unwrap_or(code.len() - start);
            end_of_use = start + length;
            let line = line_of(code, start);
            for (path, binding) in leaves(&code[start + 3..end_of_use]) {
                found.push(Named { path, line, binding: Some(binding) });
            }
            continue;
        }
        let follows = code[..start].ends_with("::");
        if !follows && code[start + word.len()..].starts_with("::") {
            let path = inline_path(&code[start..]);
            found.push(Named { path, line: line_of(code, start), binding: None });
        }
    }
    found
}

/// `a::b::c` at the beginning of code.
fn inline_path(code: &str) -> Vec<String> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let end = code.find(|c| !is_part(c)).unwrap_or(code.len());
    code[..end].split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// The leaves of a tree such as `a::{b, c::{self, d as e}}`, each with the name that it binds.
fn leaves(tree: &str) -> Vec<(Vec<String>, String)> {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        let (path, alias) = tree.split_once(" as ").map_or((tree, None), |(p, a)| (p, Some(a)));
        let mut path: Vec<String> =
            path.split("::").map(|part| part.trim().to_owned()).filter(|p| !p.is_empty()).collect();
        let mut last = path.last().cloned().unwrap_or_default();
        if path.len() > 1 && ["self", "*"].contains(&last.as_str()) {
            path.pop();
            last = if last == "*" { last } else { path[path.len() - 1].clone() };
        }
        let binding = alias.map_or(last, |alias| alias.trim().to_owned());
        return if path.is_empty() { Vec::new() } else { vec![(path, binding)] };
    };
    let close = tree.rfind('}').unwrap_or(tree.len());
    let prefix = &tree[..open];
    let mut depth = 0_i32;
    let branches = tree[open + 1..close].split(|c: char| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    branches
        .filter(|branch| !branch.trim().is_empty())
        .flat_map(|branch| leaves(&format!("{prefix}{}", branch.trim())))
        .collect()
}

/// The circles: sets of more than one that all reach each other.
fn circles(arrows: &Arrows) -> Vec<BTreeSet<String>> {
    let names: BTreeSet<&String> = arrows.keys().flat_map(|(a, b)| [a, b]).collect();
    let reached = |from: &String| {
        let mut seen: BTreeSet<&String> = BTreeSet::new();
        let mut queue = vec![from];
        while let Some(at) = queue.pop() {
            let next = arrows.keys().filter(|(a, _)| a == at).map(|(_, b)| b);
            queue.extend(next.filter(|b| seen.insert(b)).collect::<Vec<_>>());
        }
        seen
    };
    let reach: BTreeMap<&String, _> = names.iter().map(|name| (*name, reached(name))).collect();
    let circles: BTreeSet<BTreeSet<String>> = names
        .iter()
        .map(|a| reach[a].iter().filter(|b| reach[*b].contains(a)).map(|b| (*b).clone()).collect())
        .filter(|circle: &BTreeSet<String>| circle.len() > 1)
        .collect();
    circles.into_iter().collect()
}

/// A circle as people read it: its members, and the arrows among them.
fn told(folder: &str, circle: &BTreeSet<String>, arrows: &Arrows) -> String {
    let members: Vec<&str> = circle.iter().map(String::as_str).collect();
    let inner = arrows.iter().filter(|((a, b), _)| circle.contains(a) && circle.contains(b));
    let lines = inner.map(|((a, b), cause)| format!("\n    {a} -> {b}: {cause}"));
    format!("{folder}: {}{}", members.join(", "), lines.collect::<String>())
}

#[test]
fn files_of_a_folder_import_in_no_circle() {
    let mut violations = Vec::new();
    let mut struck_out: Vec<_> = STILL_CIRCULAR.iter().collect();
    let mut lean: Vec<_> = FACES_WITH_A_BODY.iter().collect();
    for root in ["src", "kernels/src"] {
        for (folder, mut arrows) in Crate::read(root).arrows() {
            let has_body = circles(&arrows).iter().any(|circle| circle.contains("mod"));
            if has_body && FACES_WITH_A_BODY.contains(&folder.as_str()) {
                lean.retain(|known| **known != folder);
                arrows.retain(|(a, b), _| a != "mod" && b != "mod");
            }
            for circle in circles(&arrows) {
                let covers = |(known, members): &(&str, &[&str])| {
                    *known == folder && circle.iter().all(|m| members.contains(&m.as_str()))
                };
                if STILL_CIRCULAR.iter().any(covers) {
                    struck_out.retain(|known| !covers(known));
                } else {
                    violations.push(told(&folder, &circle, &arrows));
                }
            }
        }
    }
    let kept = struck_out.iter().map(|entry| format!("{entry:?} is no circle any more"));
    let lean = lean.iter().map(|folder| format!("{folder}/mod.rs is in no circle any more"));
    violations.extend(kept.chain(lean));
    check("files of a folder import in no circle", &violations);
}

#[test]
fn imports_are_followed_to_the_declaration() {
    let module = |file: &str, code: &str| {
        let code = blank_tests(code);
        let path = module_path(&file["src/".len()..]);
        (path, Module { file: file.to_owned(), named: named(&code), code })
    };
    let modules = [
        module("src/a/mod.rs", "mod x; mod y; pub use x::{self, Item as It}; pub struct Own;"),
        module("src/a/x.rs", "use super::y::Y; pub struct Item;"),
        module("src/a/y.rs", "fn f() { super::It::new(); crate::a::Own; }"),
    ];
    let krate = Crate { root: "src", modules: modules.into_iter().collect() };
    let arrows = krate.arrows().remove("src/a").unwrap();
    let arrow = |a: &str, b: &str| arrows.contains_key(&(a.to_owned(), b.to_owned()));
    assert!(arrow("x", "y") && arrow("y", "x") && arrow("y", "mod"));
    assert!(!arrow("mod", "x") && !arrow("mod", "y"), "faces and `mod` lines: {arrows:?}");
    assert_eq!(circles(&arrows), [BTreeSet::from(["x".to_owned(), "y".to_owned()])]);
}
