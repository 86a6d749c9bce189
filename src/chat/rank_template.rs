//! The prompt by which a model that answers yes or no judges a document: a text of the file with places for
//! query and document.

use super::Tokenizer;
use crate::model::gguf::Metadata;

const QUERY: &str = "{query}";
const DOCUMENT: &str = "{document}";

/// What stands before the query, between the texts, and after the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankTemplate {
    head: String,
    middle: String,
    tail: String,
}

impl RankTemplate {
    /// `tokenizer.chat_template.rerank`, if it is there and has both places, the query's first.
    #[must_use]
    pub fn from_gguf(meta: &Metadata) -> Option<Self> {
        Self::new(meta.str("tokenizer.chat_template.rerank").ok()??)
    }

    fn new(source: &str) -> Option<Self> {
        let (head, rest) = source.split_once(QUERY)?;
        let (middle, tail) = rest.split_once(DOCUMENT)?;
        let [head, middle, tail] = [head, middle, tail].map(str::to_owned);
        Some(Self { head, middle, tail })
    }

    /// The prompt, and the places of control tokens in query and document, for
    /// [`Tokenizer::encode_except`]: there they are text.
    #[must_use]
    pub fn render(
        &self,
        tokenizer: &Tokenizer,
        query: &str,
        document: &str,
    ) -> (String, Vec<usize>) {
        let mut text = self.head.clone();
        let mut protected = Vec::new();
        for (own, after) in [(query, &self.middle), (document, &self.tail)] {
            let start = text.len();
            let places = tokenizer.special_places(own, &[]);
            protected.extend(places.into_iter().map(|place| start + place));
            text.push_str(own);
            text.push_str(after);
        }
        (text, protected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_places_are_needed() {
        let parts = RankTemplate::new("a {query} b {document} c").unwrap();
        assert_eq!((&*parts.head, &*parts.middle, &*parts.tail), ("a ", " b ", " c"));
        for source in ["a {query}", "{document}", "{document} {query}"] {
            assert_eq!(RankTemplate::new(source), None, "{source}");
        }
    }
}
