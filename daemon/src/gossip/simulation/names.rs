//! Which node and which address is meant: ids and addresses are numbers in disguise.
//!
//! A *place* is an address; a node lives at one and may come back at another, and another node
//! (or another cluster's) may live at a place used before.

use std::net::SocketAddr;

use ringmaster_shared::id::{ClusterId, NodeId};

use crate::gossip::testing;

/// Where in [`super::world::World`] a node is found; its id says it.
pub type Who = usize;
/// A number of an address.
pub type Place = usize;

const PORT: u16 = 7946;

pub fn node_id(who: Who) -> NodeId {
    testing::id(&format!("n{who:05}"))
}

pub fn who(id: &NodeId) -> Option<Who> {
    id.as_str().strip_prefix('n')?.parse().ok()
}

pub fn address(place: Place) -> String {
    format!("p{place:05}:1")
}

pub fn place(address: &str) -> Option<Place> {
    address.strip_prefix('p')?.strip_suffix(":1")?.parse().ok()
}

pub fn socket(place: Place) -> SocketAddr {
    let [_, a, b, c] = (place as u32).to_be_bytes();
    ([10, a, b, c], PORT).into()
}

pub fn place_of_socket(socket: SocketAddr) -> Option<Place> {
    match socket {
        SocketAddr::V4(v4) => {
            let [_, a, b, c] = v4.ip().octets();
            Some(u32::from_be_bytes([0, a, b, c]) as Place)
        }
        SocketAddr::V6(_) => None,
    }
}

/// The id of the first, second... cluster.
pub fn cluster(number: u8) -> ClusterId {
    if number == 0 {
        return testing::cluster();
    }
    ClusterId::new(&format!("0b9c7c1e-2f43-4a52-9f7e-3c1de9c0b{number:03x}")).expect("a UUID")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_numbers() {
        for n in [0, 7, 255, 256, 9_999, 70_000] {
            assert_eq!(who(&node_id(n)), Some(n));
            assert_eq!(place(&address(n)), Some(n));
            assert_eq!(place_of_socket(socket(n)), Some(n));
        }
        assert_ne!(cluster(0), cluster(1));
        assert_ne!(cluster(1), cluster(2));
    }
}
