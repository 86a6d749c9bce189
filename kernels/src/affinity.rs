//! Which processors a thread may run on, where the system can be told (Linux).

use std::fmt;
#[cfg(target_os = "linux")]
use std::sync::OnceLock;

/// Processors that the system's call can name here.
const MAX_CPUS: usize = 1024;

/// Why threads cannot be bound to processors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AffinityError {
    /// The process may not use this processor.
    NotAllowed { cpu: usize, allowed: Vec<usize> },
    /// This system has no call for it.
    Unsupported,
    /// The text is no list of processors.
    Malformed { text: String },
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
            Self::Malformed { text } => {
                write!(f, "{text:?} is no list of processors such as 0-3,8, each below {MAX_CPUS}")
            }
            Self::Unsupported => f.write_str("this system cannot bind threads to processors"),
        }
    }
}

impl std::error::Error for AffinityError {}

/// Reads a list of processors such as `0-3,8`. An empty text is an empty list; what is named twice
/// counts once.
///
/// # Errors
/// The text is something else.
pub fn parse(text: &str) -> Result<Vec<usize>, AffinityError> {
    let malformed = || AffinityError::Malformed { text: text.to_owned() };
    let number = |text: &str| {
        let is_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|&cpu: &usize| is_digits && cpu < MAX_CPUS);
        number.ok_or_else(malformed)
    };
    let mut cpus = Vec::new();
    if text.trim().is_empty() {
        return Ok(cpus);
    }
    for part in text.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(malformed());
        }
        cpus.extend((first..=last).filter(|cpu| !cpus.contains(cpu)).collect::<Vec<_>>());
    }
    Ok(cpus)
}

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

/// What the process might use before any thread of it was bound.
#[cfg(target_os = "linux")]
static UNBOUND: OnceLock<system::Mask> = OnceLock::new();

/// Binds the calling thread to one processor; false if the system refuses.
#[cfg(target_os = "linux")]
pub(crate) fn bind(cpu: usize) -> bool {
    if let (None, Some(mask)) = (UNBOUND.get(), system::get()) {
        UNBOUND.get_or_init(|| mask);
    }
    let mut mask: system::Mask = [0; MAX_CPUS / 64];
    let Some(word) = mask.get_mut(cpu / 64) else { return false };
    *word = 1 << (cpu % 64);
    system::set(&mask)
}

/// Lets the calling thread run wherever the process might before it bound threads. A thread is bound
/// where the one that started it is, so those that are to run beside a bound one call this.
#[cfg(target_os = "linux")]
pub fn release() {
    if let Some(mask) = UNBOUND.get() {
        system::set(mask);
    }
}

/// Nothing: this system has no call for it.
#[cfg(not(target_os = "linux"))]
pub fn release() {}

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
            let child = || std::thread::spawn(|| (allowed(), release(), allowed()));
            let bound = std::thread::spawn(move || (bind(cpu), allowed(), child().join()));
            let (is_bound, to, child) = bound.join().expect("the thread ends");
            assert_eq!((is_bound, to), (true, Some(vec![cpu])));
            let child = child.expect("the child ends");
            assert_eq!(child, (Some(vec![cpu]), (), Some(cpus.clone())));
        }
        assert!(!bind(MAX_CPUS));
        assert_eq!(allowed(), Some(cpus));
    }

    #[test]
    fn lists_are_read() {
        let cases: [(&str, Option<&[usize]>); 13] = [
            ("", Some(&[])),
            ("0", Some(&[0])),
            ("0-3,8", Some(&[0, 1, 2, 3, 8])),
            (" 8, 0-1 ", Some(&[8, 0, 1])),
            ("1,0-2,1", Some(&[1, 0, 2])),
            ("1023", Some(&[1023])),
            ("1024", None),
            ("3-1", None),
            ("0-", None),
            ("-1", None),
            ("+1", None),
            ("0,,1", None),
            ("all", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text).ok().as_deref(), expected, "{text:?}");
        }
        let error = parse("all").expect_err("no list").to_string();
        assert_eq!(error, "\"all\" is no list of processors such as 0-3,8, each below 1024");
    }
}
