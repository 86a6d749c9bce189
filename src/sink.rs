//! Lines to standard error or a file, written by a thread of their own: who logs never waits for a reader.
//!
//! A pipe that nobody reads, a terminal that is held, a full disk: a line that cannot be written in time
//! is lost, counted and told of later. Nothing else in the process notices.

use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Bytes that may wait to be written.
const MAX_WAITING: usize = 1 << 20;
/// Pause before the next try where a descriptor does not block and takes no more.
const RETRY: Duration = Duration::from_millis(10);

/// Where lines go; clones are of the same place. Each write is taken for one line.
#[derive(Clone)]
pub struct Sink(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    filled: Condvar,
    written: Condvar,
    /// Lost lines are told of as JSON.
    json: AtomicBool,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    lost: u64,
    /// The thread writes what it took last.
    is_writing: bool,
}

/// Standard error. Where no thread can be had for it, lines are written by who logs them.
pub fn stderr() -> Option<&'static Sink> {
    static STDERR: OnceLock<Option<Sink>> = OnceLock::new();
    STDERR.get_or_init(|| Sink::start("stderr", io::stderr()).ok()).as_ref()
}

/// Writes a line to standard error without waiting for it. A closed standard error is nobody's failure.
pub fn stderr_line(text: &str) {
    let line = format!("{text}\n");
    match stderr() {
        Some(sink) => sink.push(line.as_bytes()),
        None => {
            let _closed = io::stderr().lock().write_all(line.as_bytes());
        }
    }
}

impl Sink {
    /// Starts the thread that writes to `out`; it ends with the process.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(name: &str, out: impl Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            filled: Condvar::new(),
            written: Condvar::new(),
            json: AtomicBool::new(false),
        });
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name(format!("log-{name}"));
        thread.spawn(move || for_thread.write_forever(out))?;
        Ok(Self(shared))
    }

    /// Tells of lost lines as JSON, as the other lines are.
    pub fn set_json(&self) {
        self.0.json.store(true, Relaxed);
    }

    /// Hands a line over, or counts it as lost where too much waits already.
    pub fn push(&self, line: &[u8]) {
        let mut state = self.0.lock();
        if state.waiting.len() + line.len() > MAX_WAITING {
            state.lost += 1;
        } else {
            state.waiting.extend_from_slice(line);
        }
        drop(state);
        self.0.filled.notify_one();
    }

    /// Waits until all is written, for `patience` at most: whether it is.
    pub fn flush_within(&self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        let mut state = self.0.lock();
        while state.is_writing || !state.waiting.is_empty() || state.lost > 0 {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.0.written.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Write for Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_forever(&self, mut out: impl Write) {
        let mut lines = Vec::new();
        loop {
            let lost = self.take(&mut lines);
            if lost > 0 {
                lines.extend_from_slice(self.told_of(lost).as_bytes());
            }
            // A reader that has left or a full disk is no reason to stop serving.
            let _lost = write_patiently(&mut out, &lines);
            lines.clear();
        }
    }

    /// Waits for lines and takes all of them; they come before those that were lost.
    fn take(&self, lines: &mut Vec<u8>) -> u64 {
        let mut state = self.lock();
        state.is_writing = false;
        self.written.notify_all();
        while state.waiting.is_empty() && state.lost == 0 {
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::swap(lines, &mut state.waiting);
        state.is_writing = true;
        std::mem::take(&mut state.lost)
    }

    fn told_of(&self, lost: u64) -> String {
        let text = format!("{lost} log lines were lost: they were not read in time");
        match self.json.load(Relaxed) {
            true => format!("{{\"level\":\"WARN\",\"message\":\"{text}\"}}\n"),
            false => format!("WARN {text}\n"),
        }
    }
}

/// Writes all, also where the descriptor was made not to block by another program that has it open.
fn write_patiently(out: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(RETRY),
            Err(error) => return Err(error),
        }
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    /// A reader that takes a write at a time.
    struct Slow(SyncSender<Vec<u8>>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(|_| ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn slow() -> (Sink, Receiver<Vec<u8>>) {
        let (sender, receiver) = sync_channel(0);
        (Sink::start("test", Slow(sender)).unwrap(), receiver)
    }

    #[test]
    fn lines_without_a_reader_are_counted_and_told_of() {
        let (sink, receiver) = slow();
        let line = [b'x'; 1 << 16];
        let pushed = 100;
        (0..pushed).for_each(|_| sink.push(&line));
        assert!(!sink.flush_within(Duration::ZERO), "nobody reads");
        let mut text = Vec::new();
        while !text.ends_with(b"in time\n") {
            text.extend(receiver.recv().unwrap());
        }
        let written = text.iter().filter(|&&byte| byte == b'x').count() / line.len();
        let told = format!("WARN {} log lines were lost", pushed - written);
        assert!(String::from_utf8(text).unwrap().contains(&told), "{told}");
        sink.push(b"again\n");
        assert_eq!(receiver.recv().unwrap(), b"again\n");
    }

    #[test]
    fn a_reader_that_has_left_is_no_failure() {
        let (sink, receiver) = slow();
        drop(receiver);
        for _ in 0..3 {
            sink.push(b"line\n");
            assert!(sink.flush_within(Duration::MAX / 4));
        }
    }
}
