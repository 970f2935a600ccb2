//! What goes over TCP: fallback pings, and the messages of exchanges (`exchanges.rs`). One half of
//! a call takes its time, or finds no way.

use ringmaster_shared::id::NodeId;

use super::{
    exchanges::{Said, Thread},
    names::{Place, Who},
    network::Damage,
    world::{Arrival, Doing, Event, What, World},
};
use crate::gossip::reconcile::{Answer, Ask};

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
    Ask {
        thread: Thread,
        /// The process that the connection leads to, if one is made already.
        to: Option<(Who, u32)>,
        said: Said<Ask>,
        damaged: bool,
    },
    Answer {
        thread: Thread,
        by: (Who, u32),
        said: Said<Answer>,
        damaged: bool,
    },
    Refused {
        thread: Thread,
        broken_off: bool,
    },
    Foreign {
        thread: Thread,
        theirs: u8,
    },
}

/// What the way does to a message of an exchange, and who sends it.
pub struct Way {
    pub by: (Who, u32),
    pub damage: Option<Damage>,
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

    /// TCP's own sums are weak, so what they let through is tried too.
    pub(super) fn marks_on_the_way(&mut self, who: Who, to: Place) -> Way {
        let from = self.nodes[who].place;
        let damage = self.network.damage(&mut self.rng, from, to);
        self.count_damage(damage);
        let by = (who, self.nodes[who].life);
        Way { by, damage }
    }

    pub(super) fn count_damage(&mut self, damage: Option<Damage>) {
        match damage {
            Some(Damage::Flipped { .. }) => self.counters.flipped += 1,
            Some(Damage::CutShort { .. }) => self.counters.cut_short += 1,
            None => {}
        }
    }

    /// A connection ends with its process, whoever has the address now.
    pub(super) fn is_this_process(&self, who: Who, caller: (Who, u32)) -> bool {
        caller == (who, self.nodes[who].life)
    }

    pub(super) fn take_call(&mut self, who: Who, from: Place, call: Call) {
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
                    let pong = Call::Pong {
                        to,
                        seq,
                        deadline_ms,
                    };
                    self.call(who, from, pong);
                }
            }
            Call::Pong {
                to,
                seq,
                deadline_ms,
            } => self.take_pong(who, to, seq, deadline_ms),
            Call::Ask {
                thread,
                to,
                said,
                damaged,
            } => self.take_ask(who, from, thread, to, (said, damaged)),
            Call::Answer {
                thread,
                by,
                said,
                damaged,
            } => self.take_answer(who, from, thread, by, (said, damaged)),
            Call::Refused { thread, broken_off } => {
                self.take_refusal(who, from, thread, broken_off);
            }
            Call::Foreign { thread, theirs } => self.is_foreign(who, from, thread, theirs),
        }
    }

    fn take_pong(&mut self, who: Who, to: (Who, u32), seq: u32, deadline_ms: u64) {
        let now = self.time();
        if now.ms > deadline_ms {
            self.counters.tcp_too_late += 1;
        } else if self.is_this_process(who, to) {
            self.counters.tcp_answers += 1;
            self.nodes[who].core.tcp_answered(now, seq);
            self.after_step(who, Doing::Answering);
        }
    }
}
