//! Topologies for the tests of this room.

use ringmaster_shared::{
    id::{ClusterId, Epoch, NodeId},
    placement,
    topology::{RingMember, Topology},
};

pub(super) const PARTITIONS: u16 = 16;

pub(super) fn id(name: &str) -> NodeId {
    NodeId::new(name).expect("valid")
}

pub(super) fn cluster() -> ClusterId {
    ClusterId::new("0b9c7c1e-2f43-4a52-9f7e-3c1de9c0a111").expect("valid")
}

pub(super) fn other_cluster() -> ClusterId {
    ClusterId::new("0b9c7c1e-2f43-4a52-9f7e-3c1de9c0a222").expect("valid")
}

pub(super) fn member(name: &str) -> RingMember {
    RingMember {
        id: id(name),
        address: format!("{name}:1"),
        zone: "default".into(),
    }
}

/// A settled topology of these members, replication factor 3.
pub(super) fn topology(epoch: Epoch, names: &[&str]) -> Topology {
    let members: Vec<RingMember> = names.iter().map(|n| member(n)).collect();
    let mut founded = Topology::founded(cluster(), members[0].clone(), 3, PARTITIONS);
    let placement = placement::plan(&founded, &members);
    founded.epoch = epoch;
    founded.members = placement.members;
    founded.table = placement.target;
    founded
}
