//! What a download tells about itself while it runs.

/// Hears about the files of one fetch, one file after another. Must not block.
pub trait Progress: Send + Sync {
    /// A file begins, or begins anew: the count of its bytes is zero again.
    fn start(&self, file: &str, total: Option<u64>);
    /// So many more bytes of the current file are here.
    fn advance(&self, bytes: u64);
    /// The current file is complete.
    fn finish(&self);
    /// Something worth a line, such as a change of source.
    fn note(&self, text: &str);
}

/// Says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn start(&self, _file: &str, _total: Option<u64>) {}
    fn advance(&self, _bytes: u64) {}
    fn finish(&self) {}
    fn note(&self, _text: &str) {}
}
