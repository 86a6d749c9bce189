//! The dialogue: lines that are typed, commands, answers.

use rustyline::error::ReadlineError;
use serde_json::Value;

use super::keeping::{self, History};
use super::screen::{Chat, message};
use super::settings::{Settings, names};
use crate::cli::failure::{Failure, Outcome};

/// Said at the first Ctrl-C of an empty prompt.
const HOW_TO_END: &str = "Ctrl-D, or Ctrl-C again, ends";
/// Begins and ends a message of several lines.
const BLOCK: &str = "\"\"\"";
const HELP: &str = "\
/set                   list what is set and what can be
/set NAME VALUE        set a parameter: temperature, top_p, top_k, seed, max_tokens, think, verbose, ...
/set NAME default      take it back
/system [TEXT]         show or set the system message
/save NAME             keep the dialogue under a name, or in a file that ends with .json
/load NAME             take up a dialogue that was kept
/clear                 forget what was said
/bye                   end; also Ctrl-D
\"\"\"                    begin and end a message of several lines
Ctrl-C ends an answer and not the dialogue.";

/// What was said so far.
pub(super) struct Dialogue<'a> {
    chat: &'a Chat<'a>,
    settings: Settings,
    messages: Vec<Value>,
    history: History,
}

/// Whether the dialogue goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Go,
    End,
}

impl<'a> Dialogue<'a> {
    pub(super) fn new(chat: &'a Chat<'a>, settings: Settings, messages: Vec<Value>) -> Self {
        Self { chat, settings, messages, history: History::load() }
    }

    pub(super) fn run(mut self) -> Outcome {
        self.note(format!("{}: /help lists commands", self.chat.args.model));
        let mut was_interrupted = false;
        loop {
            let line = match self.read_message() {
                Ok(line) => line,
                // The first may be meant for an answer that has just ended, or for the line.
                Err(ReadlineError::Interrupted) if !was_interrupted => {
                    was_interrupted = true;
                    self.note(HOW_TO_END);
                    continue;
                }
                Err(ReadlineError::Interrupted | ReadlineError::Eof) => return Ok(()),
                Err(error) => return Err(Failure::failed(error)),
            };
            was_interrupted = false;
            let line = line.trim();
            let next = match line {
                "" => Next::Go,
                line if is_command(line) => {
                    self.history.add(line);
                    self.command(line)
                }
                prompt => {
                    self.history.add(prompt);
                    self.answer(prompt)?;
                    Next::Go
                }
            };
            if next == Next::End {
                return Ok(());
            }
        }
    }

    fn note(&self, text: impl AsRef<str>) {
        self.chat.app.out.note(text);
    }

    /// Reads a line, or several between quotes.
    fn read_message(&self) -> rustyline::Result<String> {
        let line = read_line(">>> ", &self.history.lines)?;
        let Some(begun) = line.trim_start().strip_prefix(BLOCK) else { return Ok(line) };
        let mut text = begun.to_owned();
        while !text.trim_end().ends_with(BLOCK) {
            text.push('\n');
            text.push_str(&read_line("... ", &[])?);
        }
        Ok(text.trim_end().trim_end_matches(BLOCK).to_owned())
    }

    fn command(&mut self, line: &str) -> Next {
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        let said = match name {
            "/bye" | "/exit" | "/quit" => return Next::End,
            "/help" | "/?" => Ok(HELP.to_owned()),
            "/clear" => {
                self.messages.retain(|message| message["role"] == "system");
                Ok("forgotten".to_owned())
            }
            "/system" => Ok(self.system(rest)),
            "/set" => self.set(rest),
            "/save" | "/load" if rest.is_empty() => Err(format!("{name} needs a name")),
            "/save" => {
                let model = &self.chat.args.model;
                let kept = keeping::save(rest, model, &self.settings, &self.messages);
                kept.map(|path| format!("kept in {}", path.display())).map_err(|e| e.to_string())
            }
            "/load" => self.load(rest),
            // A mistyped command is no question to the model; a path such as /etc/hosts may be.
            _ => Err(format!("there is no {name}; /help lists commands")),
        };
        self.note(said.unwrap_or_else(|problem| problem));
        Next::Go
    }

    fn load(&mut self, name: &str) -> Result<String, String> {
        self.messages =
            keeping::load(name, &mut self.settings).map_err(|failure| failure.to_string())?;
        Ok(format!("{} messages", self.messages.len()))
    }

    fn set(&mut self, rest: &str) -> Result<String, String> {
        let (name, value) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let value = value.trim();
        match (name, value) {
            ("", _) => Ok(format!("{}\nCan be set: {}", self.settings.shown(), names().join(", "))),
            ("system", _) => Ok(self.system(value)),
            ("verbose", "") => self.settings.set(name, "on").map(|()| "set".to_owned()),
            (_, "") => Err(format!("/set {name} needs a value")),
            _ => self.settings.set(name, value).map(|()| "set".to_owned()),
        }
    }

    /// Shows the system message, or sets it.
    fn system(&mut self, text: &str) -> String {
        let has_one = self.messages.first().is_some_and(|first| first["role"] == "system");
        if text.is_empty() {
            let shown = self.messages.first().filter(|_| has_one);
            let shown = shown.and_then(|first| first["content"].as_str());
            return shown.unwrap_or("there is no system message").to_owned();
        }
        let system = message("system", text);
        if has_one {
            self.messages[0] = system;
        } else {
            self.messages.insert(0, system);
        }
        "set".to_owned()
    }

    /// Sends a message and prints the answer as it comes; both are added to the dialogue.
    fn answer(&mut self, prompt: &str) -> Outcome {
        self.messages.push(message("user", prompt));
        match self.chat.answer(&self.settings, &self.messages) {
            Ok(answer) => {
                self.messages.push(message("assistant", &answer));
                Ok(())
            }
            Err(failure) => {
                self.messages.pop();
                match failure {
                    Failure::Interrupted => self.note("\ninterrupted"),
                    Failure::Failed(reason) | Failure::Unavailable(reason) => {
                        self.note(format!("error: {reason}"));
                    }
                    other => return Err(other),
                }
                Ok(())
            }
        }
    }
}

/// A slash and one word of letters, or a question mark, and what may follow.
fn is_command(line: &str) -> bool {
    let word = line.split_whitespace().next().unwrap_or_default();
    let letters = |word: &str| word.chars().all(|c| c.is_ascii_alphabetic() || c == '?');
    word.strip_prefix('/').is_some_and(letters)
}

/// Reads a line at the terminal. The editor takes Ctrl-C for itself while it lives, so it lives for one line.
fn read_line(prompt: &str, history: &[String]) -> rustyline::Result<String> {
    let mut editor = rustyline::DefaultEditor::new()?;
    for line in history {
        editor.add_history_entry(line)?;
    }
    editor.readline(prompt)
}
