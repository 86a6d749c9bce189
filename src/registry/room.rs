//! Room in memory: whether a load fits, who has to go for it, and what is said when it does not.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};

use super::admit::{Budget, Shortage, choose_victims};
use super::entry::{Action, Entry, Leave, Phase, Victim};
use super::table::{Table, not_found};

/// May a load begin?
pub(super) enum Admission {
    /// Yes, once these are freed.
    Granted(Vec<Victim>),
    /// Not before someone else has finished.
    Wait,
}

impl Entry {
    /// Bytes that count against the budget. What engines on their way out still occupy is counted
    /// there, not twice.
    fn counted_bytes(&self) -> u64 {
        self.room.bytes - self.room.covered.min(self.room.bytes)
    }

    fn counts_as_loaded(&self) -> bool {
        self.room.admitted && self.room.heir.is_none()
    }

    fn stays_for_good(&self) -> bool {
        self.spec.pinned && matches!(self.phase, Phase::Ready(_))
    }
}

impl Table {
    /// A load of `need` bytes asks for room. Free room goes to whoever comes; only the first of those
    /// that wait may evict, so that what it frees is its own.
    ///
    /// # Errors
    /// It can never fit, nobody wants it any more, or it was removed meanwhile.
    pub(super) fn admit(
        &mut self,
        (id, load_id): (&str, u64),
        need: u64,
        now: Instant,
    ) -> Result<Admission> {
        let entry = self.entry_of(id, load_id).ok_or_else(|| not_found(id))?;
        if !matches!(entry.phase, Phase::Loading { leave: None }) {
            return Err(not_found(id));
        }
        self.check_possible(id, need)?;
        let short = self.shortage(need);
        if short.is_none() {
            self.reserve(load_id, need, 0);
            return Ok(Admission::Granted(Vec::new()));
        }
        let first = self.room_queue.front().is_none_or(|first| *first == load_id);
        if first && let Some(victims) = self.evict(load_id, short, now) {
            let freed = victims.iter().map(|(_, bytes)| bytes).sum();
            self.reserve(load_id, need, freed);
            return Ok(Admission::Granted(victims.into_iter().map(|(victim, _)| victim).collect()));
        }
        if !self.room_queue.contains(&load_id) {
            self.room_queue.push_back(load_id);
        }
        Ok(Admission::Wait)
    }

    /// An engine wants `bytes` more for its KV. What is free goes to loads that wait for room first.
    pub(super) fn grow(&mut self, id: &str, load_id: u64, bytes: u64) -> bool {
        let is_free = self.room_queue.is_empty() && self.shortage(bytes).bytes == 0;
        let entry = self.entry_of(id, load_id).filter(|entry| entry.room.admitted && is_free);
        entry.map(|entry| entry.room.bytes += bytes).is_some()
    }

    /// An engine could not get what it was granted by [`Self::grow`].
    pub(super) fn shrink(&mut self, id: &str, load_id: u64, bytes: u64) {
        if let Some(entry) = self.entry_of(id, load_id) {
            entry.room.bytes = entry.room.bytes.saturating_sub(bytes);
        }
    }

    /// The load has waited for room in vain.
    pub(super) fn no_room(&self, id: &str, need: u64) -> Error {
        let holders: Vec<String> = self
            .entries
            .values()
            .filter(|entry| entry.room.admitted)
            .map(|entry| format!("'{}' {}", entry.spec.id, human(entry.room.bytes)))
            .collect();
        let text = format!(
            "no room for engine '{id}': it needs {}, {}; in use: {}",
            human(need),
            self.budget,
            holders.join(", ")
        );
        Error::unavailable(text, 10).with_code("insufficient_memory")
    }

    /// Whether anyone still wants the load.
    pub(super) fn is_wanted(&mut self, id: &str, load_id: u64) -> bool {
        self.entry_of(id, load_id).is_some_and(|entry| entry.is_wanted())
    }

    fn check_possible(&self, id: &str, need: u64) -> Result<()> {
        let fixed = self.entries.values().filter(|entry| entry.stays_for_good());
        let (count, bytes) =
            fixed.fold((0, 0_u64), |(count, bytes), entry| (count + 1, bytes + entry.room.bytes));
        if bytes.saturating_add(need) <= self.budget.bytes && count < self.budget.engines {
            return Ok(());
        }
        let text = format!(
            "engine '{id}' does not fit: it needs {}, {}, of which pinned engines hold {} ({count})",
            human(need),
            self.budget,
            human(bytes)
        );
        Err(Error::unavailable(text, 60).with_code("insufficient_memory"))
    }

    fn shortage(&self, need: u64) -> Shortage {
        let used: u64 = self.entries.values().map(Entry::counted_bytes).sum();
        let count = self.entries.values().filter(|entry| entry.counts_as_loaded()).count();
        Shortage {
            bytes: used.saturating_add(need).saturating_sub(self.budget.bytes),
            engines: (count + 1).saturating_sub(self.budget.engines),
        }
    }

    /// Drains the least recently used idle engines that make up for `short`: each with its bytes.
    fn evict(&mut self, heir: u64, short: Shortage, now: Instant) -> Option<Vec<(Victim, u64)>> {
        let config = &self.config;
        let mut idle: Vec<&mut Entry> = self
            .entries
            .values_mut()
            .filter(|entry| {
                !entry.spec.pinned && entry.is_idle() && entry.resident_until(config) <= now
            })
            .collect();
        idle.sort_by_key(|entry| entry.last_used);
        let bytes: Vec<u64> = idle.iter().map(|entry| entry.room.bytes).collect();
        let mut victims = Vec::new();
        for index in choose_victims(&bytes, short)? {
            let entry = &mut *idle[index];
            entry.room.heir = Some(heir);
            if let Some(Action::Drain { victim, .. }) = entry.drain(Leave::Unload, Duration::ZERO) {
                victims.push((victim, bytes[index]));
            }
        }
        Some(victims)
    }

    fn reserve(&mut self, load_id: u64, need: u64, freed: u64) {
        self.room_queue.retain(|queued| *queued != load_id);
        for entry in self.entries.values_mut().filter(|entry| entry.load_id == load_id) {
            entry.room.admitted = true;
            entry.room.bytes = need;
            entry.room.covered = freed.min(need);
        }
        let used: u64 = self.entries.values().map(Entry::counted_bytes).sum();
        debug_assert!(used <= self.budget.bytes, "admitted {used} bytes of {:?}", self.budget);
    }
}

impl std::fmt::Display for Budget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.bytes, self.engines) {
            (u64::MAX, usize::MAX) => f.write_str("without limit"),
            (u64::MAX, engines) => write!(f, "the limit is {engines} engines"),
            (bytes, usize::MAX) => write!(f, "the budget is {}", human(bytes)),
            (bytes, engines) => write!(f, "the budget is {} and {engines} engines", human(bytes)),
        }
    }
}

/// A number of bytes for people, exact while small.
fn human(bytes: u64) -> String {
    const MIB: f64 = (1 << 20) as f64;
    match bytes {
        0..0x10_0000 => format!("{bytes} bytes"),
        0x10_0000..0x4000_0000 => format!("{:.1} MiB", bytes as f64 / MIB),
        _ => format!("{:.2} GiB", bytes as f64 / MIB / 1024.0),
    }
}
