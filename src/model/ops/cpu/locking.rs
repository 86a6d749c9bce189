//! Weights that are locked in memory as they are loaded, as far as the system lets the program.

use std::io;

/// How that goes.
#[derive(Default)]
pub(super) struct Locking {
    /// Bytes that are locked.
    bytes: usize,
    /// Why no more are.
    refused: Option<String>,
}

impl Locking {
    /// Locks what comes, until the system refuses once.
    pub(super) fn take(&mut self, bytes: usize, lock: impl FnOnce() -> io::Result<()>) {
        if self.refused.is_some() {
            return;
        }
        match lock() {
            Ok(()) => self.bytes += bytes,
            Err(error) => self.refused = Some(error.to_string()),
        }
    }

    /// What a person should know where not all of `weight_bytes` are locked.
    pub(super) fn warning(&self, weight_bytes: usize) -> Option<String> {
        let reason = self.refused.as_ref()?;
        Some(format!(
            "use_mlock: {} of {} MiB of weights are locked in memory, for more the system's limit \
             must be raised, such as by `ulimit -l`: {reason}",
            self.bytes >> 20,
            weight_bytes >> 20
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_refusal_is_the_last_try() {
        let mut locking = Locking::default();
        locking.take(3 << 20, || Ok(()));
        assert_eq!(locking.warning(9 << 20), None);
        locking.take(4 << 20, || Err(io::ErrorKind::OutOfMemory.into()));
        locking.take(2 << 20, || panic!("it must not be tried"));
        let warning = locking.warning(9 << 20).unwrap();
        assert!(warning.contains("3 of 9 MiB") && warning.contains("out of memory"), "{warning}");
    }
}
