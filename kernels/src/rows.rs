//! Views of row-major f32 matrices with a stride between rows.

/// Shared view: row `i` is `data[i * stride..][..cols]`.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    pub data: &'a [f32],
    pub rows: usize,
    pub cols: usize,
    pub stride: usize,
}

/// Exclusive view: row `i` is `data[i * stride..][..cols]`.
#[derive(Debug)]
pub struct RowsMut<'a> {
    pub data: &'a mut [f32],
    pub rows: usize,
    pub cols: usize,
    pub stride: usize,
}

/// Panics unless `rows` rows of `cols` values, `stride` apart, lie within `len`.
fn check(len: usize, rows: usize, cols: usize, stride: usize) {
    assert!(stride >= cols, "row stride {stride} is less than {cols} columns");
    let needed = if rows == 0 {
        Some(0)
    } else {
        (rows - 1).checked_mul(stride).and_then(|n| n.checked_add(cols))
    };
    assert!(
        needed.is_some_and(|needed| needed <= len),
        "{rows} rows of {cols} columns (stride {stride}) do not fit in {len} values"
    );
}

impl<'a> Rows<'a> {
    /// Rows that follow one another without gaps. Panics if `data` is not `rows * cols` long.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Rows<'a> {
        assert_eq!(data.len(), rows * cols, "{rows} rows of {cols} columns");
        Rows { data, rows, cols, stride: cols }
    }

    /// Rows `stride` values apart. Panics if they do not lie within `data`.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, stride: usize) -> Rows<'a> {
        check(data.len(), rows, cols, stride);
        Rows { data, rows, cols, stride }
    }

    /// Row `i`. Panics if it lies outside the data.
    #[inline]
    pub fn row(&self, i: usize) -> &'a [f32] {
        debug_assert!(i < self.rows);
        &self.data[i * self.stride..][..self.cols]
    }
}

impl<'a> RowsMut<'a> {
    /// Rows that follow one another without gaps. Panics if `data` is not `rows * cols` long.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> RowsMut<'a> {
        assert_eq!(data.len(), rows * cols, "{rows} rows of {cols} columns");
        RowsMut { data, rows, cols, stride: cols }
    }

    /// Rows `stride` values apart. Panics if they do not lie within `data`.
    pub fn strided(data: &'a mut [f32], rows: usize, cols: usize, stride: usize) -> RowsMut<'a> {
        check(data.len(), rows, cols, stride);
        RowsMut { data, rows, cols, stride }
    }

    /// Row `i`. Panics if it lies outside the data.
    #[inline]
    pub fn row_mut(&mut self, i: usize) -> &mut [f32] {
        debug_assert!(i < self.rows);
        &mut self.data[i * self.stride..][..self.cols]
    }

    /// Raw rows for a parallel region in which every thread writes different elements.
    /// Panics if the rows do not lie within the data.
    pub fn shared(&mut self) -> SharedRows<'_> {
        check(self.data.len(), self.rows, self.cols, self.stride);
        SharedRows {
            ptr: self.data.as_mut_ptr(),
            rows: self.rows,
            cols: self.cols,
            stride: self.stride,
            borrow: std::marker::PhantomData,
        }
    }
}

/// Rows that several threads write at once, each to its own elements.
#[derive(Clone, Copy)]
pub struct SharedRows<'a> {
    ptr: *mut f32,
    rows: usize,
    cols: usize,
    stride: usize,
    borrow: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer is to plain f32 borrowed exclusively for 'a; all access goes through
// `row_mut` and `ptr`, whose callers promise that no two threads touch the same element.
unsafe impl Send for SharedRows<'_> {}
// SAFETY: as above.
unsafe impl Sync for SharedRows<'_> {}

impl<'a> SharedRows<'a> {
    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }

    pub fn stride(&self) -> usize {
        self.stride
    }

    /// The element at column `col` of row `i`, from which `stride` leads to the next row.
    /// Panics if it lies outside. Writing through it is subject to the rule of `row_mut`.
    #[inline]
    pub fn ptr(&self, i: usize, col: usize) -> *mut f32 {
        assert!(i < self.rows && col < self.cols);
        // SAFETY: in bounds by the assertion and by `check` when the view was made.
        unsafe { self.ptr.add(i * self.stride + col) }
    }

    /// Elements `cols` of row `i`.
    ///
    /// # Safety
    /// While the slice lives no other slice of this view may cover any of its elements.
    #[inline]
    pub unsafe fn row_mut(&self, i: usize, cols: std::ops::Range<usize>) -> &'a mut [f32] {
        assert!(i < self.rows && cols.start <= cols.end && cols.end <= self.cols);
        // SAFETY: in bounds by the assertion and by `check` when the view was made; not aliased
        // by the caller's promise.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.ptr.add(i * self.stride + cols.start),
                cols.end - cols.start,
            )
        }
    }
}
