//! How many threads compute a model, and on which processors.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use kolosal_kernels::affinity;
use kolosal_kernels::pool::Pool;

use super::error::ModelError;

/// More threads than any machine has use for.
const MAX_THREADS: usize = 512;

/// The number of threads that is meant: 0 = one for each of the `cpus` that they are bound to, or
/// else for each core.
#[must_use]
pub fn count(wanted: usize, cpus: &[usize]) -> usize {
    match (wanted, cpus.len()) {
        (0, 0) => cores(),
        (0, bound) => bound.min(MAX_THREADS),
        (wanted, _) => wanted.min(MAX_THREADS),
    }
}

/// Threads that compute on the CPU.
///
/// # Errors
/// They cannot be bound to the processors.
pub(super) fn pool(wanted: usize, cpus: &[usize]) -> Result<Arc<Pool>, ModelError> {
    let pool = Pool::bound(count(wanted, cpus), cpus);
    Ok(Arc::new(pool.map_err(|error| ModelError::Device {
        device: "cpu".to_owned(),
        problem: error.to_string(),
    })?))
}

/// Cores that this process may use. Two processors that share a core compute no faster than one, and
/// a container may be given less time than it has processors.
fn cores() -> usize {
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    let topology = Path::new("/sys/devices/system/cpu");
    let allowed = affinity::allowed().unwrap_or_default();
    physical(topology, &allowed).map_or(available, |cores| cores.min(available))
}

/// Different cores among the processors; `None` where the system does not say.
fn physical(topology: &Path, cpus: &[usize]) -> Option<usize> {
    let siblings = |cpu: &usize| {
        let path = topology.join(format!("cpu{cpu}/topology/thread_siblings_list"));
        std::fs::read_to_string(path).ok()
    };
    let cores: BTreeSet<String> = cpus.iter().map(siblings).collect::<Option<_>>()?;
    Some(cores.len()).filter(|&cores| cores > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_as_many_as_is_said() {
        let cases: [(usize, &[usize], usize); 4] =
            [(3, &[], 3), (3, &[0], 3), (0, &[0, 1, 5], 3), (9999, &[], MAX_THREADS)];
        for (wanted, cpus, expected) in cases {
            assert_eq!(count(wanted, cpus), expected, "{wanted} {cpus:?}");
        }
        let available = std::thread::available_parallelism().map_or(1, usize::from);
        assert!((1..=available).contains(&count(0, &[])));
    }

    #[test]
    fn processors_of_one_core_count_once() {
        let dir = tempfile::tempdir().unwrap();
        for (cpu, siblings) in [(0, "0-1\n"), (1, "0-1\n"), (2, "2-3\n"), (3, "2-3\n")] {
            let topology = dir.path().join(format!("cpu{cpu}/topology"));
            std::fs::create_dir_all(&topology).unwrap();
            std::fs::write(topology.join("thread_siblings_list"), siblings).unwrap();
        }
        for (cpus, cores) in [
            (vec![0, 1, 2, 3], Some(2)),
            (vec![1, 2], Some(2)),
            (vec![2, 3], Some(1)),
            (vec![4], None),
            (vec![], None),
        ] {
            assert_eq!(physical(dir.path(), &cpus), cores, "{cpus:?}");
        }
    }
}
