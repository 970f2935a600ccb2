//! The full-state exchange, as far as it touches the list: what goes into the questions and
//! answers of `reconcile.rs`, and what is done with what comes back.

use std::sync::Arc;

use ringmaster_shared::member::MemberStatus;

use super::{Core, Phase, broken::Broken};
use crate::gossip::{
    claim::Now,
    codec::Brief,
    reconcile::{Answer, Ask, Asking, Next, compare},
};

impl Core {
    /// Who this node is, for the head of a message.
    pub fn brief(&self) -> Brief {
        Brief::of(&self.local)
    }

    /// Begins an exchange; one of a node that goes only says that it goes.
    pub fn begin_exchange(&self, salt: u64) -> (Asking, Ask) {
        if self.phase == Phase::Running {
            Asking::begin(salt, &self.compared())
        } else {
            Asking::telling(Arc::clone(&self.local))
        }
    }

    /// The answer to a question of `from`; `None` when it makes no sense.
    pub fn answer_exchange(&mut self, now: Now, from: &Brief, ask: Ask) -> Option<Answer> {
        let begins = matches!(&ask, Ask::Compare(summary) if summary.from == 0);
        let answer = match ask {
            Ask::Compare(summary) => {
                let mut answer = compare(&summary, self.compared())?;
                if self.breaks(Broken::DropsARange)
                    && let Answer::Differs { buckets, .. } = &mut answer
                {
                    buckets.pop();
                }
                answer
            }
            Ask::Take { states } => {
                self.merge(now, &from.id, states);
                Answer::Taken
            }
        };
        match answer {
            // what comes in until the exchange ends is not in it
            Answer::Differs { .. } if begins => {
                self.udp.is_answered(&from.id, Some(self.revision));
            }
            Answer::Equal => self.udp.is_answered(&from.id, None),
            _ => {}
        }
        if matches!(answer, Answer::Equal | Answer::Taken) {
            self.lists_exchanged(&from.id);
        }
        self.met(now, from);
        Some(answer)
    }

    /// Takes in what `from` answered; returns what comes next.
    pub fn take_answer(
        &mut self,
        now: Now,
        asking: &mut Asking,
        from: &Brief,
        answer: Answer,
    ) -> Next {
        let list = self.compared();
        let (next, got) = asking.next(answer, &list);
        self.merge(now, &from.id, got);
        if matches!(next, Next::Done { .. }) {
            self.lists_exchanged(&from.id);
        }
        self.met(now, from);
        next
    }

    /// `from` spoke over TCP: it lives.
    fn met(&mut self, now: Now, from: &Brief) {
        if self.phase == Phase::Running {
            self.hear(now, from, MemberStatus::Alive);
        }
    }
}
