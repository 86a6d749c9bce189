//! Files that the hub writes: never through a link, never into a file that has another name, and never
//! more than the disk holds.
//!
//! Whoever else may write in the folder of models could otherwise lay a link where a download is about
//! to be written, and have this process overwrite what the link means.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::Path;

use super::HubError;

/// Opens a file to read what is there and append to it. What is no plain file of its own under this
/// name is removed first, the link itself and not what it leads to.
pub(super) fn open(path: &Path) -> Result<File, HubError> {
    let failed = |e| HubError::io("create", path, e);
    match open_plain(path, OpenOptions::new().read(true).append(true)) {
        Ok(Some(file)) => return Ok(file),
        Ok(None) => fs::remove_file(path).map_err(failed)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed(e)),
    }
    // Fails, rather than follows, when something is there again.
    let created = OpenOptions::new().read(true).append(true).create_new(true).open(path);
    created.map_err(failed)
}

/// A new and empty file, whatever stood there before.
pub(super) fn create(path: &Path) -> Result<File, HubError> {
    let failed = |e| HubError::io("create", path, e);
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)
}

/// The text of a small file; `None` if it is none, larger than `bytes_max`, or no plain file.
pub(super) fn read_small(path: &Path, bytes_max: u64) -> Option<Vec<u8>> {
    let file = open_plain(path, OpenOptions::new().read(true)).ok()??;
    let mut text = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut text).ok()?;
    (text.len() as u64 <= bytes_max).then_some(text)
}

/// `None`: it is a link, or a file that has other names too, or no file at all.
fn open_plain(path: &Path, options: &mut OpenOptions) -> io::Result<Option<File>> {
    if !is_plain(&fs::symlink_metadata(path)?) {
        return Ok(None);
    }
    // What was seen may have been exchanged since: the system refuses links, and waits for no pipe.
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed());
    }
    let file = options.open(path)?;
    let found = file.metadata()?;
    Ok(is_plain(&found).then_some(file))
}

fn is_plain(found: &fs::Metadata) -> bool {
    #[cfg(unix)]
    let names = std::os::unix::fs::MetadataExt::nlink(found);
    #[cfg(not(unix))]
    let names = 1;
    found.is_file() && names == 1
}

/// Whether `bytes` more fit on the disk that holds `folder`, as far as the system tells.
pub(super) fn check_space(folder: &Path, what: &str, bytes: u64) -> Result<(), HubError> {
    match free_bytes(folder) {
        Some(free) if bytes > free => {
            let (what, folder) = (what.to_owned(), folder.to_owned());
            Err(HubError::NoSpace { what, bytes, free, folder })
        }
        _ => Ok(()),
    }
}

#[cfg(unix)]
fn free_bytes(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(not(unix))]
fn free_bytes(_folder: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn links_are_replaced_and_what_they_mean_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (victim, path) = (dir.path().join("victim"), dir.path().join("x.part"));
        let lay: [fn(&Path, &Path); 3] = [
            |victim, path| std::os::unix::fs::symlink(victim, path).unwrap(),
            |victim, path| fs::hard_link(victim, path).unwrap(),
            |_, path| std::os::unix::fs::symlink("/nonexistent/file", path).unwrap(),
        ];
        for (case, lay) in lay.into_iter().enumerate() {
            for opens in [open, create] {
                fs::write(&victim, "mine").unwrap();
                let _ = fs::remove_file(&path);
                lay(&victim, &path);
                assert_eq!(read_small(&path, 100), None, "{case}");
                opens(&path).unwrap().write_all(b"new").unwrap();
                assert_eq!(fs::read(&victim).unwrap(), b"mine", "{case}");
                assert_eq!(read_small(&path, 100).unwrap(), b"new", "{case}");
            }
        }
        let mut again = open(&path).unwrap();
        again.write_all(b"er").unwrap();
        assert_eq!(read_small(&path, 5).unwrap(), b"newer");
        assert_eq!(read_small(&path, 4), None);
    }

    #[test]
    fn a_full_disk_is_seen_before_it_is_full() {
        let dir = tempfile::tempdir().unwrap();
        check_space(dir.path(), "m", 1).unwrap();
        let error = check_space(dir.path(), "m", u64::MAX).unwrap_err().to_string();
        assert!(error.contains("m needs 18446744073709551615 bytes"), "{error}");
    }
}
