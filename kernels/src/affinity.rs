//! Which processors a thread may run on, where the system can be told (Linux).

use std::fmt;

/// Processors that the system's call can name here.
const MAX_CPUS: usize = 1024;

/// Why threads cannot be bound to processors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AffinityError {
    /// The process may not use this processor.
    NotAllowed { cpu: usize, allowed: Vec<usize> },
    /// This system has no call for it.
    Unsupported,
}

impl fmt::Display for AffinityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAllowed { cpu, allowed } => {
                write!(
                    f,
                    "processor {cpu} is not among those that this process may use: {allowed:?}"
                )
            }
            Self::Unsupported => f.write_str("this system cannot bind threads to processors"),
        }
    }
}

impl std::error::Error for AffinityError {}

/// Checks that threads can be bound to each of `cpus`.
///
/// # Errors
/// The first that the process may not use, or no support for it.
pub fn check(cpus: &[usize]) -> Result<(), AffinityError> {
    if cpus.is_empty() {
        return Ok(());
    }
    let allowed = allowed().ok_or(AffinityError::Unsupported)?;
    match cpus.iter().find(|cpu| !allowed.contains(cpu)) {
        Some(&cpu) => Err(AffinityError::NotAllowed { cpu, allowed }),
        None => Ok(()),
    }
}

#[cfg(target_os = "linux")]
mod system {
    use super::MAX_CPUS;

    pub(super) type Mask = [u64; MAX_CPUS / 64];

    unsafe extern "C" {
        fn sched_getaffinity(pid: i32, size: usize, mask: *mut u64) -> i32;
        fn sched_setaffinity(pid: i32, size: usize, mask: *const u64) -> i32;
    }

    pub(super) fn get() -> Option<Mask> {
        let mut mask = [0; MAX_CPUS / 64];
        // SAFETY: the mask is as large as is said; 0 is the calling thread.
        let result = unsafe { sched_getaffinity(0, size_of::<Mask>(), mask.as_mut_ptr()) };
        (result >= 0).then_some(mask)
    }

    pub(super) fn set(mask: &Mask) -> bool {
        // SAFETY: as above.
        unsafe { sched_setaffinity(0, size_of::<Mask>(), mask.as_ptr()) == 0 }
    }
}

/// Processors that the calling thread may use, ascending; None where the system does not say.
#[cfg(target_os = "linux")]
pub fn allowed() -> Option<Vec<usize>> {
    let mask = system::get()?;
    Some((0..MAX_CPUS).filter(|cpu| mask[cpu / 64] >> (cpu % 64) & 1 == 1).collect())
}

/// Binds the calling thread to one processor; false if the system refuses.
#[cfg(target_os = "linux")]
pub(crate) fn bind(cpu: usize) -> bool {
    let mut mask: system::Mask = [0; MAX_CPUS / 64];
    let Some(word) = mask.get_mut(cpu / 64) else { return false };
    *word = 1 << (cpu % 64);
    system::set(&mask)
}

/// Processors that the calling thread may use; None, as this system does not say.
#[cfg(not(target_os = "linux"))]
pub fn allowed() -> Option<Vec<usize>> {
    None
}

/// False: this system has no call for it.
#[cfg(not(target_os = "linux"))]
pub(crate) fn bind(_: usize) -> bool {
    false
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn threads_are_bound_to_processors_that_are_allowed() {
        let cpus = allowed().expect("Linux says");
        assert!(!cpus.is_empty());
        assert_eq!(check(&cpus), Ok(()));
        assert_eq!(check(&[]), Ok(()));
        let error = check(&[MAX_CPUS]).expect_err("no such processor");
        assert!(error.to_string().starts_with("processor 1024 is not among"), "{error}");
        for &cpu in &cpus {
            let bound = std::thread::spawn(move || (bind(cpu), allowed()));
            assert_eq!(bound.join().expect("the thread ends"), (true, Some(vec![cpu])));
        }
        assert!(!bind(MAX_CPUS));
        assert_eq!(allowed(), Some(cpus));
    }
}
