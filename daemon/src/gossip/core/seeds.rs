//! The configured seeds, for people: which are reachable, and why not.
//!
//! Trying them is the business of `contacts.rs`; this watches what comes of it, and says once that
//! a seed has not answered for long, and once that it does again.

use ringmaster_shared::{api::membership::SeedInfo, id::NodeId};

use super::{Core, Happening};
use crate::gossip::claim::Now;

/// A seed that has not answered for so long is worth a word.
const PATIENCE_MS: u64 = 60_000;
/// Seeds listed for a person, and watched.
const SEEDS_MAX: usize = 64;

#[derive(Debug)]
struct Seed {
    address: String,
    /// Who answered there last; it may go by another address.
    answered_by: Option<NodeId>,
    /// The last attempt, whatever came of it.
    tried_ms: Option<u64>,
    /// Why the last attempt failed.
    error: Option<String>,
    /// Since when no reachable member is known behind it.
    silent_since_ms: Option<u64>,
    /// That it does not answer was said.
    said: bool,
}

#[derive(Debug, Default)]
pub struct Seeds(Vec<Seed>);

impl Seeds {
    /// Each address once, without this node's own.
    pub fn new(now: Now, addresses: &[String], own_address: &str) -> Self {
        let mut seeds: Vec<Seed> = Vec::new();
        for address in addresses {
            let known = seeds.iter().any(|s| s.address == *address);
            if address != own_address && !known && seeds.len() < SEEDS_MAX {
                seeds.push(Seed {
                    address: address.clone(),
                    answered_by: None,
                    tried_ms: None,
                    error: None,
                    silent_since_ms: Some(now.ms),
                    said: false,
                });
            }
        }
        Self(seeds)
    }

    /// The one that is asked first, by whoever wants to be let in.
    pub fn first(&self) -> Option<&str> {
        self.0.first().map(|s| s.address.as_str())
    }

    fn at(&mut self, address: &str) -> Option<&mut Seed> {
        self.0.iter_mut().find(|s| s.address == address)
    }

    pub fn answered(&mut self, now: Now, address: &str, by: &NodeId, me: &NodeId) {
        if let Some(seed) = self.at(address) {
            seed.tried_ms = Some(now.ms);
            seed.answered_by = Some(by.clone());
            seed.error = (by == me).then(|| "only this node itself answers there".to_owned());
        }
    }

    fn failed(&mut self, now: Now, address: &str, why: &str) {
        if let Some(seed) = self.at(address) {
            seed.tried_ms = Some(now.ms);
            seed.error = Some(why.to_owned());
        }
    }
}

impl Core {
    /// Nobody answered at an address; `why` is for people.
    pub fn contact_failed(&mut self, now: Now, address: &str, why: &str) {
        self.seeds.failed(now, address, why);
    }

    /// The seeds as they stand, and whether each is reachable.
    pub(super) fn seed_infos(&self) -> Vec<SeedInfo> {
        let info = |seed: &Seed| SeedInfo {
            address: seed.address.clone(),
            reachable: self.is_reachable(seed),
            answered_by: seed.answered_by.clone().or_else(|| {
                let mut reachable = self.members.reachable();
                let at = reachable.find(|m| m.state.address == seed.address);
                at.map(|m| m.state.id.clone())
            }),
            silent_since: seed.silent_since_ms.map(|ms| self.wall_time(ms)),
            last_tried: seed.tried_ms.map(|ms| self.wall_time(ms)),
            last_error: seed.error.clone(),
        };
        self.seeds.0.iter().map(info).collect()
    }

    /// Who answered there last is a reachable member, or a reachable member says that it is there.
    /// This node itself will do while it is among others: alone, it has not reached its cluster.
    fn is_reachable(&self, seed: &Seed) -> bool {
        let by_name = seed.answered_by.as_ref().is_some_and(|id| {
            let member = || self.members.get(id);
            let own = *id == self.local.id && self.members.reachable_count() > 0;
            own || member().is_some_and(|m| m.state.status.is_reachable())
        });
        let mut reachable = self.members.reachable();
        by_name || reachable.any(|m| m.state.address == seed.address)
    }

    pub(super) fn watch_seeds(&mut self, now: Now) {
        for at in 0..self.seeds.0.len() {
            let reachable = self.is_reachable(&self.seeds.0[at]);
            let seed = &mut self.seeds.0[at];
            let address = seed.address.clone();
            if reachable {
                seed.error = None;
                let since = seed.silent_since_ms.take().unwrap_or(now.ms);
                if std::mem::take(&mut seed.said) {
                    let after_ms = now.ms.saturating_sub(since);
                    self.happened(Happening::SeedAnswers { address, after_ms });
                }
                continue;
            }
            let since = *seed.silent_since_ms.get_or_insert(now.ms);
            let silent_ms = now.ms.saturating_sub(since);
            if silent_ms >= PATIENCE_MS && !std::mem::replace(&mut seed.said, true) {
                let error = seed.error.clone();
                self.happened(Happening::SeedUnreachable {
                    address,
                    silent_ms,
                    error,
                });
            }
        }
    }
}
