//! The error of the crate.

use crate::class::SpecError;
use crate::units::ParseError;

/// Says what was wrong with a value of the vocabulary.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A class specification breaks one of its bounds.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A size or duration could not be read.
    #[error(transparent)]
    Parse(#[from] ParseError),
}
