//! Small builders shared by the tests of this area.

use ringmaster_shared::{
    id::{ClusterId, NodeId},
    member::{Lifecycle, Load, MemberStatus, RingStamp},
};

use super::MemberState;

pub fn id(name: &str) -> NodeId {
    NodeId::new(name).expect("a valid id")
}

pub fn cluster() -> ClusterId {
    ClusterId::new("0b9c7c1e-2f43-4a52-9f7e-3c1de9c0a111").expect("a valid id")
}

/// Alive at `{name}:1`, generation 1, incarnation 0.
pub fn member(name: &str) -> MemberState {
    MemberState {
        id: id(name),
        address: format!("{name}:1"),
        zone: "default".into(),
        version: "0.1.0".into(),
        status: MemberStatus::Alive,
        lifecycle: Lifecycle::Serving,
        generation: 1,
        incarnation: 0,
        ring: RingStamp::default(),
        load: Load::default(),
    }
}
