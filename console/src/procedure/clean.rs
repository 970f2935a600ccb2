//! Clean restart, the pure part: who takes part, who starts first, when each gate is met.
//!
//! The barrier comes first: **all** members stand by before **any** gossip state is cleared, and
//! it is cleared on all before any starts. One survivor would teach the others the old state
//! again (`scylladb#14991`, `#3192`).

use std::collections::BTreeMap;

use ringmaster_shared::{
    api::{health::StatusResponse, membership::MembersResponse, ring::ClusterResponse},
    id::{ClusterId, Epoch, NodeId},
    member::{Lifecycle, MemberStatus},
};

use super::{
    Gate, Refusal, is_at_work,
    survey::{Survey, doing},
};

use crate::progress::Target;

/// What is going to happen.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub cluster_id: String,
    /// In starting order: the bootstrap node first, then by id.
    pub order: Vec<Target>,
    pub epoch: Epoch,
    /// Things that are odd but do not stand in the way.
    pub notes: Vec<String>,
}

impl Plan {
    pub fn bootstrap(&self) -> &Target {
        &self.order[0]
    }

    /// One sentence a step.
    pub fn steps(&self) -> Vec<String> {
        let names: Vec<&str> = self.order.iter().map(|t| t.id.as_str()).collect();
        let all = names.join(", ");
        let mut steps = vec![
            format!("bring to standby: {all}; go on only when all have proven it"),
            format!("clear gossip state on {all}; identity, ring and data stay"),
            format!("start {} alone with what it remembers", self.bootstrap().id),
        ];
        let seed = &self.bootstrap().address;
        steps.extend(
            self.order
                .iter()
                .skip(1)
                .map(|t| format!("start {} with seed {seed}", t.id)),
        );
        steps.push(
            "verify: the same members and epoch everywhere, quorum, a write and a read through every node"
                .to_owned(),
        );
        steps
    }

    /// What clients will notice, and what is odd already.
    pub fn effects(&self) -> Vec<String> {
        let mut effects = vec![
            "reads and writes are refused from the first step until a quorum is back".to_owned(),
            "a node that is not told to start for 120 s starts by itself".to_owned(),
        ];
        effects.extend(self.notes.iter().cloned());
        effects
    }
}

/// Makes the plan, or says why there is none.
pub fn plan(survey: &Survey) -> Result<Plan, Refusal> {
    if let Some(split) = survey.split() {
        return Err(Refusal(split));
    }
    let missing: Vec<String> = survey
        .targets
        .iter()
        .zip(&survey.views)
        .filter_map(|(t, v)| v.as_ref().err().map(|why| format!("{} ({why})", t.id)))
        .collect();
    if !missing.is_empty() {
        return Err(Refusal(format!(
            "a clean restart needs every member, or the missing one brings the old state back: no answer from {}",
            missing.join(", ")
        )));
    }
    let views: Vec<(&Target, &ClusterResponse)> = survey
        .targets
        .iter()
        .zip(&survey.views)
        .filter_map(|(t, v)| v.as_ref().ok().map(|v| (t, v)))
        .collect();
    let ids = views.iter().map(|(_, v)| &v.status.cluster.cluster_id);
    let Some(cluster_id) = ids
        .into_iter()
        .find(|id| ClusterId::new(id.as_str()).is_ok())
    else {
        return Err(Refusal(survey.nobody()));
    };
    for (target, view) in &views {
        let id = &target.id;
        if view.status.cluster.cluster_id != *cluster_id {
            return Err(Refusal(format!("{id} does not belong to a cluster yet")));
        }
        if view.ring.transition.is_some() {
            return Err(Refusal(format!(
                "{id} is in the middle of a ring change; wait until it is done"
            )));
        }
        let lifecycle = view.status.node.lifecycle;
        if lifecycle != Lifecycle::Serving {
            return Err(Refusal(format!(
                "{id} is {}, not serving; wait, or start it, first",
                lifecycle.as_str()
            )));
        }
    }
    let strangers = outside(&views);
    if !strangers.is_empty() {
        return Err(Refusal(format!(
            "a clean restart needs every node down at the same time, and it stops members of the ring only: {}",
            strangers.join("; ")
        )));
    }
    let bootstrap = choose_bootstrap(&views).id.clone();
    let mut order: Vec<Target> = views.iter().map(|(t, _)| (*t).clone()).collect();
    order.sort_by_key(|t| (t.id != bootstrap, t.id.clone()));
    let epoch = views.iter().map(|(_, v)| v.ring.epoch).max().unwrap_or(0);
    Ok(Plan {
        cluster_id: cluster_id.clone(),
        order,
        epoch,
        notes: notes(&views),
    })
}

/// Who is reachable and in no ring, and what to do about it. One that goes on would tell the others,
/// once they start, what they were to forget.
fn outside(views: &[(&Target, &ClusterResponse)]) -> Vec<String> {
    let mut outside = BTreeMap::new();
    for (_, view) in views {
        for (id, member) in &view.members.cluster_members {
            let in_ring = views.iter().any(|(t, _)| &t.id == id);
            if member.status.is_reachable() && !in_ring {
                outside.insert(id, member.lifecycle);
            }
        }
    }
    let says = |(id, lifecycle): (&NodeId, Lifecycle)| match lifecycle {
        Lifecycle::Candidate => format!("{id} is a candidate: stop it first, or take it in"),
        Lifecycle::Joining => format!("{id} is joining: stop it first, or wait until it serves"),
        other => format!(
            "{id} is {} and not in the ring: stop it first",
            other.as_str()
        ),
    };
    outside.into_iter().map(says).collect()
}

/// Newest topology first, then the lowest id; the views are sorted by id.
fn choose_bootstrap<'a>(views: &[(&'a Target, &ClusterResponse)]) -> &'a Target {
    let mut best = &views[0];
    for candidate in views {
        if candidate.1.ring.epoch > best.1.ring.epoch {
            best = candidate;
        }
    }
    best.0
}

fn notes(views: &[(&Target, &ClusterResponse)]) -> Vec<String> {
    let mut notes = Vec::new();
    let digest = |v: &ClusterResponse| v.members.membership_digest.clone();
    if views.windows(2).any(|w| digest(w[0].1) != digest(w[1].1)) {
        notes.push("the members disagree about who is alive; the clean restart ends that".into());
    }
    if views
        .windows(2)
        .any(|w| w[0].1.ring.epoch != w[1].1.ring.epoch)
    {
        notes.push("not all members know the newest ring yet; they will learn it".into());
    }
    notes
}

/// Every node says standby: the barrier.
pub fn barrier(statuses: &[(NodeId, Result<StatusResponse, String>)]) -> Gate {
    let mut standing = Vec::new();
    let mut waiting = Vec::new();
    let mut at_work = false;
    for (id, status) in statuses {
        match status {
            Ok(s) if s.node.lifecycle == Lifecycle::Standby => standing.push(id.to_string()),
            Ok(s) => {
                at_work |= is_at_work(s.node.lifecycle);
                waiting.push(format!("{id} is {}", doing(s)));
            }
            // between the old process image and the new one the port is closed for a moment
            Err(why) => waiting.push(format!("{id}: {why}")),
        }
    }
    if waiting.is_empty() {
        Gate::Met(format!("{} in standby", standing.join(", ")))
    } else {
        Gate::by(at_work, waiting.join("; "))
    }
}

/// The bootstrap node serves, and has kept its cluster and its ring.
pub fn bootstrapped(plan: &Plan, status: &Result<StatusResponse, String>) -> Gate {
    let id = &plan.bootstrap().id;
    match status {
        Err(why) => Gate::Waiting(format!("{id}: {why}")),
        Ok(s) if s.node.lifecycle != Lifecycle::Serving => {
            Gate::not_yet(id, s.node.lifecycle, &doing(s))
        }
        Ok(s) if s.cluster.cluster_id != plan.cluster_id => Gate::Waiting(format!(
            "{id} came back in cluster {}",
            s.cluster.cluster_id
        )),
        Ok(s) if s.cluster.ring_epoch < plan.epoch => Gate::Waiting(format!(
            "{id} is at epoch {}, not {}",
            s.cluster.ring_epoch, plan.epoch
        )),
        Ok(s) => Gate::Met(format!("{id} serving, epoch {}", s.cluster.ring_epoch)),
    }
}

/// What a node that was told to start says of itself; met once it serves.
pub fn started(id: &NodeId, status: &Result<StatusResponse, String>) -> Gate {
    match status {
        Err(why) => Gate::Waiting(format!("{id}: {why}")),
        Ok(s) if s.node.lifecycle != Lifecycle::Serving => {
            Gate::not_yet(id, s.node.lifecycle, &doing(s))
        }
        Ok(_) => Gate::Met(format!("{id} serving")),
    }
}

/// Every started node sees exactly the started nodes, all alive and serving, with one digest.
pub fn agreed(started: &[NodeId], views: &[(NodeId, Result<MembersResponse, String>)]) -> Gate {
    let mut digests: Vec<&str> = Vec::new();
    for (id, view) in views {
        let view = match view {
            Ok(view) => view,
            Err(why) => return Gate::Waiting(format!("{id}: {why}")),
        };
        for other in started {
            match view.cluster_members.get(other) {
                None => return Gate::Waiting(format!("{id} does not know {other} yet")),
                Some(m) if m.status != MemberStatus::Alive => {
                    let status = m.status.as_str();
                    return Gate::Waiting(format!("{id} sees {other} as {status}"));
                }
                Some(m) if m.lifecycle != Lifecycle::Serving => {
                    let lifecycle = m.lifecycle.as_str();
                    let why = format!("{id} sees {other} still {lifecycle}");
                    return Gate::by(is_at_work(m.lifecycle), why);
                }
                Some(_) => {}
            }
        }
        if let Some(extra) = view.cluster_members.keys().find(|k| !started.contains(k)) {
            return Gate::Waiting(format!("{id} lists {extra}, which was not started"));
        }
        digests.push(&view.membership_digest);
    }
    match digests.first() {
        Some(first) if digests.iter().all(|d| d == first) => Gate::Met(format!(
            "{} of {} views agree, digest {}",
            digests.len(),
            started.len(),
            &first[..first.len().min(8)]
        )),
        _ => Gate::Waiting("the views differ".to_owned()),
    }
}

/// At the end: one epoch everywhere, not older than before, and every partition has a quorum.
pub fn verified(plan: &Plan, statuses: &[(NodeId, Result<StatusResponse, String>)]) -> Gate {
    let mut epochs = Vec::new();
    for (id, status) in statuses {
        match status {
            Err(why) => return Gate::Waiting(format!("{id}: {why}")),
            Ok(s) if is_at_work(s.node.lifecycle) => {
                return Gate::not_yet(id, s.node.lifecycle, &doing(s));
            }
            Ok(s) if !s.replication.quorum_available => {
                return Gate::Waiting(format!("{id} has no quorum yet"));
            }
            Ok(s) => epochs.push((s.cluster.ring_epoch, s.cluster.ring_digest.clone())),
        }
    }
    match epochs.first() {
        Some(first) if first.0 >= plan.epoch && epochs.iter().all(|e| e == first) => {
            Gate::Met(format!(
                "epoch {} on all {}, quorum available",
                first.0,
                epochs.len()
            ))
        }
        _ => Gate::Waiting("not all members are at the same epoch".to_owned()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use ringmaster_shared::{
        api::membership::MemberInfo,
        api::ring::ring_response,
        id::ClusterId,
        member::{DigestEntry, membership_digest},
        topology::{RingMember, Topology},
    };

    use super::*;
    use crate::procedure::survey::Heard;

    pub const CLUSTER: &str = "0b9c7c1e-2f43-4a52-9f7e-3c1de9c0a111";

    pub fn id(name: &str) -> NodeId {
        NodeId::new(name).expect("valid")
    }

    pub fn topology(names: &[&str], epoch: Epoch) -> Topology {
        let member = |n: &&str| RingMember {
            id: id(n),
            address: format!("{n}:1"),
            zone: "z".into(),
        };
        let founder = RingMember {
            id: id("a"),
            address: "a:1".into(),
            zone: "z".into(),
        };
        let cluster = ClusterId::new(CLUSTER).expect("valid");
        let mut t = Topology::founded(cluster, founder, 3, 4);
        t.members = names.iter().map(member).collect();
        t.table = vec![(0..names.len().min(3) as u16).collect(); 4];
        t.epoch = epoch;
        t
    }

    pub fn members(who: &str, all: &[(&str, MemberStatus, Lifecycle)]) -> MembersResponse {
        let info = |n: &str, status, lifecycle| MemberInfo {
            node_id: id(n),
            address: format!("{n}:1"),
            status,
            lifecycle,
            last_seen: jiff::Timestamp::UNIX_EPOCH,
            status_since: jiff::Timestamp::UNIX_EPOCH,
            generation: 1,
            incarnation: 0,
            heartbeat_seq: 0,
            zone: "z".into(),
            version: "0".into(),
            ring_epoch: 5,
            ring_digest: String::new(),
            load: ringmaster_shared::member::Load::default(),
            udp_blocked: false,
            accusers: vec![],
            reason: None,
        };
        let map: BTreeMap<_, _> = all
            .iter()
            .map(|(n, s, l)| (id(n), info(n, *s, *l)))
            .collect();
        let entry = |m: &MemberInfo| (m.node_id.clone(), m.address.clone(), m.status);
        let entries: Vec<_> = map.values().map(entry).collect();
        let digest = membership_digest(entries.iter().map(|(id, address, status)| DigestEntry {
            id,
            address,
            generation: 1,
            status: *status,
        }));
        MembersResponse {
            cluster_id: CLUSTER.into(),
            current_node: id(who),
            total_members: all.len(),
            alive_members: all.iter().filter(|m| m.1 == MemberStatus::Alive).count(),
            cluster_members: map,
            membership_digest: digest,
        }
    }

    pub fn status(who: &str, lifecycle: Lifecycle, epoch: Epoch) -> StatusResponse {
        let json = serde_json::json!({
            "node": {"id": who, "address": format!("{who}:1"), "status": "alive",
                "lifecycle": lifecycle, "zone": "z", "version": "0", "commit": "x",
                "generation": 1, "start_time": "2026-01-01T00:00:00Z", "uptime_seconds": 1, "pid": 1},
            "storage": {"engine": "sled", "key_count": 0, "tombstones": 0, "bytes_on_disk": 0,
                "durability": "fsync", "read_only": false, "hints_owed": {}},
            "replication": {"replication_factor": 3, "quorum_size": 2, "total_nodes": 3,
                "alive_nodes": 3, "quorum_available": true, "current_node": who,
                "partitions": {"total": 4, "all_replicas": 4, "quorum": 4, "unavailable": 0}},
            "cluster": {"cluster_id": CLUSTER, "health": "healthy", "ring_epoch": epoch,
                "ring_digest": format!("{epoch}"), "membership_digest": "d", "problems": []},
            "timestamp": 0});
        serde_json::from_value(json).expect("a status")
    }

    pub fn survey(names: &[&str], epochs: &[Epoch]) -> Survey {
        let all: Vec<_> = names
            .iter()
            .map(|n| (*n, MemberStatus::Alive, Lifecycle::Serving))
            .collect();
        let view = |(n, e): (&&str, &Epoch)| {
            Ok(ClusterResponse {
                status: status(n, Lifecycle::Serving, *e),
                members: members(n, &all),
                ring: ring_response(&topology(names, *e)),
            })
        };
        Survey {
            targets: names
                .iter()
                .map(|n| Target {
                    id: id(n),
                    address: format!("{n}:1"),
                })
                .collect(),
            views: names.iter().zip(epochs).map(view).collect(),
            heard: Vec::new(),
        }
    }

    /// Somebody who was named and answered.
    pub fn heard(endpoint: &str, who: &str, cluster: &str) -> Heard {
        Heard {
            endpoint: endpoint.into(),
            id: id(who),
            cluster_id: cluster.into(),
            state: "serving".into(),
        }
    }

    #[test]
    fn the_newest_ring_bootstraps_then_the_lowest_id() {
        let same = plan(&survey(&["a", "b", "c"], &[5, 5, 5])).expect("a plan");
        assert_eq!(same.bootstrap().id, id("a"));
        let newer = plan(&survey(&["a", "b", "c"], &[5, 6, 6])).expect("a plan");
        let order: Vec<&str> = newer.order.iter().map(|t| t.id.as_str()).collect();
        assert_eq!((order, newer.epoch), (vec!["b", "a", "c"], 6));
        assert!(newer.steps().iter().any(|l| l == "start c with seed b:1"));
        assert_eq!(newer.notes.len(), 1);
    }

    type Edit = fn(&mut ClusterResponse);

    #[test]
    fn it_is_refused_when_somebody_is_missing_changing_or_foreign() {
        let mut split = survey(&["a"], &[5]);
        split.heard = vec![heard("z:1", "z", &CLUSTER.replace('0', "1"))];
        let why = plan(&split).expect_err("refused").0;
        assert!(why.contains("z:1 (z)"), "{why}");

        let mut missing = survey(&["a", "b"], &[5, 5]);
        missing.views[1] = Err("b:1 does not answer: connection refused".into());
        let why = plan(&missing).expect_err("refused").0;
        assert!(why.contains("no answer from b ("), "{why}");

        let edits: [(Edit, &str); 4] = [
            (
                |v| v.status.cluster.cluster_id = CLUSTER.replace('0', "1"),
                "ringmaster adopt",
            ),
            (|v| v.status.cluster.cluster_id.clear(), "b does not belong"),
            (
                |v| v.status.node.lifecycle = Lifecycle::Draining,
                "is draining",
            ),
            (
                |v| {
                    v.ring.transition = Some(ringmaster_shared::api::ring::TransitionInfo {
                        kind: ringmaster_shared::topology::ChangeKind::Join,
                        step: ringmaster_shared::topology::Step::Filling,
                        joining: vec![],
                        leaving: vec![],
                        moving: 1,
                        target: vec![],
                    });
                },
                "ring change",
            ),
        ];
        for (edit, want) in edits {
            let mut bad = survey(&["a", "b"], &[5, 5]);
            if let Ok(view) = &mut bad.views[1] {
                edit(view);
            }
            let why = plan(&bad).expect_err("refused").0;
            assert!(why.contains(want), "{why}");
        }
    }

    #[test]
    fn it_is_refused_while_somebody_outside_the_ring_is_up() {
        let with = |status, lifecycle| {
            let mut s = survey(&["a", "b"], &[5, 5]);
            let stranger = members("b", &[("e", status, lifecycle)]);
            // one view is enough
            if let Ok(view) = &mut s.views[1] {
                let all = &mut view.members.cluster_members;
                all.extend(stranger.cluster_members);
            }
            plan(&s)
        };
        let alive = MemberStatus::Alive;
        let cases = [
            (alive, Lifecycle::Candidate, "e is a candidate: stop it"),
            (
                MemberStatus::Suspected,
                Lifecycle::Candidate,
                "e is a candidate: stop it",
            ),
            (alive, Lifecycle::Joining, "e is joining: stop it first"),
            (
                alive,
                Lifecycle::Draining,
                "e is draining and not in the ring",
            ),
        ];
        for (status, lifecycle, want) in cases {
            let why = with(status, lifecycle).expect_err("refused").0;
            assert!(why.contains(want), "{why}");
            assert!(why.contains("every node down"), "{why}");
        }
        for gone in [
            MemberStatus::Dead,
            MemberStatus::Stopped,
            MemberStatus::Left,
        ] {
            assert!(with(gone, Lifecycle::Candidate).is_ok(), "{gone:?}");
        }
    }

    #[test]
    fn the_barrier_needs_everybody() {
        let stands = |n: &str| (id(n), Ok(status(n, Lifecycle::Standby, 5)));
        let serves = |n: &str| (id(n), Ok(status(n, Lifecycle::Serving, 5)));
        assert!(matches!(barrier(&[stands("a"), stands("b")]), Gate::Met(_)));
        assert_eq!(
            barrier(&[stands("a"), serves("b")]),
            Gate::Waiting("b is serving".into())
        );
        let gone = (id("b"), Err("connection refused".to_owned()));
        assert!(matches!(barrier(&[stands("a"), gone]), Gate::Waiting(_)));
        let mut down = status("b", Lifecycle::Draining, 5);
        down.node.waiting_for = Some("it is about to stop".into());
        assert_eq!(
            barrier(&[stands("a"), (id("b"), Ok(down))]),
            Gate::Working("b is draining: it is about to stop".into())
        );
    }

    #[test]
    fn one_that_opens_its_store_is_at_work_and_says_so() {
        let plan = plan(&survey(&["a", "b"], &[5, 5])).expect("a plan");
        let mut opens = status("a", Lifecycle::Joining, 5);
        opens.node.waiting_for = Some("the store to open".into());
        let opens = Ok(opens);
        let want = Gate::Working("a is joining, waiting for the store to open".into());
        assert_eq!(started(&id("a"), &opens), want);
        assert_eq!(bootstrapped(&plan, &opens), want);
        assert_eq!(verified(&plan, &[(id("a"), opens)]), want);
        let held = Ok(status("a", Lifecycle::Standby, 5));
        let want = Gate::Waiting("a is standby".into());
        assert_eq!(started(&id("a"), &held), want);
        let serves = Ok(status("a", Lifecycle::Serving, 5));
        assert!(matches!(started(&id("a"), &serves), Gate::Met(_)));
        let silent = Err("connection refused".to_owned());
        assert!(matches!(started(&id("a"), &silent), Gate::Waiting(_)));
    }

    #[test]
    fn views_must_name_exactly_the_started_nodes() {
        let alive = |n| (n, MemberStatus::Alive, Lifecycle::Serving);
        let started = [id("a"), id("b")];
        let view = |who: &str, all: &[_]| (id(who), Ok(members(who, all)));
        let good = [alive("a"), alive("b")];
        assert!(matches!(
            agreed(&started, &[view("a", &good), view("b", &good)]),
            Gate::Met(_)
        ));
        let cases = [
            (vec![alive("a")], "does not know b"),
            (
                vec![alive("a"), ("b", MemberStatus::Dead, Lifecycle::Serving)],
                "as dead",
            ),
            (
                vec![alive("a"), ("b", MemberStatus::Alive, Lifecycle::Joining)],
                "still joining",
            ),
            (vec![alive("a"), alive("b"), alive("ghost")], "lists ghost"),
        ];
        for (members, want) in cases {
            let gate = agreed(&started, &[view("a", &good), view("b", &members)]);
            assert!(gate.why().is_some_and(|why| why.contains(want)), "{gate:?}");
        }
    }

    #[test]
    fn the_end_needs_one_epoch_and_quorum() {
        let plan = plan(&survey(&["a", "b"], &[5, 5])).expect("a plan");
        let at = |n: &str, e| (id(n), Ok(status(n, Lifecycle::Serving, e)));
        assert!(matches!(
            verified(&plan, &[at("a", 5), at("b", 5)]),
            Gate::Met(_)
        ));
        assert!(matches!(
            verified(&plan, &[at("a", 5), at("b", 6)]),
            Gate::Waiting(_)
        ));
        assert!(matches!(
            verified(&plan, &[at("a", 4), at("b", 4)]),
            Gate::Waiting(_)
        ));
        assert!(matches!(
            bootstrapped(&plan, &at("a", 4).1),
            Gate::Waiting(_)
        ));
        assert!(matches!(bootstrapped(&plan, &at("a", 5).1), Gate::Met(_)));
    }
}
