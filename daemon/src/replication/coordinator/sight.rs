//! What this node sees of the replicas of one key: who is worth asking, in which order, and how long
//! to wait for them. Keeps what only changes with the member list from being worked out again for
//! every operation.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use ringmaster_shared::{
    id::NodeId,
    member::{Lifecycle, MemberStatus},
};
use tokio::time::Instant;

use super::{latency::Latencies, round::Reach};
use crate::{breaks::broken, gossip::Members, replication::reach};

pub struct Sight {
    standings: ArcSwapOption<Standings>,
    latencies: Mutex<Latencies>,
    /// Where the milliseconds of `latencies` count from.
    began: Instant,
}

/// How the members of one list stand.
struct Standings {
    members: Members,
    of: HashMap<NodeId, Standing>,
    /// Everybody is in good standing, this node aside.
    all_good: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Good,
    /// Suspected: asked after the others.
    InDoubt,
    /// Not worth asking.
    Off,
}

impl Standings {
    fn new(members: Members) -> Self {
        let standing = |m: &crate::gossip::MemberView| {
            if !reach::is_reachable(m) {
                Standing::Off
            } else if m.state.status == MemberStatus::Suspected {
                Standing::InDoubt
            } else {
                Standing::Good
            }
        };
        let of = members.iter().map(|m| (m.state.id.clone(), standing(m)));
        let of: HashMap<NodeId, Standing> = of.collect();
        Self {
            all_good: of.values().all(|standing| *standing == Standing::Good),
            of,
            members,
        }
    }

    fn get(&self, id: &NodeId) -> Standing {
        self.of.get(id).copied().unwrap_or(Standing::Off)
    }
}

impl Sight {
    pub fn new() -> Self {
        Self {
            standings: ArcSwapOption::empty(),
            latencies: Mutex::default(),
            began: Instant::now(),
        }
    }

    /// Who of `replicas` is worth asking, the likeliest to answer soon first.
    pub fn reach(
        &self,
        members: &Members,
        me: (&NodeId, Lifecycle),
        replicas: Vec<NodeId>,
    ) -> Reach {
        let standings = self.standings(members);
        let fine = |id: &NodeId| {
            if id == me.0 {
                me.1.replicates()
            } else {
                standings.get(id) != Standing::Off
            }
        };
        let off = if replicas.iter().all(fine) {
            std::collections::BTreeMap::new()
        } else {
            // the reasons say how long ago, so they are worth their price only when needed
            reach::unreachable(members, me, &replicas, Timestamp::now())
        };
        let in_doubt = |id: &NodeId| !standings.all_good && standings.get(id) == Standing::InDoubt;
        let now_ms = self.now_ms();
        let order = self.latencies().rank(replicas, me.0, in_doubt, now_ms);
        Reach { off, order }
    }

    fn standings(&self, members: &Members) -> Arc<Standings> {
        if let Some(kept) = &*self.standings.load()
            && Arc::ptr_eq(&kept.members, members)
        {
            return Arc::clone(kept);
        }
        let fresh = Arc::new(Standings::new(Arc::clone(members)));
        self.standings.store(Some(Arc::clone(&fresh)));
        fresh
    }

    pub fn patience(&self, asked: &[NodeId]) -> Duration {
        self.latencies().patience(asked)
    }

    /// A read was answered.
    pub fn answered(&self, who: &NodeId, took: Duration) {
        if broken("hedging") {
            return;
        }
        let now_ms = self.now_ms();
        self.latencies().answered(who, took, now_ms);
    }

    /// A read was not answered in time, or refused.
    pub fn late(&self, who: &NodeId) {
        if broken("hedging") {
            return;
        }
        let now_ms = self.now_ms();
        self.latencies().late(who, now_ms);
    }

    fn now_ms(&self) -> u64 {
        // 0 is "never" in there
        u64::try_from(self.began.elapsed().as_millis())
            .unwrap_or(u64::MAX)
            .max(1)
    }

    fn latencies(&self) -> MutexGuard<'_, Latencies> {
        self.latencies
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
