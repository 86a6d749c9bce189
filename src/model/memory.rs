//! Memory that this process may still take, and what is said when there is too little.

use std::fs;
use std::path::Path;

use kolosal_kernels::memory::OutOfMemory;

/// Bytes that are free for this process: on the machine, and on Linux in the control groups and within
/// the resource limits (`ulimit -v`, `ulimit -d`) that it runs under. `None` where none of them can be
/// read.
#[must_use]
pub fn available() -> Option<u64> {
    [host_free(), cgroup_free(), limits_free()].into_iter().flatten().min()
}

/// Bytes that this process may have in all: of the machine, and on Linux of the tightest control group and
/// the resource limits. `None` where none of them can be read.
#[must_use]
pub fn limit() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok();
    let of_limits = |name: &str| soft_limit(limits.as_deref()?, name);
    let own = [of_limits("Max address space"), of_limits("Max data size")];
    [host_total(), cgroup(|limit, _| limit)].into_iter().chain(own).flatten().min()
}

/// A copy.
///
/// # Errors
/// There is no memory for it.
pub(super) fn copied(bytes: &[u8]) -> Result<Vec<u8>, OutOfMemory> {
    let mut copy = Vec::new();
    let wanted = bytes.len();
    copy.try_reserve_exact(wanted).map_err(|_| OutOfMemory { wanted })?;
    copy.extend_from_slice(bytes);
    Ok(copy)
}

/// Why `wanted` bytes are not to be had, with figures.
pub(crate) fn refusal(wanted: u64) -> String {
    match available() {
        Some(free) => format!("no memory for {wanted} bytes: about {free} are available"),
        None => format!("no memory for {wanted} bytes"),
    }
}

/// What the machine has left without swapping.
#[cfg(target_os = "linux")]
fn host_free() -> Option<u64> {
    mem_available(&fs::read_to_string("/proc/meminfo").ok()?)
}

/// What the machine has.
#[cfg(target_os = "linux")]
fn host_total() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")
}

/// What the machine has.
#[cfg(not(target_os = "linux"))]
fn host_total() -> Option<u64> {
    let mut system = sysinfo::System::new().ok()?;
    system.refresh_memory();
    Some(system.total_memory()).filter(|&bytes| bytes > 0)
}

/// What the machine has left without swapping; the system is asked through `sysinfo`.
#[cfg(not(target_os = "linux"))]
fn host_free() -> Option<u64> {
    let mut system = sysinfo::System::new().ok()?;
    system.refresh_memory();
    Some(system.available_memory()).filter(|&bytes| bytes > 0)
}

/// `MemAvailable` of `/proc/meminfo` in bytes.
#[cfg(any(target_os = "linux", test))]
fn mem_available(meminfo: &str) -> Option<u64> {
    kilobytes(meminfo, "MemAvailable:")
}

/// A line such as `VmSize:  1024 kB`, in bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// What the tightest control group above this process leaves.
fn cgroup_free() -> Option<u64> {
    cgroup(u64::saturating_sub)
}

/// The least of what `of` makes of limit and use of the control groups above this process, version 2 then
/// version 1.
fn cgroup(of: impl Fn(u64, u64) -> u64) -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mut least = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let (root, limit, usage) = if controllers.is_empty() {
            ("/sys/fs/cgroup", "memory.max", "memory.current")
        } else if controllers.split(',').any(|name| name == "memory") {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
        } else {
            continue;
        };
        for group in Path::new(path.trim_start_matches('/')).ancestors() {
            let folder = Path::new(root).join(group);
            let number = |file: &str| read_number(&folder.join(file));
            if let (Some(limit), Some(usage)) = (number(limit), number(usage)) {
                let value = of(limit, usage);
                least = Some(least.map_or(value, |least: u64| least.min(value)));
            }
        }
    }
    least
}

/// A file with one number; `max` is none.
fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// What limits on address space and data leave.
fn limits_free() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let free = |limit: &str, used: &str| {
        Some(soft_limit(&limits, limit)?.saturating_sub(kilobytes(&status, used)?))
    };
    let space = free("Max address space", "VmSize:");
    [space, free("Max data size", "VmData:")].into_iter().flatten().min()
}

/// The first figure of a line of `/proc/self/limits`; `unlimited` is none.
fn soft_limit(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_the_system_are_read() {
        let meminfo = "MemTotal:       64 kB\nMemAvailable:   32 kB\nSwapFree: 1 kB\n";
        assert_eq!(mem_available(meminfo), Some(32 * 1024));
        for bad in ["", "MemAvailable: x kB", "MemAvailable: 12 MB", "MemFree: 12 kB"] {
            assert_eq!(mem_available(bad), None, "{bad:?}");
        }
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max data size             unlimited            unlimited            bytes\n\
                      Max address space         629145600            unlimited            bytes\n";
        assert_eq!(soft_limit(limits, "Max address space"), Some(600 << 20));
        assert_eq!(soft_limit(limits, "Max data size"), None);
        assert_eq!(soft_limit(limits, "Max nice priority"), None);
    }
}
