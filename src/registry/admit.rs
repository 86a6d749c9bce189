//! Admission by bytes: how much memory loaded models may take, and whose turn it is to go.

use crate::model::memory::available;

/// Share of the memory found free at start that loaded models may take.
const BUDGET_SHARE: f64 = 0.9;

/// The most that loaded engines may take together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Budget {
    /// `u64::MAX` = without limit.
    pub(super) bytes: u64,
    pub(super) engines: usize,
}

/// What a new engine needs that is not free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shortage {
    pub(super) bytes: u64,
    pub(super) engines: usize,
}

impl Shortage {
    pub(super) fn is_none(self) -> bool {
        self == Self::default()
    }
}

/// Picks whom to evict from `idle`, given as bytes in the order of last use, oldest first: indexes of
/// the least recently used that together make up for `short`, without those that turn out not to be
/// needed. `None`: all together do not suffice.
pub(super) fn choose_victims(idle: &[u64], short: Shortage) -> Option<Vec<usize>> {
    let suffices = |bytes: u64, count: usize| bytes >= short.bytes && count >= short.engines;
    let mut bytes = 0_u64;
    let mut victims = Vec::new();
    for (index, held) in idle.iter().enumerate() {
        if suffices(bytes, victims.len()) {
            break;
        }
        bytes = bytes.saturating_add(*held);
        victims.push(index);
    }
    if !suffices(bytes, victims.len()) {
        return None;
    }
    let mut count = victims.len();
    victims.retain(|index| {
        let spare = suffices(bytes - idle[*index], count - 1);
        if spare {
            bytes -= idle[*index];
            count -= 1;
        }
        !spare
    });
    Some(victims)
}

/// Bytes that models may take: 90 % of what is free for this process now. `None` where that cannot be
/// known.
#[must_use]
pub fn detect_budget() -> Option<u64> {
    available().map(|free| (free as f64 * BUDGET_SHARE) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn victims_are_the_oldest_that_suffice() {
        type Case = (&'static [u64], (u64, usize), Option<&'static [usize]>);
        let cases: &[Case] = &[
            (&[], (0, 0), Some(&[])),
            (&[], (1, 0), None),
            (&[], (0, 1), None),
            (&[4, 4, 4], (4, 0), Some(&[0])),
            (&[4, 4, 4], (5, 0), Some(&[0, 1])),
            (&[4, 4, 4], (13, 0), None),
            // The small old one alone is not enough, and with the big one it is not needed.
            (&[1, 8], (8, 0), Some(&[1])),
            (&[1, 8], (9, 0), Some(&[0, 1])),
            (&[1, 8], (8, 2), Some(&[0, 1])),
            (&[1, 8], (0, 1), Some(&[0])),
        ];
        for (idle, (bytes, engines), want) in cases {
            let short = Shortage { bytes: *bytes, engines: *engines };
            let got = choose_victims(idle, short);
            assert_eq!(got.as_deref(), *want, "{idle:?} for {short:?}");
        }
    }

    #[test]
    fn a_budget_is_found() {
        assert!(detect_budget().is_some_and(|bytes| bytes > 0));
    }
}
