//! The code map of docs/ARCHITECTURE.md, made from the first sentence of every module comment.

use std::fmt::Write as _;
use std::path::Path;

const BEGIN: &str = "<!-- code map: begin -->\n";
const END: &str = "<!-- code map: end -->";
/// Folders in the order of their floors.
const FOLDERS: [&str; 10] = [
    "src",
    "src/cli",
    "src/config",
    "src/server",
    "src/registry",
    "src/chat",
    "src/hub",
    "src/engine",
    "src/model",
    "kernels/src",
];

/// The map is committed. `KOLOSAL_TEST_UPDATE=1 cargo test --test it code_map` writes it anew.
#[test]
fn the_code_map_is_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("docs/ARCHITECTURE.md");
    let document = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = document.split_once(BEGIN).unwrap();
    let (committed, after) = rest.split_once(END).unwrap();
    let map = code_map(root);
    if std::env::var_os("KOLOSAL_TEST_UPDATE").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{map}{END}{after}")).unwrap();
        return;
    }
    let hint = "run: KOLOSAL_TEST_UPDATE=1 cargo test --test it code_map";
    let difference = map.lines().find(|line| !committed.contains(line));
    let gone = committed.lines().find(|line| !map.contains(line));
    assert!(map == committed, "missing: {difference:?}, gone: {gone:?}; {hint}");
}

fn code_map(root: &Path) -> String {
    let mut map = String::new();
    for folder in FOLDERS {
        let dir = root.join(folder);
        let _infallible = write!(map, "\n### {folder}/\n\n");
        let own = ["mod.rs", "lib.rs"].iter().map(|name| dir.join(name)).find(|path| path.exists());
        if let Some(own) = own {
            let _infallible = write!(map, "{}\n\n", first_sentence(&own));
        }
        for (name, path) in rooms(&dir) {
            let _infallible = writeln!(map, "- `{name}`: {}", first_sentence(&path));
        }
    }
    map.push('\n');
    map
}

/// Files and folders of a folder, by name, with the file that describes each.
fn rooms(dir: &Path) -> Vec<(String, std::path::PathBuf)> {
    let mut rooms = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let folder = path.join("mod.rs");
        if let Some(stem) = name.strip_suffix(".rs") {
            if !["mod", "lib", "tests"].contains(&stem) {
                rooms.push((stem.to_owned(), path));
            }
        } else if folder.exists() && !FOLDERS.iter().any(|known| path.ends_with(known)) {
            rooms.push((format!("{name}/"), folder));
        }
    }
    rooms.sort();
    rooms
}

/// The first sentence of a file's `//!` comment, links as plain words.
fn first_sentence(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim);
    let paragraph: Vec<&str> = lines.take_while(|line| !line.is_empty()).collect();
    let paragraph = paragraph.join(" ").replace("[`", "`").replace("`]", "`");
    let end = paragraph.find(". ").map_or(paragraph.len(), |at| at + 1);
    paragraph[..end].to_owned()
}
