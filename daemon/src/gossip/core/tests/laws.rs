//! Laws of the whole core, under any claims in any order at any time.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{super::*, *};

type Held = (u64, u64, MemberStatus);

/// One thing that happens to the core.
#[derive(Debug, Clone)]
enum Event {
    Gossip {
        by: usize,
        about: usize,
        state: Held,
    },
    Exchange {
        by: usize,
        about: usize,
        state: Held,
    },
    Late(u64),
    Run(u64),
    Bury(usize),
}

const NAMES: [&str; 5] = ["b", "c", "d", "e", "a"];

fn any_event() -> impl Strategy<Value = Event> {
    use MemberStatus::{Alive, Dead, Left, Stopped, Suspected};
    let status = prop::sample::select(vec![Alive, Suspected, Suspected, Dead, Stopped, Left]);
    let held = (1..3u64, 0..4u64, status);
    prop_oneof![
        4 => (0..4usize, 0..5usize, held.clone())
            .prop_map(|(by, about, state)| Event::Gossip { by, about, state }),
        2 => (0..4usize, 0..5usize, held)
            .prop_map(|(by, about, state)| Event::Exchange { by, about, state }),
        1 => (0..9000u64).prop_map(Event::Late),
        2 => (0..9000u64).prop_map(Event::Run),
        1 => (0..4usize).prop_map(Event::Bury),
    ]
}

/// What the recorded mutations say happened to suspicions.
#[derive(Default)]
struct Watch {
    held: BTreeMap<NodeId, ((u64, u64), MemberStatus)>,
    begun: usize,
    ended: usize,
}

impl Watch {
    fn look(&mut self, core: &mut Core, now: u64) -> Result<(), TestCaseError> {
        for m in core.take_mutations() {
            prop_assert_eq!(m.before, self.held.get(&m.about).copied());
            let Some(after) = m.after else {
                self.held.remove(&m.about);
                continue;
            };
            let suspected = |h: &((u64, u64), MemberStatus)| h.1 == MemberStatus::Suspected;
            if let Some(before) = m.before {
                prop_assert!(after > before, "{:?} to {:?}", before, after);
                self.ended += usize::from(suspected(&before));
            }
            self.begun += usize::from(suspected(&after));
            self.held.insert(m.about, after);
        }
        // every suspicion that began has ended once or runs, and has its time
        let views = core.suspicions(at(now));
        prop_assert_eq!(self.begun, self.ended + views.len());
        for view in views {
            prop_assert!(view.confirmations <= view.wanted);
            prop_assert!(view.accusers.len() <= 8);
            prop_assert!(!view.accusers.contains(&view.about));
            prop_assert!(core.next_wake() <= now + view.ends_in_ms);
        }
        prop_assert_eq!(core.local.status, MemberStatus::Alive);
        prop_assert!(core.status(0).health_score < 8);
        prop_assert!(core.probes_under_way().0 <= 2);
        Ok(())
    }
}

fn run(core: &mut Core, from: u64, end: u64, watch: &mut Watch) -> Result<(), TestCaseError> {
    let mut now = from;
    while core.next_wake() <= end {
        now = now.max(core.next_wake());
        core.tick(at(now));
        core.take_outputs();
        watch.look(core, now)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// What is held of a member only ever moves up the order of claims, a suspicion begins and
    /// ends exactly once, and when nobody says anything any more none is left.
    #[test]
    fn whatever_is_said_transitions_are_legal_and_suspicions_end_once(
        events in prop::collection::vec(any_event(), 0..60)
    ) {
        let mut core = core_of("a");
        core.record_mutations();
        let (mut watch, mut now) = (Watch::default(), 0);
        let state_of = |about: usize, (generation, incarnation, status): Held| {
            state(NAMES[about], generation, incarnation, status)
        };
        for event in events {
            match event {
                Event::Gossip { by, about, state } => {
                    let claims = vec![state_of(about, state)];
                    gossip(&mut core, now, NAMES[by], claims);
                }
                Event::Exchange { by, about, state } => {
                    core.merge(at(now), &id(NAMES[by]), vec![state_of(about, state).into()]);
                }
                Event::Late(ms) => {
                    now += ms;
                    core.tick(at(now));
                }
                Event::Run(ms) => {
                    run(&mut core, now, now + ms, &mut watch)?;
                    now += ms;
                }
                Event::Bury(n) => core.bury(at(now), &id(NAMES[n])),
            }
            core.take_outputs();
            watch.look(&mut core, now)?;
            if core.superseded_by.is_some() {
                return Ok(());
            }
        }
        run(&mut core, now, now + 300_000, &mut watch)?;
        prop_assert_eq!(core.suspicions(at(now)), vec![]);
        prop_assert_eq!(core.members.reachable_count(), 0, "nobody ever answered");
    }
}
