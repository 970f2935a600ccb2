//! Engines with keys, with other versions, and under a flood.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::gossip::secrecy::Verify;

const ON: Verify = Verify {
    incoming: true,
    outgoing: true,
};

fn with(
    wire: &Wire,
    name: &str,
    contacts: &[String],
    change: impl FnOnce(&mut EngineParts<Wire>),
) -> Engine {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    engine_with(wire, socket, ("localhost", name, 1), contacts, change)
}

fn keyed(wire: &Wire, name: &str, keys: &[u8], contacts: &[String]) -> Engine {
    with(wire, name, contacts, |parts| {
        parts.secrecy = Some(Secrecy::for_tests(keys, ON, 1));
    })
}

fn port(engine: &Engine) -> SocketAddr {
    let port = engine
        .address
        .rsplit(':')
        .next()
        .and_then(|p| p.parse().ok());
    ([127, 0, 0, 1], port.expect("a port")).into()
}

#[tokio::test]
async fn with_one_key_in_common_they_find_each_other() {
    let wire = Wire::default();
    let a = keyed(&wire, "a", &[2, 1], &[]);
    let seeds = [a.address.clone()];
    // b knows the old key alone, c the new one alone: a speaks to each as it understands
    let b = keyed(&wire, "b", &[1], &seeds);
    let c = keyed(&wire, "c", &[2, 1], &seeds);
    for e in [&a, &b, &c] {
        e.until("all three", |m| all_alive(m, 3)).await;
    }
    a.handle.set_lifecycle(Lifecycle::Draining);
    for e in [&b, &c] {
        e.until("the news", |m| {
            m.iter().any(|m| m.state.lifecycle == Lifecycle::Draining)
        })
        .await;
    }
    let rejected = b.handle.status().rejected;
    assert_eq!(rejected["unsealed"], 0, "{rejected:?}");
}

/// Who came back with the old key is asked under it: under the primary it would refuse, and both
/// sides would tell of a mismatch where there is none.
#[tokio::test]
async fn who_knows_the_old_key_alone_is_asked_under_it() {
    let wire = Wire::default();
    let a = keyed(&wire, "a", &[2, 1], &[]);
    let b = keyed(&wire, "b", &[1], std::slice::from_ref(&a.address));
    a.until("both", |m| all_alive(m, 2)).await;
    let asked = tokio::time::timeout(GENEROUS, async {
        loop {
            match a.handle.contact(&b.address).await {
                // one with it may be under way
                Err(error) if matches!(error.downcast_ref(), Some(PeerError::Full { .. })) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                asked => return asked,
            }
        }
    });
    let asked = asked.await.expect("no exchange is under way for long");
    assert_eq!(asked.expect("b reads it"), id("b"));
}

#[tokio::test]
async fn without_the_right_key_both_sides_say_so() {
    let wire = Wire::default();
    let a = keyed(&wire, "a", &[1], &[]);
    let b = keyed(&wire, "b", &[2], std::slice::from_ref(&a.address));
    let here = a.until_event(EventCode::KeyMismatch).await;
    assert!(here.contains("does not hold"), "{here}");
    let there = b.until_event(EventCode::KeyMismatch).await;
    assert!(
        there.contains("refuses") && there.contains("a at"),
        "{there}"
    );
    let plain = engine(&wire, "c", std::slice::from_ref(&a.address));
    let there = plain.until_event(EventCode::KeyMismatch).await;
    assert!(there.contains("gossip.verify_incoming"), "{there}");
    assert_eq!(a.handle.members().len(), 1);
    let rejected = a.handle.status().rejected;
    assert!(
        rejected["unopened"] > 0 && rejected["unsealed"] > 0,
        "{rejected:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_common_version_is_said_on_both_sides() {
    let wire = Wire::default();
    let speaking = |lowest, highest, name: &str, contacts: &[String]| {
        with(&wire, name, contacts, |parts| {
            parts.speaks = Speaks { lowest, highest };
        })
    };
    let a = speaking(2, 3, "a", &[]);
    let b = speaking(4, 5, "b", &[]);
    let wrong = Packet {
        cluster: cluster(),
        to: id("a"),
        from: codec::Brief::of(&member("b")),
        intro: None,
        ask: false,
        body: Body::Ping { seq: 1 },
        claims: vec![],
    };
    let content = codec::content(&wrong).expect("encodes");
    let bytes = crate::gossip::envelope::plain(
        2,
        Speaks {
            lowest: 2,
            highest: 3,
        },
        &content,
    );
    // as if a had sent it: b answers with its card, which a understands
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.send_to(&bytes, port(&b)).expect("sent");
    let mut buffer = [0; 200];
    socket.set_read_timeout(Some(GENEROUS)).expect("set");
    let n = socket.recv(&mut buffer).expect("a card");
    socket.send_to(&buffer[..n], port(&a)).expect("sent");
    let said = a.until_event(EventCode::ProtocolMismatch).await;
    assert!(
        said.contains("b at") && said.contains("speaks gossip protocol 4 to 5, this node 2 to 3"),
        "{said}"
    );
    // a's card came back to the socket, as an answer; b takes it from there
    let n = socket.recv(&mut buffer).expect("a card");
    socket.send_to(&buffer[..n], port(&b)).expect("sent");
    let said = b.until_event(EventCode::ProtocolMismatch).await;
    assert!(
        said.contains("a at") && said.contains("2 to 3, this node 4 to 5"),
        "{said}"
    );
    for node in [&a, &b] {
        // a status is published a moment after what it tells of
        let counted = async {
            while node.handle.status().rejected["version"] == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = tokio::time::timeout(GENEROUS, counted).await;
        assert!(waited.is_ok(), "it is counted");
    }
}

/// Bytes that wait in a socket of this machine's, if it is on the list: while others come and go,
/// a reading may pass one over.
fn waiting(socket: SocketAddr) -> Option<usize> {
    let table = std::fs::read_to_string("/proc/net/udp").expect("this system lists its sockets");
    let here = format!(":{:04X}", socket.port());
    let mut rows = table.lines().map(|row| row.split_whitespace());
    let mut row = rows.find(|row| row.clone().nth(1).is_some_and(|at| at.ends_with(&here)))?;
    let queues = row.nth(4).and_then(|queues| queues.split_once(':'));
    let received = queues.map(|(_, received)| usize::from_str_radix(received, 16));
    Some(received.expect("two lengths").expect("in hex"))
}

/// What waits at most: there is always something, and room for others' packets beside it. A
/// sender without end would fill the socket, and what is sent then is lost before it is read.
const NOISE_WAITING: usize = 64 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_does_not_hold_up_the_probes() {
    let wire = Wire::default();
    let in_earnest = |name: &str, contacts: &[String]| {
        with(&wire, name, contacts, |parts| {
            parts.secrecy = Some(Secrecy::for_tests(&[1], ON, 1));
            parts.config = GossipConfig::default();
        })
    };
    let a = in_earnest("a", &[]);
    let b = in_earnest("b", std::slice::from_ref(&a.address));
    a.until("b", |m| all_alive(m, 2)).await;
    b.until("a", |m| all_alive(m, 2)).await;
    let over = Arc::new(AtomicBool::new(false));
    let (stop, to) = (Arc::clone(&over), port(&a));
    let flood = tokio::task::spawn_blocking(move || {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let noise = [b"RG\x02\x02\x02\x01".as_slice(), &[7; 900]].concat();
        while !stop.load(Ordering::Relaxed) {
            while waiting(to).is_some_and(|bytes| bytes < NOISE_WAITING) {
                for _ in 0..16 {
                    let _ = socket.send_to(&noise, to);
                }
            }
            std::thread::yield_now();
        }
    });
    let refused = || a.handle.status().rejected["unopened"];
    let probes = |e: &Engine| e.handle.status().probes;
    let (before, seen) = (refused(), (probes(&a).direct, probes(&b).direct));
    a.until("answered probes, both ways, through the noise", |_| {
        let answered = (probes(&a).direct, probes(&b).direct);
        answered.0 >= seen.0 + 3 && answered.1 >= seen.1 + 3 && refused() > before + 2000
    })
    .await;
    over.store(true, Ordering::Relaxed);
    flood.await.expect("joined");
    a.until("b, still", |m| all_alive(m, 2)).await;
    for e in [&a, &b] {
        let events = e.events.newest(1000);
        assert!(events.len() < 1000, "none was pushed out");
        let doubts = [EventCode::MemberSuspected, EventCode::MemberDead];
        let doubt = events.iter().find(|e| doubts.contains(&e.code));
        assert_eq!(doubt, None, "nobody was doubted meanwhile");
    }
}

/// Answers of `to` to pings of a member of its, one after the other.
fn ping_until(over: &CancellationToken, to: SocketAddr, pings: u32) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let wait = Duration::from_millis(200);
    socket.set_read_timeout(Some(wait)).expect("set");
    let mut buffer = [0; 2000];
    for seq in 0..pings {
        let ping = Packet {
            cluster: cluster(),
            to: id("a"),
            from: codec::Brief::of(&member("b")),
            intro: None,
            ask: false,
            body: Body::Ping { seq },
            claims: vec![],
        };
        let bytes = codec::encode(&ping).expect("encodes");
        let mut answered = false;
        while !answered && !over.is_cancelled() {
            socket.send_to(&bytes, to).expect("sent");
            let got = socket.recv(&mut buffer).unwrap_or(0);
            let packet = codec::decode(&buffer[..got]);
            answered = packet.is_ok_and(|p| p.body == Body::Ack { seq });
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_questions_over_tcp_does_not_hold_up_the_packets() {
    let wire = Wire::default();
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let known = (0..2000).map(|n| MemberState {
        address: "127.0.0.1:9".into(),
        ..member(&format!("n{n}"))
    });
    let known = known.chain([member("b")]).collect();
    let a = engine_knowing(&wire, socket, ("localhost", "a", 1), &[], known, |parts| {
        parts.config = GossipConfig::default();
    });
    let over = CancellationToken::new();
    let flood: Vec<_> = (0..32)
        .map(|_| {
            let (handle, over) = (a.handle.clone(), over.clone());
            tokio::spawn(async move {
                while !over.is_cancelled() {
                    handle.exchange(&id("z"), b"junk".to_vec()).await;
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    a.until("the junk comes in", |_| {
        a.handle.status().rejected_messages > 100
    })
    .await;
    let (to, ended) = (port(&a), over.clone());
    let pings = tokio::task::spawn_blocking(move || ping_until(&ended, to, 100));
    let answered = tokio::time::timeout(GENEROUS, pings).await;
    over.cancel();
    for task in flood {
        task.await.expect("joined");
    }
    answered.expect("packets have their turn").expect("joined");
}

#[tokio::test]
async fn agreeing_nodes_exchange_little_and_count_it() {
    let wire = Wire::default();
    let a = keyed(&wire, "a", &[1], &[]);
    let b = keyed(&wire, "b", &[1], std::slice::from_ref(&a.address));
    b.until("a", |m| all_alive(m, 2)).await;
    a.until("b", |m| all_alive(m, 2)).await;
    tokio::time::timeout(GENEROUS, async {
        while b.handle.traffic().exchanges_equal == 0 {
            b.handle.contact(&a.address).await.expect("answers");
        }
    })
    .await
    .expect("they agree before long");
    let before = b.handle.traffic();
    let equal_before = before.exchanges_equal;
    b.handle.contact(&a.address).await.expect("answers");
    let after = b.handle.traffic();
    assert!(after.exchanges_equal > equal_before);
    assert!(after.exchange_bytes_sent > before.exchange_bytes_sent);
    assert!(after.exchanges_differing > 0, "the first one");
    a.until("packets are counted", |_| {
        let traffic = a.handle.traffic();
        traffic.udp_sent_packets > 0 && traffic.udp_received_bytes > 0
    })
    .await;
}
