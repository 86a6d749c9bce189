//! Splitting rows and slices over the threads of a pool.

use std::marker::PhantomData;
use std::ops::Range;

use crate::pool::Pool;

/// Values that are worth a thread's while: about three microseconds of simple work.
const VALUES: usize = 16 * 1024;

/// Calls `f` with ranges that cover `0..rows`; on several threads if the rows, `cols` values each,
/// are many.
pub(crate) fn over_rows(pool: &Pool, rows: usize, cols: usize, f: impl Fn(Range<usize>) + Sync) {
    if rows < 2 || rows * cols < 2 * VALUES || pool.threads() == 1 {
        f(0..rows);
        return;
    }
    let size = (VALUES / cols.max(1)).clamp(1, rows);
    let items = rows.div_ceil(size);
    pool.for_each(items, |_, item| f(item * size..((item + 1) * size).min(rows)));
}

/// Calls `f` with pieces that cover `values` and with the place where each begins; on several
/// threads if the values are many.
pub(crate) fn over_values(pool: &Pool, values: &mut [f32], f: impl Fn(usize, &mut [f32]) + Sync) {
    let len = values.len();
    let shared = Shared::new(values);
    over_rows(pool, len.div_ceil(VALUES), VALUES, |pieces| {
        let range = pieces.start * VALUES..(pieces.end * VALUES).min(len);
        // SAFETY: the ranges of pieces are disjoint.
        f(range.start, unsafe { shared.slice(range) });
    });
}

/// A slice that several threads write at once, each to its own elements.
pub(crate) struct Shared<'a, T> {
    ptr: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: elements are reached through `slice` only, whose callers promise that no two threads
// hold the same one; sending `&mut T` to a thread needs `T: Send`.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Shared<'a, T> {
        Shared { ptr: slice.as_mut_ptr(), len: slice.len(), borrow: PhantomData }
    }

    /// # Safety
    /// While the result lives, no other slice may cover any of its elements.
    pub(crate) unsafe fn slice(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "range outside the buffer");
        // SAFETY: in bounds by the assertion, exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(range.start), range.len()) }
    }
}
