//! The one rule that says which lifecycle follows from the facts. Pure.

use ringmaster_shared::member::Lifecycle;

use super::LifecycleState;

/// How far the process has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Holding until it is told to start.
    Standby,
    /// Opening the store, looking for the cluster.
    Starting,
    /// All parts run.
    Running,
    /// On the way out.
    Stopping,
}

/// This node's place in the topology it goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Outside,
    Joining,
    Settled,
    /// It was in the ring and is no more.
    Departed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub phase: Phase,
    pub place: Place,
    /// While outside it waits for an operator's plan (`--join manual`).
    pub waits_for_plan: bool,
    /// The data was lost and is being copied back.
    pub needs_refill: bool,
    /// An operator's drain order, with its reason.
    pub drained: Option<String>,
    /// Why storage stopped.
    pub broken: Option<String>,
    /// What the current phase waits for.
    pub waiting_for: Option<String>,
}

impl Facts {
    pub fn at(phase: Phase) -> Self {
        Self {
            phase,
            place: Place::Outside,
            waits_for_plan: false,
            needs_refill: false,
            drained: None,
            broken: None,
            waiting_for: None,
        }
    }
}

pub fn decide(facts: &Facts) -> LifecycleState {
    let (lifecycle, waiting_for) = match facts.phase {
        Phase::Standby => (Lifecycle::Standby, facts.waiting_for.clone()),
        Phase::Stopping => (Lifecycle::Draining, facts.waiting_for.clone()),
        Phase::Starting => (Lifecycle::Joining, facts.waiting_for.clone()),
        Phase::Running => running(facts),
    };
    LifecycleState {
        lifecycle,
        waiting_for,
    }
}

fn running(facts: &Facts) -> (Lifecycle, Option<String>) {
    if let Some(why) = &facts.broken {
        return (Lifecycle::Draining, Some(why.clone()));
    }
    match facts.place {
        Place::Departed => {
            let why = "it is no member of the ring any more";
            return (Lifecycle::Draining, Some(why.into()));
        }
        Place::Outside if facts.waits_for_plan => {
            let wait = "an operator's plan to take it in";
            return (Lifecycle::Candidate, Some(wait.into()));
        }
        Place::Outside => {
            let wait = "the members of the ring to let this node in";
            return (Lifecycle::Joining, Some(wait.into()));
        }
        Place::Joining => {
            let wait = "the partitions it is to hold to be copied to it";
            return (Lifecycle::Joining, Some(wait.into()));
        }
        Place::Settled => {}
    }
    if let Some(reason) = &facts.drained {
        return (Lifecycle::Draining, Some(reason.clone()));
    }
    if facts.needs_refill {
        let wait = "its data to be copied back from the other replicas";
        return (Lifecycle::Recovering, Some(wait.into()));
    }
    (Lifecycle::Serving, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifecycle_follows_from_the_facts() {
        let running = Facts::at(Phase::Running);
        let settled = Facts {
            place: Place::Settled,
            ..running.clone()
        };
        let edit = |f: &Facts, change: fn(&mut Facts)| {
            let mut f = f.clone();
            change(&mut f);
            f
        };
        let drained = edit(&settled, |f| f.drained = Some("ordered".into()));
        let cases = [
            (Facts::at(Phase::Standby), Lifecycle::Standby),
            (Facts::at(Phase::Starting), Lifecycle::Joining),
            (running.clone(), Lifecycle::Joining),
            (
                edit(&running, |f| f.place = Place::Joining),
                Lifecycle::Joining,
            ),
            (settled.clone(), Lifecycle::Serving),
            (
                edit(&settled, |f| f.waits_for_plan = true),
                Lifecycle::Serving,
            ),
            (
                edit(&running, |f| f.waits_for_plan = true),
                Lifecycle::Candidate,
            ),
            (
                edit(&running, |f| f.place = Place::Departed),
                Lifecycle::Draining,
            ),
            (
                edit(&settled, |f| f.needs_refill = true),
                Lifecycle::Recovering,
            ),
            (drained.clone(), Lifecycle::Draining),
            (
                edit(&settled, |f| f.broken = Some("disk".into())),
                Lifecycle::Draining,
            ),
            (
                edit(&drained, |f| f.phase = Phase::Stopping),
                Lifecycle::Draining,
            ),
        ];
        for (facts, lifecycle) in cases {
            assert_eq!(decide(&facts).lifecycle, lifecycle, "{facts:?}");
        }
        assert_eq!(decide(&settled).waiting_for, None);
    }
}
