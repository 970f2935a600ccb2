//! What a life of the node is for while it leaves one cluster for another. Pure.
//!
//! Each life takes one step and ends in a new one, so that nothing of the old cluster (ring,
//! connections, members) lives on in memory:
//!
//! ```text
//! (ordered) -> looking -> GIVEN UP -> pushing -> PUSHED -> emptying -> EMPTIED -> joining -> member
//! ```
//!
//! Capitals are synced writes of the identity (`identity::adopting`). Cut before GIVEN UP, the
//! node is what it was; after it, the next start goes on at the same step, flag or not. Pushing
//! is begun again from the start: a record that arrived is not changed by arriving again.

use std::time::Duration;

use ringmaster_shared::{
    id::{ClusterId, NodeId},
    topology::Topology,
};

use crate::{
    gossip::MemberState,
    identity::{Adopting, Route},
};

/// How long a node that could serve asks seeds before it goes on serving.
pub const LOOK_BEFORE_SERVING: Duration = Duration::from_secs(10);
/// How long an order is tried before it is given back.
pub const LOOK_AS_ORDERED: Duration = Duration::from_secs(60);

/// What this life does about adopting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Nothing: it founds, joins or comes back.
    Usual,
    /// Asks the seeds which cluster they are of; `None`: for ever.
    Look {
        seeds: Vec<String>,
        patience: Option<Duration>,
        ordered: bool,
    },
    Push(Route),
    Empty(Route),
    /// As the usual joiner, but through these.
    Join {
        seeds: Vec<String>,
    },
}

/// `asked`: started with `--adopt`.
pub fn task(
    state: Option<Adopting>,
    asked: bool,
    seeds: &[String],
    has_cluster: bool,
    could_serve: bool,
) -> Task {
    match state {
        Some(Adopting::Ordered { seeds }) => Task::Look {
            seeds,
            patience: Some(LOOK_AS_ORDERED),
            ordered: true,
        },
        Some(Adopting::Pushing(route)) => Task::Push(route),
        Some(Adopting::Emptying(route)) => Task::Empty(route),
        Some(Adopting::Joining(route)) => Task::Join {
            seeds: route.through,
        },
        None if asked && has_cluster && !seeds.is_empty() => Task::Look {
            seeds: seeds.to_vec(),
            patience: could_serve.then_some(LOOK_BEFORE_SERVING),
            ordered: false,
        },
        None => Task::Usual,
    }
}

/// Who would adopt.
#[derive(Debug, Clone)]
pub struct Us<'a> {
    pub id: &'a NodeId,
    pub address: &'a str,
    /// Ours, or the one that was given up.
    pub cluster: &'a ClusterId,
    pub topology: Option<&'a Topology>,
    pub partition_count: u16,
    /// The old cluster is given up already.
    pub on_the_way: bool,
}

/// What a seed showed.
#[derive(Debug, Clone)]
pub struct Seen {
    pub seed: String,
    pub topology: Topology,
    pub members: Vec<MemberState>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The seed is of this node's own cluster, which counts it as a member.
    Nothing(String),
    Go(Route),
    /// Not now.
    Wait(String),
    Refuse(String),
}

pub fn judge(us: &Us, seen: &Seen) -> Verdict {
    let theirs = &seen.topology;
    let same = theirs.cluster_id == *us.cluster;
    if same && !us.on_the_way && is_one_of_them(us, theirs) {
        return Verdict::Nothing(format!(
            "{} is of this node's own cluster {}: there is nothing to adopt",
            seen.seed, us.cluster
        ));
    }
    if theirs.partition_count() != us.partition_count {
        return Verdict::Refuse(format!(
            "cluster {} has {} partitions, this node's cluster {} has {}; their keys lie differently, so this node cannot adopt it: copy the keys through the API instead",
            theirs.cluster_id,
            theirs.partition_count(),
            us.cluster,
            us.partition_count
        ));
    }
    let namesake = seen
        .members
        .iter()
        .find(|m| m.id == *us.id && m.status.is_reachable());
    if let Some(other) = namesake {
        // this node holds its port, so who was there last was itself
        if other.address == us.address || same {
            return Verdict::Wait(format!(
                "cluster {} to hold the earlier life of {} for gone",
                theirs.cluster_id, us.id
            ));
        }
        return Verdict::Refuse(format!(
            "cluster {} has a living {} at {}; two nodes may not share an id, so this one stays in its own cluster {}: stop the other or take it off the ring, then try again",
            theirs.cluster_id, us.id, other.address, us.cluster
        ));
    }
    Verdict::Go(Route {
        from: us.cluster.clone(),
        into: theirs.cluster_id.clone(),
        through: through(seen, us.id),
        partition_count: us.partition_count,
    })
}

/// Of one cluster: whether this node is a member of it, or only not in yet.
fn is_one_of_them(us: &Us, theirs: &Topology) -> bool {
    let Some(ours) = us.topology else {
        return true; // cut off while joining: it simply joins
    };
    // a seed that is behind does not know of us yet
    theirs.contains(us.id) || (ours.epoch > theirs.epoch && ours.contains(us.id))
}

/// The seed that answered, then where its members can be reached.
fn through(seen: &Seen, me: &NodeId) -> Vec<String> {
    let reachable = seen.members.iter().filter(|m| m.status.is_reachable());
    let mut all = vec![seen.seed.clone()];
    let others = reachable.filter(|m| m.id != *me).map(|m| &m.address).chain(
        seen.topology
            .members
            .iter()
            .filter(|m| m.id != *me)
            .map(|m| &m.address),
    );
    for address in others {
        if !all.contains(address) {
            all.push(address.clone());
        }
    }
    all.truncate(THROUGH_MAX);
    all
}

/// Addresses kept of the other cluster.
const THROUGH_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use ringmaster_shared::{
        member::{Lifecycle, Load, MemberStatus, RingStamp},
        topology::RingMember,
    };

    use super::*;

    const OURS: &str = "0b9c7c1e-2f43-4a52-9f7e-3c1de9c0a111";
    const THEIRS: &str = "1b9c7c1e-2f43-4a52-9f7e-3c1de9c0a111";

    fn id(name: &str) -> NodeId {
        NodeId::new(name).expect("valid")
    }

    fn cluster(text: &str) -> ClusterId {
        ClusterId::new(text).expect("valid")
    }

    fn topology(of: &str, epoch: u64, names: &[&str]) -> Topology {
        let member = |name: &&str| RingMember {
            id: id(name),
            address: format!("{name}:1"),
            zone: "z".into(),
        };
        Topology {
            cluster_id: cluster(of),
            epoch,
            replication_factor: 3,
            members: names.iter().map(member).collect(),
            table: vec![vec![0]; 256],
            transition: None,
        }
    }

    fn member(name: &str, address: &str, status: MemberStatus) -> MemberState {
        MemberState {
            id: id(name),
            address: address.into(),
            zone: "z".into(),
            version: "0".into(),
            status,
            lifecycle: Lifecycle::Serving,
            generation: 5,
            incarnation: 0,
            ring: RingStamp::default(),
            load: Load::default(),
        }
    }

    fn seen(topology: Topology, members: Vec<MemberState>) -> Seen {
        Seen {
            seed: "a:1".into(),
            topology,
            members,
        }
    }

    fn verdict(ours: Option<&Topology>, partitions: u16, on_the_way: bool, seen: &Seen) -> Verdict {
        let (id, cluster) = (id("me"), cluster(OURS));
        let us = Us {
            id: &id,
            address: "me:1",
            cluster: &cluster,
            topology: ours,
            partition_count: partitions,
            on_the_way,
        };
        judge(&us, seen)
    }

    #[test]
    fn every_state_has_its_task() {
        let route = Route {
            from: cluster(OURS),
            into: cluster(THEIRS),
            through: vec!["a:1".into()],
            partition_count: 256,
        };
        let seeds = vec!["s:1".to_owned()];
        let through = vec!["a:1".to_owned()];
        let look = |seeds: &[String], patience, ordered| Task::Look {
            seeds: seeds.to_vec(),
            patience,
            ordered,
        };
        let ordered = Adopting::Ordered {
            seeds: through.clone(),
        };
        let cases = [
            // state, asked, has cluster, could serve
            (None, false, true, true, Task::Usual),
            (None, true, false, false, Task::Usual),
            (
                None,
                true,
                true,
                true,
                look(&seeds, Some(LOOK_BEFORE_SERVING), false),
            ),
            (None, true, true, false, look(&seeds, None, false)),
            (
                Some(ordered),
                false,
                true,
                true,
                look(&through, Some(LOOK_AS_ORDERED), true),
            ),
            // the flag is not needed to go on, nor does it matter
            (
                Some(Adopting::Pushing(route.clone())),
                false,
                false,
                false,
                Task::Push(route.clone()),
            ),
            (
                Some(Adopting::Pushing(route.clone())),
                true,
                false,
                false,
                Task::Push(route.clone()),
            ),
            (
                Some(Adopting::Emptying(route.clone())),
                false,
                false,
                false,
                Task::Empty(route.clone()),
            ),
            (
                Some(Adopting::Joining(route)),
                false,
                true,
                false,
                Task::Join { seeds: through },
            ),
        ];
        for (state, asked, has_cluster, could_serve, wants) in cases {
            let found = task(state.clone(), asked, &seeds, has_cluster, could_serve);
            assert_eq!(found, wants, "{state:?} {asked} {has_cluster}");
        }
        assert_eq!(task(None, true, &[], true, true), Task::Usual, "no seeds");
    }

    #[test]
    fn seeds_of_the_own_cluster_are_nothing_to_adopt() {
        let mine = topology(OURS, 5, &["a", "me"]);
        let cases = [
            // the seed's view, ours, what follows
            (topology(OURS, 5, &["a", "me"]), Some(&mine), true),
            (topology(OURS, 9, &["a", "me"]), Some(&mine), true),
            // the seed has not heard of us yet
            (topology(OURS, 4, &["a"]), Some(&mine), true),
            // cut off while joining
            (topology(OURS, 4, &["a"]), None, true),
            // it removed us
            (topology(OURS, 8, &["a"]), Some(&mine), false),
        ];
        for (theirs, ours, nothing) in cases {
            let found = verdict(ours, 256, false, &seen(theirs.clone(), Vec::new()));
            assert_eq!(
                matches!(found, Verdict::Nothing(_)),
                nothing,
                "{theirs:?} {found:?}"
            );
        }
        // who gave its cluster up may change its mind and push into it
        let back = seen(topology(OURS, 5, &["a"]), Vec::new());
        let Verdict::Go(route) = verdict(None, 256, true, &back) else {
            panic!("it is adoptable");
        };
        assert_eq!(route.from, route.into);
    }

    #[test]
    fn another_cluster_is_adopted_unless_that_would_lose_something() {
        let mine = topology(OURS, 5, &["me"]);
        let theirs = topology(THEIRS, 3, &["a", "b"]);
        let members = vec![
            member("a", "a:2", MemberStatus::Alive),
            member("b", "b:1", MemberStatus::Dead),
            member("me", "x:1", MemberStatus::Dead),
        ];
        let Verdict::Go(route) = verdict(Some(&mine), 256, false, &seen(theirs.clone(), members))
        else {
            panic!("nothing is in the way");
        };
        assert_eq!(route.into, cluster(THEIRS));
        assert_eq!(route.through, ["a:1", "a:2", "b:1"]);

        let living = |address: &str| {
            let members = vec![member("me", address, MemberStatus::Suspected)];
            verdict(Some(&mine), 256, false, &seen(theirs.clone(), members))
        };
        let Verdict::Refuse(why) = living("x:1") else {
            panic!("somebody has this name");
        };
        assert!(why.contains("x:1") && why.contains(OURS) && why.contains(THEIRS));
        assert!(matches!(living("me:1"), Verdict::Wait(_)));

        let Verdict::Refuse(why) = verdict(Some(&mine), 64, false, &seen(theirs, Vec::new()))
        else {
            panic!("the partitions differ");
        };
        assert!(why.contains("256") && why.contains("64"));
    }
}
