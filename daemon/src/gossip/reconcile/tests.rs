//! Two lists, brought together over encoded messages; what that costs; and nonsense.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{
    super::{
        claim::beats,
        testing::{cluster, id, member},
    },
    *,
};

type List = BTreeMap<NodeId, Arc<MemberState>>;

fn list(members: impl IntoIterator<Item = MemberState>) -> List {
    let named = |m: MemberState| (m.id.clone(), Arc::new(m));
    members.into_iter().map(named).collect()
}

fn states(list: &List) -> Vec<Arc<MemberState>> {
    list.values().cloned().collect()
}

/// Which claim wins, without the rules for deaths: those have their tests in the core.
fn merge(list: &mut List, states: Vec<Arc<MemberState>>) {
    for state in states {
        match list.get(&state.id) {
            Some(held) if !beats(&state, held) => {}
            _ => {
                list.insert(state.id.clone(), state);
            }
        }
    }
}

/// Bytes of a message on the wire, without envelope and seal.
fn bytes<T: Serialize>(what: T) -> usize {
    let message = Message {
        cluster: cluster(),
        from: Brief::of(&member("node-1")),
        what,
    };
    postcard::to_stdvec(&message).expect("encodes").len()
}

struct Cost {
    equal: bool,
    questions: u32,
    bytes: usize,
    largest: usize,
}

/// One exchange that `asker` begins with `other`.
fn exchange(salt: u64, asker: &mut List, other: &mut List) -> Cost {
    let (mut asking, mut ask) = Asking::begin(salt, &states(asker));
    let mut cost = Cost {
        equal: false,
        questions: 0,
        bytes: 0,
        largest: 0,
    };
    loop {
        cost.questions += 1;
        let asked = bytes(&ask);
        let answer = match ask {
            Ask::Compare(summary) => compare(&summary, states(other)).expect("makes sense"),
            Ask::Take { states } => {
                assert!(states.len() <= STATES_MAX);
                merge(other, states);
                Answer::Taken
            }
        };
        let answered = bytes(&answer);
        cost.bytes += asked + answered;
        cost.largest = cost.largest.max(asked).max(answered);
        let (next, got) = asking.next(answer, &states(asker));
        merge(asker, got);
        match next {
            Next::Ask(next) => ask = next,
            Next::Done { equal } => {
                cost.equal = equal;
                return cost;
            }
            Next::Nonsense => panic!("nonsense"),
        }
    }
}

fn crowd(n: usize) -> List {
    list((0..n).map(|n| member(&format!("node-{n}"))))
}

#[test]
fn agreeing_costs_the_same_whatever_the_size() {
    let costs: Vec<usize> = [3, 100, 10_000]
        .into_iter()
        .map(|n| {
            let (mut a, mut b) = (crowd(n), crowd(n));
            let cost = exchange(77, &mut a, &mut b);
            assert!(cost.equal && cost.questions == 1, "{n} members");
            cost.bytes
        })
        .collect();
    assert!(costs.iter().all(|c| *c < 160), "{costs:?} bytes both ways");
    assert!(costs[2] <= costs[0] + 16, "{costs:?}");
}

#[test]
fn one_difference_among_ten_thousand_costs_little() {
    let (mut a, mut b) = (crowd(10_000), crowd(10_000));
    let mut newer = member("node-7");
    newer.incarnation = 5;
    b.insert(newer.id.clone(), Arc::new(newer));
    let cost = exchange(1, &mut a, &mut b);
    assert_eq!(states(&a), states(&b));
    let full = bytes(states(&a));
    assert!(cost.bytes < full / 30, "{} of {full} bytes", cost.bytes);
}

#[test]
fn a_stranger_gets_everything_in_messages_of_bounded_size() {
    for (mut a, mut b) in [
        (list([member("new")]), crowd(10_000)),
        (crowd(10_000), list([member("new")])),
    ] {
        let cost = exchange(3, &mut a, &mut b);
        assert_eq!(a.len(), 10_001);
        assert_eq!(states(&a), states(&b));
        assert!(cost.largest <= MESSAGE_BYTES_MAX / 4, "{}", cost.largest);
    }
    let text = "x".repeat(64);
    let longest = MemberState {
        id: id(&text),
        address: "x".repeat(262),
        zone: text.clone(),
        version: text,
        generation: u64::MAX,
        incarnation: u64::MAX,
        ..member("x")
    };
    let states = vec![Arc::new(longest); STATES_MAX];
    assert!(bytes(Ask::Take { states }) < MESSAGE_BYTES_MAX);
}

#[test]
fn who_left_is_no_difference_but_is_told_where_it_matters() {
    let gone = MemberState {
        status: MemberStatus::Left,
        ..member("gone")
    };
    let (mut a, mut b) = (crowd(3), crowd(3));
    b.insert(id("gone"), Arc::new(gone));
    assert!(exchange(1, &mut a, &mut b).equal);
    a.insert(id("gone"), Arc::new(member("gone")));
    assert!(!exchange(1, &mut a, &mut b).equal);
    assert_eq!(a[&id("gone")].status, MemberStatus::Left);
}

#[test]
fn a_node_that_goes_says_only_that() {
    let (mut asking, ask) = Asking::telling(Arc::new(member("me")));
    assert!(matches!(ask, Ask::Take { states } if states.len() == 1));
    let (next, got) = asking.next(Answer::Taken, &[]);
    assert_eq!((next, got.len()), (Next::Done { equal: false }, 0));
}

#[test]
fn nonsense_ends_the_exchange() {
    let summary = |buckets: usize| Summary {
        salt: 1,
        sum: 0,
        buckets: vec![0; buckets],
        from: 0,
    };
    for buckets in [3, 2048, 1025] {
        assert_eq!(
            compare(&summary(buckets), vec![]),
            None,
            "{buckets} buckets"
        );
    }
    let far = Summary {
        from: u16::MAX,
        ..summary(4)
    };
    let answer = compare(&far, states(&crowd(9))).expect("nothing is left to compare");
    assert!(matches!(answer, Answer::Differs { states, .. } if states.is_empty()));

    let many = vec![Arc::new(member("x")); STATES_MAX + 1];
    let differs = |states, more_from| Answer::Differs {
        buckets: vec![0, 9, u16::MAX],
        states,
        more_from,
    };
    let answers = [
        Answer::Taken,
        Answer::Unequal { members: 9 },
        differs(many, None),
        differs(vec![], Some(0)),
        differs(vec![], Some(900)),
    ];
    for answer in answers {
        let all = states(&crowd(9));
        let (mut asking, _) = Asking::begin(1, &all);
        let shown = format!("{:.60}", format!("{answer:?}"));
        assert_eq!(asking.next(answer, &all).0, Next::Nonsense, "{shown}");
    }
}

#[test]
fn an_answerer_that_never_ends_is_left() {
    let all = states(&crowd(10_000));
    let (mut asking, _) = Asking::begin(1, &all);
    let mut answer = Answer::Unequal { members: 0 };
    for more in 1..=u16::MAX {
        match asking.next(answer, &all).0 {
            Next::Ask(Ask::Take { .. }) => answer = Answer::Taken,
            Next::Ask(Ask::Compare(_)) => {
                answer = Answer::Differs {
                    buckets: vec![],
                    states: vec![],
                    more_from: Some(more),
                };
            }
            Next::Done { .. } => {
                assert!(u32::from(more) <= QUESTIONS_MAX + 1);
                return;
            }
            Next::Nonsense => panic!("not yet"),
        }
    }
    panic!("it went on for ever");
}

fn any_list() -> impl Strategy<Value = List> {
    use MemberStatus::{Alive, Dead, Stopped, Suspected};
    let status = prop::sample::select(vec![Alive, Suspected, Dead, Stopped]);
    let member =
        (0..60u32, 0..3u64, 0..3u64, status).prop_map(|(n, generation, incarnation, status)| {
            MemberState {
                generation,
                incarnation,
                status,
                ..member(&format!("n{n}"))
            }
        });
    prop::collection::vec(member, 0..60).prop_map(list)
}

proptest! {
    #[test]
    fn both_hold_the_winners_afterwards(a in any_list(), b in any_list(), salt in any::<u64>()) {
        let mut expected = a.clone();
        merge(&mut expected, states(&b));
        let (mut a, mut b) = (a, b);
        let same = a == b;
        let cost = exchange(salt, &mut a, &mut b);
        prop_assert_eq!(&a, &expected);
        prop_assert_eq!(&b, &expected);
        prop_assert_eq!(cost.equal, same);
        prop_assert!(exchange(salt.wrapping_add(1), &mut a, &mut b).equal);
    }

    #[test]
    fn random_messages_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(Message { what: Ask::Compare(summary), .. }) = postcard::from_bytes::<Message<Ask>>(&bytes) {
            let _ = compare(&summary, states(&crowd(20)));
        }
        if let Ok(message) = postcard::from_bytes::<Message<Answer>>(&bytes) {
            let all = states(&crowd(20));
            let _ = Asking::begin(1, &all).0.next(message.what, &all);
        }
    }
}
