//! Shows downloads: bars on a terminal, plain lines elsewhere.

use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use crate::hub::Progress;

/// Pause between two lines about the same file.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// One bar per file on standard error; hidden by itself where that is no terminal.
#[derive(Debug)]
pub struct Bars {
    bar: Mutex<ProgressBar>,
}

impl Bars {
    pub fn new() -> Self {
        Self { bar: Mutex::new(ProgressBar::hidden()) }
    }

    fn with_bar(&self, act: impl FnOnce(&mut ProgressBar)) {
        // A poisoned bar is still a bar.
        act(&mut self.bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }
}

impl Default for Bars {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress for Bars {
    fn start(&self, file: &str, total: Option<u64>) {
        let (bar, template) = match total {
            Some(total) => (
                ProgressBar::new(total),
                "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
            ),
            None => (ProgressBar::new_spinner(), "{spinner} {msg} {bytes} {bytes_per_sec}"),
        };
        let style = ProgressStyle::with_template(template);
        let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(file.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        self.with_bar(|old| {
            old.finish_and_clear();
            *old = bar;
        });
    }

    fn advance(&self, bytes: u64) {
        self.with_bar(|bar| bar.inc(bytes));
    }

    fn finish(&self) {
        self.with_bar(|bar| bar.finish());
    }

    fn note(&self, text: &str) {
        self.with_bar(|bar| bar.println(text));
    }
}

/// A line at the beginning and end of each file, and one every few seconds in between.
#[derive(Debug)]
pub struct Lines<W> {
    state: Mutex<LineState<W>>,
    interval: Duration,
}

#[derive(Debug)]
struct LineState<W> {
    out: W,
    file: String,
    total: Option<u64>,
    done: u64,
    last: Instant,
}

impl<W: Write + Send> Lines<W> {
    /// Writes to `out`, usually standard error.
    pub fn new(out: W) -> Self {
        Self::with_interval(out, LINE_INTERVAL)
    }

    /// Like [`Lines::new`], with another pause between two lines.
    pub fn with_interval(out: W, interval: Duration) -> Self {
        let state =
            LineState { out, file: String::new(), total: None, done: 0, last: Instant::now() };
        Self { state: Mutex::new(state), interval }
    }

    /// The writer again.
    pub fn into_inner(self) -> W {
        self.state.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).out
    }

    fn with_state(&self, act: impl FnOnce(&mut LineState<W>)) {
        act(&mut self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }
}

impl<W: Write> LineState<W> {
    fn line(&mut self, text: &str) {
        // Progress that nobody can see is no reason to stop a download.
        let _ = writeln!(self.out, "{text}");
        self.last = Instant::now();
    }

    fn amount(&self) -> String {
        match self.total {
            Some(total) if total > 0 => {
                let percent = self.done.min(total).saturating_mul(100) / total;
                format!("{} of {} ({percent} %)", HumanBytes(self.done), HumanBytes(total))
            }
            _ => HumanBytes(self.done).to_string(),
        }
    }
}

impl<W: Write + Send> Progress for Lines<W> {
    fn start(&self, file: &str, total: Option<u64>) {
        self.with_state(|state| {
            (state.file, state.total, state.done) = (file.into(), total, 0);
            let size = total.map(|total| format!(", {}", HumanBytes(total))).unwrap_or_default();
            state.line(&format!("{file}: begins{size}"));
        });
    }

    fn advance(&self, bytes: u64) {
        let interval = self.interval;
        self.with_state(|state| {
            state.done += bytes;
            if state.last.elapsed() >= interval {
                let text = format!("{}: {}", state.file, state.amount());
                state.line(&text);
            }
        });
    }

    fn finish(&self) {
        self.with_state(|state| {
            let text = format!("{}: done, {}", state.file, HumanBytes(state.done));
            state.line(&text);
        });
    }

    fn note(&self, text: &str) {
        self.with_state(|state| state.line(text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_tell_begin_amount_end_and_notes() {
        let lines = Lines::with_interval(Vec::new(), Duration::ZERO);
        lines.note("a note");
        lines.start("m.gguf", Some(2048));
        lines.advance(1024);
        lines.start("m.gguf", None);
        lines.advance(10);
        lines.finish();
        let text = String::from_utf8(lines.into_inner()).unwrap();
        let expected = "a note\nm.gguf: begins, 2.00 KiB\nm.gguf: 1.00 KiB of 2.00 KiB (50 %)\n\
                        m.gguf: begins\nm.gguf: 10 B\nm.gguf: done, 10 B\n";
        assert_eq!(text, expected);
    }
}
