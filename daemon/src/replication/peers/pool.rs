//! One place of the pool: at most one connection to one node, and one attempt at a time.
//!
//! Callers that need a connection while it is being made wait for the same attempt. After a
//! failed one, callers are answered with its error for a short while instead of each knocking
//! again at a closed door.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::{PeerError, connection::Connection};

type Outcome = Result<Connection, PeerError>;

pub struct Slot {
    state: Mutex<State>,
}

enum State {
    Empty,
    Connecting {
        address: String,
        outcome: watch::Receiver<Option<Outcome>>,
    },
    Ready(Connection),
    Failed {
        address: String,
        error: PeerError,
        until: Instant,
    },
}

impl Slot {
    pub fn new() -> Self {
        Self {
            state: Mutex::new(State::Empty),
        }
    }

    /// The open connection to `address`, or a new one by `connect`; `backoff` is how long its
    /// failure answers for it. The attempt goes on when the caller does not.
    pub async fn connection<F>(
        self: &Arc<Self>,
        address: &str,
        connect: impl FnOnce() -> F,
        backoff: Duration,
    ) -> Outcome
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let mut outcome = match self.look(address, connect, backoff) {
            Looked::Settled(outcome) => return outcome,
            Looked::Wait(outcome) => outcome,
        };
        let settled = outcome.wait_for(Option::is_some).await;
        match settled.ok().and_then(|outcome| outcome.clone()) {
            Some(outcome) => outcome,
            None => Err(PeerError::Unreachable {
                address: address.to_owned(),
                why: "the attempt to connect was cut short".into(),
            }),
        }
    }

    /// The connection that is open now, whatever its address, if there is one.
    pub fn ready(&self) -> Option<Connection> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Ready(connection) if connection.is_open() => Some(connection.clone()),
            _ => None,
        }
    }

    fn look<F>(
        self: &Arc<Self>,
        address: &str,
        connect: impl FnOnce() -> F,
        backoff: Duration,
    ) -> Looked
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Ready(connection) if connection.address() == address && connection.is_open() => {
                return Looked::Settled(Ok(connection.clone()));
            }
            State::Ready(connection)
                if connection.address() == address && connection.was_useless() =>
            {
                let error = PeerError::Unreachable {
                    address: address.to_owned(),
                    why: "it closes the connection before it answers anything".into(),
                };
                *state = failed(address.to_owned(), &error, backoff);
                return Looked::Settled(Err(error));
            }
            State::Connecting {
                address: to,
                outcome,
            } if to == address && outcome.has_changed().is_ok() => {
                return Looked::Wait(outcome.clone());
            }
            State::Failed {
                address: to,
                error,
                until,
            } if to == address && Instant::now() < *until => {
                return Looked::Settled(Err(error.clone()));
            }
            _ => {}
        }
        let (sender, outcome) = watch::channel(None);
        *state = State::Connecting {
            address: address.to_owned(),
            outcome: outcome.clone(),
        };
        drop(state);
        let (slot, attempt, address) = (Arc::clone(self), connect(), address.to_owned());
        tokio::spawn(async move {
            let outcome = attempt.await;
            slot.settle(&sender, address, &outcome, backoff);
            sender.send_replace(Some(outcome));
        });
        Looked::Wait(outcome)
    }

    fn settle(
        &self,
        attempt: &watch::Sender<Option<Outcome>>,
        address: String,
        outcome: &Outcome,
        backoff: Duration,
    ) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let current = matches!(&*state, State::Connecting { outcome, .. }
            if outcome.same_channel(&attempt.subscribe()));
        if !current {
            // a later attempt, to another address, has taken the place
            return;
        }
        *state = match outcome {
            Ok(connection) => State::Ready(connection.clone()),
            Err(error) => failed(address, error, backoff),
        };
    }

    /// Closes what is open and forgets what failed.
    pub fn clear(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Ready(connection) = &*state {
            connection.close();
        }
        *state = State::Empty;
    }
}

fn failed(address: String, error: &PeerError, backoff: Duration) -> State {
    State::Failed {
        address,
        error: error.clone(),
        until: Instant::now() + backoff,
    }
}

enum Looked {
    Settled(Outcome),
    Wait(watch::Receiver<Option<Outcome>>),
}
