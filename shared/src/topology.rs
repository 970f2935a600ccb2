//! Who owns what: the one value that decides it.
//!
//! A [`Topology`] names the members, the table partition -> replicas, and, while a change is
//! under way, where the table is going. It changes only by a majority decision of the voters it
//! names itself; each decision raises the epoch by one.
//!
//! During a change both tables are in force, in two steps (`docs/protocol.md`):
//! [`Step::Filling`]: writes go to a quorum of the old **and** of the new replicas, reads to the
//! old; [`Step::Dual`]: reads need a quorum of both as well. Then the new table stands alone.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    id::{ClusterId, Epoch, NodeId, PartitionId},
    key::Key,
    quorum::{Group, Requirement},
};

/// Replicas of each partition in a cluster that is large enough.
pub const REPLICATION_FACTOR_DEFAULT: u8 = 3;
/// At most this many members vote on the next topology.
pub const VOTERS_MAX: usize = 7;

/// A member of the ring: who it is and where to ask for it when gossip knows nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingMember {
    pub id: NodeId,
    /// `host:port` it advertised when it joined.
    pub address: String,
    pub zone: String,
}

/// Replica lists by partition; each entry indexes [`Topology::members`], first is the primary.
pub type Table = Vec<Vec<u16>>;

/// How far a change has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// (a) new replicas receive writes and are being filled; reads go to the old ones.
    Filling,
    /// (b) reads need a quorum of both.
    Dual,
}

/// What a change is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// New members are taken in.
    #[default]
    Join,
    /// A living member hands over all it holds and goes (decommission).
    Leave,
    /// A dead member's place is filled by the others.
    Remove,
    /// A new member takes over exactly what a dead one held.
    Replace,
    /// The same members, balanced anew (zones or counts had gone out of balance).
    Rebalance,
}

/// A change under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    #[serde(default)]
    pub kind: ChangeKind,
    pub step: Step,
    /// Members that are not in the old table; they do not vote before the change is done.
    pub joining: Vec<NodeId>,
    /// Members that are not in the target table and no members any more once it is in force.
    /// They vote until then.
    #[serde(default)]
    pub leaving: Vec<NodeId>,
    /// The table the change leads to.
    pub target: Table,
}

/// One decided topology.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    pub cluster_id: ClusterId,
    pub epoch: Epoch,
    pub replication_factor: u8,
    /// Sorted by id; during a change the union of old and new.
    pub members: Vec<RingMember>,
    /// The table in force (the old one during a change).
    pub table: Table,
    pub transition: Option<Transition>,
}

/// Which part of an operation a requirement is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

impl Topology {
    /// The first topology of a new cluster: one member owns everything.
    pub fn founded(
        cluster_id: ClusterId,
        founder: RingMember,
        replication_factor: u8,
        partition_count: u16,
    ) -> Self {
        Self {
            cluster_id,
            epoch: 1,
            replication_factor,
            members: vec![founder],
            table: vec![vec![0]; usize::from(partition_count)],
            transition: None,
        }
    }

    pub fn partition_count(&self) -> u16 {
        self.table.len() as u16
    }

    pub fn partition_of(&self, key: &Key) -> PartitionId {
        key.partition(self.partition_count())
    }

    pub fn member(&self, id: &NodeId) -> Option<&RingMember> {
        self.members.iter().find(|m| &m.id == id)
    }

    pub fn contains(&self, id: &NodeId) -> bool {
        self.member(id).is_some()
    }

    /// Whether `id` is in the ring only through a change that is not finished.
    pub fn is_joining(&self, id: &NodeId) -> bool {
        self.transition
            .as_ref()
            .is_some_and(|t| t.joining.contains(id))
    }

    /// Whether `id` will be gone when the change under way is done.
    pub fn is_leaving(&self, id: &NodeId) -> bool {
        self.transition
            .as_ref()
            .is_some_and(|t| t.leaving.contains(id))
    }

    /// Members of the table in force, joiners excluded.
    pub fn settled_members(&self) -> impl Iterator<Item = &RingMember> {
        self.members.iter().filter(|m| !self.is_joining(&m.id))
    }

    fn ids(&self, replicas: &[u16]) -> Vec<NodeId> {
        replicas
            .iter()
            .filter_map(|i| self.members.get(usize::from(*i)))
            .map(|m| m.id.clone())
            .collect()
    }

    /// Replicas in force, in order.
    pub fn replicas(&self, partition: PartitionId) -> Vec<NodeId> {
        self.table
            .get(usize::from(partition))
            .map(|r| self.ids(r))
            .unwrap_or_default()
    }

    /// Replicas the partition is moving to; `None` when no change touches it.
    pub fn target_replicas(&self, partition: PartitionId) -> Option<Vec<NodeId>> {
        let target = self
            .transition
            .as_ref()?
            .target
            .get(usize::from(partition))?;
        let current = self.table.get(usize::from(partition))?;
        (target != current).then(|| self.ids(target))
    }

    /// Old and new replicas, the old ones first, each once.
    pub fn all_replicas(&self, partition: PartitionId) -> Vec<NodeId> {
        let mut all = self.replicas(partition);
        for id in self.target_replicas(partition).unwrap_or_default() {
            if !all.contains(&id) {
                all.push(id);
            }
        }
        all
    }

    /// What an operation on `partition` needs in this epoch.
    pub fn requirement(&self, partition: PartitionId, access: Access) -> Requirement {
        let old = Group::majority_of(self.replicas(partition));
        let Some(target) = self.target_replicas(partition) else {
            return Requirement { groups: vec![old] };
        };
        let step = self.transition.as_ref().map(|t| t.step);
        match (access, step) {
            (Access::Read, Some(Step::Filling)) => Requirement { groups: vec![old] },
            _ => Requirement {
                groups: vec![old, Group::majority_of(target)],
            },
        }
    }

    /// Whether `node` holds (or is to hold) the partition in this epoch.
    pub fn is_replica(&self, partition: PartitionId, node: &NodeId) -> bool {
        self.all_replicas(partition).contains(node)
    }

    /// The partitions that `node` gains in the change under way.
    pub fn gained_by(&self, node: &NodeId) -> Vec<PartitionId> {
        (0..self.partition_count())
            .filter(|p| {
                self.target_replicas(*p).is_some_and(|t| t.contains(node))
                    && !self.replicas(*p).contains(node)
            })
            .collect()
    }

    /// Who decides epoch `self.epoch + 1`: settled members, at most [`VOTERS_MAX`], one zone
    /// after the other.
    pub fn voters(&self) -> Vec<NodeId> {
        let mut by_zone: Vec<(&str, Vec<&RingMember>)> = Vec::new();
        for member in self.settled_members() {
            match by_zone.iter_mut().find(|(zone, _)| *zone == member.zone) {
                Some((_, list)) => list.push(member),
                None => by_zone.push((&member.zone, vec![member])),
            }
        }
        by_zone.sort_by(|a, b| a.0.cmp(b.0));
        let longest = by_zone
            .iter()
            .map(|(_, list)| list.len())
            .max()
            .unwrap_or(0);
        let mut voters: Vec<&RingMember> = Vec::new();
        for rank in 0..longest {
            voters.extend(by_zone.iter().filter_map(|(_, list)| list.get(rank)));
        }
        voters
            .into_iter()
            .take(VOTERS_MAX)
            .map(|m| m.id.clone())
            .collect()
    }

    /// Whether this is the first step of the change that `before` begins, decided once more.
    pub fn begins_anew(&self, before: &Self) -> bool {
        let change = self.transition.as_ref();
        change.is_some_and(|change| change.step == Step::Filling)
            && change == before.transition.as_ref()
            && self.epoch == before.epoch + 1
    }

    /// How many voters make a majority.
    pub fn voter_majority(&self) -> usize {
        self.voters().len() / 2 + 1
    }

    /// Same topology, same number, on every node.
    pub fn digest(&self) -> u64 {
        xxh3_64(&postcard::to_stdvec(self).unwrap_or_default())
    }

    /// Whether the indexes and counts hold together; checked on everything that comes from a
    /// disk or a peer.
    pub fn is_well_formed(&self) -> bool {
        let tables =
            || std::iter::once(&self.table).chain(self.transition.as_ref().map(|t| &t.target));
        let members = self.members.len();
        let sorted = self.members.windows(2).all(|w| w[0].id < w[1].id);
        let rows_ok = tables().flatten().all(|row| {
            !row.is_empty()
                && row.len() <= usize::from(self.replication_factor)
                && row.iter().all(|i| usize::from(*i) < members)
                && row.iter().enumerate().all(|(at, i)| !row[..at].contains(i))
        });
        // who joins is a member, holds nothing yet, and is not alone
        let joiners_ok = self.transition.iter().all(|t| {
            let in_force = |id: &NodeId| {
                let at = self.members.iter().position(|m| &m.id == id);
                at.is_none_or(|at| self.table.iter().flatten().any(|i| usize::from(*i) == at))
            };
            t.joining.len() < members && !t.joining.iter().any(in_force)
        });
        // who leaves is a member, is not to hold anything, and does not join at the same time
        let leavers_ok = self.transition.iter().all(|t| {
            let is_to_hold = |id: &NodeId| {
                let at = self.members.iter().position(|m| &m.id == id);
                at.is_none_or(|at| t.target.iter().flatten().any(|i| usize::from(*i) == at))
            };
            let stays = |id: &NodeId| t.joining.contains(id) || is_to_hold(id);
            t.leaving.len() < members && !t.leaving.iter().any(stays)
        });
        self.epoch >= 1
            && joiners_ok
            && leavers_ok
            && members > 0
            && sorted
            && self.replication_factor >= 1
            && self.table.len().is_power_of_two()
            && self.table.len() <= 1 << 15
            && tables().all(|t| t.len() == self.table.len())
            && rows_ok
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, zone: &str) -> RingMember {
        RingMember {
            id: NodeId::new(name).expect("valid"),
            address: format!("{name}:1"),
            zone: zone.into(),
        }
    }

    fn topology(names: &[(&str, &str)], table: Table, transition: Option<Transition>) -> Topology {
        Topology {
            cluster_id: ClusterId::new("0b9c7c1e-2f43-4a52-9f7e-3c1de9c0a111").expect("valid"),
            epoch: 4,
            replication_factor: 3,
            members: names.iter().map(|(n, z)| member(n, z)).collect(),
            table,
            transition,
        }
    }

    #[test]
    fn requirements_follow_the_steps() {
        let names = [("a", "z"), ("b", "z"), ("c", "z"), ("d", "z")];
        let change = |step| {
            Some(Transition {
                step,
                kind: ChangeKind::Join,
                leaving: vec![],
                joining: vec![NodeId::new("d").expect("valid")],
                target: vec![vec![0, 1, 3], vec![0, 1, 2]],
            })
        };
        let table = vec![vec![0, 1, 2], vec![0, 1, 2]];
        let groups = |t: &Topology, p, access| t.requirement(p, access).groups.len();

        let filling = topology(&names, table.clone(), change(Step::Filling));
        assert!(filling.is_well_formed());
        assert_eq!(groups(&filling, 0, Access::Write), 2);
        assert_eq!(groups(&filling, 0, Access::Read), 1);
        assert_eq!(
            groups(&filling, 1, Access::Write),
            1,
            "an untouched partition is as before"
        );
        assert_eq!(
            filling.gained_by(&NodeId::new("d").expect("valid")),
            vec![0]
        );

        let dual = topology(&names, table.clone(), change(Step::Dual));
        assert_eq!(groups(&dual, 0, Access::Read), 2);
        assert_eq!(dual.voters().len(), 3, "who is joining does not vote yet");
        assert_eq!(dual.all_replicas(0).len(), 4);
    }

    #[test]
    fn voters_are_spread_over_zones() {
        let names: Vec<(String, &str)> = (0..12)
            .map(|i| (format!("n{i:02}"), ["x", "y", "z"][i / 4]))
            .collect();
        let names: Vec<(&str, &str)> = names.iter().map(|(n, z)| (n.as_str(), *z)).collect();
        let t = topology(&names, vec![vec![0, 1, 2]], None);
        let voters: Vec<String> = t.voters().iter().map(ToString::to_string).collect();
        assert_eq!(voters, ["n00", "n04", "n08", "n01", "n05", "n09", "n02"]);
        assert_eq!(t.voter_majority(), 4);
    }

    #[test]
    fn malformed_tables_are_recognised() {
        let good = topology(
            &[("a", "z"), ("b", "z")],
            vec![vec![0, 1], vec![1, 0]],
            None,
        );
        assert!(good.is_well_formed());
        let edits: [fn(&mut Topology); 5] = [
            |t| t.table[0] = vec![],
            |t| t.table[0] = vec![0, 9],
            |t| t.table[0] = vec![1, 1],
            |t| t.members.swap(0, 1),
            |t| t.table.push(vec![0]),
        ];
        for (n, edit) in edits.iter().enumerate() {
            let mut bad = good.clone();
            edit(&mut bad);
            assert!(!bad.is_well_formed(), "edit {n}");
        }

        let joining = |names: &[&str]| Topology {
            table: vec![vec![0], vec![0]],
            transition: Some(Transition {
                step: Step::Filling,
                kind: ChangeKind::Join,
                leaving: vec![],
                joining: names
                    .iter()
                    .map(|n| NodeId::new(n).expect("valid"))
                    .collect(),
                target: good.table.clone(),
            }),
            ..good.clone()
        };
        assert!(joining(&["b"]).is_well_formed());
        for bad in [&["a"][..], &["x"], &["a", "b"]] {
            assert!(!joining(bad).is_well_formed(), "{bad:?} cannot be joining");
        }

        let leaving = |names: &[&str]| {
            let mut t = joining(&[]);
            t.table = good.table.clone();
            let change = t.transition.as_mut().expect("a change");
            change.target = vec![vec![0], vec![0]];
            change.leaving = names
                .iter()
                .map(|n| NodeId::new(n).expect("valid"))
                .collect();
            t
        };
        assert!(leaving(&["b"]).is_well_formed());
        for bad in [&["a"][..], &["x"], &["a", "b"]] {
            assert!(!leaving(bad).is_well_formed(), "{bad:?} cannot be leaving");
        }
    }
}
