//! Which part of the node answers which request, and who may ask for it.

use std::sync::Arc;

use ringmaster_shared::{
    event::EventCode,
    id::{ClusterId, Epoch, Generation, NodeId},
    member::Lifecycle,
    topology::Topology,
};

use tokio::sync::Semaphore;

use super::{PeerServer, gate::Caller, session::Handler};
use crate::{
    config::seeds,
    gossip::{
        GossipHandle, MemberState, MemberView, Served, claim,
        secrecy::joining::{self, Judged},
        sight::{self, Marks},
    },
    node::keys,
    replication::{
        frames::{RefusalCode, Request, Response},
        replica::ReplicaContext,
    },
    time::unix_ms,
};

const DAY_MS: u64 = 24 * 3600 * 1000;
/// Answers under way that tell of all members, a few MiB each in the largest clusters: to nodes of
/// this cluster, and, lest these wait for strangers, to all others. A joiner that finds no place
/// asks again after a moment, as do members.
static PLACES_OF_MEMBERS: Semaphore = Semaphore::const_new(32);
static PLACES_OF_OTHERS: Semaphore = Semaphore::const_new(16);

/// A [`PeerServer`] with what it needs to serve replica requests.
pub struct Dispatch {
    node: Arc<PeerServer>,
    replica: ReplicaContext,
}

impl Dispatch {
    pub fn new(node: Arc<PeerServer>) -> Self {
        let replica = ReplicaContext {
            node_id: node.node_id.clone(),
            identity: node.identity.clone(),
            store: node.store.clone(),
            topology: node.topology.clone(),
            lifecycle: node.lifecycle.clone(),
            clock: node.clock.clone(),
            grace_ms: node.grace_ms,
        };
        Self { node, replica }
    }
}

impl Handler for Dispatch {
    async fn handle(&self, caller: &Caller, epoch: Epoch, request: Request) -> Response {
        let ours = self.node.identity.cluster_id();
        let lifecycle = self.node.lifecycle.get();
        if let Some(refusal) = refusal(lifecycle, ours.as_ref(), caller, &request) {
            return refusal;
        }
        match request {
            Request::Ping => Response::Pong,
            Request::Join { member, proof } => self.node.join(member, &proof).await,
            Request::Gossip { message } => self.node.gossip(caller, message).await,
            Request::Members => self.node.members(),
            Request::Keyring => Response::Keyring {
                state: self.node.secrecy.as_ref().map(keys::state_of),
            },
            Request::ChangeKeys { sealed } => self.node.change_keys(caller, &sealed).await,
            Request::FetchTopology => Response::Topology {
                topology: self.node.topology.current().map(|t| (*t).clone()),
            },
            Request::PushTopology { topology } => self.node.adopt(ours.as_ref(), topology).await,
            Request::TopologyProgress { epoch } => self.node.progress(epoch),
            Request::Register(request) => {
                Response::Register(self.node.topology.register(request).await)
            }
            Request::Observe { marks } => self.node.observe(&marks),
            request => self.replica.serve(epoch, request).await,
        }
    }

    fn places(&self, caller: &Caller, request: &Request) -> Option<&Semaphore> {
        if !tells_of_all(request) {
            return None;
        }
        let ours = self.node.identity.cluster_id();
        let is_member = caller.cluster.is_some() && caller.cluster == ours;
        Some(if is_member {
            &PLACES_OF_MEMBERS
        } else {
            &PLACES_OF_OTHERS
        })
    }

    fn at_once(&self, caller: &Caller, epoch: Epoch, request: &Request) -> Option<Response> {
        if !matches!(
            request,
            Request::ReadVersion { .. } | Request::ReadRecord { .. }
        ) {
            return None;
        }
        let ours = self.node.identity.cluster_id();
        let lifecycle = self.node.lifecycle.get();
        refusal(lifecycle, ours.as_ref(), caller, request)
            .or_else(|| self.replica.read_now(epoch, request))
    }
}

impl PeerServer {
    async fn join(&self, member: MemberState, proof: &[u8]) -> Response {
        // first of all: what is not within its bounds is not kept, told or repeated
        if let Some(reason) = misfit(&member, unix_ms()) {
            return refused(RefusalCode::BadRequest, reason);
        }
        let (bond, welcome) = match joining::judge(self.secrecy.as_ref(), &member, proof) {
            Ok(Judged::Welcome(bond)) => (bond, self.welcome(member).await),
            Ok(Judged::Earlier { bond, heard_of }) => (bond, self.show(&member, heard_of)),
            Err(reason) => return self.refuse_stranger(&member, reason),
        };
        match (bond, &self.secrecy) {
            (Some(bond), Some(secrecy)) if matches!(welcome, Response::Welcome { .. }) => {
                match postcard::to_stdvec(&welcome) {
                    Ok(plain) => Response::SealedWelcome {
                        sealed: joining::seal_welcome(secrecy, bond, &plain),
                    },
                    Err(error) => refused(RefusalCode::BadRequest, error.to_string()),
                }
            }
            _ => welcome,
        }
    }

    /// What an earlier life is answered with than the one that was heard of: when that is over, what
    /// is held of it, so that a node with the key can go on above it. Nothing is taken in.
    fn show(&self, member: &MemberState, heard_of: Generation) -> Response {
        let (Some(cluster_id), Some(topology), Some(gossip)) = (
            self.identity.cluster_id(),
            self.topology.current(),
            self.gossip.get(),
        ) else {
            return not_ready();
        };
        let members = gossip.members();
        let held = members
            .iter()
            .find(|m| m.state.id == member.id && m.state.generation > member.generation);
        match held {
            Some(held) if held.state.status.is_reachable() => still_there(&held.state),
            Some(_) => Response::Welcome {
                cluster_id,
                topology: (*topology).clone(),
                members: gossip.states(),
            },
            None => {
                let reason = format!(
                    "{} at {} shows a proof of an earlier life than the one heard of here, which began {} minutes later: if its clock was ahead then, start it under another --node-id, or with another seed",
                    member.id,
                    member.address,
                    heard_of.saturating_sub(member.generation) / 60_000,
                );
                self.refuse_stranger(member, reason)
            }
        }
    }

    /// Says it to both sides, to this one now and then.
    fn refuse_stranger(&self, member: &MemberState, reason: String) -> Response {
        let knocks = self.secrecy.as_ref();
        if knocks.is_some_and(|s| s.complain(&member.address)) {
            let message = format!("not let in: {reason}");
            self.events
                .warn(EventCode::KeyMismatch, Some(&member.id), message);
        }
        refused(RefusalCode::Keys, reason)
    }

    async fn welcome(&self, member: MemberState) -> Response {
        let own = self.gossip.get().map(GossipHandle::generation);
        let generation = own.unwrap_or_else(|| self.identity.generation());
        if let Some(refusal) = namesake(&self.node_id, generation, &member) {
            return refusal;
        }
        let (Some(cluster_id), Some(topology), Some(gossip)) = (
            self.identity.cluster_id(),
            self.topology.current(),
            self.gossip.get(),
        ) else {
            return not_ready();
        };
        let alive = |m: &MemberView| {
            m.state.id == member.id
                && m.state.generation != member.generation
                && m.state.status.is_reachable()
        };
        if topology.contains(&member.id)
            && let Some(other) = gossip.members().iter().find(|m| alive(m))
        {
            return still_there(&other.state);
        }
        let members = gossip.admit(member).await;
        Response::Welcome {
            cluster_id,
            topology: (*topology).clone(),
            members,
        }
    }

    async fn gossip(&self, caller: &Caller, message: Vec<u8>) -> Response {
        let Some(gossip) = self.gossip.get() else {
            return not_ready();
        };
        match gossip.exchange(&caller.node_id, message).await {
            Served::Answer(message) => Response::Gossip { message },
            Served::Refused { code, reason } => refused(code, reason),
        }
    }

    async fn change_keys(&self, caller: &Caller, sealed: &[u8]) -> Response {
        let Some(cluster) = self.identity.cluster_id() else {
            return not_ready();
        };
        let secrecy = self.secrecy.as_ref();
        let here = (cluster.as_str(), &self.node_id);
        keys::obey(secrecy, &self.events, here, &caller.node_id, sealed).await
    }

    fn members(&self) -> Response {
        match self.gossip.get() {
            Some(gossip) => Response::Members {
                members: gossip.states(),
            },
            None => not_ready(),
        }
    }

    fn observe(&self, marks: &Marks) -> Response {
        match self.gossip.get() {
            Some(gossip) => Response::Observed {
                sighting: sight::sighting(&gossip.members(), marks),
            },
            None => not_ready(),
        }
    }

    async fn adopt(&self, ours: Option<&ClusterId>, topology: Topology) -> Response {
        if ours != Some(&topology.cluster_id) {
            let reason = format!("the topology is of cluster {}", topology.cluster_id);
            return refused(RefusalCode::WrongCluster, reason);
        }
        match self.topology.adopt(topology).await {
            Ok(_) => Response::Done,
            Err(error) => refused(RefusalCode::Storage, format!("{error:#}")),
        }
    }

    fn progress(&self, epoch: Epoch) -> Response {
        let (settled_epoch, filled) = self.topology.progress(epoch);
        Response::Progress {
            settled_epoch,
            filled,
        }
    }
}

/// Whether the answer grows with the cluster.
fn tells_of_all(request: &Request) -> bool {
    matches!(
        request,
        Request::Join { .. } | Request::Members | Request::FetchTopology
    )
}

/// Why this caller may not ask for this now; `None` when it may.
fn refusal(
    lifecycle: Lifecycle,
    ours: Option<&ClusterId>,
    caller: &Caller,
    request: &Request,
) -> Option<Response> {
    if matches!(lifecycle, Lifecycle::Standby | Lifecycle::Stopped) {
        let reason = format!("this node is in {}", lifecycle.as_str());
        return Some(refused(RefusalCode::NotServing, reason));
    }
    // who belongs nowhere yet may look and ask to be let in, nothing else
    let harmless = matches!(request, Request::Ping) || tells_of_all(request);
    match (ours, &caller.cluster) {
        (Some(ours), Some(theirs)) if ours == theirs => None,
        (Some(ours), Some(theirs)) => Some(refused(
            RefusalCode::WrongCluster,
            format!("this node belongs to cluster {ours}, not {theirs}"),
        )),
        // no proof of life for the member whose place this one wants to take
        (None, Some(_)) if matches!(request, Request::Ping) => Some(refused(
            RefusalCode::NotServing,
            "this node has not joined a cluster yet".into(),
        )),
        _ if harmless => None,
        (Some(ours), None) => Some(refused(
            RefusalCode::WrongCluster,
            format!(
                "this node belongs to cluster {ours}, {} to none",
                caller.node_id
            ),
        )),
        (None, _) => Some(refused(
            RefusalCode::NotServing,
            "this node has not joined a cluster yet".into(),
        )),
    }
}

/// Refuses a joiner that uses this node's own name. The node itself, met through its own seed
/// list, is no namesake.
fn namesake(node_id: &NodeId, generation: Generation, member: &MemberState) -> Option<Response> {
    (member.id == *node_id && member.generation != generation).then(|| {
        let reason = format!(
            "{node_id} is the name of this node; the one at {} needs another --node-id",
            member.address
        );
        refused(RefusalCode::BadRequest, reason)
    })
}

/// Two at once would each acknowledge writes for one replica: one has to be gone.
fn still_there(other: &MemberState) -> Response {
    Response::NotReady {
        reason: format!(
            "{} is alive at {}: it must have stopped, or be held dead, before another takes its place; a new node needs another --node-id",
            other.id, other.address
        ),
    }
}

/// Why nobody may be let in that says this of itself, without repeating what is wrong.
fn misfit(member: &MemberState, unix_ms: u64) -> Option<String> {
    let id = &member.id;
    if claim::is_too_far_ahead(member.generation, unix_ms) {
        let days = member.generation.saturating_sub(unix_ms) / DAY_MS;
        return Some(format!(
            "{id} counts its starts from a clock {days} days ahead of this node's, and no member believes one so far ahead: set the clocks right; if {id} was started once with a wrong one, start it with an empty --data-dir"
        ));
    }
    if seeds::check_address(&member.address).is_err() || !claim::is_acceptable(member, unix_ms) {
        return Some(format!(
            "what {id} says of itself is not within the bounds: its address is HOST:PORT, the texts are short"
        ));
    }
    None
}

fn not_ready() -> Response {
    Response::NotReady {
        reason: "this node has not joined a cluster yet".into(),
    }
}

fn refused(code: RefusalCode, reason: String) -> Response {
    Response::Refused { code, reason }
}

#[cfg(test)]
mod tests {
    use ringmaster_shared::member::{Load, MemberStatus, RingStamp};

    use super::*;

    const A: &str = "0b9c7c1e-2f43-4a52-9f7e-3c1de9c0a111";
    const B: &str = "1b9c7c1e-2f43-4a52-9f7e-3c1de9c0a111";

    fn cluster(id: &str) -> Option<ClusterId> {
        (!id.is_empty()).then(|| ClusterId::new(id).expect("valid"))
    }

    fn refused_with(
        lifecycle: Lifecycle,
        ours: &str,
        theirs: &str,
        request: &Request,
    ) -> Option<RefusalCode> {
        let caller = Caller {
            node_id: NodeId::new("node-2").expect("valid"),
            generation: 1,
            cluster: cluster(theirs),
        };
        match refusal(lifecycle, cluster(ours).as_ref(), &caller, request)? {
            Response::Refused { code, reason } => {
                assert!(!reason.is_empty());
                Some(code)
            }
            other => panic!("{other:?} is no refusal"),
        }
    }

    #[test]
    fn who_may_ask_for_what() {
        use Lifecycle::{Draining, Joining, Serving, Standby};
        use RefusalCode::{NotServing, WrongCluster};
        let merge = Request::Merge {
            entries: vec![],
            issued: ringmaster_shared::clock::Hlc::default(),
        };
        let push_pull = Request::Gossip { message: vec![] };
        let cases = [
            (Serving, A, A, &merge, None),
            (Draining, A, A, &merge, None),
            (Serving, A, B, &merge, Some(WrongCluster)),
            (Serving, A, B, &Request::Ping, Some(WrongCluster)),
            (Serving, A, "", &merge, Some(WrongCluster)),
            (Serving, A, "", &push_pull, Some(WrongCluster)),
            (Serving, A, "", &Request::FetchTopology, None),
            (Joining, "", A, &merge, Some(NotServing)),
            (Joining, "", A, &Request::Members, None),
            (Joining, "", A, &Request::Ping, Some(NotServing)),
            (Joining, "", "", &Request::Ping, None),
            (Joining, "", "", &push_pull, Some(NotServing)),
            (Standby, A, A, &Request::Ping, Some(NotServing)),
            (Standby, A, A, &push_pull, Some(NotServing)),
        ];
        for (lifecycle, ours, theirs, request, want) in cases {
            assert_eq!(
                refused_with(lifecycle, ours, theirs, request),
                want,
                "{lifecycle:?}, {ours:?} asked by {theirs:?} for {request:?}"
            );
        }
    }

    #[test]
    fn only_another_process_with_our_name_is_a_namesake() {
        let us = NodeId::new("node-1").expect("valid");
        let member = |name: &str, generation| MemberState {
            id: NodeId::new(name).expect("valid"),
            address: "h:1".into(),
            zone: "z".into(),
            version: "0".into(),
            status: MemberStatus::Alive,
            lifecycle: Lifecycle::Joining,
            generation,
            incarnation: 0,
            ring: RingStamp::default(),
            load: Load::default(),
        };
        assert!(namesake(&us, 5, &member("node-1", 6)).is_some());
        assert!(namesake(&us, 5, &member("node-1", 5)).is_none());
        assert!(namesake(&us, 5, &member("node-2", 6)).is_none());
    }
}
