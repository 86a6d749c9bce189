//! Which full blocks of KV can be reused, found by a hash of everything before and in them.
//!
//! A block's hash chains its predecessor's: `h(i) = xxh3(h(i - 1), salt, tokens(i))`. The hash only
//! finds a candidate; a hit also needs the same tokens and the same predecessor block, so a
//! collision cannot serve another prompt's KV. Two invariants make the second test exact:
//!
//! - the predecessor of a committed block is committed (sequences commit in order and hold all
//!   blocks before), and
//! - it is evicted after its successors (sequences release their last block first).

use std::collections::HashMap;

use xxhash_rust::xxh3::xxh3_64;

use super::block::BlockPool;
use crate::model::BLOCK;

/// What a full block contains and follows.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    /// Result of [`block_hash`].
    pub hash: u64,
    /// The committed block before, none for the first.
    pub parent: Option<u32>,
    pub salt: u64,
    /// `BLOCK` token ids.
    pub tokens: &'a [u32],
}

/// What became of a block that was offered to the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insertion {
    /// It can be found from now on.
    New,
    /// Another block holds the same; use that one.
    Duplicate(u32),
    /// Another content has this hash; the block cannot be found.
    Collision,
}

/// Index of the committed blocks of a pool.
#[derive(Debug)]
pub struct PrefixCache {
    by_hash: HashMap<u64, u32>,
    /// By block.
    nodes: Vec<Option<Node>>,
}

#[derive(Debug)]
struct Node {
    hash: u64,
    parent: Option<u32>,
    salt: u64,
    tokens: Box<[u32]>,
}

/// Hash of a block of tokens that follows the block with hash `parent`.
#[must_use]
pub fn block_hash(parent: Option<u64>, salt: u64, tokens: &[u32]) -> u64 {
    let mut bytes = [0_u8; 17 + BLOCK * 4];
    bytes[0] = u8::from(parent.is_some());
    bytes[1..9].copy_from_slice(&parent.unwrap_or(0).to_le_bytes());
    bytes[9..17].copy_from_slice(&salt.to_le_bytes());
    for (slot, token) in bytes[17..].chunks_exact_mut(4).zip(tokens) {
        slot.copy_from_slice(&token.to_le_bytes());
    }
    xxh3_64(&bytes)
}

impl PrefixCache {
    #[must_use]
    pub fn new(num_blocks: usize) -> Self {
        Self { by_hash: HashMap::new(), nodes: (0..num_blocks).map(|_| None).collect() }
    }

    /// The block with exactly this content.
    #[must_use]
    pub fn find(&self, key: &Key<'_>) -> Option<u32> {
        let &block = self.by_hash.get(&key.hash)?;
        let node = self.nodes[block as usize].as_ref()?;
        let same =
            node.parent == key.parent && node.salt == key.salt && *node.tokens == *key.tokens;
        same.then_some(block)
    }

    /// Where `tokens`, which follow the block `parent`, leave the cached tokens that they have most in common
    /// with: how many these are. `None` where nothing that is cached follows that block.
    #[must_use]
    pub fn parted(&self, parent: Option<u32>, salt: u64, tokens: &[u32]) -> Option<usize> {
        let siblings = self.nodes.iter().flatten();
        let siblings = siblings.filter(|node| node.parent == parent && node.salt == salt);
        let common = |node: &Node| {
            node.tokens.iter().zip(tokens).take_while(|(cached, token)| cached == token).count()
        };
        siblings.map(common).max()
    }

    /// Makes a block whose KV is written findable.
    pub fn insert(&mut self, block: u32, key: &Key<'_>) -> Insertion {
        if let Some(other) = self.find(key) {
            return Insertion::Duplicate(other);
        }
        if self.by_hash.contains_key(&key.hash) {
            return Insertion::Collision;
        }
        self.by_hash.insert(key.hash, block);
        self.nodes[block as usize] = Some(Node {
            hash: key.hash,
            parent: key.parent,
            salt: key.salt,
            tokens: key.tokens.into(),
        });
        Insertion::New
    }

    /// Whether the block can be found.
    #[must_use]
    pub fn holds(&self, block: u32) -> bool {
        self.nodes.get(block as usize).is_some_and(Option::is_some)
    }

    /// Forgets an evicted block.
    pub fn forget(&mut self, block: u32) {
        if let Some(node) = self.nodes[block as usize].take() {
            self.by_hash.remove(&node.hash);
        }
    }

    /// Verifies index against nodes and the invariants of the module against the pool.
    ///
    /// # Errors
    /// A description of the first violated invariant.
    pub fn check(&self, pool: &BlockPool) -> Result<(), String> {
        let num_nodes = self.nodes.iter().flatten().count();
        if num_nodes != self.by_hash.len() {
            return Err(format!("{num_nodes} hashed blocks, {} hashes", self.by_hash.len()));
        }
        // Age in the list of cached blocks; blocks in use are younger than all of them.
        let mut ages = vec![usize::MAX; self.nodes.len()];
        for (age, block) in pool.cached().enumerate() {
            ages[block as usize] = age;
            if self.nodes[block as usize].is_none() {
                return Err(format!("cached block {block} has no hash"));
            }
        }
        for (block, node) in self.nodes.iter().enumerate() {
            let Some(parent) = node.as_ref().and_then(|node| node.parent) else { continue };
            let parent = parent as usize;
            if self.nodes[parent].is_none() || ages[parent] < ages[block] {
                return Err(format!("block {block} outlives block {parent} before it"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(tokens: &[u32], parent: Option<u32>, salt: u64) -> Key<'_> {
        Key { hash: block_hash(parent.map(u64::from), salt, tokens), parent, salt, tokens }
    }

    #[test]
    fn finds_the_same_content_only() {
        let tokens: Vec<u32> = (0..BLOCK as u32).collect();
        let others: Vec<u32> = (1..=BLOCK as u32).collect();
        let mut cache = PrefixCache::new(4);
        assert_eq!(cache.insert(0, &key(&tokens, None, 7)), Insertion::New);
        assert_eq!(cache.insert(1, &key(&tokens, Some(0), 7)), Insertion::New);
        assert_eq!(cache.insert(2, &key(&tokens, None, 7)), Insertion::Duplicate(0));
        assert_eq!(cache.find(&key(&tokens, None, 7)), Some(0));
        assert_eq!(cache.find(&key(&tokens, Some(0), 7)), Some(1));
        assert_eq!(cache.find(&key(&tokens, None, 8)), None, "another salt");
        assert_eq!(cache.find(&key(&others, None, 7)), None, "other tokens");
        assert_eq!(cache.find(&key(&tokens, Some(1), 7)), None, "another predecessor");
        cache.forget(0);
        assert_eq!(cache.find(&key(&tokens, None, 7)), None);
    }

    #[test]
    fn a_collision_is_not_a_hit() {
        let tokens: Vec<u32> = (0..BLOCK as u32).collect();
        let others: Vec<u32> = (1..=BLOCK as u32).collect();
        let mut cache = PrefixCache::new(2);
        let first = Key { hash: 1, parent: None, salt: 0, tokens: &tokens };
        let second = Key { hash: 1, parent: None, salt: 0, tokens: &others };
        assert_eq!(cache.insert(0, &first), Insertion::New);
        assert_eq!(cache.find(&second), None);
        assert_eq!(cache.insert(1, &second), Insertion::Collision);
        assert_eq!(cache.find(&first), Some(0));
    }
}
