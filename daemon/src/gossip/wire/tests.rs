//! What is read and what is refused, and for which reason.

use proptest::prelude::*;

use super::{
    super::{
        MemberState,
        claim::Claim,
        codec::{Body, Brief},
        reconcile::Summary,
        secrecy::{
            Verify,
            joining::{self, Proof},
        },
        testing::{cluster, id, member},
    },
    *,
};

const ON: Verify = Verify {
    incoming: true,
    outgoing: true,
};
const TAKES: Verify = Verify {
    incoming: false,
    outgoing: false,
};
const SEALS: Verify = Verify {
    incoming: false,
    outgoing: true,
};

/// This node's clock.
const NOW: u64 = 1_780_000_000_000;

fn speaks(lowest: u8, highest: u8) -> Speaks {
    Speaks { lowest, highest }
}

fn wire(name: &str, speaks: Speaks, secrecy: Option<Secrecy>) -> Wire {
    Wire::new(id(name), cluster(), speaks, secrecy, 1400)
}

#[expect(clippy::unnecessary_wraps, reason = "as engines are given it")]
fn keys(keys: &[u8], verify: Verify) -> Option<Secrecy> {
    Some(Secrecy::for_tests(keys, verify, 1))
}

fn ping(from: &str, to: &str) -> Packet {
    Packet {
        cluster: cluster(),
        to: id(to),
        from: Brief::of(&member(from)),
        intro: None,
        ask: false,
        body: Body::Ping { seq: 1 },
        claims: vec![],
    }
}

fn ask(from: &str) -> Message<Ask> {
    Message {
        cluster: cluster(),
        from: Brief::of(&member(from)),
        what: Ask::Compare(Summary {
            salt: 1,
            sum: 2,
            buckets: vec![2],
            from: 0,
        }),
    }
}

fn equal(from: &str) -> Message<Answer> {
    Message {
        cluster: cluster(),
        from: Brief::of(&member(from)),
        what: Answer::Equal,
    }
}

fn why<T: std::fmt::Debug>(read: Result<T, Refusal>) -> Option<Rejected> {
    read.err().map(|refusal| {
        assert!(!refusal.text.is_empty());
        refusal.why
    })
}

#[test]
fn plain_or_sealed_by_the_settings_of_both() {
    let cases = [
        (None, None, None),
        (None, keys(&[1], TAKES), None),
        (None, keys(&[1], ON), Some(Rejected::Unsealed)),
        (keys(&[1], TAKES), None, None),
        (keys(&[1], TAKES), keys(&[1], ON), Some(Rejected::Unsealed)),
        (keys(&[1], SEALS), keys(&[1], TAKES), None),
        (keys(&[1], SEALS), keys(&[1], ON), None),
        (keys(&[1], ON), None, Some(Rejected::Unopened)),
        (keys(&[1], ON), keys(&[2], ON), Some(Rejected::Unopened)),
        (keys(&[1], ON), keys(&[2], TAKES), Some(Rejected::Unopened)),
        (keys(&[1], ON), keys(&[2, 1], ON), None),
    ];
    for (n, (from, to, want)) in cases.into_iter().enumerate() {
        let from = wire("a", Speaks::OURS, from);
        let mut to = wire("b", Speaks::OURS, to);
        let bytes = from.packet(0, &ping("a", "b")).expect("encodes");
        assert_eq!(why(to.read(NOW, &bytes)), want, "case {n}");
        let (bytes, _) = from.ask(0, None, &ask("a")).expect("encodes");
        assert_eq!(why(to.read_ask(NOW, &bytes)), want, "case {n}, asked");
    }
}

#[test]
fn a_sealed_packet_is_taken_once_by_who_it_was_made_for() {
    let a = wire("a", Speaks::OURS, keys(&[1], ON));
    let mut b = wire("b", Speaks::OURS, keys(&[1], ON));
    let bytes = a.packet(0, &ping("a", "b")).expect("encodes");
    assert!(
        bytes.len()
            <= codec::packet_bytes(&ping("a", "b")) + overhead_bytes(keys(&[1], ON).as_ref())
    );
    assert!(b.read(NOW, &bytes).is_ok());
    assert_eq!(why(b.read(NOW, &bytes)), Some(Rejected::Replayed));
    // as if it came over the other way
    assert_eq!(why(b.read_ask(NOW, &bytes)), Some(Rejected::Unopened));
    // who has the key and speaks for another life
    let mut lies = ping("a", "b");
    lies.from.generation = 0;
    let bytes = a.packet(0, &lies).expect("encodes");
    assert_eq!(why(b.read(NOW, &bytes)), Some(Rejected::Unacceptable));
    // the same keys in another cluster
    let theirs = ClusterId::new("11111111-2f43-4a52-9f7e-3c1de9c0a111").expect("valid");
    let other = Wire::new(id("z"), theirs, Speaks::OURS, keys(&[1], ON), 1400);
    let bytes = other.packet(0, &ping("z", "b")).expect("encodes");
    assert_eq!(why(b.read(NOW, &bytes)), Some(Rejected::Unopened));
}

#[test]
fn answers_are_bound_to_their_question() {
    for verify in [ON, SEALS, TAKES] {
        let mut a = wire("a", Speaks::OURS, keys(&[1], verify));
        let mut b = wire("b", Speaks::OURS, keys(&[2, 1], verify));
        let (first, bond) = a.ask(0, None, &ask("a")).expect("encodes");
        let (_, other_bond) = a.ask(0, None, &ask("a")).expect("encodes");
        let asked = b.read_ask(NOW, &first).expect("readable");
        assert_eq!(asked.ask, ask("a"));
        let answer = b.answer(&asked.bond, &equal("b")).expect("encodes");
        assert_eq!(a.read_answer(&bond, &answer), Ok(equal("b")), "{verify:?}");
        if verify.outgoing {
            let late = a.read_answer(&other_bond, &answer);
            assert_eq!(why(late), Some(Rejected::Unopened));
        }
    }
}

#[test]
fn the_highest_common_version_is_used_once_it_is_known() {
    let (mut a, mut b) = (wire("a", speaks(2, 3), None), wire("b", speaks(2, 5), None));
    let version = |bytes: &[u8]| bytes[2];
    let first = a.packet(0, &ping("a", "b")).expect("encodes");
    assert_eq!(version(&first), 2, "a stranger");
    assert!(b.read(NOW, &first).is_ok());
    let answer = b.packet(0, &ping("b", "a")).expect("encodes");
    assert_eq!(version(&answer), 3);
    assert!(a.read(NOW, &answer).is_ok());
    let (question, bond) = a
        .ask(0, Some(Receiver::Known(&id("b"))), &ask("a"))
        .expect("encodes");
    assert_eq!(version(&question), 3);
    let asked = b.read_ask(NOW, &question).expect("readable");
    let answer = b.answer(&asked.bond, &equal("b")).expect("encodes");
    assert_eq!(version(&answer), 3);
    assert!(a.read_answer(&bond, &answer).is_ok());
}

#[test]
fn without_a_common_version_both_sides_learn_who_the_other_is() {
    let (mut new, mut old) = (
        wire("node-3", speaks(4, 5), None),
        wire("node-1", speaks(2, 3), None),
    );
    let packet = new.packet(0, &ping("node-3", "node-1")).expect("encodes");
    let refusal = old.read(NOW, &packet).expect_err("unreadable");
    assert_eq!(refusal.why, Rejected::Version);
    assert_eq!(refusal.speaks, Some(speaks(4, 5)));
    assert!(
        refusal.text.contains("speaks 4 to 5, this node 2 to 3"),
        "{}",
        refusal.text
    );
    let card = |id, asks| Card { id, asks };
    let read = new.read(NOW, &old.card(true)).expect("a card");
    assert_eq!(read, Datagram::Card(card(id("node-1"), true), speaks(2, 3)));
    let read = old.read(NOW, &new.card(false)).expect("a card");
    assert_eq!(
        read,
        Datagram::Card(card(id("node-3"), false), speaks(4, 5))
    );
    // a node of the first version has no envelope
    let refusal = old.read(NOW, b"RG\x01abcdefgh").expect_err("unreadable");
    assert_eq!(
        (refusal.why, refusal.speaks),
        (Rejected::Version, Some(speaks(1, 1)))
    );
}

#[test]
fn a_card_changes_nothing_where_only_sealed_messages_count() {
    for (verify, believed) in [(ON, false), (SEALS, true)] {
        let mut a = wire("a", speaks(2, 5), keys(&[1], verify));
        let card = wire("b", speaks(2, 4), None).card(false);
        assert!(a.read(NOW, &card).is_ok());
        let bytes = a.packet(0, &ping("a", "b")).expect("encodes");
        assert_eq!(bytes[2] == 4, believed);
    }
}

#[test]
fn what_is_too_long_is_not_looked_at() {
    let mut b = wire("b", Speaks::OURS, None);
    let most = b.datagram_bytes_max();
    assert_eq!(most, 5600);
    assert_eq!(
        why(b.read(NOW, &vec![0; most + 1])),
        Some(Rejected::Oversized)
    );
    assert_eq!(why(b.read(NOW, &vec![0; most])), Some(Rejected::Damaged));
    let long = vec![0; MESSAGE_BYTES_MAX + 1];
    assert_eq!(why(b.read_ask(NOW, &long)), Some(Rejected::Oversized));
    assert_eq!(datagram_bytes_max(512), 4096);
    assert_eq!(datagram_bytes_max(60_000), codec::DATAGRAM_BYTES_MAX);
}

proptest! {
    #[test]
    fn damage_is_dropped_and_counted_as_what_it_is(
        sealed in any::<bool>(),
        at in any::<prop::sample::Index>(),
        bit in 0..8u8,
    ) {
        let secrecy = || sealed.then(|| keys(&[1], ON)).flatten();
        let a = wire("a", Speaks::OURS, secrecy());
        let mut b = wire("b", Speaks::OURS, secrecy());
        let mut packet = ping("a", "b");
        packet.intro = Some(member("a").into());
        packet.claims = ["c", "d", "e"]
            .map(|about| Claim {
                from: id("a"),
                state: member(about).into(),
            })
            .into();
        let bytes = a.packet(0, &packet).expect("encodes");
        let at = at.index(bytes.len());
        let fits = |why: Option<Rejected>| {
            use Rejected::{Damaged, Unopened, Unsealed, Version};
            matches!(why, Some(Damaged | Unopened | Unsealed | Version))
        };
        prop_assert!(fits(why(b.read(NOW, &bytes[..at]))));
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << bit;
        prop_assert!(fits(why(b.read(NOW, &flipped))));
        prop_assert!(b.read(NOW, &bytes).is_ok(), "nothing of that used its number up");
    }

    #[test]
    fn noise_never_panics(
        bytes in prop::collection::vec(any::<u8>(), 0..2000),
        sealed in any::<bool>(),
    ) {
        let mut b = wire("b", Speaks::OURS, sealed.then(|| keys(&[1], ON)).flatten());
        prop_assert!(b.read(NOW, &bytes).is_err());
        let framed = envelope::plain(2, Speaks::OURS, &bytes);
        let _ = b.read(NOW, &framed);
        let _ = b.read_ask(NOW, &framed);
        let (_, bond) = b.ask(0, None, &ask("b")).expect("encodes");
        let _ = b.read_answer(&bond, &framed);
    }
}

/// A node that refutes by a later generation keeps its process, and with it its numbers.
#[test]
fn a_later_life_of_the_same_process_is_heard() {
    let secrecy = Secrecy::for_tests(&[1], ON, 1);
    let a = wire("a", Speaks::OURS, Some(secrecy.clone()));
    let mut b = wire("b", Speaks::OURS, keys(&[1], ON));
    let mut earlier = ping("a", "b");
    let first = a.packet(0, &earlier).expect("encodes");
    assert_eq!(why(b.read(NOW, &first)), None);
    earlier.from.generation = 2;
    let later = a.packet(0, &earlier).expect("encodes");
    assert_eq!(why(b.read(NOW, &later)), None);
    let mut question = ask("a");
    question.from.generation = 2;
    let (question, _) = a.ask(0, None, &question).expect("encodes");
    assert_eq!(why(b.read_ask(NOW, &question)), None);
    // and whatever else the process seals
    let order = secrecy.seal(Purpose::Order, &[], None, b"order");
    let theirs = b.secrecy.as_ref().expect("keys");
    let opened = theirs.open(Purpose::Order, &[], &order).expect("opens");
    assert!(theirs.admit(Purpose::Order, &id("a"), &opened));
    assert_eq!(why(b.read(NOW, &first)), Some(Rejected::Replayed));
}

/// A start with a clock far ahead is refused by everybody, and must not count as the sender's latest
/// life: with the clock set right it is heard, and let in, at once.
#[test]
fn a_life_too_far_ahead_does_not_shut_the_true_one_out() {
    let far = NOW + 2 * 365 * 24 * 3600 * 1000;
    let seed = Secrecy::for_tests(&[1], ON, 1);
    let mut b = wire("b", Speaks::OURS, Some(seed.clone()));
    for (generation, refused) in [
        (far, Some(Rejected::Unacceptable)),
        (NOW, None),
        (far, Some(Rejected::Unacceptable)),
        (NOW + 1, None),
    ] {
        let keyring = Secrecy::for_tests(&[1], ON, generation);
        let a = wire("a", Speaks::OURS, Some(keyring.clone()));
        let mut packet = ping("a", "b");
        packet.from.generation = generation;
        let bytes = a.packet(0, &packet).expect("encodes");
        assert_eq!(why(b.read(NOW, &bytes)), refused, "{generation}");
        let mut question = ask("a");
        question.from.generation = generation;
        let (bytes, _) = a.ask(0, None, &question).expect("encodes");
        assert_eq!(why(b.read_ask(NOW, &bytes)), refused, "{generation}, asked");
        if refused.is_none() {
            let me = MemberState {
                generation,
                ..member("a")
            };
            let proof = Proof::of(Some(&keyring), &me);
            let judged = joining::judge(Some(&seed), &me, &proof.bytes);
            assert!(judged.is_ok(), "{generation}: {judged:?}");
        }
    }
}
