//! Where members are: what gossip says, else what the topology remembers.

use std::sync::{Arc, OnceLock};

use ringmaster_shared::id::NodeId;

use crate::{gossip::GossipHandle, replication::peers::AddressBook, topology::TopologyHandle};

pub struct Addresses {
    pub gossip: Arc<OnceLock<GossipHandle>>,
    pub topology: TopologyHandle,
}

impl AddressBook for Addresses {
    fn address_of(&self, node: &NodeId) -> Option<String> {
        let members = self.gossip.get().map(GossipHandle::members);
        let heard = members
            .iter()
            .flat_map(|m| m.iter())
            .find(|m| &m.state.id == node)
            .map(|m| m.state.address.clone());
        heard.or_else(|| Some(self.topology.current()?.member(node)?.address.clone()))
    }

    fn is_at(&self, node: &NodeId, address: &str) -> bool {
        let members = self.gossip.get().map(GossipHandle::members);
        let mut heard = members.iter().flat_map(|m| m.iter());
        match heard.find(|m| &m.state.id == node) {
            Some(member) => member.state.address == address,
            None => self.address_of(node).as_deref() == Some(address),
        }
    }
}
