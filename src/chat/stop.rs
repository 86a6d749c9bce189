//! Stop strings: where generated text must end.

/// Finds the first of several stop strings in text that comes in pieces.
///
/// Text that could be the beginning of a stop string is held back, so no part of a stop string is
/// ever released. The stop string that is complete first ends the text, so that the result does not
/// depend on how the text was cut; of several that are complete at once, the longest.
pub struct StopMatcher {
    stops: Vec<Stop>,
    held: String,
    done: bool,
}

/// One stop string with the failure function of Knuth, Morris and Pratt.
struct Stop {
    text: Box<[u8]>,
    /// For each length of a matched prefix, the length of the longest proper border.
    borders: Box<[u32]>,
    /// Bytes matched by the end of the text so far.
    matched: usize,
}

/// What to do after a piece of text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopStep {
    /// Safe to send now.
    pub text: String,
    /// Index of the stop string that ends the text here.
    pub matched: Option<usize>,
}

impl StopMatcher {
    /// Empty stop strings match nothing.
    pub fn new(stops: Vec<String>) -> Self {
        let stops = stops.into_iter().map(Stop::new).collect();
        Self { stops, held: String::new(), done: false }
    }

    /// Takes a piece of text. After a match everything else is dropped.
    pub fn push(&mut self, text: &str) -> StopStep {
        if self.done {
            return StopStep::default();
        }
        if self.stops.is_empty() {
            return StopStep { text: text.to_owned(), matched: None };
        }
        let before = self.held.len();
        self.held.push_str(text);
        for end in before..self.held.len() {
            let byte = self.held.as_bytes()[end];
            let complete = self.stops.iter_mut().enumerate().filter_map(|(index, stop)| {
                let len = stop.step(byte)?;
                Some((len, index))
            });
            // Of several that end here the longest starts first.
            if let Some((len, index)) =
                complete.max_by_key(|&(len, index)| (len, usize::MAX - index))
            {
                self.done = true;
                let mut text = std::mem::take(&mut self.held);
                text.truncate(end + 1 - len);
                return StopStep { text, matched: Some(index) };
            }
        }
        let hold = self.stops.iter().map(|stop| stop.matched).max().unwrap_or(0);
        let safe = self.held.len() - hold;
        let rest = self.held.split_off(safe);
        StopStep { text: std::mem::replace(&mut self.held, rest), matched: None }
    }

    /// Bytes held back.
    pub fn held_len(&self) -> usize {
        self.held.len()
    }

    /// What was held back, when no more text comes.
    pub fn flush(&mut self) -> String {
        for stop in &mut self.stops {
            stop.matched = 0;
        }
        std::mem::take(&mut self.held)
    }
}

impl Stop {
    fn new(text: String) -> Self {
        let text = text.into_bytes().into_boxed_slice();
        let mut borders = vec![0u32; text.len() + 1];
        let mut border = 0;
        for end in 1..text.len() {
            while border > 0 && text[border] != text[end] {
                border = borders[border] as usize;
            }
            if text[border] == text[end] {
                border += 1;
            }
            borders[end + 1] = border as u32;
        }
        Self { text, borders: borders.into_boxed_slice(), matched: 0 }
    }

    /// Takes one byte; the length of the stop string if it is complete.
    fn step(&mut self, byte: u8) -> Option<usize> {
        if self.text.is_empty() {
            return None;
        }
        while self.matched > 0 && self.text[self.matched] != byte {
            self.matched = self.borders[self.matched] as usize;
        }
        if self.text[self.matched] == byte {
            self.matched += 1;
        }
        let len = self.text.len();
        if self.matched < len {
            return None;
        }
        // Should this one not count, the next may begin within it.
        self.matched = self.borders[len] as usize;
        Some(len)
    }
}
