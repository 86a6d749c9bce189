//! What is known of one connection while it is open.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::ConnectionLimits;

/// "Not now" for the times below.
const NEVER: u64 = u64::MAX;

/// One connection. Counters are independent of each other: each is only compared with time.
#[derive(Debug)]
pub(crate) struct State {
    pub(super) address: IpAddr,
    opened: Instant,
    /// Requests whose head is here and whose answer is not yet sent.
    serving: AtomicUsize,
    /// Of them, those whose body is still being read.
    receiving: AtomicUsize,
    /// Milliseconds from `opened` to the last byte that was read.
    last_read_ms: AtomicU64,
    /// As above: to the first byte of the head that is being read.
    head_since_ms: AtomicU64,
    /// As above: to when the last request was answered.
    idle_since_ms: AtomicU64,
    /// As above: to when the client stopped reading what waits for it.
    stalled_since_ms: AtomicU64,
    /// Frames of HTTP/2 come without a request as well: there is no head to wait for.
    is_http2: AtomicBool,
    /// Cancelled when the connection has to make room.
    pub(super) evicted: CancellationToken,
}

/// Why a connection is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    Head,
    Idle,
    Unread,
}

impl State {
    pub(super) fn new(address: IpAddr) -> Self {
        Self {
            address,
            opened: Instant::now(),
            serving: AtomicUsize::new(0),
            receiving: AtomicUsize::new(0),
            last_read_ms: AtomicU64::new(0),
            // A connection is opened for a request: its head is due.
            head_since_ms: AtomicU64::new(0),
            idle_since_ms: AtomicU64::new(0),
            stalled_since_ms: AtomicU64::new(NEVER),
            is_http2: AtomicBool::new(false),
            evicted: CancellationToken::new(),
        }
    }

    fn now_ms(&self) -> u64 {
        self.opened.elapsed().as_millis() as u64
    }

    fn since(&self, start: &AtomicU64) -> Option<Duration> {
        let start = start.load(Ordering::Relaxed);
        (start != NEVER).then(|| Duration::from_millis(self.now_ms().saturating_sub(start)))
    }

    pub(super) fn note_http2(&self) {
        self.is_http2.store(true, Ordering::Relaxed);
        self.head_since_ms.store(NEVER, Ordering::Relaxed);
    }

    /// Bytes have come.
    pub(super) fn note_read(&self) {
        let now = self.now_ms();
        self.last_read_ms.store(now, Ordering::Relaxed);
        if self.serving.load(Ordering::Relaxed) == 0 && !self.is_http2.load(Ordering::Relaxed) {
            let _already = self.head_since_ms.compare_exchange(
                NEVER,
                now,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
    }

    /// The system took nothing of what was to be written.
    pub(super) fn note_stall(&self) {
        let _already = self.stalled_since_ms.compare_exchange(
            NEVER,
            self.now_ms(),
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }

    pub(super) fn note_progress(&self) {
        self.stalled_since_ms.store(NEVER, Ordering::Relaxed);
    }

    /// A head is complete: from here to [`Self::answered`] the connection is in use.
    pub(super) fn asked(&self) {
        self.serving.fetch_add(1, Ordering::Relaxed);
        self.head_since_ms.store(NEVER, Ordering::Relaxed);
    }

    pub(super) fn answered(&self) {
        self.idle_since_ms.store(self.now_ms(), Ordering::Relaxed);
        self.serving.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn is_serving(&self) -> bool {
        self.serving.load(Ordering::Relaxed) > 0
    }

    /// A body is being read as long as what is returned lives.
    pub(crate) fn receive(&self) -> impl Drop + '_ {
        struct Receiving<'a>(&'a AtomicUsize);
        impl Drop for Receiving<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.receiving.fetch_add(1, Ordering::Relaxed);
        Receiving(&self.receiving)
    }

    /// How long the connection has had nothing computed for it, if it may go for another: it is idle,
    /// or all of its requests wait for bodies that do not come.
    pub(super) fn expendable_for(&self) -> Option<Duration> {
        let waits = self.serving.load(Ordering::Relaxed) <= self.receiving.load(Ordering::Relaxed);
        let silent = self.since(&self.last_read_ms)?;
        let is_stalled = self.is_serving() && silent < BODY_PAUSE;
        (waits && !is_stalled).then_some(silent)
    }

    /// Whether the connection has used up a time limit.
    pub(super) fn overdue(&self, limits: &ConnectionLimits) -> Option<Overdue> {
        let passed = |start: &AtomicU64, limit| self.since(start).is_some_and(|time| time > limit);
        if passed(&self.stalled_since_ms, limits.send_timeout) {
            return Some(Overdue::Unread);
        }
        if self.is_serving() {
            return None;
        }
        if passed(&self.head_since_ms, limits.header_timeout) {
            return Some(Overdue::Head);
        }
        passed(&self.idle_since_ms, limits.idle_timeout).then_some(Overdue::Idle)
    }
}

/// A body that pauses for so long may have to go when places are short.
const BODY_PAUSE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn what_a_connection_waits_for_decides_which_limit_holds() {
        let state = State::new(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let none = Duration::ZERO;
        let long = Duration::from_hours(1);
        let limits = |header_timeout, idle_timeout, send_timeout| ConnectionLimits {
            header_timeout,
            idle_timeout,
            send_timeout,
            ..ConnectionLimits::default()
        };
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(state.overdue(&limits(none, long, long)), Some(Overdue::Head));
        assert_eq!(state.overdue(&limits(long, long, long)), None);
        assert!(state.expendable_for().is_some());
        state.asked();
        assert_eq!(state.overdue(&limits(none, none, long)), None);
        assert_eq!(state.expendable_for(), None);
        state.note_stall();
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(state.overdue(&limits(none, none, none)), Some(Overdue::Unread));
        state.note_progress();
        assert_eq!(state.overdue(&limits(none, none, none)), None);
        state.answered();
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(state.overdue(&limits(none, long, long)), None);
        assert_eq!(state.overdue(&limits(long, none, long)), Some(Overdue::Idle));
        state.note_read();
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(state.overdue(&limits(none, long, long)), Some(Overdue::Head));
    }
}
