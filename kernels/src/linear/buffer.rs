//! Memory aligned to cache lines.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// Zeroed bytes, 64-byte aligned.
pub(super) struct Buffer {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: plain bytes owned by the buffer.
unsafe impl Send for Buffer {}
// SAFETY: shared access is read-only.
unsafe impl Sync for Buffer {}

impl Buffer {
    pub(super) fn new(len: usize) -> Buffer {
        let layout = Buffer::layout(len);
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
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
        Layout::from_size_align(len.max(64), 64).expect("a buffer fits in memory: this is a bug")
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout.
        unsafe { dealloc(self.start.as_ptr(), Buffer::layout(self.len)) }
    }
}
