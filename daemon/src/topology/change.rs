//! Having an operator's change decided, from any member that runs.
//!
//! Promises: `Ok` means that exactly this topology is decided and this node goes by it. After an
//! error it is not known to be decided; where nobody answered it may still come about, because
//! some voter may have accepted it.

use ringmaster_shared::{id::Epoch, topology::Topology};
use thiserror::Error;

use super::{
    TopologyHandle,
    driver::{ballots::Outcome, no_majority},
};

/// Looks at the situation when others propose at the same time.
const TRIES: usize = 3;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChangeError {
    #[error("this node does not take part in the ring yet")]
    NotRunning,
    /// Something else was decided on the same base.
    #[error("another change of the ring was decided first, epoch {now}")]
    Overtaken { now: Epoch },
    #[error("{0}; the change may still come about, look at the ring before trying again")]
    NoMajority(String),
}

impl TopologyHandle {
    /// Makes `next` the successor of `base`, or says why not.
    pub async fn change(&self, base: &Topology, next: &Topology) -> Result<Epoch, ChangeError> {
        let proposing = self.proposer().ok_or(ChangeError::NotRunning)?;
        for _ in 0..TRIES {
            match proposing.decide(base, next).await {
                Outcome::Decided(decided) if *decided == *next => return Ok(next.epoch),
                Outcome::Decided(other) => {
                    return Err(ChangeError::Overtaken { now: other.epoch });
                }
                Outcome::Superseded(later) if *later == *next => {
                    // a driver finished what this node had begun
                    if self.install(*later).await.is_ok() {
                        return Ok(next.epoch);
                    }
                }
                Outcome::Superseded(later) => {
                    let now = later.epoch;
                    if let Err(why) = self.install(*later).await {
                        tracing::warn!("epoch {now} was refused: {why:#}");
                    }
                    return Err(ChangeError::Overtaken { now });
                }
                Outcome::Unreachable(abstain) => {
                    let why = no_majority(base, &abstain);
                    let why = format!("the ring cannot change: {why}");
                    return Err(ChangeError::NoMajority(why));
                }
                Outcome::Contended => {}
            }
        }
        let why = "other members propose at the same time".to_owned();
        Err(ChangeError::NoMajority(why))
    }
}
