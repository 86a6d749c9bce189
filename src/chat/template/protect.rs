//! Keeps what users wrote apart from what the template wrote, through a rendering that knows no
//! difference.
//!
//! Before rendering, every special token that occurs in a string of the request gets a sign after its
//! first character; after rendering, the signs are taken out and their places say which special
//! tokens are text. The signs are noncharacters, which no interchanged text should contain; where it
//! does, they are escaped. Signs stand inside tokens, so that a template that strips or compares the
//! ends of a string sees what it would see without them.

use std::borrow::Cow;

/// Before the number of an escaped sign.
const ESCAPE: char = '\u{fdd0}';
/// Inside a special token that is text.
const INSIDE: char = '\u{fdd1}';
/// Where the message ends that the model goes on with.
const END: char = '\u{fdd2}';

/// What [`crate::chat::ChatTemplate`] appends to a message that the model goes on with. The space
/// tells whether the template strips messages.
pub(super) const CONTINUE: &str = "\u{fdd2} ";

/// Whether `c` is one of our signs, which filters must leave alone.
pub(super) fn is_sign(c: char) -> bool {
    matches!(c, ESCAPE | INSIDE | END)
}

/// `text` with a sign at each of `places` (ascending byte offsets) and its own signs escaped.
pub(super) fn mark<'t>(text: &'t str, places: &[usize]) -> Cow<'t, str> {
    if places.is_empty() && !text.contains(is_sign) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + places.len() * 3);
    let mut places = places.iter().peekable();
    for (at, c) in text.char_indices() {
        while places.next_if(|&&place| place <= at).is_some() {
            out.push(INSIDE);
        }
        if is_sign(c) {
            out.push(ESCAPE);
            out.push(char::from(b'0' + (c as u32 - ESCAPE as u32) as u8));
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// Text without signs, and the byte offsets where signs of [`mark`] were.
pub(super) fn unmark(text: &str) -> (String, Vec<usize>) {
    let mut out = String::with_capacity(text.len());
    let mut places = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            INSIDE => places.push(out.len()),
            END => {}
            ESCAPE => {
                let number = chars.next_if(|n| ('0'..='2').contains(n));
                out.extend(number.and_then(|n| char::from_u32(ESCAPE as u32 + n as u32 - 0x30)));
            }
            c => out.push(c),
        }
    }
    (out, places)
}

/// What of a rendering comes before the end of the message that the model goes on with.
pub(super) fn cut(rendered: &str) -> Option<&str> {
    let at = rendered.rfind(END)?;
    let (before, after) = rendered.split_at(at);
    Some(if after.starts_with(CONTINUE) { before } else { before.trim_end() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn signs_come_back_as_places() {
        let marked = mark("a<|x|>b", &[2]);
        assert_eq!(marked, "a<\u{fdd1}|x|>b");
        assert_eq!(unmark(&marked), ("a<|x|>b".to_owned(), vec![2]));
    }

    #[test]
    fn a_message_is_cut_where_it_ends() {
        assert_eq!(cut("<a>one, \u{fdd2} </a>"), Some("<a>one, "));
        assert_eq!(cut("<a>one, \u{fdd2}</a>"), Some("<a>one,"));
        assert_eq!(cut("nothing"), None);
    }

    proptest! {
        #[test]
        fn marking_loses_nothing(text in "[a<|\u{fdd0}\u{fdd1}\u{fdd2}0é]{0,20}", at in 0usize..20) {
            let place = text.char_indices().map(|(i, _)| i).nth(at);
            let places = Vec::from_iter(place);
            prop_assert_eq!(unmark(&mark(&text, &places)), (text, places));
        }
    }
}
