//! Hashing for vocabularies: quick on keys of a few bytes, seeded per process because the keys come
//! from files and requests.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::LazyLock;

use xxhash_rust::xxh3::xxh3_64_with_seed;

pub(super) type FastMap<K, V> = HashMap<K, V, Seeded>;

static SEED: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(0u8));

#[derive(Clone)]
pub(super) struct Seeded(u64);

impl Default for Seeded {
    fn default() -> Self {
        Self(*SEED)
    }
}

impl BuildHasher for Seeded {
    type Hasher = SeededHasher;

    fn build_hasher(&self) -> SeededHasher {
        SeededHasher(self.0)
    }
}

pub(super) struct SeededHasher(u64);

impl Hasher for SeededHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    fn write_u64(&mut self, value: u64) {
        // A folded multiplication: both halves of the 128-bit product depend on all input bits.
        let product = u128::from(value ^ self.0) * 0x9E37_79B9_7F4A_7C15_u128;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }

    // The length prefix of slices and the terminator of strings: the content is hashed anyway.
    fn write_usize(&mut self, _: usize) {}
    fn write_u8(&mut self, _: u8) {}
}
