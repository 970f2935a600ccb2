//! What survives, what is refused, and that nothing is given twice.

use std::{collections::BTreeSet, fs};

use ringmaster_shared::topology::RingMember;
use tempfile::TempDir;

use super::*;
use crate::gossip::claim;

fn id(name: &str) -> NodeId {
    NodeId::new(name).expect("valid")
}

fn cluster(digit: char) -> ClusterId {
    ClusterId::new(&"0b9c7c1e-2f43-4a52-9f7e-3c1de9c0a11x".replace('x', &digit.to_string()))
        .expect("valid")
}

fn topology(epoch: u64) -> Topology {
    let founder = RingMember {
        id: id("node-1"),
        address: "localhost:8081".into(),
        zone: "default".into(),
    };
    let mut topology = Topology::founded(cluster('1'), founder, 3, 256);
    topology.epoch = epoch;
    topology
}

fn open(dir: &TempDir) -> IdentityStore {
    IdentityStore::open(dir.path(), &id("node-1")).expect("opens")
}

fn refusal(dir: &Path, node: &str) -> IdentityError {
    match IdentityStore::open(dir, &id(node)) {
        Ok(_) => panic!("must be refused"),
        Err(why) => why,
    }
}

fn ballot(round: u64) -> Ballot {
    Ballot {
        round,
        node: id("node-2"),
        life: 1,
    }
}

#[test]
fn everything_survives_a_restart() {
    let dir = TempDir::new().expect("temp dir");
    let acceptor = AcceptorState {
        base_epoch: 4,
        promised: Some(ballot(7)),
        accepted: Some((ballot(6), topology(5))),
    };
    let members = vec![RememberedMember {
        id: id("node-2"),
        address: "localhost:8082".into(),
    }];
    let first = open(&dir);
    let (generation, actor) = (first.generation(), first.actor());
    assert!(first.cluster_id().is_none() && first.topology().is_none());
    first.set_cluster(cluster('1')).expect("writes");
    first.save_topology(&topology(4)).expect("writes");
    first.save_acceptor(&acceptor).expect("writes");
    first.remember(members.clone()).expect("writes");
    first.set_filled_epoch(3).expect("writes");
    first.set_filled_epoch(2).expect("writes");
    drop(first);

    let second = open(&dir);
    assert!(second.generation() > generation);
    assert_eq!(second.actor(), actor);
    assert_eq!(second.cluster_id(), Some(cluster('1')));
    assert_eq!(second.topology(), Some(topology(4)));
    assert_eq!(second.acceptor(), Some(acceptor));
    assert_eq!(second.remembered(), members);
    assert_eq!(second.filled_epoch(), 3);
    assert_eq!(second.clear_remembered(), 1);
    assert_eq!(second.clear_remembered(), 0);
}

#[test]
fn a_generation_grows_even_when_the_clock_was_ahead() {
    let dir = TempDir::new().expect("temp dir");
    let first = open(&dir);
    let ahead = unix_ms() + 1_000_000_000;
    let used = |s: &mut Persisted| s.leased_generation = ahead;
    first.update(used).expect("writes");
    drop(first);
    assert_eq!(open(&dir).generation(), ahead + 1);
}

/// A process may go on as later lives without a note on the disk.
#[test]
fn a_generation_grows_above_the_lives_an_earlier_process_went_on_as() {
    let dir = TempDir::new().expect("temp dir");
    let at = |ms| IdentityStore::open_at(dir.path(), &id("node-1"), ms).expect("opens");
    let first = at(1_000_000).generation();
    assert_eq!(first, 1_000_000);
    let (raised, _) = claim::next_above((first, claim::INCARNATION_MAX));
    assert!(raised > first);
    let second = at(999_000).generation();
    assert!(second > raised, "its clock is behind: {second}");
    assert!(second > first + claim::LIVES_LEASED, "{second}");
    assert_eq!(at(2_000_000).generation(), 2_000_000, "by the clock again");
}

/// A life whose folder is gone may have been begun by a clock that was ahead.
#[test]
fn a_generation_grows_above_one_that_others_tell_of() {
    let dir = TempDir::new().expect("temp dir");
    let at = |ms| IdentityStore::open_at(dir.path(), &id("node-1"), ms).expect("opens");
    let first = at(1_000_000);
    first.outlive(5_000_000).expect("writes");
    first.outlive(7).expect("writes");
    assert_eq!(first.generation(), 1_000_000, "a life keeps its own");
    drop(first);
    assert_eq!(
        at(1_000_001).generation(),
        5_000_000 + claim::LIVES_LEASED + 1
    );
}

#[test]
fn later_topologies_drop_old_promises_only() {
    let dir = TempDir::new().expect("temp dir");
    let store = open(&dir);
    store.set_cluster(cluster('1')).expect("writes");
    let promise = |base_epoch| AcceptorState {
        base_epoch,
        promised: Some(ballot(1)),
        accepted: None,
    };
    store.save_acceptor(&promise(4)).expect("writes");
    store.save_topology(&topology(4)).expect("writes");
    assert_eq!(
        store.acceptor(),
        Some(promise(4)),
        "epoch 4 is still its base"
    );
    store.save_topology(&topology(5)).expect("writes");
    assert_eq!(store.acceptor(), None);
}

#[test]
fn topologies_of_others_and_malformed_ones_are_refused() {
    let dir = TempDir::new().expect("temp dir");
    let store = open(&dir);
    assert!(store.save_topology(&topology(1)).is_err(), "no cluster yet");
    store.set_cluster(cluster('2')).expect("writes");
    let why = store
        .save_topology(&topology(1))
        .expect_err("foreign")
        .to_string();
    assert!(
        why.contains(cluster('1').as_str()) && why.contains(cluster('2').as_str()),
        "{why}"
    );
    let mut malformed = topology(1);
    malformed.cluster_id = cluster('2');
    malformed.table[3] = vec![9];
    assert!(store.save_topology(&malformed).is_err());
    assert_eq!(store.topology(), None);
}

#[test]
fn another_cluster_starts_without_the_old_decisions() {
    let dir = TempDir::new().expect("temp dir");
    let store = open(&dir);
    store.set_cluster(cluster('1')).expect("writes");
    store.save_topology(&topology(4)).expect("writes");
    store.set_cluster(cluster('1')).expect("writes");
    assert!(store.topology().is_some());
    store.set_cluster(cluster('2')).expect("writes");
    assert!(store.topology().is_none());
}

#[test]
fn a_joiner_writes_down_all_it_was_told_at_once() {
    let dir = TempDir::new().expect("temp dir");
    let store = open(&dir);
    let members = vec![RememberedMember {
        id: id("node-2"),
        address: "a:1".into(),
    }];
    let enter = |cluster_id, ring| store.enter_cluster(cluster_id, members.clone(), ring);
    enter(cluster('2'), Some(topology(1))).expect("writes");
    assert_eq!(store.topology(), None, "the ring of another cluster");
    enter(cluster('1'), Some(topology(4))).expect("writes");
    let file = dir.path().join("identity.json");
    fs::remove_file(&file).expect("there");
    store.save_topology(&topology(4)).expect("needs no write");
    store.remember(members.clone()).expect("needs no write");
    store.set_cluster(cluster('1')).expect("needs no write");
    assert!(!file.exists());
    assert_eq!(store.topology(), Some(topology(4)));
    enter(cluster('2'), None).expect("writes");
    assert_eq!(
        (store.topology(), store.cluster_id()),
        (None, Some(cluster('2')))
    );
}

#[test]
fn dots_never_repeat() {
    let dir = TempDir::new().expect("temp dir");
    let mut given = BTreeSet::new();
    for life in 0..3 {
        let store = open(&dir);
        store.set_cluster(cluster('1')).expect("writes");
        store.save_topology(&topology(4)).expect("writes");
        for _ in 0..3 {
            assert!(
                given.insert(store.next_dot().expect("a dot")),
                "life {life}"
            );
        }
        let last_leased = store.dots().leased_to;
        store.dots().next = last_leased;
        for _ in 0..3 {
            assert!(
                given.insert(store.next_dot().expect("a dot")),
                "over a lease's end"
            );
        }
        let old = store.actor();
        store.set_needs_refill().expect("writes");
        assert!(store.needs_refill() && store.actor().epoch > old.epoch);
        assert!(
            given.insert(store.next_dot().expect("a dot")),
            "a new actor"
        );
        assert!(
            !store.set_refilled(3).expect("no write"),
            "by an older ring"
        );
        assert!(store.needs_refill());
        assert!(store.set_refilled(4).expect("writes"));
        assert!(!store.needs_refill());
    }
    assert_eq!(given.len(), 21);
}

#[test]
fn an_actor_that_never_gave_a_dot_takes_over_while_dots_are_drawn() {
    let dir = TempDir::new().expect("temp dir");
    let mut given = BTreeSet::new();
    let store = open(&dir);
    let takers: Vec<_> = (0..4)
        .map(|taker| {
            let store = store.clone();
            std::thread::spawn(move || {
                let mut dots = Vec::new();
                for n in 0..200 {
                    if n % 20 == taker {
                        let before = store.actor();
                        store.renew_actor().expect("writes");
                        assert!(store.actor().epoch > before.epoch);
                    }
                    dots.push(store.next_dot().expect("a dot"));
                }
                dots
            })
        })
        .collect();
    for taker in takers {
        let dots = taker.join().expect("no panic");
        assert!(dots.is_sorted_by_key(|d| d.actor.epoch), "none goes back");
        given.extend(dots);
    }
    let last = store.actor();
    assert!(given.iter().all(|d| d.actor.epoch <= last.epoch));
    drop(store);
    // a crash then goes on as the last one
    let store = open(&dir);
    assert_eq!(store.actor(), last);
    for _ in 0..3 {
        given.insert(store.next_dot().expect("a dot"));
    }
    // the end of a lease that falls into the change
    let leased = store.dots().leased_to;
    store.update(|s| s.actor_epoch += 1).expect("writes");
    store.dots().next = leased + 1;
    given.insert(store.next_dot().expect("a dot"));
    let promised = store.state().dots_leased_to;
    assert!(promised > leased, "never lower again");
    store.set_needs_refill().expect("writes");
    assert!(store.actor().epoch > last.epoch + 1, "that one is taken");
    given.insert(store.next_dot().expect("a dot"));
    assert_eq!(given.len(), 805);
}

#[test]
fn dots_are_distinct_across_threads() {
    let dir = TempDir::new().expect("temp dir");
    let store = open(&dir);
    let takers: Vec<_> = (0..4)
        .map(|_| {
            let store = store.clone();
            std::thread::spawn(move || {
                (0..500)
                    .map(|_| store.next_dot().expect("a dot"))
                    .collect::<Vec<_>>()
            })
        })
        .collect();
    let all: Vec<Dot> = takers
        .into_iter()
        .flat_map(|t| t.join().expect("no panic"))
        .collect();
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 2000);
}

#[test]
fn unchanged_means_unwritten() {
    let dir = TempDir::new().expect("temp dir");
    let store = open(&dir);
    let members = vec![RememberedMember {
        id: id("node-2"),
        address: "a:1".into(),
    }];
    store.remember(members.clone()).expect("writes");
    fs::remove_file(dir.path().join("identity.json")).expect("there");
    store.remember(members).expect("needs no write");
    assert!(!dir.path().join("identity.json").exists());
}

/// Of more members than are remembered each node takes others, and the same the next time.
#[test]
fn of_too_many_members_each_node_remembers_others() {
    let member = |n: usize| RememberedMember {
        id: id(&format!("node-{n:04}")),
        address: "a:1".into(),
    };
    let all: Vec<_> = (0..3 * REMEMBERED_MAX).map(member).collect();
    let mut remembered_by = std::collections::BTreeMap::<NodeId, usize>::new();
    for own in 0..40 {
        let own = id(&format!("node-{own:04}"));
        let some = some_of(all.clone(), &own);
        assert_eq!(some.len(), REMEMBERED_MAX);
        assert!(some.is_sorted_by(|a, b| a.id < b.id));
        let backwards = all.iter().rev().cloned().collect();
        assert!(some_of(backwards, &own) == some, "in any order");
        for member in some {
            *remembered_by.entry(member.id).or_default() += 1;
        }
    }
    assert_eq!(remembered_by.len(), all.len(), "nobody is forgotten by all");
    let most = remembered_by.values().max().expect("members");
    assert!(*most < 40, "nobody is remembered by all: {most}");
    let few = vec![member(2), member(1)];
    assert_eq!(some_of(few.clone(), &id("node-1")), few);
    let dir = TempDir::new().expect("temp dir");
    let store = open(&dir);
    store.remember(all.clone()).expect("writes");
    assert!(store.remembered() == some_of(all, &id("node-1")));
}

#[test]
fn a_second_process_is_told_who_is_there() {
    let dir = TempDir::new().expect("temp dir");
    let first = open(&dir);
    let why = refusal(dir.path(), "node-1");
    assert!(
        matches!(why, IdentityError::Locked { pid: Some(pid), .. } if pid == std::process::id())
    );
    assert!(why.is_usage());
    assert!(why.to_string().contains(&dir.path().display().to_string()));
    drop(first);
    open(&dir);
}

#[test]
fn foreign_folders_are_refused_and_left_alone() {
    let dir = TempDir::new().expect("temp dir");
    drop(open(&dir));
    let why = refusal(dir.path(), "node-9");
    assert!(matches!(why, IdentityError::OtherNode { .. }) && why.is_usage());
    assert!(why.to_string().contains("node-1") && why.to_string().contains("node-9"));

    let photos = TempDir::new().expect("temp dir");
    fs::write(photos.path().join("cat.jpg"), b"meow").expect("writes");
    let why = refusal(photos.path(), "node-1");
    assert!(matches!(why, IdentityError::NotADataDir { .. }) && why.is_usage());
    assert_eq!(
        fs::read_dir(photos.path()).expect("lists").count(),
        1,
        "nothing was added"
    );

    let own = TempDir::new().expect("temp dir");
    fs::create_dir_all(own.path().join("store")).expect("makes");
    open(&own);
}

#[test]
fn a_missing_folder_is_made_and_an_impossible_one_is_named() {
    let dir = TempDir::new().expect("temp dir");
    let deep = dir.path().join("a/b");
    IdentityStore::open(&deep, &id("node-1")).expect("made");
    let file = dir.path().join("file");
    fs::write(&file, b"").expect("writes");
    let why = refusal(&file, "node-1");
    assert!(
        matches!(why, IdentityError::Unusable { .. }) && why.is_usage(),
        "{why}"
    );
}

#[test]
fn a_damaged_file_is_never_guessed_at() {
    let dir = TempDir::new().expect("temp dir");
    let store = open(&dir);
    store.set_cluster(cluster('1')).expect("writes");
    store.save_topology(&topology(4)).expect("writes");
    drop(store);
    let path = dir.path().join("identity.json");
    let good = fs::read_to_string(&path).expect("reads");
    assert!(good.lines().count() < 40, "tables are on one line:\n{good}");
    let cases = [
        ("empty", String::new()),
        ("cut", good[..good.len() / 2].to_owned()),
        (
            "edited",
            good.replace("\"needs_refill\": false", "\"needs_refill\": true"),
        ),
        ("another node's table", good.replace("node-1", "node-7")),
        ("not json", "hello".into()),
    ];
    for (what, text) in cases {
        fs::write(&path, text).expect("writes");
        let why = refusal(dir.path(), "node-1");
        assert!(
            matches!(why, IdentityError::Damaged { .. }) && !why.is_usage(),
            "{what}: {why}"
        );
    }
    fs::write(&path, good.replacen("\"format\": 1", "\"format\": 2", 1)).expect("writes");
    assert!(matches!(
        refusal(dir.path(), "node-1"),
        IdentityError::NewerFormat { found: 2, .. }
    ));
    fs::write(&path, &good).expect("writes");
    assert_eq!(open(&dir).topology(), Some(topology(4)));
}

#[test]
fn consistent_checksums_do_not_excuse_contradictions() {
    let dir = TempDir::new().expect("temp dir");
    let store = open(&dir);
    store
        .update(|s| s.topology = Some(topology(4)))
        .expect("writes");
    drop(store);
    let why = refusal(dir.path(), "node-1");
    assert!(why.to_string().contains("another cluster"), "{why}");
}

#[test]
fn what_a_crash_left_beside_the_file_is_ignored() {
    let dir = TempDir::new().expect("temp dir");
    let actor = open(&dir).actor();
    fs::write(dir.path().join("identity.json.tmp"), b"half").expect("writes");
    assert_eq!(open(&dir).actor(), actor);
}
