//! Tensors of the CPU back end, and their buffers between uses: a forward pass allocates nothing after the first of its size.

use std::sync::{Arc, Mutex, PoisonError};

use kolosal_kernels::linear::Acts;
use kolosal_kernels::memory::{Floats, OutOfMemory};
use kolosal_kernels::{Rows, RowsMut};

/// (rows, cols) of f32 in a buffer that returns to its pool.
pub struct CpuTensor {
    pub(super) data: Floats,
    pub(super) rows: usize,
    pub(super) cols: usize,
    home: Buffers,
}

/// Quantised rows in a buffer that returns to its pool.
pub struct CpuAct {
    pub(super) acts: Option<Acts>,
    home: Buffers,
}

/// The buffers that are not in use; clones share them.
#[derive(Clone, Default)]
pub(super) struct Buffers(Arc<Mutex<Spare>>);

#[derive(Default)]
struct Spare {
    floats: Vec<Floats>,
    acts: Vec<Acts>,
}

impl Buffers {
    /// A tensor whose contents are whatever its buffer last held.
    pub(super) fn tensor(&self, rows: usize, cols: usize) -> Result<CpuTensor, OutOfMemory> {
        let len = rows * cols;
        let mut data = self
            .lock(|spare| {
                let fit = (0..spare.floats.len())
                    .filter(|&index| spare.floats[index].capacity() >= len)
                    .min_by_key(|&index| spare.floats[index].capacity());
                fit.map(|index| spare.floats.swap_remove(index))
            })
            .unwrap_or_default();
        data.try_resize(len)?;
        Ok(CpuTensor { data, rows, cols, home: self.clone() })
    }

    /// One tensor of `rows` rows for each of the widths.
    pub(super) fn tensors<const N: usize>(
        &self,
        rows: usize,
        widths: [usize; N],
    ) -> Result<[CpuTensor; N], OutOfMemory> {
        let mut refused = None;
        let tensors = widths.map(|cols| {
            self.tensor(rows, cols).unwrap_or_else(|error| {
                refused = Some(error);
                CpuTensor { data: Floats::default(), rows: 0, cols, home: self.clone() }
            })
        });
        refused.map_or(Ok(tensors), Err)
    }

    /// Room for `rows` rows of `cols` values, as `fill` sets them.
    pub(super) fn acts(
        &self,
        with_floats: bool,
        [rows, cols]: [usize; 2],
        fill: impl FnOnce(&mut Acts),
    ) -> Result<CpuAct, OutOfMemory> {
        let fresh = || if with_floats { Acts::new() } else { Acts::for_quantised() };
        let mut acts = self.lock(|spare| spare.acts.pop()).unwrap_or_else(fresh);
        acts.reserve(rows, cols)?;
        fill(&mut acts);
        Ok(CpuAct { acts: Some(acts), home: self.clone() })
    }

    pub(super) fn give_back(&self, floats: Floats) {
        self.lock(|spare| spare.floats.push(floats));
    }

    fn lock<T>(&self, with: impl FnOnce(&mut Spare) -> T) -> T {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for CpuTensor {
    fn drop(&mut self) {
        let data = std::mem::take(&mut self.data);
        if data.capacity() > 0 {
            self.home.give_back(data);
        }
    }
}

impl Drop for CpuAct {
    fn drop(&mut self) {
        if let Some(acts) = self.acts.take() {
            self.home.lock(|spare| spare.acts.push(acts));
        }
    }
}

impl CpuTensor {
    pub(super) fn view(&self) -> Rows<'_> {
        Rows { data: &self.data, rows: self.rows, cols: self.cols, stride: self.cols }
    }

    pub(super) fn view_mut(&mut self) -> RowsMut<'_> {
        RowsMut { data: &mut self.data, rows: self.rows, cols: self.cols, stride: self.cols }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_refused_takes_nothing_along() {
        let buffers = Buffers::default();
        drop(buffers.tensor(4, 4).unwrap());
        let huge = usize::MAX / 64;
        assert_eq!(buffers.tensor(1, huge).err().map(|error| error.wanted), Some(huge * 4));
        assert!(buffers.tensors(1, [4, huge, 4]).is_err());
        assert!(buffers.acts(true, [1, huge], |_| panic!("there is no room")).is_err());
        let [a, b] = buffers.tensors(2, [3, 5]).unwrap();
        assert_eq!((a.view().data.len(), b.view().data.len()), (6, 10));
    }
}
