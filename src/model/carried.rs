//! Layers that carry a state from token to token, described: what they are made of, and how large their
//! state is.

pub use kolosal_kernels::recurrence::{Rule, ScanShape};

/// What one layer carries from token to token, for each sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateSpec {
    /// Floats of the rows that a convolution looks back on.
    pub conv: usize,
    /// The recurrence, if there is one.
    pub scan: Option<ScanShape>,
}

impl StateSpec {
    /// Floats of the whole state.
    #[must_use]
    pub fn len(&self) -> usize {
        self.conv + self.scan.map_or(0, |scan| scan.state_len())
    }

    /// Nothing is carried.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A gated short convolution (LFM 2): `out(c ⊙ conv(b ⊙ x))`, where one matrix makes b, c and x.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShortConvSpec {
    /// Rows that the convolution sees, the row itself included.
    pub taps: usize,
    /// Columns.
    pub width: usize,
}

/// Gated DeltaNet (arXiv 2412.06464) as Qwen3-Next and Qwen 3.5 have it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeltaSpec {
    /// Rows that the convolution over queries, keys and values sees.
    pub taps: usize,
    pub shape: ScanShape,
    /// Decays and gains come of one matrix, group by group: gains of its heads, then decays
    /// (`ssm_ba`, Qwen3-Next).
    pub is_fused: bool,
}

impl DeltaSpec {
    /// Columns of queries, or of keys, of all groups.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.shape.groups * self.shape.key_dim
    }

    /// Columns of the values of all heads.
    #[must_use]
    pub fn values(&self) -> usize {
        self.shape.heads * self.shape.value_dim
    }

    /// Columns of the convolution.
    #[must_use]
    pub fn channels(&self) -> usize {
        2 * self.keys() + self.values()
    }
}

/// A state-space layer of the second kind (Mamba 2, arXiv 2405.21060).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SsmSpec {
    /// Rows that the convolution sees.
    pub taps: usize,
    /// Heads of `value_dim` columns; `key_dim` is the size of the state.
    pub shape: ScanShape,
    /// A norm on each group's gated output, with weights of its own.
    pub has_norm: bool,
}

impl SsmSpec {
    /// Columns of all heads.
    #[must_use]
    pub fn inner(&self) -> usize {
        self.shape.heads * self.shape.value_dim
    }

    /// Columns of what writes the state, or of what reads it, of all groups.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.shape.groups * self.shape.key_dim
    }

    /// Columns of the convolution.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.inner() + 2 * self.keys()
    }
}
