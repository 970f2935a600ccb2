//! The register under every order of messages that a generator can think of.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::topology::fixture::{id, topology};

fn ballot(round: u64, node: &str) -> Ballot {
    Ballot {
        round,
        node: id(node),
        life: 1,
    }
}

/// A successor of the base that nobody else proposes.
fn value_of(base: &Topology, tag: &str) -> Topology {
    let mut value = base.clone();
    value.epoch += 1;
    value.members[0].address = tag.into();
    value
}

#[test]
fn an_acceptor_keeps_its_promises() {
    let base = topology(1, &["a", "b", "c"]);
    let mut acceptor = AcceptorState::fresh(1);
    let promised = |accepted| RegisterReply::Promised { accepted };
    assert_eq!(acceptor.prepare(ballot(2, "a")), promised(None));
    assert_eq!(
        acceptor.prepare(ballot(2, "a")),
        promised(None),
        "asked twice"
    );
    let outbid = RegisterReply::Rejected {
        promised: ballot(2, "a"),
    };
    assert_eq!(acceptor.prepare(ballot(1, "z")), outbid);
    assert_eq!(
        acceptor.accept(ballot(1, "z"), value_of(&base, "z")),
        outbid
    );
    let value = value_of(&base, "b");
    assert_eq!(
        acceptor.accept(ballot(2, "b"), value.clone()),
        RegisterReply::Accepted
    );
    assert_eq!(
        acceptor.promised,
        Some(ballot(2, "b")),
        "an accept is a promise as well"
    );
    assert_eq!(
        acceptor.prepare(ballot(3, "a")),
        promised(Some((ballot(2, "b"), value)))
    );
}

#[test]
fn a_proposer_carries_on_what_may_be_decided() {
    let base = topology(1, &["a", "b", "c"]);
    let (old, older) = (value_of(&base, "old"), value_of(&base, "older"));
    let mut proposer = Proposer::new(base.clone(), value_of(&base, "own"), ballot(9, "a"));
    let promise = |b, v: &Topology| RegisterReply::Promised {
        accepted: Some((b, v.clone())),
    };
    assert_eq!(
        proposer.on_reply(&id("x"), promise(ballot(1, "x"), &older)),
        Step::Wait
    );
    assert_eq!(
        proposer.on_reply(&id("a"), promise(ballot(3, "b"), &older)),
        Step::Wait
    );
    assert_eq!(
        proposer.on_reply(&id("a"), promise(ballot(3, "b"), &older)),
        Step::Wait,
        "twice"
    );
    let Step::Send(RegisterRequest::Accept { value, .. }) =
        proposer.on_reply(&id("b"), promise(ballot(4, "a"), &old))
    else {
        panic!("a majority promised");
    };
    assert_eq!(value, old);
    assert_eq!(
        proposer.on_reply(&id("b"), RegisterReply::Accepted),
        Step::Wait
    );
    assert_eq!(
        proposer.on_reply(&id("b"), RegisterReply::Accepted),
        Step::Wait,
        "twice"
    );
    assert_eq!(
        proposer.on_reply(&id("c"), RegisterReply::Accepted),
        Step::Decided(old)
    );
    assert_eq!(
        proposer.on_reply(&id("a"), RegisterReply::Accepted),
        Step::Wait,
        "it is over"
    );
}

#[test]
fn a_proposer_gives_up_when_it_must() {
    let base = topology(1, &["a", "b", "c"]);
    let start = || Proposer::new(base.clone(), value_of(&base, "own"), ballot(2, "a"));
    let rejected = RegisterReply::Rejected {
        promised: ballot(7, "c"),
    };
    assert_eq!(
        start().on_reply(&id("b"), rejected),
        Step::Outbid(ballot(7, "c"))
    );
    let later = topology(5, &["a"]);
    let newer = RegisterReply::Newer(later.clone());
    assert_eq!(start().on_reply(&id("b"), newer), Step::Superseded(later));
    let mut proposer = start();
    assert_eq!(proposer.on_lost(&id("b")), Step::Wait);
    assert_eq!(proposer.on_lost(&id("b")), Step::Wait, "the same one");
    assert_eq!(
        proposer.on_reply(&id("c"), RegisterReply::Behind { epoch: 0 }),
        Step::Unreachable([id("c")].into())
    );
}

/// What may happen next in the world below; the numbers choose among what is there.
#[derive(Debug, Clone)]
enum Act {
    /// A proposer starts over with a ballot above all it saw.
    Start(usize),
    Deliver(usize),
    /// Delivers and keeps the message, so that it can come again.
    Double(usize),
    Lose(usize),
    /// An acceptor comes back with what it had synced.
    Restart(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        2 => (0_usize..3).prop_map(Act::Start),
        12 => any::<usize>().prop_map(Act::Deliver),
        3 => any::<usize>().prop_map(Act::Double),
        2 => any::<usize>().prop_map(Act::Lose),
        2 => (0_usize..5).prop_map(Act::Restart),
    ];
    prop::collection::vec(act, 1..160)
}

#[derive(Debug, Clone)]
enum Message {
    Ask {
        to: usize,
        by: usize,
        request: RegisterRequest,
    },
    Answer {
        from: usize,
        to: usize,
        about: Ballot,
        reply: RegisterReply,
    },
}

struct World {
    names: Vec<&'static str>,
    base: Topology,
    /// In memory, and synced; an answer leaves only after the sync.
    acceptors: Vec<(AcceptorState, AcceptorState)>,
    proposers: Vec<Option<Proposer>>,
    highest: Vec<u64>,
    network: Vec<Message>,
    decided: Vec<Topology>,
    restarts: usize,
}

impl World {
    fn new() -> Self {
        let names = vec!["a", "b", "c", "d", "e"];
        Self {
            base: topology(1, &names),
            acceptors: vec![(AcceptorState::fresh(1), AcceptorState::fresh(1)); names.len()],
            proposers: vec![None; 3],
            highest: vec![0; 3],
            network: Vec::new(),
            decided: Vec::new(),
            restarts: 0,
            names,
        }
    }

    fn broadcast(&mut self, by: usize, request: &RegisterRequest) {
        for to in 0..self.names.len() {
            let request = request.clone();
            self.network.push(Message::Ask { to, by, request });
        }
    }

    fn start(&mut self, who: usize) {
        self.highest[who] += 1;
        let mut tag = String::new();
        let _ = write!(tag, "{}-{}", self.names[who], self.highest[who]);
        let ballot = ballot(self.highest[who], self.names[who]);
        let proposer = Proposer::new(self.base.clone(), value_of(&self.base, &tag), ballot);
        let request = proposer.prepare();
        self.proposers[who] = Some(proposer);
        self.broadcast(who, &request);
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Ask { to, by, request } => {
                let acceptor = &mut self.acceptors[to];
                let (about, reply) = match request {
                    RegisterRequest::Prepare { ballot, .. } => {
                        (ballot.clone(), acceptor.0.prepare(ballot))
                    }
                    RegisterRequest::Accept { ballot, value, .. } => {
                        (ballot.clone(), acceptor.0.accept(ballot, value))
                    }
                    RegisterRequest::Recall { .. } => panic!("no proposer recalls votes"),
                };
                acceptor.1 = acceptor.0.clone();
                self.network.push(Message::Answer {
                    from: to,
                    to: by,
                    about,
                    reply,
                });
            }
            Message::Answer {
                from,
                to,
                about,
                reply,
            } => {
                let from = id(self.names[from]);
                let Some(proposer) = &mut self.proposers[to] else {
                    return;
                };
                if *proposer.ballot() != about {
                    return; // answers find their question by its number
                }
                match proposer.on_reply(&from, reply) {
                    Step::Send(request) => self.broadcast(to, &request),
                    Step::Decided(value) => self.decided.push(value),
                    Step::Outbid(above) => self.highest[to] = self.highest[to].max(above.round),
                    Step::Wait | Step::Superseded(_) | Step::Unreachable(_) => {}
                }
            }
        }
    }

    fn act(&mut self, act: &Act) {
        let pick = |n: usize, len: usize| (len > 0).then(|| n % len);
        match *act {
            Act::Start(who) => self.start(who),
            Act::Deliver(n) => {
                if let Some(at) = pick(n, self.network.len()) {
                    let message = self.network.swap_remove(at);
                    self.deliver(message);
                }
            }
            Act::Double(n) => {
                if let Some(at) = pick(n, self.network.len()) {
                    let message = self.network[at].clone();
                    self.deliver(message);
                }
            }
            Act::Lose(n) => {
                if let Some(at) = pick(n, self.network.len()) {
                    self.network.swap_remove(at);
                }
            }
            Act::Restart(who) => {
                self.acceptors[who].0 = self.acceptors[who].1.clone();
                self.restarts += 1;
            }
        }
    }
}

fn run(acts: &[Act]) -> World {
    let mut world = World::new();
    world.start(0);
    for act in acts {
        world.act(act);
    }
    // then the network calms down: what is on its way arrives, and somebody tries once more
    let mut left = 2_000;
    while let Some(message) = world.network.pop() {
        world.deliver(message);
        left -= 1;
        assert!(left > 0, "nobody retries by itself");
    }
    world.highest[0] = world.highest.iter().copied().max().unwrap_or(0) + 1;
    world.start(0);
    while let Some(message) = world.network.pop() {
        world.deliver(message);
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn one_value_an_epoch(acts in acts()) {
        let world = run(&acts);
        prop_assert!(!world.decided.is_empty(), "in a calm network a proposal is decided");
        let mut different = world.decided.clone();
        different.dedup();
        prop_assert_eq!(different.len(), 1, "two values were decided");
    }
}
