//! What a chat leaves behind: the lines that were typed, and dialogues that were saved.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use etcetera::{BaseStrategy, choose_base_strategy};
use serde_json::{Value, json};

use super::settings::Settings;
use crate::cli::failure::{Context, Failure, Outcome};

/// Lines that are kept, and bytes of the file.
const MAX_LINES: usize = 1000;
const MAX_HISTORY_BYTES: u64 = 4 << 20;
/// Bytes of a saved dialogue.
const MAX_SAVED_BYTES: u64 = 64 << 20;

/// The lines that were typed, oldest first.
pub(super) struct History {
    pub(super) lines: Vec<String>,
    file: Option<PathBuf>,
}

impl History {
    /// Those of earlier chats.
    pub(super) fn load() -> Self {
        let file = folder().map(|folder| folder.join("history"));
        let text = file.as_deref().and_then(|file| read(file, MAX_HISTORY_BYTES).ok());
        let text = text.unwrap_or_default();
        let lines = text.lines().filter_map(|line| serde_json::from_str(line).ok());
        let mut lines: Vec<String> = lines.collect();
        lines.drain(..lines.len().saturating_sub(MAX_LINES));
        Self { lines, file }
    }

    /// Adds a line, here and in the file; one that cannot be written is lost with the chat.
    pub(super) fn add(&mut self, line: &str) {
        if self.lines.last().is_some_and(|last| last == line) {
            return;
        }
        self.lines.push(line.to_owned());
        let Some(file) = &self.file else { return };
        let from = self.lines.len().saturating_sub(MAX_LINES);
        let lines = self.lines[from..].iter().map(|line| json!(line).to_string() + "\n");
        let _unkept = write_private(file, &lines.collect::<String>());
    }
}

/// Keeps a dialogue under a name or in a file.
///
/// # Errors
/// It cannot be written.
pub(super) fn save(
    name: &str,
    model: &str,
    settings: &Settings,
    messages: &[Value],
) -> Outcome<PathBuf> {
    let path = saved(name)?;
    let kept = json!({"model": model, "settings": settings.kept(), "messages": messages});
    let text = serde_json::to_string_pretty(&kept).map_err(Failure::failed)?;
    write_private(&path, &(text + "\n")).context(path.display())?;
    Ok(path)
}

/// Takes up a dialogue that was saved: its messages.
///
/// # Errors
/// There is none, or it is not one.
pub(super) fn load(name: &str, settings: &mut Settings) -> Outcome<Vec<Value>> {
    let path = saved(name)?;
    let text = read(&path, MAX_SAVED_BYTES).context(path.display())?;
    let no_dialogue = || Failure::failed(format!("{} holds no dialogue", path.display()));
    let kept: Value = serde_json::from_str(&text).map_err(|_| no_dialogue())?;
    let is_message =
        |message: &Value| message["role"].is_string() && message["content"].is_string();
    let messages = kept["messages"].as_array().filter(|all| all.iter().all(is_message));
    let messages = messages.ok_or_else(no_dialogue)?.clone();
    settings.restore(&kept["settings"]).map_err(Failure::failed)?;
    Ok(messages)
}

/// A path as it is, a name in the folder of dialogues.
fn saved(name: &str) -> Outcome<PathBuf> {
    let path = PathBuf::from(name);
    let is_file = path.extension().is_some_and(|extension| extension == "json");
    if is_file || name.contains(std::path::is_separator) {
        return Ok(path);
    }
    let folder =
        folder().ok_or_else(|| Failure::failed("there is no folder for data; name a file"))?;
    Ok(folder.join("chats").join(format!("{name}.json")))
}

fn folder() -> Option<PathBuf> {
    choose_base_strategy().ok().map(|strategy| strategy.data_dir().join("kolosal"))
}

fn read(path: &Path, max: u64) -> std::io::Result<String> {
    use std::io::Read as _;

    let mut text = String::new();
    fs::File::open(path)?.take(max).read_to_string(&mut text)?;
    Ok(text)
}

/// Writes what nobody else is to read.
fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder)?;
    }
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?.write_all(text.as_bytes())
}
