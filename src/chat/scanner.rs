//! Finds markers in text that comes in pieces.

/// A stretch of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Text(String),
    /// Index of the marker.
    Marker(usize),
}

/// Cuts text at markers. What could be the beginning of a marker is held back until it is clear.
pub(super) struct Scanner {
    markers: Vec<&'static str>,
    held: String,
}

impl Scanner {
    pub(super) fn new(markers: Vec<&'static str>) -> Self {
        Self { markers, held: String::new() }
    }

    pub(super) fn push(&mut self, text: &str) -> Vec<Piece> {
        self.held.push_str(text);
        let mut pieces = Vec::new();
        while let Some((at, marker)) = self.first() {
            let rest = self.held.split_off(at + self.markers[marker].len());
            self.held.truncate(at);
            let before = std::mem::replace(&mut self.held, rest);
            push_text(&mut pieces, before);
            pieces.push(Piece::Marker(marker));
        }
        let rest = self.held.split_off(self.held.len() - self.undecided());
        push_text(&mut pieces, std::mem::replace(&mut self.held, rest));
        pieces
    }

    /// Bytes held back.
    pub(super) fn held_len(&self) -> usize {
        self.held.len()
    }

    /// What was held back, when no more text comes.
    pub(super) fn flush(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// The rest of a text that was cut: the beginning of a marker is none of the text.
    pub(super) fn flush_cut(&mut self) -> String {
        let rest = self.flush();
        if self.markers.iter().any(|marker| tells(marker, &rest)) { String::new() } else { rest }
    }

    /// The marker that starts first; the longest of those that start together.
    fn first(&self) -> Option<(usize, usize)> {
        let found = |(i, marker): (usize, &&str)| Some((self.held.find(*marker)?, i));
        let matches = self.markers.iter().enumerate().filter_map(found);
        matches.min_by_key(|&(at, i)| (at, usize::MAX - self.markers[i].len()))
    }

    /// Length of the longest end of the held text that a marker starts with.
    fn undecided(&self) -> usize {
        let longest = |marker: &&str| {
            let prefixes = marker.char_indices().map(|(len, _)| &marker[..len]);
            prefixes.filter(|prefix| self.held.ends_with(prefix)).map(str::len).max().unwrap_or(0)
        };
        self.markers.iter().map(longest).max().unwrap_or(0)
    }
}

/// Whether a beginning of a marker is hardly anything else: more than a bracket, or most of a word.
fn tells(marker: &str, beginning: &str) -> bool {
    let in_brackets = marker.starts_with(['<', '[', '◁']);
    let len = beginning.chars().count();
    marker.starts_with(beginning) && (in_brackets && len > 1 || len * 2 > marker.chars().count())
}

fn push_text(pieces: &mut Vec<Piece>, text: String) {
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
}
