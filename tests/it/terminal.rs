//! `kolosal run` at a terminal: a pseudo-terminal, into which keys are typed.
#![cfg(target_os = "linux")]

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::program::{ended, kolosal};
use crate::tiny::Tiny;

/// Longest wait for anything; reached by broken programs only.
const PATIENCE: Duration = Duration::from_mins(2);
const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";

/// The program at a terminal of its own.
struct Terminal {
    child: Child,
    keys: File,
    shown: Receiver<Vec<u8>>,
    /// All that was shown and has not been waited for.
    text: String,
    home: tempfile::TempDir,
}

impl Terminal {
    /// A dialogue with a model whose answers do not end for a long time.
    fn dialogue() -> Self {
        let home = tempfile::tempdir().unwrap();
        let model = home.path().join("tiny.gguf");
        std::fs::write(&model, Tiny { context: 200_000, ..Tiny::default() }.bytes()).unwrap();
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY;
        let slave = rustix::fs::open(&name, flags, Mode::empty()).unwrap();
        let end = || Stdio::from(slave.try_clone().unwrap());
        let plain = kolosal(home.path());
        // A session of its own, with this terminal: its keys become signals there.
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(plain.get_program());
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.env("TERM", "xterm").args(["run", "--temperature", "0", "--n-ctx", "200000"]);
        let child = command.arg(model).stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        let keys = File::from(master);
        let mut screen = keys.try_clone().unwrap();
        let (sender, shown) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = screen.read(&mut bytes) {
                if sender.send(bytes[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        let mut terminal = Self { child, keys, shown, text: String::new(), home };
        terminal.await_text(">>> ");
        terminal
    }

    fn type_in(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until a text is shown, and drops what was before.
    fn await_text(&mut self, wanted: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.text.find(wanted) {
                self.text.drain(..at + wanted.len());
                return;
            }
            let left = end.saturating_duration_since(Instant::now());
            let Ok(bytes) = self.shown.recv_timeout(left) else {
                panic!("{wanted:?} is not shown after {:?}", self.text);
            };
            self.text.push_str(&String::from_utf8_lossy(&bytes));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[test]
fn ctrl_c_ends_an_answer_and_not_the_dialogue() {
    let mut terminal = Terminal::dialogue();
    // The second time the line editor has been there, which hears keys by itself.
    for _ in 0..2 {
        terminal.type_in("say something\r");
        // The answer has begun: something follows the line.
        terminal.await_text("\n");
        std::thread::sleep(Duration::from_millis(300));
        terminal.type_in(CTRL_C);
        terminal.await_text("interrupted");
        terminal.await_text(">>> ");
    }
    terminal.type_in(CTRL_D);
    assert_eq!(ended(&mut terminal.child), Some(0));
}

#[test]
fn commands_set_keep_and_take_up_a_dialogue() {
    let mut terminal = Terminal::dialogue();
    for (line, shown) in [
        ("/help", "/save NAME"),
        ("/set temperature 0", "set"),
        ("/set max_tokens 3", "set"),
        ("/set temperature 9", "temperature must be from 0 to 2"),
        ("/set nonsense 1", "no parameter nonsense"),
        ("/set verbose", "set"),
        ("/system You are a cat.", "set"),
        ("/system", "You are a cat."),
        ("hello", "tokens/s"),
        ("/save cat", "chats/cat.json"),
        ("/clear", "forgotten"),
        ("/load cat", "3 messages"),
        ("/load dog", "dog.json"),
        ("/nonsense", "there is no /nonsense"),
        ("\"\"\"two", "... "),
        ("lines\"\"\"", "tokens/s"),
    ] {
        terminal.type_in(&format!("{line}\r"));
        terminal.await_text("\n");
        terminal.await_text(shown);
        if shown != "... " {
            terminal.await_text(">>> ");
        }
    }
    // What was typed is there again.
    let history = terminal.home.path().join("data/kolosal/history");
    let history = std::fs::read_to_string(history).unwrap();
    assert!(history.lines().any(|line| line == "\"two\\nlines\""), "{history}");
    terminal.type_in("/bye\r");
    assert_eq!(ended(&mut terminal.child), Some(0));
}

#[test]
fn ctrl_c_twice_at_an_empty_prompt_ends_the_dialogue() {
    let mut terminal = Terminal::dialogue();
    terminal.type_in(CTRL_C);
    terminal.await_text("Ctrl-C again");
    terminal.await_text(">>> ");
    terminal.type_in(CTRL_C);
    assert_eq!(ended(&mut terminal.child), Some(0));
}
