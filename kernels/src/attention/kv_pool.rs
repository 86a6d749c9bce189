//! The memory of a cache: pieces of whole blocks, had from the system one after the other.
//!
//! What nobody has asked for yet takes neither memory nor address space, and a refusal is an answer:
//! a cache that cannot grow works with the blocks that it has.

use crate::memory::{Buffer, OutOfMemory};
use crate::parallel::Shared;

/// Bytes of a piece at least: enough for huge pages, little enough to be asked for often.
const PIECE_BYTES: usize = 16 << 20;

/// Half floats, as bits, zero at first: (blocks, half floats of a block).
#[derive(Default)]
pub struct KvPool {
    pieces: Vec<Buffer>,
    /// Half floats of a block, all layers together.
    block_len: usize,
    /// All pieces have `1 << shift` blocks, but for the last there may be.
    shift: u32,
    max_blocks: usize,
}

impl KvPool {
    /// A pool without blocks, which may come to have `max_blocks` of `block_len` half floats.
    pub fn new(block_len: usize, max_blocks: usize) -> KvPool {
        let shift = KvPool::piece_blocks(block_len.saturating_mul(2), max_blocks).ilog2();
        KvPool { pieces: Vec::new(), block_len, shift, max_blocks }
    }

    /// A pool that has all its blocks.
    ///
    /// # Errors
    /// The system has no memory for them.
    pub fn whole(block_len: usize, num_blocks: usize) -> Result<KvPool, OutOfMemory> {
        let mut pool = KvPool::new(block_len, num_blocks);
        pool.grow_to(num_blocks)?;
        Ok(pool)
    }

    /// Blocks that come at once when a pool of `max_blocks` blocks of `block_bytes` grows: a power of two.
    pub fn piece_blocks(block_bytes: usize, max_blocks: usize) -> usize {
        let wanted = PIECE_BYTES.div_ceil(block_bytes.max(1)).next_power_of_two();
        wanted.min(max_blocks.max(1).next_power_of_two())
    }

    /// Half floats of a block.
    pub(super) fn block_len(&self) -> usize {
        self.block_len
    }

    /// Blocks that it has.
    pub fn num_blocks(&self) -> usize {
        (self.pieces.len() << self.shift).min(self.max_blocks)
    }

    /// Makes it have `num_blocks` blocks or more, up to its maximum. What blocks hold stays.
    ///
    /// # Errors
    /// The system refuses a piece; those had before it are kept.
    pub fn grow_to(&mut self, num_blocks: usize) -> Result<(), OutOfMemory> {
        while self.num_blocks() < num_blocks.min(self.max_blocks) {
            let blocks = (1 << self.shift).min(self.max_blocks - self.num_blocks());
            let bytes = self.block_len.saturating_mul(2).saturating_mul(blocks);
            self.pieces.push(Buffer::new(bytes)?);
        }
        Ok(())
    }

    /// Sets every half float that is there: for tests of what is read before it is written.
    pub fn fill(&mut self, half: u16) {
        self.pieces.iter_mut().for_each(|piece| piece.as_halves_mut().fill(half));
    }

    /// The half floats of a block.
    pub(super) fn block(&self, block: u32) -> &[u16] {
        let (piece, range) = self.place(block, 0..self.block_len);
        &self.pieces[piece].as_halves()[range]
    }

    /// The pieces, to be written side by side at [`Self::place`]s.
    pub(super) fn shared(&mut self) -> Vec<Shared<'_, u16>> {
        self.pieces.iter_mut().map(|piece| Shared::new(piece.as_halves_mut())).collect()
    }

    /// The piece that holds a block, and where in it a part of the block lies.
    pub(super) fn locate(&self) -> Locate {
        Locate { block_len: self.block_len, shift: self.shift }
    }

    fn place(&self, block: u32, part: std::ops::Range<usize>) -> (usize, std::ops::Range<usize>) {
        self.locate().place(block, part)
    }
}

/// Where blocks lie; see [`KvPool::locate`].
#[derive(Clone, Copy)]
pub(super) struct Locate {
    block_len: usize,
    shift: u32,
}

impl Locate {
    pub(super) fn place(
        self,
        block: u32,
        part: std::ops::Range<usize>,
    ) -> (usize, std::ops::Range<usize>) {
        let start = (block as usize & ((1 << self.shift) - 1)) * self.block_len;
        (block as usize >> self.shift, start + part.start..start + part.end)
    }
}

impl std::fmt::Debug for KvPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KvPool({} of {} blocks)", self.num_blocks(), self.max_blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_grows_by_pieces_and_keeps_what_it_holds() {
        // Pieces of 16 blocks of 1 MiB.
        let (len, max) = (512 << 10, 40);
        let mut pool = KvPool::new(len, max);
        assert_eq!((pool.num_blocks(), KvPool::piece_blocks(len * 2, max)), (0, 16));
        for (wanted, got) in [(1, 16), (16, 16), (17, 32), (33, 40), (1000, 40)] {
            pool.grow_to(wanted).unwrap();
            assert_eq!(pool.num_blocks(), got, "{wanted}");
            let last = got as u32 - 1;
            let (piece, range) = pool.locate().place(last, 0..len);
            let block = &mut pool.pieces[piece].as_halves_mut()[range];
            assert!(block.iter().all(|&half| half == 0) || wanted == 16 || wanted == 1000);
            block.fill(got as u16);
        }
        assert!([15, 31, 39].iter().all(|&block| pool.block(block) == vec![block as u16 + 1; len]));
    }

    #[test]
    fn what_the_system_does_not_have_is_refused() {
        let mut pool = KvPool::new(usize::MAX / 64, 8);
        assert!(pool.grow_to(1).is_err());
        assert_eq!(pool.num_blocks(), 0);
    }
}
