//! Layers that carry a state from token to token: short convolutions and linear recurrences.
//!
//! The state of one sequence, over all layers, is a *page* of floats. A step reads the state that each
//! sequence had from one page and leaves the new one in another, or in the same; copies after given
//! rows may go to further pages. So a page that nobody writes any more is a snapshot, and taking one
//! copies nothing.
//!
//! Tokens are processed one after the other, and what is parallel are spans, heads and columns. The
//! order of all operations on a token depends on nothing else, so results are the same bits however a
//! sequence is cut into steps.

mod conv;
pub mod plain;
mod scan;
#[cfg(test)]
mod tests;

use std::ops::Range;

pub use conv::{ConvInput, MAX_TAPS, conv};
pub use scan::{MAX_KEY_DIM, Rule, ScanInput, ScanShape, scan};

use crate::memory::{Floats, OutOfMemory};

/// Pages of state, zero at first. What nobody has written takes no memory.
#[derive(Default)]
pub struct StatePages {
    pages: Vec<Floats>,
    page_len: usize,
}

impl StatePages {
    /// `count` pages of `page_len` floats.
    ///
    /// # Errors
    /// The system has no memory for them.
    pub fn new(page_len: usize, count: usize) -> Result<StatePages, OutOfMemory> {
        let page = |_| {
            let mut page = Floats::default();
            page.try_resize(page_len).map(|()| page)
        };
        Ok(StatePages { pages: (0..count).map(page).collect::<Result<_, _>>()?, page_len })
    }

    pub fn num_pages(&self) -> usize {
        self.pages.len()
    }

    /// Sets every float: for tests of what is read before it is written.
    pub fn fill(&mut self, value: f32) {
        self.pages.iter_mut().for_each(|page| page.fill(value));
    }

    /// The pages, for a parallel region, after a check that no two spans get in each other's way.
    fn shared(&mut self, spans: &[StateSpan<'_>], part: &Range<usize>) -> SharedPages<'_> {
        check(spans, self.pages.len());
        assert!(part.start <= part.end && part.end <= self.page_len, "a layer outside the page");
        SharedPages {
            pages: self.pages.iter_mut().map(|page| page.as_mut_ptr()).collect(),
            start: part.start,
            len: part.len(),
            borrow: std::marker::PhantomData,
        }
    }
}

impl std::fmt::Debug for StatePages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StatePages({} of {} floats)", self.pages.len(), self.page_len)
    }
}

/// The rows of one sequence in a step, and where its state is.
#[derive(Clone, Debug)]
pub struct StateSpan<'a> {
    pub rows: Range<usize>,
    /// The state before these rows; `None` at the beginning of a sequence: zeros.
    pub from: Option<u32>,
    /// Where the state after them goes.
    pub to: u32,
    /// Copies of the state after some of the rows, ascending.
    pub saves: &'a [StateSave],
}

/// A copy of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateSave {
    /// It is the state after so many rows of the span.
    pub rows: u32,
    pub page: u32,
}

impl StateSpan<'_> {
    fn written(&self) -> impl Iterator<Item = u32> + '_ {
        self.saves.iter().map(|save| save.page).chain([self.to])
    }
}

/// Panics unless every page is written once, and read by none but the span that writes it.
fn check(spans: &[StateSpan<'_>], num_pages: usize) {
    let mut writers: Vec<Option<usize>> = vec![None; num_pages];
    for (at, span) in spans.iter().enumerate() {
        for page in span.written() {
            assert!((page as usize) < num_pages, "page {page} of {num_pages}");
            let before = writers[page as usize].replace(at);
            assert!(before.is_none(), "page {page} is written twice");
        }
        let ascending = span.saves.windows(2).all(|pair| pair[0].rows < pair[1].rows);
        let within = |save: &StateSave| save.rows > 0 && save.rows as usize <= span.rows.len();
        assert!(ascending && span.saves.iter().all(within), "copies after rows of the span");
    }
    for (at, span) in spans.iter().enumerate() {
        let Some(from) = span.from else { continue };
        assert!((from as usize) < num_pages, "page {from} of {num_pages}");
        let writer = writers[from as usize];
        assert!(writer.is_none_or(|writer| writer == at), "page {from} is read and written");
    }
}

/// One layer's part of all pages, written by several threads at once.
struct SharedPages<'a> {
    pages: Vec<*mut f32>,
    start: usize,
    len: usize,
    borrow: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointers are to plain floats borrowed exclusively for 'a, which are reached through
// `load` and `store`, whose callers promise that no two threads touch the same ones.
unsafe impl Sync for SharedPages<'_> {}

impl SharedPages<'_> {
    /// Floats `at..` of the layer's part of a page, or zeros.
    ///
    /// # Safety
    /// No other thread writes them meanwhile.
    #[inline]
    unsafe fn load(&self, page: Option<u32>, at: usize, out: &mut [f32]) {
        let Some(page) = page else {
            out.fill(0.0);
            return;
        };
        assert!(at + out.len() <= self.len, "floats outside the layer's part");
        // SAFETY: in bounds by the assertions here and in `shared`; `out` is no page, for these are
        // borrowed; nobody writes them by the caller's promise.
        unsafe {
            let from = self.pages[page as usize].add(self.start + at);
            std::ptr::copy_nonoverlapping(from, out.as_mut_ptr(), out.len());
        }
    }

    /// Sets floats `at..` of the layer's part of a page.
    ///
    /// # Safety
    /// No other thread reads or writes them meanwhile.
    #[inline]
    unsafe fn store(&self, page: u32, at: usize, values: &[f32]) {
        assert!(at + values.len() <= self.len, "floats outside the layer's part");
        // SAFETY: as in `load`.
        unsafe {
            let to = self.pages[page as usize].add(self.start + at);
            std::ptr::copy_nonoverlapping(values.as_ptr(), to, values.len());
        }
    }
}
