//! Who waits for a batch, and what they are told once it is synced, or given up.

use crate::storage::{Merged, StorageError, committer::request::Reply};

/// Who waits for the batch.
pub(super) struct Waiter {
    pub answer: Answer,
    /// The request adds nothing to this batch, nor did it lean on anything in it: the answer holds
    /// also when the batch is given up, once the one before is in the table.
    pub adds_nothing: bool,
    pub touched: Touched,
}

/// Which entries of the batch a request made or leaned on.
#[derive(Clone, Copy)]
pub(super) enum Touched {
    None,
    One(usize),
    More,
}

impl Touched {
    pub fn also(&mut self, at: usize) {
        *self = match self {
            Self::None => Self::One(at),
            Self::One(one) if *one == at => Self::One(at),
            Self::One(_) | Self::More => Self::More,
        };
    }
}

/// Who to tell what once the batch is synced.
pub(super) enum Answer {
    Merged(Reply<Merged>, Merged),
    Hinted(Reply<bool>, bool),
    Done(Reply<()>),
}

impl Answer {
    pub fn done(reply: Reply<()>, (): ()) -> Self {
        Self::Done(reply)
    }

    pub fn give(self) {
        match self {
            Self::Merged(reply, merged) => drop(reply.send(Ok(merged))),
            Self::Hinted(reply, kept) => drop(reply.send(Ok(kept))),
            Self::Done(reply) => drop(reply.send(Ok(()))),
        }
    }

    pub fn refuse(self, error: &StorageError) {
        match self {
            Self::Merged(reply, _) => drop(reply.send(Err(error.clone()))),
            Self::Hinted(reply, _) => drop(reply.send(Err(error.clone()))),
            Self::Done(reply) => drop(reply.send(Err(error.clone()))),
        }
    }
}

/// What to answer later; who is refused hears it at once.
pub(super) fn accepted<T>(
    reply: Reply<T>,
    staged: Result<T, StorageError>,
    answer: impl FnOnce(Reply<T>, T) -> Answer,
) -> Option<Answer> {
    match staged {
        Ok(value) => Some(answer(reply, value)),
        Err(error) => {
            drop(reply.send(Err(error)));
            None
        }
    }
}
