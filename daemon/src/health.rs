//! What is wrong with the cluster, from what one node knows. Pure: no clock, no I/O.
//!
//! Counting replicas is left to `shared::quorum`; this file says which nodes count, and turns
//! the rest into problems with stable codes. How long they last is kept in [`keeper`].

pub mod keeper;
mod quorum_watch;
pub mod unfilled;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use ringmaster_shared::{
    event::Severity,
    id::NodeId,
    member::{Lifecycle, MemberStatus},
    quorum::PartitionCounts,
    topology::{Step, Topology},
};

pub use quorum_watch::{QuorumChange, QuorumWatch};

use crate::{gossip::MemberView, lifecycle::LifecycleState};

/// What health is judged from.
pub struct Picture<'a> {
    pub node_id: &'a NodeId,
    pub lifecycle: &'a LifecycleState,
    pub topology: Option<&'a Topology>,
    /// Hash of `topology`, so that it is computed once.
    pub topology_digest: u64,
    /// This node included.
    pub members: &'a [MemberView],
    pub counts: PartitionCounts,
    pub hints_owed: &'a BTreeMap<NodeId, u64>,
    pub poisoned: Option<&'a str>,
    /// Why this node stores nothing new, if so.
    pub read_only: Option<&'a str>,
    /// Requests of clients were turned away within the last seconds.
    pub overloaded: bool,
    /// Why lost data does not come back before an operator decides, if so.
    pub refill_blocked: Option<&'a str>,
    /// Why this node does not vote on changes of the ring, if so.
    pub votes_forgotten: Option<&'a str>,
}

/// One thing an operator should know, before anybody knows how long it has lasted.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    pub code: &'static str,
    pub subject: Option<NodeId>,
    pub severity: Severity,
    pub message: String,
    /// When it began, where that is known.
    pub since: Option<Timestamp>,
    /// Shown only once it has lasted so long, milliseconds: gossip needs a moment for everything.
    pub after_ms: u64,
}

/// Nodes whose replicas count: they answer, take replica requests and have their data. Who is only
/// suspected is still asked, but nobody should count on it.
pub fn available(members: &[MemberView]) -> BTreeSet<NodeId> {
    members
        .iter()
        .filter(|m| m.state.status == MemberStatus::Alive && m.state.lifecycle.counts_for_quorum())
        .map(|m| m.state.id.clone())
        .collect()
}

pub fn findings(picture: &Picture) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(of_this_node(picture));
    found.extend(of_quorum(picture));
    for member in picture.members {
        found.extend(of_member(picture, member));
        found.extend(of_epoch(picture, member));
    }
    found.extend(of_ring(picture));
    found.extend(of_hints(picture));
    found
}

fn finding(code: &'static str, severity: Severity, message: String) -> Finding {
    Finding {
        code,
        subject: None,
        severity,
        message,
        since: None,
        after_ms: 0,
    }
}

fn of_this_node(picture: &Picture) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Some(why) = picture.poisoned {
        found.push(finding(
            "STORAGE_STOPPED",
            Severity::Error,
            format!("storage of {} stopped: {why}", picture.node_id),
        ));
    }
    if let Some(why) = picture.read_only {
        found.push(Finding {
            subject: Some(picture.node_id.clone()),
            ..finding(
                "STORAGE_READ_ONLY",
                Severity::Error,
                format!("{} takes no writes: {why}", picture.node_id),
            )
        });
    }
    if let Some(why) = picture.refill_blocked {
        found.push(Finding {
            subject: Some(picture.node_id.clone()),
            ..finding("REFILL_BLOCKED", Severity::Error, why.to_owned())
        });
    }
    if let Some(why) = picture.votes_forgotten {
        found.push(Finding {
            subject: Some(picture.node_id.clone()),
            ..finding("VOTES_FORGOTTEN", Severity::Warning, why.to_owned())
        });
    }
    if picture.overloaded {
        let message = format!(
            "clients ask {} for more than it can do in time; some of their requests are refused with 429",
            picture.node_id
        );
        found.push(finding("OVERLOADED", Severity::Warning, message));
    }
    let (code, severity) = match picture.lifecycle.lifecycle {
        Lifecycle::Serving => return found,
        Lifecycle::Candidate => ("NODE_CANDIDATE", Severity::Info),
        Lifecycle::Joining => ("NODE_JOINING", Severity::Warning),
        Lifecycle::Recovering => ("NODE_RECOVERING", Severity::Warning),
        Lifecycle::Draining => ("NODE_DRAINING", Severity::Warning),
        Lifecycle::Standby => ("NODE_STANDBY", Severity::Warning),
        Lifecycle::Stopped => ("NODE_STOPPED", Severity::Warning),
    };
    let message = picture.lifecycle.sentence(picture.node_id);
    found.push(Finding {
        subject: Some(picture.node_id.clone()),
        ..finding(code, severity, message)
    });
    found
}

fn of_quorum(picture: &Picture) -> Option<Finding> {
    let counts = picture.counts;
    (counts.unavailable > 0).then(|| {
        finding(
            "QUORUM_LOST",
            Severity::Error,
            format!(
                "{} of {} partitions have no quorum; their keys can be neither read nor written",
                counts.unavailable, counts.total
            ),
        )
    })
}

fn of_member(picture: &Picture, member: &MemberView) -> Option<Finding> {
    let id = &member.state.id;
    if id == picture.node_id {
        return None;
    }
    let in_ring = picture.topology.is_some_and(|t| t.contains(id));
    let (code, severity, message) = match member.state.status {
        MemberStatus::Dead => (
            "MEMBER_DEAD",
            Severity::Error,
            format!("{id} at {} does not answer", member.state.address),
        ),
        MemberStatus::Suspected => (
            "MEMBER_SUSPECTED",
            Severity::Warning,
            format!("{id} did not answer a probe; others are being asked"),
        ),
        MemberStatus::Stopped if in_ring => (
            "MEMBER_STOPPED",
            Severity::Warning,
            format!("{id} was stopped on purpose and holds partitions of the ring"),
        ),
        MemberStatus::Alive if member.state.lifecycle == Lifecycle::Recovering => (
            "MEMBER_RECOVERING",
            Severity::Warning,
            format!("{id} lost its data and is copying it back from the other replicas"),
        ),
        MemberStatus::Alive if member.state.lifecycle == Lifecycle::Draining => (
            "MEMBER_DRAINING",
            Severity::Info,
            format!("{id} takes no new requests of clients"),
        ),
        _ => return None,
    };
    Some(Finding {
        subject: Some(id.clone()),
        since: Some(member.status_since),
        ..finding(code, severity, message)
    })
}

/// A member may lag behind for a moment; two topologies of one epoch may never be.
fn of_epoch(picture: &Picture, member: &MemberView) -> Option<Finding> {
    let mine = picture.topology?;
    let (id, theirs) = (&member.state.id, member.state.ring);
    if id == picture.node_id || theirs.epoch == 0 || !member.state.status.is_reachable() {
        return None;
    }
    let same_epoch = theirs.epoch == mine.epoch;
    if same_epoch && theirs.digest == picture.topology_digest {
        return None;
    }
    let (severity, message) = if same_epoch {
        (
            Severity::Error,
            format!(
                "{id} goes by another ring than this node under the same epoch {}",
                mine.epoch
            ),
        )
    } else {
        (
            Severity::Warning,
            format!(
                "{id} goes by ring epoch {}, this node by {}",
                theirs.epoch, mine.epoch
            ),
        )
    };
    Some(Finding {
        subject: Some(id.clone()),
        after_ms: 5_000,
        ..finding("EPOCH_DISAGREES", severity, message)
    })
}

fn of_ring(picture: &Picture) -> Vec<Finding> {
    let Some(topology) = picture.topology else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for member in &topology.members {
        if !picture.members.iter().any(|m| m.state.id == member.id) {
            found.push(Finding {
                subject: Some(member.id.clone()),
                ..finding(
                    "MEMBER_UNSEEN",
                    Severity::Error,
                    format!(
                        "{} at {} belongs to the ring, but nothing was heard of it since this node started",
                        member.id, member.address
                    ),
                )
            });
        }
    }
    if let Some(change) = &topology.transition {
        let step = match change.step {
            Step::Filling => "new replicas are being filled",
            Step::Dual => "reads ask old and new replicas",
        };
        let who: Vec<String> = change.joining.iter().map(ToString::to_string).collect();
        let who = if who.is_empty() {
            String::new()
        } else {
            format!(" for {}", who.join(", "))
        };
        found.push(finding(
            "RING_CHANGE",
            Severity::Info,
            format!("the ring is being changed{who}: {step}"),
        ));
    }
    found
}

fn of_hints(picture: &Picture) -> Vec<Finding> {
    picture
        .hints_owed
        .iter()
        .filter(|(_, n)| **n > 0)
        .map(|(id, n)| Finding {
            subject: Some(id.clone()),
            ..finding(
                "HINTS_OWED",
                Severity::Info,
                format!("{n} writes are kept here for {id} until it answers"),
            )
        })
        .collect()
}

#[cfg(test)]
pub mod tests {
    use std::sync::Arc;

    use ringmaster_shared::{
        id::ClusterId,
        member::{Load, RingStamp},
        quorum::{ClusterHealth, partition_counts},
        topology::RingMember,
    };

    use super::*;
    use crate::gossip::MemberState;

    pub fn id(name: &str) -> NodeId {
        NodeId::new(name).expect("valid")
    }

    pub fn topology(names: &[&str]) -> Topology {
        let member = |n: &&str| RingMember {
            id: id(n),
            address: format!("{n}:1"),
            zone: "default".into(),
        };
        Topology {
            cluster_id: ClusterId::new("0b9c7c1e-2f43-4a52-9f7e-3c1de9c0a111").expect("valid"),
            epoch: 3,
            replication_factor: 3,
            members: names.iter().map(member).collect(),
            table: vec![(0..names.len().min(3) as u16).collect(); 4],
            transition: None,
        }
    }

    pub fn member(name: &str, status: MemberStatus, lifecycle: Lifecycle) -> MemberView {
        MemberView {
            state: Arc::new(MemberState {
                id: id(name),
                address: format!("{name}:1"),
                zone: "default".into(),
                version: "0".into(),
                status,
                lifecycle,
                generation: 1,
                incarnation: 0,
                ring: RingStamp::default(),
                load: Load::default(),
            }),
            last_seen: Timestamp::UNIX_EPOCH,
            status_since: Timestamp::UNIX_EPOCH,
            heartbeat_seq: 1,
            doubts: crate::gossip::Doubts::default(),
        }
    }

    fn codes(topology: Option<&Topology>, members: &[MemberView]) -> Vec<&'static str> {
        let available = available(members);
        let picture = Picture {
            node_id: &id("a"),
            lifecycle: &LifecycleState {
                lifecycle: Lifecycle::Serving,
                waiting_for: None,
            },
            topology,
            topology_digest: topology.map_or(0, Topology::digest),
            members,
            counts: topology
                .map(|t| partition_counts(t, &available))
                .unwrap_or_default(),
            hints_owed: &BTreeMap::from([(id("b"), 0), (id("c"), 2)]),
            poisoned: None,
            read_only: None,
            overloaded: false,
            refill_blocked: None,
            votes_forgotten: None,
        };
        findings(&picture).iter().map(|f| f.code).collect()
    }

    #[test]
    fn only_nodes_with_data_that_answer_count() {
        use Lifecycle::{Draining, Recovering, Serving, Standby};
        use MemberStatus::{Alive, Dead, Stopped, Suspected};
        let cases = [
            (Alive, Serving, true),
            (Suspected, Serving, false),
            (Alive, Draining, true),
            (Alive, Recovering, false),
            (Alive, Standby, false),
            (Dead, Serving, false),
            (Stopped, Serving, false),
        ];
        for (status, lifecycle, counts) in cases {
            let set = available(&[member("x", status, lifecycle)]);
            assert_eq!(!set.is_empty(), counts, "{status:?} {lifecycle:?}");
        }
    }

    #[test]
    fn problems_have_stable_codes() {
        let t = topology(&["a", "b", "c"]);
        let alive = |n| member(n, MemberStatus::Alive, Lifecycle::Serving);
        let dead = |n| member(n, MemberStatus::Dead, Lifecycle::Serving);
        let all = [alive("a"), alive("b"), alive("c")];
        assert_eq!(codes(Some(&t), &all), ["HINTS_OWED"]);
        let one_gone = [alive("a"), alive("b"), dead("c")];
        assert_eq!(codes(Some(&t), &one_gone), ["MEMBER_DEAD", "HINTS_OWED"]);
        let alone = [alive("a"), dead("b")];
        assert_eq!(
            codes(Some(&t), &alone),
            ["QUORUM_LOST", "MEMBER_DEAD", "MEMBER_UNSEEN", "HINTS_OWED"]
        );
        assert_eq!(codes(None, &[alive("a")]), ["HINTS_OWED"]);
        assert_eq!(
            PartitionCounts::default().health(),
            ClusterHealth::Unavailable
        );
    }

    #[test]
    fn differing_rings_are_found() {
        let t = topology(&["a", "b"]);
        let mut b = member("b", MemberStatus::Alive, Lifecycle::Serving);
        let a = member("a", MemberStatus::Alive, Lifecycle::Serving);
        for (epoch, digest, wants) in [
            (3, t.digest(), false),
            (2, 1, true),
            (3, 1, true),
            (0, 0, false),
        ] {
            Arc::make_mut(&mut b.state).ring = RingStamp { epoch, digest };
            let found = codes(Some(&t), &[a.clone(), b.clone()]);
            assert_eq!(found.contains(&"EPOCH_DISAGREES"), wants, "epoch {epoch}");
        }
    }
}
