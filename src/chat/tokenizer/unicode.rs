//! Unicode general categories, as far as pre-tokenizers ask for them.

use std::sync::LazyLock;

use super::unicode_table::RUNS;

/// A set of categories; bit `n` stands for category `n` of the table.
pub(super) type Set = u16;

pub(super) const UPPER: Set = 1 << 1;
pub(super) const LOWER: Set = 1 << 2;
pub(super) const TITLE: Set = 1 << 3;
pub(super) const MODIFIER: Set = 1 << 4;
pub(super) const OTHER_LETTER: Set = 1 << 5;
pub(super) const MARK: Set = 1 << 6;
pub(super) const NUMBER: Set = 1 << 7;
pub(super) const PUNCTUATION: Set = 1 << 8;
pub(super) const SYMBOL: Set = 1 << 9;

pub(super) const LETTER: Set = UPPER | LOWER | TITLE | MODIFIER | OTHER_LETTER;

/// Code points below this are looked up in a flat table; nearly all text lies there.
const FLAT: usize = 0x3_4000;

static CATEGORIES: LazyLock<Box<[u8]>> = LazyLock::new(|| {
    let mut flat = vec![0; FLAT];
    for (i, &run) in RUNS.iter().enumerate() {
        let start = (run >> 4) as usize;
        let end = RUNS.get(i + 1).map_or(FLAT, |&next| (next >> 4) as usize);
        if start < FLAT {
            flat[start..end.min(FLAT)].fill((run & 15) as u8);
        }
    }
    flat.into_boxed_slice()
});

fn category(c: char) -> u8 {
    let code = c as u32;
    if let Some(&category) = CATEGORIES.get(code as usize) {
        return category;
    }
    let after = RUNS.partition_point(|&run| run >> 4 <= code);
    after.checked_sub(1).and_then(|i| RUNS.get(i)).map_or(0, |&run| (run & 15) as u8)
}

/// Whether `c` is in one of the categories of `set`.
pub(super) fn is(c: char, set: Set) -> bool {
    (1 << category(c)) & set != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn categories_are_those_of_the_standard() {
        let cases = [
            ('A', UPPER),
            ('ß', LOWER),
            ('ǅ', TITLE),
            ('ʰ', MODIFIER),
            ('中', OTHER_LETTER),
            ('\u{301}', MARK),
            ('Ⅷ', NUMBER),
            ('½', NUMBER),
            ('_', PUNCTUATION),
            ('$', SYMBOL),
            ('🦙', SYMBOL),
            ('\u{e0100}', MARK),
            ('\u{10ffff}', 1),
        ];
        for (c, set) in cases {
            assert!(is(c, set), "{c:?}");
        }
        assert!(!is('a', NUMBER | PUNCTUATION | SYMBOL | MARK));
    }
}
