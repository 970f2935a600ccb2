use super::*;
use crate::fixture::{self, before, id, known};
use ringmaster_shared::{event::EventCode, member::MemberStatus};

fn codes(app: &crate::app::App) -> Vec<&'static str> {
    findings(app).iter().map(|f| f.code).collect()
}

fn findings(app: &crate::app::App) -> Vec<Finding> {
    diagnose(&app.cluster, &app.link, app.now_ms, app.utc)
}

/// Changes what one node says of itself.
fn says(
    app: &mut crate::app::App,
    node: &str,
    change: impl FnOnce(&mut ringmaster_shared::api::health::StatusResponse),
) {
    let node = app.cluster.nodes.get_mut(&id(node)).expect("a node");
    change(&mut node.status.as_mut().expect("answered").value);
}

fn member(app: &mut crate::app::App, node: &str) -> &'static str {
    let members = &mut app.cluster.members.as_mut().expect("members").value;
    members
        .cluster_members
        .get_mut(&id(node))
        .expect("a member")
        .version = "0.2.0".to_owned();
    "0.2.0"
}

#[test]
fn a_healthy_cluster_has_no_findings() {
    assert_eq!(codes(&fixture::healthy()), Vec::<&str>::new());
}

#[test]
fn a_dead_member_comes_with_the_command_that_starts_it() {
    let found = findings(&fixture::one_dead());
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].code, "MEMBER_DEAD");
    assert_eq!(found[0].title, "node-3 is dead; quorum holds");
    assert_eq!(found[0].since, Some(before(14)));
    assert_eq!(
        found[0].fix[1],
        "$ ringd --node-id=node-3 --port=8083 --data-dir=<its data dir> \
         --zone=c --seed-node=localhost:8081"
    );
}

#[test]
fn lost_quorum_comes_first() {
    let found = findings(&fixture::two_dead());
    let codes: Vec<_> = found.iter().map(|f| f.code).collect();
    assert_eq!(codes, ["QUORUM_LOST", "MEMBER_DEAD", "MEMBER_DEAD"]);
    assert_eq!(found[0].title, "No quorum for 256 of 256 partitions");
    assert!(found[1].title.ends_with("quorum is lost"));
}

/// Two processes with one folder, or one id, are the last thing that is needed then.
#[test]
fn who_runs_and_does_not_take_part_is_not_to_be_started() {
    let mut app = fixture::two_dead();
    let members = app.cluster.members.as_mut().expect("members");
    let member = members.value.cluster_members.get_mut(&id("node-2"));
    let member = member.expect("a member");
    member.status = MemberStatus::Alive;
    member.lifecycle = Lifecycle::Recovering;
    let found = findings(&app);
    assert_eq!(found[0].code, "QUORUM_LOST");
    let fix = &found[0].fix;
    assert_eq!(
        fix[0],
        "node-2 runs and is recovering: do not start it again."
    );
    assert!(fix[1].starts_with("$ ringd --node-id=node-3"), "{fix:?}");
    assert_eq!(fix.len(), 2);
}

/// Nor is that one, for whatever it is waited for, or whoever does not see it take part.
#[test]
fn nobody_who_runs_is_to_be_started_for_anything() {
    type State = fn(&mut crate::app::App);
    let states: [(State, &str); 4] = [
        (
            |app| {
                let members = &mut app.cluster.members.as_mut().expect("members").value;
                let node = members.cluster_members.get_mut(&id("node-3"));
                node.expect("a member").lifecycle = Lifecycle::Recovering;
                fixture::settle(&mut app.cluster);
            },
            "node-3 runs and is recovering: do not start it again.",
        ),
        (
            |app| status_of(app, "node-3", MemberStatus::Suspected),
            "node-3 runs and is serving: do not start it again.",
        ),
        (
            |app| fixture::silence(&mut app.cluster, &[("node-3", Lifecycle::Joining)]),
            "node-3 runs and is joining: do not start it again.",
        ),
        (
            |app| fixture::silence(&mut app.cluster, &[("node-3", Lifecycle::Standby)]),
            "$ curl -X POST http://localhost:8083/api/v1/admin/start",
        ),
    ];
    for (state, instead) in states {
        let mut app = fixture::healthy();
        let kind = ringmaster_shared::topology::ChangeKind::Leave;
        let step = ringmaster_shared::topology::Step::Filling;
        fixture::changes::begin(&mut app.cluster, kind, "node-3", step);
        state(&mut app);
        says(&mut app, "node-2", |s| {
            s.storage.hints_owed.insert(id("node-3"), 4_200);
            s.storage.dirty_partitions.insert(id("node-3"), 41);
            s.storage.tombstones_wait_for = vec![id("node-3")];
        });
        happened(&mut app, EventCode::TombstonesBlocked);
        happened(&mut app, EventCode::RingChangeStalled);
        forgot_votes(&mut app, &["node-2"]);
        let found = findings(&app);
        let waiting = [
            "HINTS_PILING_UP",
            "PARTITIONS_DIRTY",
            "TOMBSTONES_BLOCKED",
            "RING_CHANGE_STALLED",
        ];
        for code in waiting {
            let finding = found.iter().find(|f| f.code == code).expect(code);
            assert!(finding.fix.iter().any(|l| l == instead), "{finding:?}");
        }
        let lines = found.iter().flat_map(|f| &f.fix);
        let bad: Vec<_> = lines
            .filter(|l| l.starts_with("$ ringd") || l.starts_with("$ ringmaster remove"))
            .collect();
        assert!(bad.is_empty(), "{bad:?}");
    }
}

#[test]
fn a_voter_in_standby_is_told_to_go_on() {
    let mut app = fixture::healthy();
    fixture::silence(&mut app.cluster, &[("node-3", Lifecycle::Standby)]);
    forgot_votes(&mut app, &["node-2"]);
    let votes = votes_finding(&app);
    assert_eq!(votes.severity, Severity::Error);
    let start = "$ curl -X POST http://localhost:8083/api/v1/admin/start";
    assert!(votes.fix.iter().any(|l| l == start), "{votes:?}");
    assert!(
        !votes.fix.iter().any(|l| l.starts_with("$ ringd")),
        "{votes:?}"
    );
}

#[test]
fn a_member_that_is_dead_to_gossip_and_answers_is_not_started() {
    let mut app = fixture::one_dead();
    let node = app.cluster.nodes.get_mut(&id("node-3")).expect("a node");
    node.error = None;
    let found = findings(&app);
    assert_eq!(found[0].code, "MEMBER_DEAD");
    assert_eq!(
        found[0].fix,
        ["node-3 runs and is serving: do not start it again."]
    );
}

#[test]
fn who_sees_only_itself_is_no_witness_of_an_outage() {
    let app = fixture::looking_through_a_held_one();
    assert_eq!(codes(&app), ["CONSOLE_SEES_ONE", "NODE_STANDBY"]);
    let found = findings(&app);
    assert_eq!(
        found[0].title,
        "This console looks through node-1, which is held in standby"
    );
    assert_eq!(
        found[0].fix[1],
        "$ ringmaster --endpoint localhost:8082,localhost:8083"
    );
    assert_eq!(found[0].evidence[1], "node-2: nothing heard here");
    // one that starts, with a node that serves and delivers no feed
    let mut app = fixture::looking_through_a_held_one();
    let healthy = fixture::healthy().cluster.nodes[&id("node-2")].clone();
    app.cluster.nodes.insert(id("node-2"), healthy);
    let dead = fixture::one_dead().cluster.nodes[&id("node-3")].clone();
    app.cluster.nodes.insert(id("node-3"), dead);
    let status = &mut app.cluster.status.as_mut().expect("a status").value;
    status.node.lifecycle = Lifecycle::Joining;
    happened(&mut app, EventCode::RingChangeStalled);
    let found = findings(&app);
    assert_eq!(
        found[0].title,
        "This console looks through node-1, which is still starting"
    );
    assert_eq!(found[0].evidence[1], "node-2 says: serving");
    assert_eq!(
        found[0].evidence[2],
        "node-3 does not answer here: connection refused"
    );
    assert!(!found.iter().any(|f| f.code == "QUORUM_LOST"), "{found:?}");
}

/// The others hold it stopped until its store is open and it gossips again.
#[test]
fn a_stopped_member_that_answers_is_starting() {
    let mut app = fixture::healthy();
    fixture::silence(&mut app.cluster, &[("node-2", Lifecycle::Joining)]);
    let found = findings(&app);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].title, "node-2 is starting again; quorum holds");
    assert_eq!(
        found[0].fix,
        ["node-2 runs and is joining: do not start it again."]
    );
}

/// As in the midst of a clean restart.
#[test]
fn where_all_are_held_nothing_is_served_and_nobody_is_to_be_started() {
    let mut app = fixture::looking_through_a_held_one();
    let held = ["node-1", "node-2", "node-3"].map(|node| (node, Lifecycle::Standby));
    let mut all = fixture::healthy().cluster;
    fixture::silence(&mut all, &held);
    app.cluster.nodes = all.nodes;
    let own = app.cluster.nodes[&id("node-1")].status.clone();
    app.cluster.status = own;
    let found = findings(&app);
    let codes: Vec<_> = found.iter().map(|f| f.code).collect();
    assert_eq!(
        codes,
        [
            "QUORUM_LOST",
            "NODE_STANDBY",
            "NODE_STANDBY",
            "NODE_STANDBY"
        ]
    );
    for port in 8081..=8083 {
        let start = format!("$ curl -X POST http://localhost:{port}/api/v1/admin/start");
        assert!(found[0].fix.contains(&start), "{:?}", found[0]);
    }
    assert!(!found[0].fix.iter().any(|l| l.starts_with("$ ringd")));
}

#[test]
fn split_brain_by_two_clusters() {
    let mut app = fixture::healthy();
    says(&mut app, "node-3", |s| {
        s.cluster.cluster_id = "7777c1e0-2f43-4a52-9f7e-3c1de9c0a111".to_owned();
        s.replication.alive_nodes = 1;
    });
    let found = findings(&app);
    assert_eq!(found[0].code, "SPLIT_BRAIN");
    assert_eq!(
        found[0].title,
        "Split brain: the nodes answer for 2 clusters"
    );
    assert!(
        found[0]
            .evidence
            .contains(&"node-3: alive_members 1, cluster 7777c1e0".to_owned())
    );
    assert_eq!(
        found[0].fix[1],
        "$ ringmaster adopt --endpoints localhost:8083 \
         --into localhost:8081,localhost:8082 --yes"
    );
    assert!(
        !found.iter().any(|f| f.code == "INCONSISTENT_VIEWS"),
        "said once"
    );
}

#[test]
fn split_brain_by_nodes_that_see_only_themselves() {
    let mut app = fixture::healthy();
    for node in ["node-1", "node-2", "node-3"] {
        says(&mut app, node, |s| {
            s.replication.alive_nodes = 1;
            s.cluster.membership_digest = format!("of {}", s.node.id);
        });
    }
    let found = findings(&app);
    assert_eq!(found[0].code, "SPLIT_BRAIN");
    assert_eq!(
        found[0].title,
        "Split brain: node-1, node-2 and node-3 each see only themselves"
    );
    assert_eq!(found[0].fix, ["$ ringmaster restart --clean --yes"]);
    assert_eq!(found.len(), 1);
}

#[test]
fn a_node_that_does_not_join() {
    let mut app = fixture::healthy();
    let mut lonely = app.cluster.nodes[&id("node-3")].clone();
    let status = &mut lonely.status.as_mut().expect("answered").value;
    status.node.id = id("node-4");
    status.node.address = "localhost:8084".to_owned();
    status.node.lifecycle = Lifecycle::Joining;
    status.node.waiting_for = Some("a seed: localhost:9999 refuses".to_owned());
    status.replication.total_nodes = 1;
    status.replication.alive_nodes = 1;
    status.cluster.cluster_id = String::new();
    app.cluster.nodes.insert(id("node-4"), lonely);
    let found = findings(&app);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].code, "NODE_WONT_JOIN");
    assert!(found[0].evidence[1].contains("localhost:9999 refuses"));
    let last = found[0].fix.last().expect("a command");
    assert!(last.contains("--node-id=node-4 --port=8084"), "{last}");
    assert!(last.ends_with("--seed-node=localhost:8081"), "{last}");
}

#[test]
fn views_that_differ_are_given_time_to_converge() {
    let mut app = fixture::healthy();
    says(&mut app, "node-2", |s| {
        s.replication.alive_nodes = 2;
        s.cluster.membership_digest = "ffff".to_owned();
    });
    let found = findings(&app);
    assert_eq!(
        (found[0].code, found[0].severity),
        ("INCONSISTENT_VIEWS", Severity::Warning)
    );
    assert!(
        found[0]
            .evidence
            .iter()
            .any(|e| e.starts_with("node-2: alive_members 2"))
    );

    let members = &mut app.cluster.members.as_mut().expect("members").value;
    let recent = members
        .cluster_members
        .get_mut(&id("node-3"))
        .expect("a member");
    recent.status_since = before(5);
    let found = findings(&app);
    assert_eq!(
        (found[0].code, found[0].severity),
        ("VIEWS_CONVERGING", Severity::Info)
    );
}

#[test]
fn a_console_without_its_feed() {
    let found = findings(&fixture::fallback());
    assert_eq!(found[0].code, "CONSOLE_FALLBACK");
    assert_eq!(found[0].fix[0], "$ curl -i http://localhost:8081/ws");
    assert_eq!(found[0].evidence.len(), 3);
    assert!(found[0].evidence[0].contains("/ws fails, REST answers"));

    let found = findings(&fixture::disconnected());
    assert_eq!(found[0].code, "CONSOLE_DISCONNECTED");
    assert!(found[0].title.contains("lost every node"));
    assert!(
        found[0]
            .fix
            .iter()
            .any(|f| f.starts_with("$ ringd --node-id=node-1 --port=8081"))
    );

    let found = findings(&fixture::never_connected());
    assert_eq!(found[0].title, "No node answers yet");
    assert!(
        found[0]
            .fix
            .iter()
            .any(|f| f.starts_with("$ ringmaster --endpoint"))
    );
    assert_eq!(found.len(), 1);
}

/// The rules that need one change each.
#[test]
fn one_change_one_finding() {
    type Change = fn(&mut crate::app::App);
    let cases: [(&str, Change); 26] = [
        ("MEMBER_SUSPECTED", |app| {
            status_of(app, "node-2", MemberStatus::Suspected);
        }),
        ("MEMBER_STOPPED", |app| {
            status_of(app, "node-2", MemberStatus::Stopped);
        }),
        ("NODE_STANDBY", |app| {
            fixture::silence(&mut app.cluster, &[("node-2", Lifecycle::Standby)]);
        }),
        ("NODE_UNREACHABLE", |app| {
            let node = app.cluster.nodes.get_mut(&id("node-2")).expect("a node");
            node.error = Some(crate::cluster::NodeError {
                message: "timed out".to_owned(),
                since_ms: 0,
            });
        }),
        ("EPOCHS_DIFFER", |app| {
            let members = &mut app.cluster.members.as_mut().expect("members").value;
            let m = members
                .cluster_members
                .get_mut(&id("node-2"))
                .expect("a member");
            m.ring_epoch = 4;
            m.ring_digest = "old".to_owned();
        }),
        ("RING_FORK", |app| {
            let members = &mut app.cluster.members.as_mut().expect("members").value;
            let m = members
                .cluster_members
                .get_mut(&id("node-2"))
                .expect("a member");
            m.ring_digest = "other".to_owned();
        }),
        ("HINTS_PILING_UP", |app| {
            says(app, "node-2", |s| {
                s.storage.hints_owed.insert(id("node-3"), 4_200);
            });
        }),
        ("CLOCK_SKEW", |app| app.cluster.clock_skew_ms = Some(-1_500)),
        ("UDP_BLOCKED", |app| {
            says(app, "node-2", |s| {
                let gossip = s.gossip.as_mut().expect("it told");
                gossip.udp_blocked = vec![id("node-3")];
            });
        }),
        // each pair with it is told, and none of that counts beside what it says itself
        ("OWN_UDP_BLOCKED", |app| {
            fixture::without_udp(&mut app.cluster, "node-2");
        }),
        ("LOCAL_HEALTH", |app| {
            says(app, "node-2", |s| {
                let gossip = s.gossip.as_mut().expect("it told");
                gossip.health_score = 5;
                gossip.health_reasons = vec!["it stood still".to_owned()];
            });
        }),
        ("SEED_UNREACHABLE", |app| {
            says(app, "node-2", |s| {
                let gossip = s.gossip.as_mut().expect("it told");
                gossip.seeds_unreachable = vec!["elsewhere:8081".to_owned()];
            });
        }),
        ("INCONSISTENT_VIEWS", |app| {
            let dead = (MemberStatus::Dead, 95);
            fixture::dissent(&mut app.cluster, "node-2", "node-3", dead);
        }),
        ("STORAGE_POISONED", |app| {
            happened(app, EventCode::StoragePoisoned);
        }),
        ("STORAGE_READ_ONLY", |app| {
            says(app, "node-2", |s| s.storage.read_only = true);
        }),
        ("RING_FORK", |app| happened(app, EventCode::RingFork)),
        ("DISK_NEARLY_FULL", |app| {
            says(app, "node-2", |s| {
                s.storage.disk_free_bytes = Some(400_000_000);
            });
        }),
        ("PARTITIONS_DIRTY", |app| {
            says(app, "node-2", |s| {
                s.storage.dirty_partitions.insert(id("node-3"), 41);
            });
        }),
        ("TOMBSTONES_BLOCKED", |app| {
            happened(app, EventCode::TombstonesBlocked);
            says(app, "node-2", |s| {
                s.storage.tombstones_wait_for = vec![id("node-3")];
            });
        }),
        ("REFILL_BLOCKED", |app| {
            happened(app, EventCode::RefillBlocked);
            says(app, "node-2", |s| {
                s.node.lifecycle = Lifecycle::Recovering;
            });
        }),
        ("VOTES_FORGOTTEN", |app| forgot_votes(app, &["node-2"])),
        ("SIBLINGS_MANY", |app| {
            happened(app, EventCode::SiblingsMany);
        }),
        ("OVERLOADED", |app| happened(app, EventCode::Overloaded)),
        ("RING_CHANGE_STALLED", |app| {
            let kind = ringmaster_shared::topology::ChangeKind::Leave;
            let step = ringmaster_shared::topology::Step::Filling;
            fixture::changes::begin(&mut app.cluster, kind, "node-3", step);
            happened(app, EventCode::RingChangeStalled);
        }),
        ("CANDIDATE_WAITING", |app| {
            let waiting = fixture::candidate().cluster.members.expect("members");
            let node = waiting.value.cluster_members[&id("node-4")].clone();
            let members = &mut app.cluster.members.as_mut().expect("members").value;
            members.cluster_members.insert(id("node-4"), node);
        }),
        ("VERSIONS_MIXED", |app| {
            member(app, "node-2");
        }),
    ];
    for (code, change) in cases {
        let mut app = fixture::healthy();
        change(&mut app);
        let found = findings(&app);
        let codes: Vec<_> = found.iter().map(|f| f.code).collect();
        assert_eq!(codes, [code]);
        let f = &found[0];
        assert!(
            !f.title.is_empty() && !f.explanation.is_empty() && !f.fix.is_empty(),
            "{f:?}"
        );
        assert!(!f.title.ends_with('.'), "{}", f.title);
    }
}

fn status_of(app: &mut crate::app::App, node: &str, status: MemberStatus) {
    let members = &mut app.cluster.members.as_mut().expect("members").value;
    let m = members
        .cluster_members
        .get_mut(&id(node))
        .expect("a member");
    m.status = status;
    m.status_since = before(3);
    fixture::settle(&mut app.cluster);
}

fn happened(app: &mut crate::app::App, code: EventCode) {
    let event = fixture::event(60, code, Severity::Warning, "node-2", "it happened");
    app.cluster.events.push_back(event);
}

#[test]
fn old_events_and_old_lives_are_forgotten() {
    let mut app = fixture::healthy();
    let old = fixture::event(
        900,
        EventCode::UdpBlocked,
        Severity::Warning,
        "node-2",
        "past",
    );
    let earlier_life = fixture::event(
        9_000,
        EventCode::StoragePoisoned,
        Severity::Error,
        "node-2",
        "past",
    );
    app.cluster.events.extend([earlier_life, old]);
    assert_eq!(codes(&app), Vec::<&str>::new());
}

fn forgot_votes(app: &mut crate::app::App, nodes: &[&str]) {
    for node in nodes {
        says(app, node, |s| {
            s.cluster
                .problems
                .push(ringmaster_shared::api::health::Problem {
                    code: "VOTES_FORGOTTEN".to_owned(),
                    severity: Severity::Warning,
                    message: "it lost its data folder".to_owned(),
                    since: before(40),
                });
        });
    }
}

#[test]
fn lost_votes_are_an_error_once_the_others_are_too_few() {
    let mut app = fixture::healthy();
    forgot_votes(&mut app, &["node-2"]);
    let found = findings(&app);
    assert_eq!(found[0].severity, Severity::Warning);
    assert_eq!(found[0].since, Some(before(40)));
    assert!(!found[0].fix.iter().any(|line| line.contains("refill")));
    forgot_votes(&mut app, &["node-3"]);
    let found = findings(&app);
    assert_eq!(found[0].severity, Severity::Error);
    assert!(found[0].title.contains("node-2 and node-3"), "{found:?}");
    let order = "$ ringmaster refill node-2 --accept-loss --yes";
    assert!(found[0].fix.iter().any(|line| line == order), "{found:?}");
}

fn votes_finding(app: &crate::app::App) -> Finding {
    let found = findings(app).into_iter();
    let mut votes = found.filter(|f| f.code == "VOTES_FORGOTTEN");
    votes.next().expect("told")
}

#[test]
fn voters_that_are_down_cannot_decide_for_one_that_forgot() {
    // of three voters one is dead and one forgot: nobody is left to make a majority with
    let mut app = fixture::one_dead();
    forgot_votes(&mut app, &["node-2"]);
    let found = votes_finding(&app);
    assert_eq!(found.severity, Severity::Error, "{found:?}");
    let start = found.fix.iter().position(|f| f.contains("node-id=node-3"));
    let again = "$ ringmaster refill node-2 --accept-loss --yes";
    let again = found.fix.iter().position(|f| f == again);
    assert!(start.is_some() && start < again, "{found:?}");
    // who lost its data and kept its votes decides with the others
    let mut app = fixture::healthy();
    forgot_votes(&mut app, &["node-2"]);
    let members = &mut app.cluster.members.as_mut().expect("members").value;
    let third = members.cluster_members.get_mut(&id("node-3"));
    third.expect("a member").lifecycle = Lifecycle::Recovering;
    assert_eq!(votes_finding(&app).severity, Severity::Warning);
}

#[test]
fn members_without_a_vote_do_not_count_among_the_voters() {
    let mut app = fixture::healthy();
    app.cluster = fixture::cluster(9);
    let ring = app.cluster.topology.clone().expect("a ring");
    let voters = ring.voters();
    let names: Vec<&str> = voters.iter().map(NodeId::as_str).collect();
    let all = ring.members.iter().map(|m| m.id.as_str());
    let voteless: Vec<&str> = all.filter(|id| !names.contains(id)).collect();
    assert_eq!((names.len(), voteless.len()), (7, 2));
    // three of seven, and two that have no vote: four are left, a majority
    let forgot = [&names[..3], &voteless].concat();
    forgot_votes(&mut app, &forgot);
    assert_eq!(votes_finding(&app).severity, Severity::Warning);
    forgot_votes(&mut app, &names[3..4]);
    let found = votes_finding(&app);
    assert_eq!(found.severity, Severity::Error);
    let again = found.fix.last().expect("an order");
    assert!(
        names[..4].iter().any(|id| again.contains(id)),
        "one without a vote has none to get back: {again}"
    );
}

#[test]
fn what_the_daemon_reports_is_not_swallowed() {
    let mut app = fixture::healthy();
    let mut status = app.cluster.status.clone().expect("a status").value;
    status.cluster.problems = vec![ringmaster_shared::api::health::Problem {
        code: "RING_CHANGE_STALLED".to_owned(),
        severity: Severity::Warning,
        message: "The change to epoch 6 has waited for node-3 for 80 s.".to_owned(),
        since: before(80),
    }];
    app.cluster.status = Some(known(status));
    let found = findings(&app);
    assert_eq!(found[0].code, "REPORTED");
    assert!(found[0].explanation.contains("RING_CHANGE_STALLED"));
}

#[test]
fn a_wait_for_confirmations_is_usual_until_the_node_says_it_is_long() {
    let mut app = fixture::healthy();
    says(&mut app, "node-2", |s| {
        s.storage.tombstones_wait_for = vec![id("node-3")];
    });
    assert_eq!(codes(&app), Vec::<&str>::new());
    // and a stall that is over is not news either
    happened(&mut app, EventCode::RingChangeStalled);
    assert_eq!(codes(&app), Vec::<&str>::new());
}

#[test]
fn a_full_disk_is_told_with_its_reason_and_who_waits_is_named() {
    let app = fixture::changes::read_only_node();
    let found = findings(&app);
    let of = |code| found.iter().find(|f| f.code == code).expect(code);
    let full = of("STORAGE_READ_ONLY");
    assert!(full.evidence[0].contains("64 MB are kept in reserve"));
    assert_eq!(full.since, Some(before(120)));
    let blocked = of("TOMBSTONES_BLOCKED");
    assert!(blocked.title.contains("node-3 does not confirm"));
    let remove = "$ ringmaster remove node-3".to_owned();
    assert!(blocked.fix.contains(&remove), "{blocked:?}");
    assert_eq!(of("PARTITIONS_DIRTY").evidence.len(), 2);
}

#[test]
fn a_candidate_is_offered_the_place_of_a_dead_node() {
    let found = findings(&fixture::candidate());
    let waiting = found.iter().find(|f| f.code == "CANDIDATE_WAITING");
    let fix = &waiting.expect("told").fix;
    assert_eq!(fix[1], "$ ringmaster join node-4");
    assert_eq!(fix[3], "$ ringmaster replace node-3 node-4");
}

#[test]
fn a_node_is_started_again_as_it_was_set_up() {
    let mut app = fixture::healthy();
    status_of(&mut app, "node-3", MemberStatus::Dead);
    let start = |app: &crate::app::App| {
        let found = findings(app);
        let dead = found.into_iter().find(|f| f.code == "MEMBER_DEAD");
        dead.expect("told").fix[1].clone()
    };
    let flags = |node: &str, keyring: &str| {
        let mut flags: Vec<String> = vec![format!("--node-id={node}"), "--port=8083".into()];
        flags.push("--data-dir=/srv/my data/3".into());
        flags.push(format!("--gossip-keyring-file={keyring}"));
        flags.push("--gossip-verify-incoming=false".into());
        flags
    };
    // never heard, and nobody tells anything: as far as is known
    let guess = "$ ringd --node-id=node-3 --port=8083 --data-dir=<its data dir> --zone=c";
    assert_eq!(start(&app), format!("{guess} --seed-node=localhost:8081"));
    // what another tells of gossip is true of all, but not where this one keeps its keys
    says(&mut app, "node-2", |s| {
        s.node.start_flags = flags("node-2", "/etc/ringd/two");
    });
    let sealed = "--gossip-keyring-file=<its keyring> --gossip-verify-incoming=false";
    assert_eq!(
        start(&app),
        format!("{guess} {sealed} --seed-node=localhost:8081")
    );
    says(&mut app, "node-3", |s| {
        s.node.start_flags = flags("node-3", "/etc/ringd/three");
    });
    assert_eq!(
        start(&app),
        "$ ringd --node-id=node-3 --port=8083 '--data-dir=/srv/my data/3' \
         --gossip-keyring-file=/etc/ringd/three --gossip-verify-incoming=false \
         --seed-node=localhost:8081"
    );
}

#[test]
fn commands_go_to_the_cluster_that_is_looked_at() {
    let mut app = fixture::disagreeing();
    let fix = |app: &crate::app::App| {
        let found = findings(app);
        found[0].fix.last().expect("a command").clone()
    };
    let restart = "$ ringmaster restart --clean --yes";
    assert_eq!(fix(&app), restart, "found without being told where");
    for (n, endpoint) in app.link.endpoints.iter_mut().enumerate() {
        endpoint.address = format!("ring-{n}:9000");
    }
    app.link.endpoint = Some("ring-1:9000".to_owned());
    assert_eq!(fix(&app), format!("{restart} --endpoint ring-1:9000"));
}
