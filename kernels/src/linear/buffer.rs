//! Memory aligned to cache lines.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// The size of a huge page on most machines. Buffers at least as large are aligned to it.
const HUGE_PAGE: usize = 2 << 20;

/// Bytes, 64-byte aligned. They are not initialised: whoever reads them has written them before,
/// on the thread (and so near the core) that will read them again.
pub(super) struct Buffer {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: bytes owned by the buffer.
unsafe impl Send for Buffer {}
// SAFETY: shared access is read-only.
unsafe impl Sync for Buffer {}

impl Buffer {
    pub(super) fn new(len: usize) -> Buffer {
        let layout = Buffer::layout(len);
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        if len >= HUGE_PAGE {
            advise_huge_pages(start, len);
        }
        Buffer { start, len }
    }

    /// Makes it at least `len` bytes. What it held is lost if it has to grow.
    pub(super) fn reserve(&mut self, len: usize) {
        if self.len < len {
            *self = Buffer::new(len);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn as_ptr(&self) -> *const u8 {
        self.start.as_ptr()
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.start.as_ptr()
    }

    fn layout(len: usize) -> Layout {
        let align = if len >= HUGE_PAGE { HUGE_PAGE } else { 64 };
        Layout::from_size_align(len.max(64), align).expect("a buffer fits in memory: this is a bug")
    }
}

/// Asks for huge pages, without which every few KiB of a stream of weights cost a page walk. An
/// answer is not needed: small pages are only slower.
#[cfg(target_os = "linux")]
fn advise_huge_pages(start: NonNull<u8>, len: usize) {
    const MADV_HUGEPAGE: i32 = 14;
    unsafe extern "C" {
        fn madvise(addr: *mut core::ffi::c_void, length: usize, advice: i32) -> i32;
    }
    // SAFETY: the range is ours, aligned to pages, and the advice does not change its content.
    let _ = unsafe { madvise(start.as_ptr().cast(), len, MADV_HUGEPAGE) };
}

#[cfg(not(target_os = "linux"))]
fn advise_huge_pages(_: NonNull<u8>, _: usize) {}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout.
        unsafe { dealloc(self.start.as_ptr(), Buffer::layout(self.len)) }
    }
}
