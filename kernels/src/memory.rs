//! Memory that comes aligned and, when it is large, goes back to the system at once.
//!
//! A general allocator keeps what is freed, and clears again what it hands out a second time: an
//! unloaded model would stay resident, and the next one would touch all of its KV pool. So large
//! buffers are mappings of their own.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::MmapMut;

/// The size of a huge page on most machines. Buffers at least as large are aligned to it and mapped.
const HUGE_PAGE: usize = 2 << 20;
/// A multiple of this machine's pages and of most.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const PAGE: usize = 64 << 10;
/// Smaller buffers are aligned to cache lines.
pub(crate) const CACHE_LINE: usize = 64;

/// What an empty buffer is aligned as.
#[repr(align(64))]
struct Line;

/// Bytes, zero at first. Untouched pages of a large buffer take no memory, and a page lies near the
/// core that first writes it.
pub(crate) struct Buffer {
    start: NonNull<u8>,
    len: usize,
    /// Where the bytes lie; absent for small buffers, which are allocated.
    mapping: Option<Arc<MmapMut>>,
}

// SAFETY: bytes owned by the buffer.
unsafe impl Send for Buffer {}
// SAFETY: shared access is read-only.
unsafe impl Sync for Buffer {}

/// The system has no memory for this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory {
    /// Bytes that were wanted at once.
    pub wanted: usize,
}

impl std::fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "no memory for {} bytes", self.wanted)
    }
}

impl std::error::Error for OutOfMemory {}

impl Buffer {
    /// No bytes.
    pub(crate) const fn empty() -> Buffer {
        Buffer { start: NonNull::<Line>::dangling().cast(), len: 0, mapping: None }
    }

    /// For bytes that will all be used: in huge pages where the system has them.
    pub(crate) fn new(len: usize) -> Result<Buffer, OutOfMemory> {
        let buffer = Buffer::sparse(len)?;
        if buffer.mapping.is_some() {
            advise_huge_pages(buffer.start, len);
        }
        Ok(buffer)
    }

    /// For bytes of which few may ever be used.
    pub(crate) fn sparse(len: usize) -> Result<Buffer, OutOfMemory> {
        if len == 0 {
            return Ok(Buffer::empty());
        }
        if len >= HUGE_PAGE
            && let Some(buffer) = Buffer::mapped(len)
        {
            return Ok(buffer);
        }
        let layout = Buffer::layout(len).ok_or(OutOfMemory { wanted: len })?;
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        let start = NonNull::new(start).ok_or(OutOfMemory { wanted: len })?;
        Ok(Buffer { start, len, mapping: None })
    }

    /// None if the system refuses; the allocator may know better.
    fn mapped(len: usize) -> Option<Buffer> {
        let mut mapping = MmapMut::map_anon(len.checked_add(HUGE_PAGE)?).ok()?;
        let skip = mapping.as_ptr().align_offset(HUGE_PAGE);
        let start = NonNull::from(mapping.get_mut(skip..)?).cast();
        Some(Buffer { start, len, mapping: Some(Arc::new(mapping)) })
    }

    /// Makes it at least `len` bytes. What it held is lost if it has to grow.
    pub(crate) fn reserve(&mut self, len: usize) -> Result<(), OutOfMemory> {
        if self.len < len {
            // What it had is of no more use, and may be what is missing.
            *self = Buffer::empty();
            *self = Buffer::new(len)?;
        }
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        // SAFETY: the buffer's own bytes, zero or written since.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.start.as_ptr()
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// The bytes as half floats.
    pub(crate) fn as_halves(&self) -> &[u16] {
        // SAFETY: aligned to a cache line, and all of it is initialised.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.len / 2) }
    }

    pub(crate) fn as_halves_mut(&mut self) -> &mut [u16] {
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.len / 2) }
    }

    fn layout(len: usize) -> Option<Layout> {
        Layout::from_size_align(len.max(CACHE_LINE), CACHE_LINE).ok()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let is_allocated = self.mapping.is_none() && self.len > 0;
        if let (true, Some(layout)) = (is_allocated, Buffer::layout(self.len)) {
            // SAFETY: allocated in `sparse` with the same layout.
            unsafe { dealloc(self.start.as_ptr(), layout) }
        }
    }
}

/// Memory for many buffers that are used together, such as a model's weights: one after the other in
/// huge pages, so that a pass over all of them seldom walks the page table. It goes back to the
/// system when the last buffer of a chunk is dropped.
#[derive(Default)]
pub struct Arena {
    chunk: Mutex<Option<Chunk>>,
}

/// What is left of a mapping.
struct Chunk {
    mapping: Arc<MmapMut>,
    next: NonNull<u8>,
    left: usize,
}

// SAFETY: what is left belongs to the chunk alone, and is handed out once.
unsafe impl Send for Chunk {}

/// Bytes that are mapped at once for small buffers. Those never used take no memory.
const CHUNK: usize = 32 << 20;

impl Arena {
    /// As [`Buffer::new`].
    pub(crate) fn buffer(&self, len: usize) -> Result<Buffer, OutOfMemory> {
        if len > CHUNK / 4 {
            return Buffer::new(len);
        }
        let size = len.next_multiple_of(CACHE_LINE);
        let mut chunk = self.chunk.lock().unwrap_or_else(PoisonError::into_inner);
        if chunk.as_ref().is_none_or(|chunk| chunk.left < size) {
            *chunk = Chunk::new();
        }
        let Some(chunk) = chunk.as_mut().filter(|_| size > 0) else { return Buffer::new(len) };
        let start = chunk.next;
        // SAFETY: at most one past the end, as `size` is at most what is left.
        chunk.next = unsafe { start.add(size) };
        chunk.left -= size;
        Ok(Buffer { start, len, mapping: Some(Arc::clone(&chunk.mapping)) })
    }
}

impl Chunk {
    fn new() -> Option<Chunk> {
        let Buffer { start, len, ref mapping } = Buffer::new(CHUNK).ok()?;
        Some(Chunk { mapping: Arc::clone(mapping.as_ref()?), next: start, left: len })
    }
}

impl std::fmt::Debug for Arena {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Arena")
    }
}

/// Floats whose rows lie in whole cache lines where their width allows: vectors that straddle two
/// lines are stored at half the speed.
#[derive(Default)]
pub struct Floats {
    buffer: Option<Buffer>,
    len: usize,
}

impl Floats {
    /// `len` zeros.
    ///
    /// Panics without memory for them.
    pub fn new(len: usize) -> Floats {
        let mut floats = Floats::default();
        floats.resize(len);
        floats
    }

    /// Floats that fit without new memory.
    pub fn capacity(&self) -> usize {
        self.buffer.as_ref().map_or(0, |buffer| buffer.len() / 4)
    }

    /// Makes it `len` floats, of any values.
    ///
    /// Panics without memory for them.
    pub fn resize(&mut self, len: usize) {
        self.try_resize(len).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Makes it `len` floats, of any values.
    ///
    /// # Errors
    /// The system has no memory for them; there are none then.
    pub fn try_resize(&mut self, len: usize) -> Result<(), OutOfMemory> {
        if self.capacity() < len {
            self.len = 0;
            self.buffer = None;
            self.buffer = Some(Buffer::new(len.saturating_mul(4))?);
        }
        self.len = len;
        Ok(())
    }
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        let Some(buffer) = &self.buffer else { return &[] };
        // SAFETY: aligned to a cache line, initialised, and at least `len` floats long.
        unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        let Some(buffer) = &mut self.buffer else { return &mut [] };
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(buffer.as_mut_ptr().cast(), self.len) }
    }
}

impl From<&[f32]> for Floats {
    fn from(values: &[f32]) -> Floats {
        let mut floats = Floats::new(values.len());
        floats.copy_from_slice(values);
        floats
    }
}

impl From<Vec<f32>> for Floats {
    fn from(values: Vec<f32>) -> Floats {
        values.as_slice().into()
    }
}

impl Clone for Floats {
    fn clone(&self) -> Floats {
        (&**self).into()
    }
}

impl std::fmt::Debug for Floats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Floats({})", self.len)
    }
}

/// Keeps the pages of these bytes in memory, never swapped out, until they go back to the system.
///
/// # Errors
/// The system refuses: few programs may lock more than a little.
pub fn lock(bytes: &[u8]) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        unsafe extern "C" {
            fn mlock(addr: *const core::ffi::c_void, length: usize) -> i32;
        }
        // SAFETY: changes nothing that can be read or written; the system checks the range.
        match unsafe { mlock(bytes.as_ptr().cast(), bytes.len()) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    }
    #[cfg(not(unix))]
    {
        let _ = bytes;
        Err(std::io::ErrorKind::Unsupported.into())
    }
}

/// Asks for bytes, which need not exist.
#[allow(clippy::inline_always)]
#[inline(always)]
pub(crate) fn prefetch(start: *const u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    for at in (0..len).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint, which does not fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(at).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (start, len);
}

/// Asks for huge pages, without which every few KiB of a stream of weights cost a page walk.
fn advise_huge_pages(start: NonNull<u8>, len: usize) {
    const MADV_HUGEPAGE: i32 = 14;
    advise(start, len, MADV_HUGEPAGE);
}

/// Tells the system about whole pages that start at a page. An answer is not needed: without the
/// advice memory is only slower or larger.
#[cfg(target_os = "linux")]
fn advise(start: NonNull<u8>, len: usize, advice: i32) {
    unsafe extern "C" {
        fn madvise(addr: *mut core::ffi::c_void, length: usize, advice: i32) -> i32;
    }
    // SAFETY: neither advice that this module gives changes what its range holds: huge pages do
    // not, and unmodified pages of the program's file are read again.
    let _ = unsafe { madvise(start.as_ptr().cast(), len, advice) };
}

#[cfg(not(target_os = "linux"))]
fn advise(_: NonNull<u8>, _: usize, _: i32) {}

/// Bounds the number of heaps that the allocator keeps for its threads, each of which holds on to
/// pages of its own; for programs that start few threads. To be called before others are started.
pub fn keep_few_heaps() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const M_ARENA_MAX: i32 = -8;
        unsafe extern "C" {
            fn mallopt(param: i32, value: i32) -> i32;
        }
        // SAFETY: glibc's own function; a refusal changes nothing.
        let _ = unsafe { mallopt(M_ARENA_MAX, 2) };
    }
}

/// Gives memory back to the system that is kept for later: what the allocator has free, and the
/// program's own code, which comes back from the file's cache when it runs again. Does so where the
/// system can be told to; takes milliseconds.
pub fn release_unused() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const MADV_DONTNEED: i32 = 4;
        unsafe extern "C" {
            static __executable_start: u8;
            static etext: u8;
            fn malloc_trim(pad: usize) -> i32;
        }
        // SAFETY: glibc's own function, safe to call from any thread; the answer only says
        // whether there was something to release.
        let _ = unsafe { malloc_trim(0) };
        let (start, end) = (&raw const __executable_start, &raw const etext);
        let (start, len) = (start.cast_mut(), (end as usize).saturating_sub(start as usize));
        // The last page may hold more than code.
        let len = len / PAGE * PAGE;
        if let Some(start) = NonNull::new(start) {
            advise(start, len, MADV_DONTNEED);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zero_aligned_and_writable() {
        for len in [0, 1, 63, 4096, HUGE_PAGE - 1, HUGE_PAGE, 3 * HUGE_PAGE + 5] {
            for mut buffer in [Buffer::new(len).unwrap(), Buffer::sparse(len).unwrap()] {
                let align = if len >= HUGE_PAGE { HUGE_PAGE } else { CACHE_LINE };
                assert_eq!(buffer.as_ptr().align_offset(align), 0, "{len} bytes");
                // SAFETY: the buffer has `len` initialised bytes.
                let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.as_mut_ptr(), len) };
                assert!(bytes.iter().all(|&byte| byte == 0), "{len} bytes");
                bytes.fill(7);
                assert_eq!(buffer.len(), len);
            }
        }
    }

    #[test]
    fn buffers_of_an_arena_do_not_overlap_and_outlive_it() {
        let arena = Arena::default();
        let sizes = [1, 64, 100_000, CHUNK / 4, CHUNK / 4, CHUNK / 4, CHUNK / 4, CHUNK, 7];
        let mut buffers: Vec<Buffer> =
            sizes.iter().map(|&len| arena.buffer(len).unwrap()).collect();
        drop(arena);
        let fill = |buffer: &mut Buffer, value: u8| {
            // SAFETY: the buffer has so many initialised bytes.
            let bytes =
                unsafe { std::slice::from_raw_parts_mut(buffer.as_mut_ptr(), buffer.len()) };
            let before = (bytes.first().copied(), bytes.last().copied());
            bytes.fill(value);
            before
        };
        for (value, buffer) in buffers.iter_mut().enumerate() {
            assert_eq!(buffer.as_ptr().align_offset(CACHE_LINE), 0);
            assert_eq!(fill(buffer, value as u8 + 1), (Some(0), Some(0)));
        }
        for (value, buffer) in buffers.iter_mut().enumerate() {
            let own = Some(value as u8 + 1);
            assert_eq!(fill(buffer, 0), (own, own), "buffer {value}");
        }
    }

    #[test]
    fn floats_grow_and_shrink() {
        let mut floats = Floats::default();
        assert!(floats.is_empty());
        for len in [3, 1000, 5, HUGE_PAGE] {
            floats.resize(len);
            floats[len - 1] = 2.5;
            assert_eq!((floats.len(), floats[len - 1]), (len, 2.5));
            assert_eq!(floats.as_ptr().align_offset(CACHE_LINE), 0);
        }
        assert_eq!(*Floats::from(vec![1.0, 2.0]).clone(), [1.0, 2.0]);
    }

    #[test]
    fn memory_that_is_not_there_is_refused_with_its_size() {
        for len in [usize::MAX / 8, usize::MAX] {
            let refused = Some(OutOfMemory { wanted: len });
            assert_eq!(Buffer::new(len).err(), refused);
            assert_eq!(Buffer::sparse(len).err(), refused);
            assert_eq!(Arena::default().buffer(len).err(), refused);
            let mut buffer = Buffer::new(8).unwrap();
            assert_eq!((buffer.reserve(len).err(), buffer.len()), (refused, 0));
        }
        let mut floats = Floats::new(3);
        assert!(floats.try_resize(usize::MAX / 64).is_err());
        assert!(floats.is_empty());
        assert_eq!(floats.try_resize(3), Ok(()));
    }

    #[test]
    fn what_is_in_use_is_not_released() {
        let mut buffer = Buffer::new(HUGE_PAGE).unwrap();
        buffer.as_halves_mut()[HUGE_PAGE / 2 - 1] = 9;
        release_unused();
        assert_eq!(buffer.as_halves()[HUGE_PAGE / 2 - 1], 9);
    }
}
