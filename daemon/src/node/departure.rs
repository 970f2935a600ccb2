//! The end of a membership: this node learns that the ring goes on without it.
//!
//! Promises: it ends by itself and says why, with exit code 0 when it left as it was asked to and
//! 1 when it was removed or replaced while it was down; before it ends, the others have been
//! told the ring without it; its folder does not start again as a member.

use std::{collections::BTreeSet, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use ringmaster_shared::{event::EventCode, id::NodeId, topology::Topology};

use super::SharedNode;
use crate::{
    cli::Failure,
    identity::{Departure, IdentityStore},
    lifecycle::orders::Order,
    replication::{frames::Request, peers::Class},
};

/// For each member of the ring to be told; who misses it hears of it in gossip.
const TELL_TIME: Duration = Duration::from_secs(2);

/// What this node is no member of, and since when; no full stop.
fn sentence(id: &NodeId, departure: &Departure) -> String {
    let Departure {
        cluster_id, epoch, ..
    } = departure;
    if departure.as_asked {
        format!("{id} has left cluster {cluster_id} at epoch {epoch}; its folder may be deleted")
    } else {
        format!(
            "{id} was taken out of cluster {cluster_id}: the ring of epoch {epoch} does without it"
        )
    }
}

/// Why a folder cannot be started again as it is.
pub fn refuse(identity: &IdentityStore) -> Result<(), Failure> {
    let Some(departure) = identity.departure() else {
        return Ok(());
    };
    let said = sentence(identity.node_id(), &departure);
    Err(Failure::Failed(format!(
        "{said}; start it with an empty --data-dir and a seed to join as a new node, or with \
         --adopt to take what the folder holds along"
    )))
}

/// Ends the node once it is out of the ring.
pub fn spawn(node: &SharedNode) {
    let node = node.clone();
    tokio::spawn(async move {
        let mut rings = node.topology.watch();
        loop {
            let ring = rings.borrow_and_update().clone();
            if let (Some(departure), Some(ring)) = (node.identity.departure(), ring) {
                return end(&node, &departure, &ring).await;
            }
            tokio::select! {
                () = node.stop.cancelled() => return,
                changed = rings.changed() => if changed.is_err() { return },
            }
        }
    });
}

async fn end(node: &SharedNode, departure: &Departure, ring: &Topology) {
    let id = &node.facts.id;
    let said = sentence(id, departure);
    tell(node, ring).await;
    let order = if departure.as_asked {
        let why = said.clone();
        node.events.info(EventCode::MemberLeft, Some(id), said);
        Order::Stop { why }
    } else {
        node.events
            .error(EventCode::MemberLeft, Some(id), said.clone());
        Order::Fail(Failure::Failed(format!(
            "{said}; an operator removed or replaced it while it was down. Start it with an \
             empty --data-dir and a seed to join as a new node"
        )))
    };
    // a full queue holds orders that end this node as well
    let _ = node.orders.send(order).await;
}

/// Hands the ring to all who are in it, in case this node is among the first to know.
async fn tell(node: &SharedNode, ring: &Topology) {
    let (Some(peers), Some(gossip)) = (node.peers.get(), node.gossip.get()) else {
        return;
    };
    let reachable: BTreeSet<NodeId> = gossip
        .members()
        .iter()
        .filter(|m| m.state.status.is_reachable() && ring.contains(&m.state.id))
        .map(|m| m.state.id.clone())
        .collect();
    let told: FuturesUnordered<_> = reachable
        .iter()
        .map(|id| {
            let push = Request::PushTopology {
                topology: ring.clone(),
            };
            peers.call(id, Class::Control, ring.epoch, push, TELL_TIME)
        })
        .collect();
    told.for_each(|_| std::future::ready(())).await;
}

#[cfg(test)]
mod tests {
    use ringmaster_shared::topology::{ChangeKind, RingMember, Step, Transition};
    use tempfile::TempDir;

    use super::*;
    use crate::health::tests::{id, topology};

    /// The ring in which `b` is on its way out for `kind`, and the ring after it.
    fn going(kind: ChangeKind) -> (Topology, Topology) {
        let mut ring = topology(&["a", "b"]);
        ring.table = vec![vec![0, 1]; ring.table.len()];
        let mut done = topology(&["a"]);
        done.table = vec![vec![0]; ring.table.len()];
        done.epoch = ring.epoch + 2;
        ring.transition = Some(Transition {
            kind,
            step: Step::Dual,
            joining: vec![],
            leaving: vec![id("b")],
            target: done.table.clone(),
        });
        ring.epoch += 1;
        (ring, done)
    }

    #[test]
    fn a_folder_knows_that_its_node_is_out_and_how() {
        for (kind, as_asked) in [(ChangeKind::Leave, true), (ChangeKind::Remove, false)] {
            let dir = TempDir::new().expect("temp dir");
            let open = || IdentityStore::open(dir.path(), &id("b")).expect("opens");
            let (ring, done) = going(kind);
            let identity = open();
            identity
                .set_cluster(ring.cluster_id.clone())
                .expect("writes");
            // seen from outside first: who waits to be taken in has not departed
            let mut before = done.clone();
            before.epoch = 1;
            identity.save_topology(&before).expect("writes");
            assert_eq!(identity.departure(), None);
            assert_eq!(refuse(&identity), Ok(()));
            identity.save_topology(&ring).expect("writes");
            assert_eq!(identity.departure(), None);
            identity.save_topology(&done).expect("writes");
            drop(identity);
            let identity = open();
            let departure = identity.departure().expect("it is out");
            assert_eq!(
                (departure.epoch, departure.as_asked),
                (done.epoch, as_asked)
            );
            let why = refuse(&identity).expect_err("refused").to_string();
            assert!(
                why.contains("b ") && why.contains("empty --data-dir"),
                "{why}"
            );
        }
    }

    /// A join that came to nothing leaves a node that may be taken in again.
    #[test]
    fn one_that_never_was_in_has_not_departed() {
        let dir = TempDir::new().expect("temp dir");
        let identity = IdentityStore::open(dir.path(), &id("b")).expect("opens");
        let mut ring = topology(&["a"]);
        ring.table = vec![vec![0]; ring.table.len()];
        let mut filling = ring.clone();
        filling.members.push(RingMember {
            id: id("b"),
            ..ring.members[0].clone()
        });
        filling.epoch += 1;
        filling.transition = Some(Transition {
            kind: ChangeKind::Join,
            step: Step::Filling,
            joining: vec![id("b")],
            leaving: vec![],
            target: vec![vec![0, 1]; ring.table.len()],
        });
        identity
            .set_cluster(ring.cluster_id.clone())
            .expect("writes");
        identity.save_topology(&filling).expect("writes");
        ring.epoch += 2;
        identity.save_topology(&ring).expect("writes");
        assert_eq!(identity.departure(), None);
    }
}
