//! Calls over TCP: fallback pings and exchanges of lists, with the driver's limits.

use std::sync::Arc;

use ringmaster_shared::id::NodeId;

use super::{
    names::{self, Place, Who},
    world::{Arrival, Doing, Event, What, World},
};
use crate::gossip::{MemberState, claim, codec};

/// As the driver: exchanges under way, and how long one may take.
const EXCHANGES_MAX: usize = 8;
const EXCHANGE_TIMEOUT_MS: u64 = 10_000;

/// A call over TCP, or its answer.
pub enum Call {
    Ping {
        by: (Who, u32),
        seq: u32,
        wanted: NodeId,
        deadline_ms: u64,
    },
    Pong {
        to: (Who, u32),
        seq: u32,
        deadline_ms: u64,
    },
    PushPull {
        by: (Who, u32),
        states: Vec<Arc<MemberState>>,
        deadline_ms: u64,
    },
    Pulled {
        to: (Who, u32),
        by: NodeId,
        states: Vec<Arc<MemberState>>,
        deadline_ms: u64,
    },
    Foreign {
        to: (Who, u32),
        theirs: u8,
    },
}

impl World {
    /// Sends one half of a call; false when there is no way.
    pub(super) fn call(&mut self, who: Who, to: Place, call: Call) -> bool {
        let from = self.nodes[who].place;
        let Some(delay) = self.network.tcp(&mut self.rng, from, to) else {
            return false;
        };
        if self.network.tcp_extra_ms > 0 {
            self.counters.slow_tcp += 1;
        }
        let what = What::Tcp(Box::new(call));
        self.schedule(delay, Event::Arrival(Arrival { from, to, what }));
        true
    }

    pub(super) fn exchange(&mut self, who: Who, to: Place) {
        let node = &mut self.nodes[who];
        if node.exchanging.len() >= EXCHANGES_MAX || !node.exchanging.insert(to) {
            return;
        }
        self.counters.exchanges += 1;
        let (life, states) = (node.life, node.core.states());
        self.counters.exchange_bytes += Self::list_bytes(&states);
        let deadline_ms = self.now + EXCHANGE_TIMEOUT_MS;
        let by = (who, life);
        self.schedule(EXCHANGE_TIMEOUT_MS, Event::ExchangeOver(who, life, to));
        let call = Call::PushPull {
            by,
            states,
            deadline_ms,
        };
        if !self.call(who, to, call) {
            self.counters.exchanges_cut += 1;
        }
    }

    /// About what a list takes on the wire: all its states are about equally long.
    fn list_bytes(states: &[Arc<MemberState>]) -> u64 {
        let one = states.first().map_or(0, |state| {
            let claim = claim::Claim {
                state: state.clone(),
                from: state.id.clone(),
            };
            codec::claim_bytes(&claim)
        });
        (one * states.len()) as u64
    }

    /// A connection ends with its process, whoever has the address now.
    pub(super) fn is_this_process(&self, who: Who, caller: (Who, u32)) -> bool {
        caller == (who, self.nodes[who].life)
    }

    pub(super) fn take_call(&mut self, who: Who, from: Place, call: Call) {
        let now = self.time();
        match call {
            Call::Ping {
                by,
                seq,
                wanted,
                deadline_ms,
            } => {
                // another node (or another cluster's) at that address is no answer
                let is_it = self.nodes[who].id == wanted
                    && self.nodes[who].cluster == self.nodes[by.0].cluster;
                if is_it {
                    let to = by;
                    self.call(
                        who,
                        from,
                        Call::Pong {
                            to,
                            seq,
                            deadline_ms,
                        },
                    );
                }
            }
            Call::Pong {
                to,
                seq,
                deadline_ms,
            } => {
                if now.ms > deadline_ms {
                    self.counters.tcp_too_late += 1;
                } else if self.is_this_process(who, to) {
                    self.counters.tcp_answers += 1;
                    self.nodes[who].core.tcp_answered(now, seq);
                    self.after_step(who, Doing::Answering);
                }
            }
            Call::PushPull {
                by,
                states,
                deadline_ms,
            } => self.answer_push_pull(who, from, by, states, deadline_ms),
            Call::Pulled {
                to,
                by,
                states,
                deadline_ms,
            } => {
                if self.is_this_process(who, to) && now.ms <= deadline_ms {
                    let address = names::address(from);
                    let node = &mut self.nodes[who];
                    node.exchanging.remove(&from);
                    node.core.contact_answered(&address, &by);
                    node.core.merge(now, &by, states);
                    node.core.lists_exchanged(&by);
                    self.after_step(who, Doing::Answering);
                }
            }
            Call::Foreign { to, theirs } => {
                if self.is_this_process(who, to) {
                    self.counters.foreign_contacts += 1;
                    let (address, theirs) = (names::address(from), names::cluster(theirs));
                    let node = &mut self.nodes[who];
                    node.exchanging.remove(&from);
                    node.core.contact_is_foreign(now, &address, theirs.as_str());
                    self.after_step(who, Doing::Answering);
                }
            }
        }
    }

    pub(super) fn answer_push_pull(
        &mut self,
        who: Who,
        from: Place,
        by: (Who, u32),
        states: Vec<Arc<MemberState>>,
        deadline_ms: u64,
    ) {
        let theirs = self.nodes[who].cluster;
        if theirs != self.nodes[by.0].cluster {
            self.call(who, from, Call::Foreign { to: by, theirs });
            return;
        }
        let (now, caller) = (self.time(), self.nodes[by.0].id.clone());
        self.nodes[who].core.merge(now, &caller, states);
        self.nodes[who].core.lists_exchanged(&caller);
        let states = self.nodes[who].core.states();
        self.counters.exchange_bytes += Self::list_bytes(&states);
        let id = self.nodes[who].id.clone();
        self.after_step(who, Doing::Answering);
        let pulled = Call::Pulled {
            to: by,
            by: id,
            states,
            deadline_ms,
        };
        self.call(who, from, pulled);
    }
}
