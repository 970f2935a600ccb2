//! Why the program ends without having done its job.

use thiserror::Error;

/// One sentence each.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Failure {
    /// The operator asked for something that cannot be: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// Anything else: exit code 1.
    #[error("{0}")]
    Failed(String),
}

impl Failure {
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Failed(_) => 1,
        }
    }
}
