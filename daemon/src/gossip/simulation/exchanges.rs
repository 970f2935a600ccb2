//! Exchanges of lists, message by message, as the driver leads them: question and answer over one
//! connection, of which each may find no way, come too late, be damaged, or meet another process.

use std::sync::Arc;

use ringmaster_shared::member::MemberStatus;

use super::{
    checks::{self, Rule, Violation},
    connections::Call,
    names::{self, Place, Who},
    nodes::Condition,
    wiring::Marks,
    world::{Doing, Event, World},
};
use crate::gossip::{
    MemberState,
    codec::{self, Brief},
    envelope::ENVELOPE_BYTES,
    reconcile::{Answer, Ask, Asking, MESSAGE_BYTES_MAX, Message, Next},
    rejected::Rejected,
    wire::{Bond, Receiver},
};

/// As the driver: exchanges under way, and how long one may take.
const EXCHANGES_MAX: usize = 8;
const EXCHANGE_TIMEOUT_MS: u64 = 10_000;
const FAREWELL_TIMEOUT_MS: u64 = 800;

/// A message of an exchange on its way.
pub enum Said<T> {
    Value(Box<Message<T>>),
    Bytes(Vec<u8>),
}

/// An exchange, at the node that began it.
pub struct Conversation {
    /// Tells it from a later one with the same address.
    number: u64,
    asking: Asking,
    bond: Option<Bond>,
    /// The process at the other end of the connection, once it answered.
    with: Option<(Who, u32)>,
    /// What both sides knew before, where that is judged.
    ours: Vec<Arc<MemberState>>,
    theirs: Option<Vec<Arc<MemberState>>>,
}

/// Which exchange a message belongs to.
#[derive(Debug, Clone, Copy)]
pub struct Thread {
    /// Who began it.
    pub asker: (Who, u32),
    pub number: u64,
}

impl World {
    pub(super) fn exchange(&mut self, who: Who, to: Place) {
        let node = &mut self.nodes[who];
        if node.exchanging.contains_key(&to) {
            return;
        }
        if node.exchanging.len() >= EXCHANGES_MAX {
            self.counters.exchanges_full += 1;
            return node.core.exchange_not_started(names::address(to));
        }
        self.counters.exchanges += 1;
        let number = self.counters.exchanges;
        let patience_ms = if node.condition == Condition::Up {
            EXCHANGE_TIMEOUT_MS
        } else {
            FAREWELL_TIMEOUT_MS
        };
        let salt = rand::Rng::random(&mut self.rng);
        let (asking, ask) = node.core.begin_exchange(salt);
        // who goes only tells that it goes
        let judged = self.parameters.checked && node.condition == Condition::Up;
        let ours = if judged {
            node.core.states()
        } else {
            Vec::new()
        };
        let conversation = Conversation {
            number,
            asking,
            bond: None,
            with: None,
            ours,
            theirs: None,
        };
        self.schedule(patience_ms, Event::ExchangeOver(who, to, number));
        self.ask(who, to, conversation, ask);
    }

    /// The next question goes out.
    fn ask(&mut self, who: Who, to: Place, mut conversation: Conversation, ask: Ask) {
        let with = conversation.with.map(|(with, _)| &self.nodes[with].id);
        let node = &self.nodes[who];
        let lists = matches!(ask, Ask::Take { .. });
        let message = message(node.cluster, node.core.brief(), ask);
        let (bytes, said) = if let Some(wire) = &node.wire {
            let address = names::address(to);
            let to = match with {
                Some(with) => Some(Receiver::Known(with)),
                None => node.core.member_at(&address).map(Receiver::Believed),
            };
            let asked = wire.ask(self.now, to, &message);
            let (bytes, bond) = asked.expect("a question can be encoded");
            conversation.bond = Some(bond);
            (bytes.len(), Said::Bytes(bytes))
        } else {
            (measure(&message), Said::Value(Box::new(message)))
        };
        self.count_message(who, bytes, lists);
        let marks = self.marks_on_the_way(who, to);
        let thread = Thread {
            asker: marks.by,
            number: conversation.number,
        };
        let call = Call::Ask {
            thread,
            to: conversation.with,
            said: damaged(said, &marks),
            damaged: marks.damage.is_some(),
        };
        self.nodes[who].exchanging.insert(to, conversation);
        if !self.call(who, to, call) {
            self.counters.exchanges_cut += 1;
        }
    }

    pub(super) fn take_ask(
        &mut self,
        who: Who,
        from: Place,
        thread: Thread,
        to: Option<(Who, u32)>,
        said: (Said<Ask>, bool),
    ) {
        let us = (who, self.nodes[who].life);
        let theirs = self.nodes[who].cluster;
        if to.is_some_and(|to| to != us) {
            // the connection ended with the process that it led to
            let broken_off = true;
            self.call(who, from, Call::Refused { thread, broken_off });
            return;
        }
        if theirs != self.nodes[thread.asker.0].cluster {
            self.call(who, from, Call::Foreign { thread, theirs });
            return;
        }
        let Some((message, bond)) = self.read_ask(who, thread, said) else {
            let broken_off = false;
            self.call(who, from, Call::Refused { thread, broken_off });
            return;
        };
        self.remember_before(who, thread);
        let now = self.time();
        let node = &mut self.nodes[who];
        let Some(answer) = node.core.answer_exchange(now, &message.from, message.what) else {
            return self.nonsense(who, "a question");
        };
        let lists = matches!(&answer, Answer::Differs { states, .. } if !states.is_empty());
        let message = self::message(theirs, node.core.brief(), answer);
        let (bytes, said) = if let (Some(wire), Some(bond)) = (&node.wire, bond) {
            let bytes = wire.answer(&bond, &message);
            let bytes = bytes.expect("an answer can be encoded");
            (bytes.len(), Said::Bytes(bytes))
        } else {
            (measure(&message), Said::Value(Box::new(message)))
        };
        self.count_message(who, bytes, lists);
        self.after_step(who, Doing::Answering);
        let marks = self.marks_on_the_way(who, from);
        let call = Call::Answer {
            thread,
            by: us,
            said: damaged(said, &marks),
            damaged: marks.damage.is_some(),
        };
        if !self.call(who, from, call) {
            self.counters.exchanges_cut += 1;
        }
    }

    fn read_ask(
        &mut self,
        who: Who,
        thread: Thread,
        (said, damaged): (Said<Ask>, bool),
    ) -> Option<(Message<Ask>, Option<Bond>)> {
        let marks = Marks {
            by: thread.asker,
            damaged,
            doubled: false,
        };
        let bytes = match said {
            Said::Value(_) if damaged => return self.refused_value(who),
            Said::Value(message) => return Some((*message, None)),
            Said::Bytes(bytes) => bytes,
        };
        let unix_ms = self.time().unix_ms;
        match self.nodes[who].wire.as_mut()?.read_ask(unix_ms, &bytes) {
            Ok(asked) => {
                self.judge_taken(who, marks);
                Some((asked.ask, Some(asked.bond)))
            }
            Err(refusal) => {
                self.refused(who, marks, &bytes, &refusal);
                None
            }
        }
    }

    /// What the answering side knows before the first answer, for [`Self::judge_reconciled`].
    fn remember_before(&mut self, who: Who, thread: Thread) {
        let place = self.nodes[who].place;
        let (asker, life) = thread.asker;
        let states = |world: &Self| world.nodes[who].core.states();
        let known = self.nodes[asker].exchanging.get(&place);
        let wanted = self.nodes[asker].life == life
            && known.is_some_and(|c| {
                c.number == thread.number && c.theirs.is_none() && !c.ours.is_empty()
            });
        if wanted {
            let states = states(self);
            if let Some(conversation) = self.nodes[asker].exchanging.get_mut(&place) {
                conversation.theirs = Some(states);
            }
        }
    }

    /// The exchange that an answer belongs to, if it is still under way.
    fn conversation(&mut self, who: Who, with: Place, thread: Thread) -> Option<Conversation> {
        let node = &mut self.nodes[who];
        let under_way = node.exchanging.get(&with);
        let is_it = thread.asker == (who, node.life)
            && under_way.is_some_and(|c| c.number == thread.number);
        if !is_it {
            self.counters.tcp_too_late += 1;
            return None;
        }
        node.exchanging.remove(&with)
    }

    pub(super) fn take_answer(
        &mut self,
        who: Who,
        from: Place,
        thread: Thread,
        by: (Who, u32),
        said: (Said<Answer>, bool),
    ) {
        let Some(mut conversation) = self.conversation(who, from, thread) else {
            return;
        };
        conversation.with = Some(by);
        let Some(answer) = self.read_answer(who, by, &conversation, said) else {
            return self.exchange_failed(who, from, "the answer could not be read");
        };
        let now = self.time();
        let node = &mut self.nodes[who];
        let asking = &mut conversation.asking;
        let next = node
            .core
            .take_answer(now, asking, &answer.from, answer.what);
        if matches!(next, Next::Done { .. }) {
            let address = names::address(from);
            node.core.contact_answered(now, &address, &answer.from.id);
        }
        self.after_step(who, Doing::Answering);
        match next {
            Next::Ask(ask) => self.ask(who, from, conversation, ask),
            Next::Done { equal } => {
                if equal {
                    self.counters.exchanges_equal += 1;
                } else {
                    self.counters.exchanges_differing += 1;
                }
                self.judge_reconciled(who, by, &conversation);
            }
            Next::Nonsense => self.nonsense(who, "an answer"),
        }
    }

    fn read_answer(
        &mut self,
        who: Who,
        by: (Who, u32),
        conversation: &Conversation,
        (said, damaged): (Said<Answer>, bool),
    ) -> Option<Message<Answer>> {
        let marks = Marks {
            by,
            damaged,
            doubled: false,
        };
        let bytes = match said {
            Said::Value(_) if damaged => return self.refused_value(who),
            Said::Value(message) => return Some(*message),
            Said::Bytes(bytes) => bytes,
        };
        let wire = self.nodes[who].wire.as_mut()?;
        match wire.read_answer(conversation.bond.as_ref()?, &bytes) {
            Ok(answer) => {
                self.judge_taken(who, marks);
                Some(answer)
            }
            Err(refusal) => {
                self.refused(who, marks, &bytes, &refusal);
                None
            }
        }
    }

    fn refused_value<T>(&mut self, who: Who) -> Option<T> {
        self.nodes[who].core.count_rejected(Rejected::Damaged);
        self.counters.refused_damaged += 1;
        None
    }

    /// The other side would not read a question, or its process is gone.
    pub(super) fn take_refusal(&mut self, who: Who, from: Place, thread: Thread, broken_off: bool) {
        if self.conversation(who, from, thread).is_none() {
            return;
        }
        let why = if broken_off {
            self.counters.exchanges_broken_off += 1;
            "the connection broke off"
        } else {
            self.counters.exchanges_refused += 1;
            "it refuses the question"
        };
        self.exchange_failed(who, from, why);
    }

    pub(super) fn is_foreign(&mut self, who: Who, from: Place, thread: Thread, theirs: u8) {
        if self.conversation(who, from, thread).is_some() {
            self.counters.foreign_contacts += 1;
            let (now, address) = (self.time(), names::address(from));
            let theirs = names::cluster(theirs);
            let core = &mut self.nodes[who].core;
            core.contact_is_foreign(now, &address, theirs.as_str());
            self.exchange_failed(who, from, "it is of another cluster");
        }
    }

    pub(super) fn exchange_over(&mut self, who: Who, with: Place, number: u64) {
        let exchanging = &mut self.nodes[who].exchanging;
        if exchanging.get(&with).is_some_and(|c| c.number == number) {
            exchanging.remove(&with);
            self.counters.exchanges_late += 1;
            if self.runs(who) {
                self.exchange_failed(who, with, "no answer in time");
            }
        }
    }

    fn exchange_failed(&mut self, who: Who, with: Place, why: &str) {
        let (now, address) = (self.time(), names::address(with));
        self.nodes[who].core.contact_failed(now, &address, why);
        self.after_step(who, Doing::Answering);
    }

    fn count_message(&mut self, who: Who, bytes: usize, lists: bool) {
        self.counters.exchange_messages += 1;
        self.counters.exchange_lists += u64::from(lists);
        self.counters.exchange_bytes += bytes as u64;
        self.mix(&[who as u64, u64::from(lists)]);
        let judged = checks::packet_fits(bytes, MESSAGE_BYTES_MAX);
        self.judged(who, judged);
    }

    fn nonsense(&mut self, who: Who, what: &str) {
        let what = format!("{what} of a sound node makes no sense");
        let rule = Rule::Wire;
        self.judged(who, Err(Violation { rule, what }));
    }

    /// Each side knows by now whatever the other knew before: the same, or newer.
    fn judge_reconciled(&mut self, who: Who, with: (Who, u32), conversation: &Conversation) {
        let (other, life) = with;
        let up = |n: Who| self.nodes[n].condition == Condition::Up;
        let theirs = conversation.theirs.as_deref().unwrap_or_default();
        if !up(who) || !up(other) || self.nodes[other].life != life {
            return;
        }
        let ours = conversation.ours.as_slice();
        for (list, teller, holder, knew) in [(ours, who, other, theirs), (theirs, other, who, ours)]
        {
            let teller = &self.nodes[teller].core;
            let core = &self.nodes[holder].core;
            let missed = list.iter().find(|state| {
                let is_itself = state.id == self.nodes[holder].id;
                let held = if is_itself {
                    Some(core.local())
                } else {
                    core.held(&state.id)
                };
                // two lists are equal where one has who left and the other nobody; who heard of
                // it elsewhere before the exchange was over holds what it heard
                let is_news = state.status == MemberStatus::Left
                    && !knew.iter().any(|known| known.id == state.id);
                // and who left or was taken off the list meanwhile is not told to who never knew it
                let has_left = held.is_none()
                    && teller
                        .held(&state.id)
                        .is_some_and(|s| s.status == MemberStatus::Left);
                !is_news && !has_left && !checks::is_reconciled(state, held)
            });
            if let Some(missed) = missed {
                let id = &self.nodes[holder].id;
                let held = core.held(&missed.id);
                let what = format!(
                    "after an exchange {id} does not know of {missed:?}, but holds {held:?}"
                );
                let rule = Rule::Reconciled;
                return self.judged(who, Err(Violation { rule, what }));
            }
        }
    }
}

fn message<T>(cluster: u8, from: Brief, what: T) -> Message<T> {
    let cluster = names::cluster(cluster);
    Message {
        cluster,
        from,
        what,
    }
}

/// As long as the bytes would be.
fn measure<T: serde::Serialize>(message: &Message<T>) -> usize {
    codec::message_bytes(message).saturating_add(ENVELOPE_BYTES)
}

fn damaged<T>(said: Said<T>, way: &super::connections::Way) -> Said<T> {
    match (said, way.damage) {
        (Said::Bytes(mut bytes), Some(damage)) => {
            damage.befalls(&mut bytes);
            Said::Bytes(bytes)
        }
        (said, _) => said,
    }
}
