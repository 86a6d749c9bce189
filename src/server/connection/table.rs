//! All open connections, and whose turn it is to go when there are too many.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::ConnectionLimits;
use super::state::State;

/// Pause between two lines of the log about the same thing.
const LOG_PAUSE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Table {
    limits: ConnectionLimits,
    open: Mutex<HashMap<u64, Arc<State>>>,
    next_key: AtomicU64,
    /// The last connection has gone.
    emptied: Notify,
    logged: Mutex<Option<Instant>>,
}

/// A place in the table; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    table: Arc<Table>,
    key: u64,
    pub(super) state: Arc<State>,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    Server(usize),
    Address(usize),
}

impl Table {
    pub(super) fn new(limits: ConnectionLimits) -> Self {
        Self {
            limits,
            open: Mutex::default(),
            next_key: AtomicU64::new(0),
            emptied: Notify::new(),
            logged: Mutex::new(None),
        }
    }

    /// A place for a connection from `address`. When all are taken, the connection goes that has been
    /// silent for longest and has nothing computed for it.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> Result<Place, Full> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let of_address = open.values().filter(|state| state.address == address).count();
        let (full, among) = if of_address >= self.limits.max_per_address {
            (Some(Full::Address(self.limits.max_per_address)), Some(address))
        } else if open.len() >= self.limits.max {
            (Some(Full::Server(self.limits.max)), None)
        } else {
            (None, None)
        };
        if let Some(full) = full
            && !evict(&mut open, among)
        {
            return Err(full);
        }
        let key = self.next_key.fetch_add(1, Ordering::Relaxed);
        let state = Arc::new(State::new(address));
        open.insert(key, Arc::clone(&state));
        Ok(Place { table: Arc::clone(self), key, state })
    }

    /// Makes a descriptor free, if a connection can be spared.
    pub(super) fn spare_one(&self) -> bool {
        evict(&mut self.open.lock().unwrap_or_else(PoisonError::into_inner), None)
    }

    pub(super) async fn empty(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.open.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// Whether it is time for another line about a flood; otherwise the log would be its victim.
    pub(super) fn may_log(&self) -> bool {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = logged.is_none_or(|last| last.elapsed() > LOG_PAUSE);
        if is_due {
            *logged = Some(Instant::now());
        }
        is_due
    }
}

/// Ends the most expendable connection, of `address` if one is given.
fn evict(open: &mut HashMap<u64, Arc<State>>, address: Option<IpAddr>) -> bool {
    let is_candidate = |state: &State| address.is_none_or(|address| state.address == address);
    let victim = open
        .iter()
        .filter(|(_, state)| is_candidate(state))
        // Of those silent for as long, the one that came first.
        .filter_map(|(key, state)| Some((state.expendable_for()?, Reverse(*key))))
        .max();
    let Some(state) = victim.and_then(|(_, key)| open.remove(&key.0)) else { return false };
    state.evicted.cancel();
    true
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.table.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.remove(&self.key);
        if open.is_empty() {
            self.table.emptied.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn address(last: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, last))
    }

    #[test]
    fn the_longest_silent_connection_makes_room() {
        let limits = ConnectionLimits { max: 3, max_per_address: 2, ..ConnectionLimits::default() };
        let table = Arc::new(Table::new(limits));
        let first = table.enter(address(1)).expect("a place");
        std::thread::sleep(Duration::from_millis(5));
        let second = table.enter(address(1)).expect("a place");
        // A third of the same address takes the place of the first.
        let third = table.enter(address(1)).expect("a place");
        assert!(first.state.evicted.is_cancelled() && !second.state.evicted.is_cancelled());
        // Those in use stay.
        second.state.asked();
        third.state.asked();
        assert_eq!(table.enter(address(1)).err(), Some(Full::Address(2)));
        let other = table.enter(address(2)).expect("a place");
        other.state.asked();
        assert_eq!(table.enter(address(3)).err(), Some(Full::Server(3)));
        assert!(!table.spare_one());
        drop(other);
        assert!(table.enter(address(3)).is_ok());
    }
}
