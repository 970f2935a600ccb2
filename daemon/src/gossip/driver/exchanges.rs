//! Full-state exchanges: those this node began, question by question, and those it answers.

use std::time::Duration;

use ringmaster_shared::id::NodeId;
use tokio::{sync::oneshot, time::Instant};

use super::{Done, Driver, Turn};
use crate::{
    gossip::{
        exchange::{Exchange, Refused, Said},
        reconcile::{Ask, Asking, Message, Next},
        rejected::Rejected,
        wire::{Bond, Receiver},
    },
    replication::{frames::RefusalCode, peers::PeerError},
};

/// Full-state exchanges under way that this node started.
const EXCHANGES_MAX: usize = 8;
/// For one with all its questions.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// A farewell's exchange has to be over within the stop's patience.
const FAREWELL_TIMEOUT: Duration = Duration::from_millis(800);

/// Who waits for an exchange that was asked for.
type Waiting = oneshot::Sender<Result<NodeId, PeerError>>;

/// What a question was answered with.
pub enum Served {
    Answer(Vec<u8>),
    Refused { code: RefusalCode, reason: String },
}

/// An exchange this node began.
pub(super) struct Conversation {
    pub address: String,
    asking: Asking,
    bond: Bond,
    deadline: Instant,
    waiting: Option<Waiting>,
    /// Of the question under way.
    asked_bytes: usize,
}

impl<E: Exchange> Driver<E> {
    pub(super) fn start_exchange(
        &mut self,
        turn: &mut Turn<E>,
        address: String,
        waiting: Option<Waiting>,
    ) {
        let busy = turn.exchanging.len() >= EXCHANGES_MAX;
        let repeated = turn.exchanging.contains(&address);
        if busy || repeated {
            match waiting {
                Some(waiting) => {
                    let _ = waiting.send(Err(PeerError::Full { address }));
                }
                None if !repeated => self.core.exchange_not_started(address),
                None => {}
            }
            return;
        }
        let patience = if turn.farewell.is_some() {
            FAREWELL_TIMEOUT
        } else {
            EXCHANGE_TIMEOUT
        };
        let (asking, ask) = self.core.begin_exchange(rand::random());
        // under a key that it is known to read
        let there = self.core.member_at(&address).map(Receiver::Believed);
        let Some((message, bond)) = self.question(there, ask) else {
            return;
        };
        turn.exchanging.insert(address.clone());
        let conversation = Conversation {
            address,
            asking,
            bond,
            deadline: Instant::now() + patience,
            waiting,
            asked_bytes: 0,
        };
        self.say(turn, conversation, None, message);
    }

    fn question(&self, to: Option<Receiver<'_>>, ask: Ask) -> Option<(Vec<u8>, Bond)> {
        let message = Message {
            cluster: self.cluster.clone(),
            from: self.core.brief(),
            what: ask,
        };
        self.wire.ask(self.clock.now().ms, to, &message)
    }

    fn say(
        &self,
        turn: &mut Turn<E>,
        mut conversation: Conversation,
        visit: Option<E::Visit>,
        message: Vec<u8>,
    ) {
        conversation.asked_bytes = message.len();
        let exchange = self.exchange.clone();
        let left = conversation.deadline - Instant::now();
        turn.jobs.spawn(async move {
            let address = &conversation.address;
            let said = exchange.say(visit, address, message, left).await;
            Done::Said {
                conversation: Box::new(conversation),
                said,
            }
        });
    }

    /// One question of an exchange was answered, or it came to nothing.
    pub(super) fn go_on(
        &mut self,
        turn: &mut Turn<E>,
        mut conversation: Conversation,
        said: Result<Said<E::Visit>, PeerError>,
    ) {
        let result = match said {
            Ok(Said { by, visit, reply }) => {
                // not before: what is meant for somebody who is gone is never sent
                self.traffic.exchange_sent(conversation.asked_bytes);
                match self.take_reply(turn, &mut conversation, &by, reply) {
                    Ok(Some(message)) => {
                        return self.say(turn, conversation, Some(visit), message);
                    }
                    Ok(None) => Ok(by),
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(error),
        };
        self.end(turn, conversation, result);
    }

    fn end(
        &mut self,
        turn: &mut Turn<E>,
        conversation: Conversation,
        result: Result<NodeId, PeerError>,
    ) {
        let Conversation {
            address, waiting, ..
        } = conversation;
        turn.exchanging.remove(&address);
        match &result {
            Ok(by) => {
                let now = self.clock.now();
                self.core.contact_answered(now, &address, by);
            }
            Err(error) => {
                if let PeerError::WrongCluster { theirs, .. } = error {
                    let now = self.clock.now();
                    self.core.contact_is_foreign(now, &address, theirs);
                }
                let now = self.clock.now();
                self.core.contact_failed(now, &address, &error.to_string());
                tracing::debug!(%error, "exchange failed");
            }
        }
        if let Some(waiting) = waiting {
            // who asked finds the merged list when the answer is there
            self.publish(turn, true);
            let _ = waiting.send(result);
        }
    }

    /// The next question, or none when the exchange is over.
    fn take_reply(
        &mut self,
        turn: &mut Turn<E>,
        conversation: &mut Conversation,
        by: &NodeId,
        reply: Result<Vec<u8>, Refused>,
    ) -> Result<Option<Vec<u8>>, PeerError> {
        let address = &conversation.address;
        let failed = |why: String| PeerError::Protocol {
            address: address.clone(),
            why,
        };
        let reply = reply.map_err(|Refused { code, reason }| {
            self.core.count_rejected(Rejected::Refused);
            if code == RefusalCode::Keys {
                let text = format!("{by} at {address} refuses the gossip of this node: {reason}");
                self.complain_of_keys(turn, address, text);
            }
            failed(reason)
        })?;
        self.traffic.exchange_received(reply.len());
        let answer = match self.wire.read_answer(&conversation.bond, &reply) {
            Ok(answer) if answer.from.id == *by => answer,
            Ok(answer) => {
                self.core.count_rejected(Rejected::Unacceptable);
                return Err(failed(format!("{by} answered as {}", answer.from.id)));
            }
            Err(refusal) => {
                let why = refusal.text.clone();
                let whom = format!("{by} at {address}");
                self.refused(turn, &whom, &refusal, || {
                    format!("the answer of {whom} is dropped")
                });
                return Err(failed(why));
            }
        };
        let now = self.clock.now();
        let asking = &mut conversation.asking;
        let next = self
            .core
            .take_answer(now, asking, &answer.from, answer.what);
        match next {
            Next::Ask(ask) => match self.question(Some(Receiver::Known(by)), ask) {
                Some((message, bond)) => {
                    conversation.bond = bond;
                    Ok(Some(message))
                }
                None => Ok(None),
            },
            Next::Done { equal } => {
                self.traffic.exchanged(equal);
                Ok(None)
            }
            Next::Nonsense => {
                self.core.count_rejected(Rejected::Unacceptable);
                Err(failed("an answer to another question".into()))
            }
        }
    }

    /// The answer to one question of somebody else's exchange.
    pub(super) fn serve(&mut self, turn: &mut Turn<E>, from: &NodeId, message: &[u8]) -> Served {
        self.traffic.exchange_received(message.len());
        let refused = |code, reason: String| Served::Refused { code, reason };
        let now = self.clock.now();
        let asked = match self.wire.read_ask(now.unix_ms, message) {
            Ok(asked) => asked,
            Err(refusal) => {
                let reason = format!("the message is {}", refusal.text);
                let code = match refusal.why {
                    Rejected::Unsealed | Rejected::Unopened => RefusalCode::Keys,
                    Rejected::OtherCluster => RefusalCode::WrongCluster,
                    _ => RefusalCode::BadRequest,
                };
                let whom = from.to_string();
                self.refused(turn, &whom, &refusal, || {
                    format!("a message of {whom} is dropped")
                });
                return refused(code, reason);
            }
        };
        let Message {
            from: brief, what, ..
        } = asked.ask;
        let answer = if brief.id == *from {
            self.core.answer_exchange(now, &brief, what)
        } else {
            None
        };
        let Some(answer) = answer else {
            self.core.count_rejected(Rejected::Unacceptable);
            let reason = "the question makes no sense".to_owned();
            return refused(RefusalCode::BadRequest, reason);
        };
        let answer = Message {
            cluster: self.cluster.clone(),
            from: self.core.brief(),
            what: answer,
        };
        match self.wire.answer(&asked.bond, &answer) {
            Some(bytes) => {
                self.traffic.exchange_sent(bytes.len());
                Served::Answer(bytes)
            }
            None => refused(RefusalCode::BadRequest, "no answer can be written".into()),
        }
    }
}
