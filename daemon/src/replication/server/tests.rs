//! Who is let in, asked of a whole server. It has no gossip yet: who passes the door is told that
//! the node is not ready.

use std::sync::OnceLock;

use ringmaster_shared::{
    id::ClusterId,
    member::{Lifecycle, Load, MemberStatus, RingStamp},
};

use super::{gate::Caller, *};
use crate::{
    gossip::{MemberState, secrecy::Verify},
    replication::{
        frames::{RefusalCode, Request, Response},
        testing::id,
    },
    storage::StoreConfig,
    time::unix_ms,
};

const DAY_MS: u64 = 24 * 3600 * 1000;

/// A server, and its folder, which is removed with it.
struct Door {
    dispatch: Dispatch,
    node: Arc<PeerServer>,
    events: Events,
    _folder: tempfile::TempDir,
}

impl Door {
    /// With keys it insists on.
    fn with_keys(keys: &[u8]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let node_id = id("seed");
        let identity = IdentityStore::open(folder.path(), &node_id).expect("opens");
        let events = Events::new(node_id.clone());
        let on = Verify {
            incoming: true,
            outgoing: true,
        };
        let (store, _) = Store::open(StoreConfig::for_tests(folder.path(), 16)).expect("opens");
        let server = PeerServer {
            node_id,
            secrecy: (!keys.is_empty()).then(|| Secrecy::for_tests(keys, on, 1)),
            topology: TopologyHandle::new(identity.clone(), events.clone()).expect("starts"),
            identity,
            events: events.clone(),
            lifecycle: LifecycleHandle::new(Lifecycle::Serving),
            store,
            clock: HybridClock::default(),
            grace_ms: 600_000,
            gossip: Arc::new(OnceLock::new()),
            stop: CancellationToken::new(),
        };
        let node = Arc::new(server);
        Self {
            dispatch: Dispatch::new(Arc::clone(&node)),
            node,
            events,
            _folder: folder,
        }
    }

    async fn join(&self, member: MemberState) -> Response {
        let caller = Caller {
            node_id: member.id.clone(),
            generation: member.generation,
            cluster: None,
        };
        let request = Request::Join {
            member,
            proof: Vec::new(),
        };
        self.dispatch.handle(&caller, 0, request).await
    }

    /// The sentence it is turned away with.
    async fn turns_away(&self, member: MemberState) -> (RefusalCode, String) {
        match self.join(member).await {
            Response::Refused { code, reason } => (code, reason),
            other => panic!("{other:?} is no refusal"),
        }
    }
}

fn joiner(address: &str) -> MemberState {
    MemberState {
        id: id("new"),
        address: address.to_owned(),
        zone: "default".into(),
        version: "0.1.0".into(),
        status: MemberStatus::Alive,
        lifecycle: Lifecycle::Joining,
        generation: unix_ms(),
        incarnation: 0,
        ring: RingStamp::default(),
        load: Load::default(),
    }
}

#[tokio::test]
async fn what_a_stranger_calls_itself_is_judged_before_it_is_repeated() {
    for keys in [&[1][..], &[]] {
        let door = Door::with_keys(keys);
        let zeros = format!("h:{}1", "0".repeat(1 << 20));
        for address in [&"x".repeat(1 << 20), &zeros, "h:1\nERROR all is lost", ""] {
            let (code, reason) = door.turns_away(joiner(address)).await;
            assert_eq!(code, RefusalCode::BadRequest, "{reason:.100}");
            assert!(reason.len() < 1024, "{} bytes", reason.len());
            assert!(!reason.contains('\n'), "{reason}");
        }
        let mut wide = joiner("h:1");
        wide.zone = "z".repeat(1 << 20);
        assert_eq!(door.turns_away(wide).await.0, RefusalCode::BadRequest);
        let told = door.events.newest(10);
        assert!(told.is_empty(), "{:.300}", format!("{told:?}"));
    }
    // one that shows itself as it should is refused by name, once
    let door = Door::with_keys(&[1]);
    for _ in 0..3 {
        let (code, reason) = door.turns_away(joiner("localhost:1")).await;
        assert_eq!(code, RefusalCode::Keys);
        assert!(reason.contains("new at localhost:1 has no key"), "{reason}");
    }
    assert_eq!(door.events.newest(10).len(), 1);
}

#[tokio::test]
async fn who_started_far_in_the_future_is_told_about_its_clock() {
    let door = Door::with_keys(&[]);
    let ahead = |days: u64| MemberState {
        generation: unix_ms() + days * DAY_MS,
        ..joiner("localhost:1")
    };
    let (code, reason) = door.turns_away(ahead(730)).await;
    assert_eq!(code, RefusalCode::BadRequest);
    for part in ["new", "clock", "730 days", "--data-dir"] {
        assert!(reason.contains(part), "{part} is missing: {reason}");
    }
    let passed = door.join(ahead(300)).await;
    assert!(matches!(passed, Response::NotReady { .. }), "{passed:?}");
}

/// Else who knocks without end would keep members from learning the ring.
#[tokio::test]
async fn answers_that_tell_of_all_take_places_which_strangers_do_not_share_with_members() {
    let door = Door::with_keys(&[]);
    let cluster = |digit: &str| {
        let id = format!("0b9c7c1e-2f43-4a52-9f7e-3c1de9c0a11{digit}");
        ClusterId::new(&id).expect("valid")
    };
    let caller = |cluster| Caller {
        node_id: id("b"),
        generation: 1,
        cluster,
    };
    let proof = Vec::new();
    let member = joiner("h:1");
    let long = [
        Request::Members,
        Request::FetchTopology,
        Request::Join { member, proof },
    ];
    // the address tells which places they are
    let places = |cluster: Option<ClusterId>, request: &Request| {
        let places = door.dispatch.places(&caller(cluster), request);
        places.map(std::ptr::from_ref)
    };
    for request in &long {
        let nobodys = places(None, request).expect("bounded");
        assert_eq!(places(Some(cluster("1")), request), Some(nobodys));
    }
    let ours = door.node.identity.set_cluster(cluster("1"));
    ours.expect("written");
    for request in &long {
        let members = places(Some(cluster("1")), request).expect("bounded");
        for stranger in [None, Some(cluster("2"))] {
            let strangers = places(stranger, request).expect("bounded");
            assert_ne!(strangers, members, "{request:?}");
        }
    }
    assert_eq!(places(None, &Request::Ping), None);
    assert_eq!(places(None, &Request::Keyring), None);
}
