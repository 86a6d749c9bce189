//! One row of the list of families.

use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::ModelSpec;

/// A family that the decoder can run.
pub struct Architecture {
    /// `general.architecture`.
    pub name: &'static str,
    /// Models that use it.
    pub models: &'static str,
    /// What its logits have been compared with.
    pub proof: Proof,
    pub(super) describe: fn(&Keys<'_>) -> Result<ModelSpec, ModelError>,
}

/// What tiny models of a family have been compared with, value by value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// transformers' own class of the family.
    Own,
    /// transformers' class of a relative, which computes the same as far as the family's papers and other
    /// programs tell: unproven.
    Relative,
    /// A class written for the comparison, as transformers has none: unproven.
    Ours,
}

impl Proof {
    /// For tables: whom the family has been compared with.
    #[must_use]
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Own => "transformers",
            Self::Relative => "unproven: compared with transformers' class of a relative",
            Self::Ours => "unproven: compared with a class of our own",
        }
    }
}
