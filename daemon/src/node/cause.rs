//! Why a life ends, and what becomes of that when more is ordered before it has ended. Pure.

use crate::{
    cli::Failure,
    lifecycle::{Ticket, orders::Order},
};

/// How a life ended without failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    Stopped,
    /// Replace the process image.
    Replace {
        standby: Option<Ticket>,
        /// An order to adopt is written down for the next life.
        adopts: bool,
    },
}

/// Why a life ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    Stop { why: String },
    Replace(Again),
    Fail(Failure),
}

/// What the next life is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Again {
    pub why: String,
    pub standby: Option<Ticket>,
    /// Seeds of the cluster to adopt.
    pub adopt: Option<Vec<String>>,
}

impl Again {
    pub fn restart(why: String) -> Self {
        Self {
            why,
            standby: None,
            adopt: None,
        }
    }

    fn standby(ticket: Ticket) -> Self {
        Self {
            why: ticket.reason.clone(),
            standby: Some(ticket),
            adopt: None,
        }
    }

    /// Both were accepted, so the next life is for both.
    fn and(self, later: Self) -> Self {
        Self {
            why: later.why,
            standby: later.standby.or(self.standby),
            adopt: later.adopt.or(self.adopt),
        }
    }
}

impl Cause {
    /// What an order ends a life for; `None` when it ends none.
    pub fn of(order: Order) -> Option<Self> {
        match order {
            Order::Stop { why } => Some(Self::Stop { why }),
            Order::Restart { why, adopt } => Some(Self::Replace(Again {
                adopt,
                ..Again::restart(why)
            })),
            Order::Standby(ticket) => Some(Self::Replace(Again::standby(ticket))),
            Order::Fail(failure) => Some(Self::Fail(failure)),
            Order::Start { .. } => None,
        }
    }

    /// What it becomes with an order that comes while the node is on its way out: who was to
    /// come back may have to stay away, never the other way round.
    pub fn then(self, order: Order) -> Self {
        match (self, Self::of(order)) {
            (Self::Replace(first), Some(Self::Replace(later))) => Self::Replace(first.and(later)),
            (Self::Replace(_), Some(last)) => last,
            (decided, _) => decided,
        }
    }

    /// To be said of the node; no full stop.
    pub fn sentence(&self) -> String {
        match self {
            Self::Stop { why } => why.clone(),
            Self::Replace(Again {
                why,
                standby: Some(_),
                ..
            }) => format!("to hold in standby: {why}"),
            Self::Replace(Again { why, .. }) => format!("to restart ({why})"),
            // the last line on stderr says why
            Self::Fail(_) => "it cannot go on".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ordered_on_the_way_out_is_not_forgotten() {
        let stop = || Order::Stop { why: "s".into() };
        let restart = |why: &str| Order::Restart {
            why: why.into(),
            adopt: None,
        };
        let seeds = || Some(vec!["s:1".to_owned()]);
        let adopt = || Order::Restart {
            why: "b".into(),
            adopt: seeds(),
        };
        let ticket = |until| Ticket {
            hold_until: until,
            reason: "t".into(),
        };
        let fail = |why: &str| Order::Fail(Failure::Failed(why.into()));
        let start = || Order::Start { seeds: None };
        let replace = |why: &str, standby| {
            Cause::Replace(Again {
                why: why.into(),
                standby,
                adopt: None,
            })
        };
        let adopting = |why: &str, standby| {
            Cause::Replace(Again {
                why: why.into(),
                standby,
                adopt: seeds(),
            })
        };
        let stopped = Cause::Stop { why: "s".into() };
        let failed = |why: &str| Cause::Fail(Failure::Failed(why.into()));
        let cases = [
            (vec![restart("a")], replace("a", None)),
            (vec![restart("a"), start()], replace("a", None)),
            (vec![restart("a"), stop()], stopped.clone()),
            (vec![Order::Standby(ticket(1)), stop()], stopped.clone()),
            (vec![restart("a"), fail("f")], failed("f")),
            (vec![restart("a"), fail("f"), stop()], failed("f")),
            // what is decided for good stays so
            (vec![stop(), restart("a")], stopped.clone()),
            (vec![stop(), Order::Standby(ticket(1))], stopped.clone()),
            (vec![stop(), fail("f")], stopped.clone()),
            (vec![fail("f"), fail("g")], failed("f")),
            (vec![stop(), adopt()], stopped.clone()),
            (vec![adopt(), stop()], stopped.clone()),
            // nor is what was accepted, in whatever order it came
            (vec![adopt(), restart("a")], adopting("a", None)),
            (vec![restart("a"), adopt()], adopting("b", None)),
            (
                vec![adopt(), Order::Standby(ticket(1))],
                adopting("t", Some(ticket(1))),
            ),
            (
                vec![restart("a"), Order::Standby(ticket(1))],
                replace("t", Some(ticket(1))),
            ),
            (
                vec![Order::Standby(ticket(1)), restart("a")],
                replace("a", Some(ticket(1))),
            ),
            (
                vec![Order::Standby(ticket(1)), Order::Standby(ticket(2))],
                replace("t", Some(ticket(2))),
            ),
        ];
        for (orders, becomes) in cases {
            let shown = format!("{orders:?}");
            let mut orders = orders.into_iter();
            let first = orders.next().and_then(Cause::of).expect("it ends a life");
            assert_eq!(orders.fold(first, Cause::then), becomes, "{shown}");
        }
        assert_eq!(Cause::of(start()), None);
    }
}
