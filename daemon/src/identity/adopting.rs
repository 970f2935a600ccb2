//! The steps of giving up one cluster for another, as they stand on the disk.
//!
//! Promises: each step is one synced write of the whole file, so that a crash leaves the step
//! before or the step after; from the moment the old cluster is given up, nothing of it (ring,
//! votes, members, actor) is left to act on. Leaves to `node::adopt`: when to take which step.

use ringmaster_shared::id::ClusterId;
use serde::{Deserialize, Serialize};

use super::{IdentityStore, RememberedMember, some_of};

/// From where to where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub from: ClusterId,
    /// The same as `from` for a node that its own cluster had removed.
    pub into: ClusterId,
    /// `host:port` of nodes of `into`, to begin with.
    pub through: Vec<String>,
    /// Of both clusters; the store cannot be opened with another one.
    pub partition_count: u16,
}

/// How far a node has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Adopting {
    /// Somebody ordered it; the node is still what it was.
    Ordered { seeds: Vec<String> },
    /// The old cluster is given up; what is held here is on its way into the other.
    Pushing(Route),
    /// A quorum of the other cluster has everything; the store can go.
    Emptying(Route),
    /// Empty, and not let in yet.
    Joining(Route),
}

impl Adopting {
    pub fn route(&self) -> Option<&Route> {
        match self {
            Self::Ordered { .. } => None,
            Self::Pushing(route) | Self::Emptying(route) | Self::Joining(route) => Some(route),
        }
    }
}

impl IdentityStore {
    pub fn adopting(&self) -> Option<Adopting> {
        self.state().adopting.clone()
    }

    /// The cluster this node belonged to before it adopted the one it is in.
    pub fn given_up(&self) -> Option<ClusterId> {
        self.state().given_up.clone()
    }

    /// For the next start. Refused once a cluster was given up: there is no way back.
    pub fn order_adopting(&self, seeds: Vec<String>) -> anyhow::Result<()> {
        let mut under_way = false;
        self.update(|state| match &state.adopting {
            None | Some(Adopting::Ordered { .. }) => {
                state.adopting = Some(Adopting::Ordered { seeds });
            }
            Some(_) => under_way = true,
        })?;
        anyhow::ensure!(!under_way, "this node is giving up its cluster already");
        Ok(())
    }

    /// Takes back an order that was not begun.
    pub fn drop_order(&self) -> anyhow::Result<()> {
        self.update(|state| {
            if matches!(state.adopting, Some(Adopting::Ordered { .. })) {
                state.adopting = None;
            }
        })
    }

    /// The point of no return: no cluster, no ring, no votes, no acquaintances, a new actor.
    pub fn give_up(&self, route: Route) -> anyhow::Result<()> {
        self.update_as_new_actor(|state| {
            let last = state.topology.take().map_or(0, |ring| ring.epoch);
            state.cluster_id = None;
            state.acceptor = None;
            state.filled_epoch = 0;
            // a new node of the other cluster, until that takes it in
            state.was_member = false;
            state.was_leaving = false;
            // votes in a cluster that is left bind nobody; those in one that is entered again do
            state.abstain_through = if route.from == route.into {
                state.abstain_through.max(last)
            } else {
                0
            };
            state.remembered.clear();
            state.adopting = Some(Adopting::Pushing(route));
        })
    }

    /// Another cluster to push into, from the beginning; only while nothing is emptied.
    pub fn push_elsewhere(&self, route: Route) -> anyhow::Result<()> {
        self.update(|state| {
            if matches!(state.adopting, Some(Adopting::Pushing(_))) {
                state.adopting = Some(Adopting::Pushing(route));
            }
        })
    }

    /// Everything is on a quorum of the other cluster, whose members these are: they are asked
    /// for the way in.
    pub fn pushed(&self, members: Vec<String>) -> anyhow::Result<()> {
        self.update(|state| {
            if let Some(Adopting::Pushing(route)) = &state.adopting {
                let mut route = route.clone();
                if !members.is_empty() {
                    route.through = members;
                }
                state.adopting = Some(Adopting::Emptying(route));
            }
        })
    }

    /// The store is gone; this is a new node on its way into the other cluster.
    pub fn emptied(&self, remembered: Vec<RememberedMember>) -> anyhow::Result<()> {
        let remembered = some_of(remembered, &self.inner.node_id);
        let Some(Adopting::Emptying(route)) = self.adopting() else {
            return Ok(());
        };
        // entering it as any new node does; cut off here, the store is emptied once more
        self.set_cluster(route.into)?;
        self.update(|state| {
            if let Some(Adopting::Emptying(route)) = state.adopting.clone() {
                state.remembered = remembered;
                state.had_store = false;
                state.needs_refill = false;
                state.adopting = Some(Adopting::Joining(route));
            }
        })
    }

    /// Let in. Returns the way that was taken, if there was one.
    pub fn arrived(&self) -> anyhow::Result<Option<Route>> {
        let Some(Adopting::Joining(route)) = self.adopting() else {
            return Ok(None);
        };
        self.update(|state| {
            state.adopting = None;
            if route.from != route.into {
                state.given_up = Some(route.from.clone());
            }
        })?;
        Ok(Some(route))
    }
}

#[cfg(test)]
mod tests {
    use ringmaster_shared::{
        id::NodeId,
        topology::{RingMember, Topology},
    };
    use tempfile::TempDir;

    use super::*;

    fn cluster(digit: char) -> ClusterId {
        let text = "0b9c7c1e-2f43-4a52-9f7e-3c1de9c0a11x".replace('x', &digit.to_string());
        ClusterId::new(&text).expect("valid")
    }

    fn open(dir: &TempDir) -> IdentityStore {
        IdentityStore::open(dir.path(), &NodeId::new("node-1").expect("valid")).expect("opens")
    }

    fn route() -> Route {
        Route {
            from: cluster('1'),
            into: cluster('2'),
            through: vec!["localhost:8082".into()],
            partition_count: 256,
        }
    }

    /// A member of cluster 1 that voted, abstained, and gave dots.
    fn settled(dir: &TempDir) -> IdentityStore {
        let store = open(dir);
        let founder = RingMember {
            id: store.node_id().clone(),
            address: "localhost:8081".into(),
            zone: "default".into(),
        };
        store.set_cluster(cluster('1')).expect("writes");
        let topology = Topology::founded(cluster('1'), founder, 3, 256);
        store.save_topology(&topology).expect("writes");
        store
            .save_acceptor(&super::super::AcceptorState::fresh(1))
            .expect("writes");
        store.forget_votes().expect("writes");
        store.recall_votes(7).expect("writes");
        store.recall_votes(3).expect("known already");
        store.set_had_store().expect("writes");
        store.next_dot().expect("a dot");
        store
    }

    #[test]
    fn each_step_survives_and_leads_to_the_next() {
        let dir = TempDir::new().expect("temp dir");
        let store = settled(&dir);
        let actor = store.actor();
        store
            .order_adopting(vec!["localhost:8082".into()])
            .expect("writes");
        drop(store);

        let store = open(&dir);
        assert!(matches!(store.adopting(), Some(Adopting::Ordered { .. })));
        assert_eq!(store.cluster_id(), Some(cluster('1')), "still what it was");
        assert!(store.topology().is_some() && store.acceptor().is_some());
        store.give_up(route()).expect("writes");
        drop(store);

        let store = open(&dir);
        assert_eq!(store.adopting(), Some(Adopting::Pushing(route())));
        assert!(store.cluster_id().is_none() && store.topology().is_none());
        assert!(store.acceptor().is_none() && store.remembered().is_empty());
        assert_eq!(store.abstains_through(), 0);
        assert!(store.actor().epoch > actor.epoch);
        assert!(
            store.had_store(),
            "an empty store would be a lost one until it was emptied on purpose"
        );
        assert!(store.order_adopting(Vec::new()).is_err(), "no way back");
        store.drop_order().expect("writes");
        assert!(store.adopting().is_some());
        store.pushed(vec!["localhost:8083".into()]).expect("writes");
        drop(store);

        let store = open(&dir);
        let Some(Adopting::Emptying(route)) = store.adopting() else {
            panic!("{:?}", store.adopting());
        };
        assert_eq!(route.through, ["localhost:8083"]);
        let friend = RememberedMember {
            id: NodeId::new("node-2").expect("valid"),
            address: "localhost:8082".into(),
        };
        store.emptied(vec![friend]).expect("writes");
        drop(store);

        let store = open(&dir);
        assert!(matches!(store.adopting(), Some(Adopting::Joining(_))));
        assert_eq!(store.cluster_id(), Some(cluster('2')), "never founds again");
        assert_eq!(store.remembered().len(), 1);
        assert!(!store.had_store() && !store.needs_refill());
        assert_eq!(store.arrived().expect("writes"), Some(route));
        assert_eq!(store.arrived().expect("writes"), None);
        assert_eq!(store.given_up(), Some(cluster('1')));
        assert!(store.adopting().is_none());
    }

    #[test]
    fn steps_are_not_skipped() {
        let dir = TempDir::new().expect("temp dir");
        let store = settled(&dir);
        store.pushed(Vec::new()).expect("writes");
        store.emptied(Vec::new()).expect("writes");
        store.push_elsewhere(route()).expect("writes");
        assert_eq!(store.arrived().expect("writes"), None);
        assert!(store.adopting().is_none() && store.topology().is_some());
        store.order_adopting(Vec::new()).expect("writes");
        store.drop_order().expect("writes");
        assert!(store.adopting().is_none());
    }

    #[test]
    fn votes_in_the_same_cluster_are_not_forgotten() {
        let dir = TempDir::new().expect("temp dir");
        let store = settled(&dir);
        let back = Route {
            into: cluster('1'),
            ..route()
        };
        store.give_up(back).expect("writes");
        assert_eq!(store.abstains_through(), 7);
        store.pushed(Vec::new()).expect("writes");
        store.emptied(Vec::new()).expect("writes");
        assert!(store.arrived().expect("writes").is_some());
        assert_eq!(store.given_up(), None);

        // of a life that goes on the ring it went by last says which votes there can be
        let dir = TempDir::new().expect("temp dir");
        let store = settled(&dir);
        store.vote_again().expect("writes");
        let back = Route {
            into: cluster('1'),
            ..route()
        };
        store.give_up(back).expect("writes");
        assert_eq!(store.abstains_through(), 1);
    }
}
