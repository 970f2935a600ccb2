//! What is done to a cluster under load, drawn from a seeded deck so that each kind has its turn.
//!
//! Every fault ends with the cluster able to heal by itself: links whole, nodes running. What
//! destroys a copy of the data waits until the copies are complete again.

use std::{fmt, time::Duration};

use rand::{Rng, rngs::StdRng, seq::SliceRandom};
use reqwest::Method;
use ringmaster_shared::{
    api::ring::{ApplyRequest, Change, PlanRequest, PlanResponse},
    id::NodeId,
    member::Lifecycle,
};
use serde_json::json;
use tokio::time::sleep;

use super::crowd::Crowd;
use crate::support::{
    field::Arena,
    history::Recorder,
    observer::Observer,
    wait::{GENEROUS, eventually},
};

/// Nodes beyond which nobody joins any more.
const NODES_MAX: usize = 5;
/// Fewest nodes left after one leaves.
const NODES_MIN: usize = 3;
/// The nemesis looks on as a client of this number.
const WITNESS: usize = 1_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    Kill,
    /// Killed, and killed again while it starts.
    KillTwice,
    Pause,
    /// Ctrl+C and start.
    Restart,
    /// Cut off all others.
    Isolate,
    /// One link is cut.
    Cut,
    /// Killed, and its folder or its store is gone.
    Wipe,
    /// Every node at once.
    KillAll,
    /// Comes back with a clock that is minutes off.
    Skew,
    Join,
    /// A change of the ring by plan and apply: leave, remove, replace, rebalance.
    Ring,
}

pub const ALL: [Fault; 11] = [
    Fault::Kill,
    Fault::KillTwice,
    Fault::Pause,
    Fault::Restart,
    Fault::Isolate,
    Fault::Cut,
    Fault::Wipe,
    Fault::KillAll,
    Fault::Skew,
    Fault::Join,
    Fault::Ring,
];

/// Kills only, in the proportions of the long test.
pub const KILLS: [Fault; 8] = [
    Fault::Kill,
    Fault::KillTwice,
    Fault::Kill,
    Fault::KillTwice,
    Fault::Kill,
    Fault::KillTwice,
    Fault::Kill,
    Fault::KillAll,
];

/// Faults that really happened.
#[derive(Debug, Clone, Default)]
pub struct Done {
    pub faults: Vec<Fault>,
    pub kills: usize,
    /// Of these, before the node served.
    pub kills_during_start: usize,
    pub ring_changes: Vec<String>,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut counts = std::collections::BTreeMap::new();
        for fault in &self.faults {
            *counts.entry(fault).or_insert(0) += 1;
        }
        write!(
            f,
            "{counts:?}, {} kills of which {} during start",
            self.kills, self.kills_during_start
        )?;
        if self.ring_changes.is_empty() {
            return Ok(());
        }
        write!(f, ", ring: {}", self.ring_changes.join(", "))
    }
}

pub struct Nemesis {
    random: StdRng,
    deck: Vec<Fault>,
    hand: Vec<Fault>,
    /// Whether the daemon knows plans; asked once.
    plans: Option<bool>,
    pub done: Done,
    drawn: usize,
}

impl Nemesis {
    pub fn new(random: StdRng, deck: &[Fault]) -> Self {
        Self {
            random,
            deck: deck.to_vec(),
            hand: Vec::new(),
            plans: None,
            done: Done::default(),
            drawn: 0,
        }
    }

    /// Faults drawn so far, also those that could not happen here.
    pub fn drawn(&self) -> usize {
        self.drawn
    }

    /// Does the next thing and undoes it.
    pub async fn strike(&mut self, arena: &mut Arena, crowd: &Crowd, recorder: &Recorder) {
        if self.hand.is_empty() {
            self.hand.clone_from(&self.deck);
            self.hand.shuffle(&mut self.random);
        }
        let Some(fault) = self.hand.pop() else { return };
        self.drawn += 1;
        let members = arena.members();
        let victim = members[self.random.random_range(0..members.len())];
        let happened = match fault {
            Fault::Kill => {
                self.kill(arena, victim);
                self.wait(100..3000).await;
                arena.start_node(victim);
                arena.serves(victim).await.is_some()
            }
            Fault::KillTwice => {
                self.kill(arena, victim);
                self.start_under_fire(arena, &[victim]).await;
                true
            }
            Fault::Pause => {
                arena.node(victim).pause();
                self.wait(500..6000).await;
                arena.node(victim).resume();
                true
            }
            Fault::Restart => {
                let ended = arena.node(victim).stop().await;
                assert!(ended.success(), "{ended}");
                arena.start_node(victim);
                arena.serves(victim).await.is_some()
            }
            Fault::Isolate | Fault::Cut if !arena.can_cut() => false,
            Fault::Isolate => {
                arena.isolate(victim);
                self.wait(1000..7000).await;
                arena.heal();
                true
            }
            Fault::Cut => {
                let others: Vec<usize> = members.into_iter().filter(|m| *m != victim).collect();
                let other = others[self.random.random_range(0..others.len())];
                arena.cut(victim, other);
                self.wait(1000..7000).await;
                arena.heal();
                true
            }
            Fault::Wipe => self.wipe(arena, victim).await,
            Fault::KillAll => self.kill_all(arena, crowd, recorder).await,
            Fault::Skew => {
                let minutes = self.random.random_range(-5..=5_i64);
                self.kill(arena, victim);
                let skew = (minutes * 60_000).to_string();
                arena.node(victim).set_env("RINGD_CLOCK_SKEW_MS", &skew);
                arena.start_node(victim);
                arena.serves(victim).await.is_some()
            }
            Fault::Join => self.join(arena, crowd).await,
            Fault::Ring => self.ring(arena, crowd).await,
        };
        if happened {
            self.done.faults.push(fault);
        }
    }

    async fn wait(&mut self, millis: std::ops::Range<u64>) {
        sleep(Duration::from_millis(self.random.random_range(millis))).await;
    }

    fn kill(&mut self, arena: &mut Arena, victim: usize) {
        arena.node(victim).kill9();
        self.done.kills += 1;
    }

    /// Starts these, kills some of them while they start, and starts them again.
    async fn start_under_fire(&mut self, arena: &mut Arena, nodes: &[usize]) {
        let mut fallen = Vec::new();
        for node in nodes {
            arena.start_node(*node);
        }
        self.wait(0..120).await;
        for node in nodes {
            let status = arena.api(*node).status().await;
            let serves = status.is_ok_and(|s| s.node.lifecycle == Lifecycle::Serving);
            if !serves || self.random.random_bool(0.5) {
                self.kill(arena, *node);
                self.done.kills_during_start += usize::from(!serves);
                fallen.push(*node);
            }
        }
        for node in fallen {
            arena.start_node(node);
        }
        for node in nodes {
            arena.serves(*node).await;
        }
    }

    async fn wipe(&mut self, arena: &mut Arena, victim: usize) -> bool {
        arena.agree().await;
        self.kill(arena, victim);
        let what = ["", "store"][self.random.random_range(0..2)];
        arena.node(victim).lose(what);
        arena.start_node(victim);
        // until it is filled and votes again another loss could be one too many
        arena.agree().await;
        arena.votes(victim).await;
        true
    }

    async fn kill_all(&mut self, arena: &mut Arena, crowd: &Crowd, recorder: &Recorder) -> bool {
        let members = arena.members();
        for node in &members {
            self.kill(arena, *node);
        }
        recorder.all_killed();
        self.start_under_fire(arena, &members).await;
        arena.agree().await;
        let witness = Observer {
            recorder,
            client: WITNESS,
        };
        for key in crowd.keys() {
            for (name, api) in arena.apis() {
                witness.read(&name, &api, &key).await;
            }
        }
        true
    }

    async fn join(&mut self, arena: &mut Arena, crowd: &Crowd) -> bool {
        if arena.members().len() >= NODES_MAX || !arena.has_room() {
            return false;
        }
        arena.add(&[]).await;
        arena.agree().await;
        crowd.meet(arena.apis());
        true
    }

    /// A change by plan, under load, with a kill in the middle of it now and then.
    async fn ring(&mut self, arena: &mut Arena, crowd: &Crowd) -> bool {
        arena.agree().await;
        if self.plans.is_none() {
            self.plans = Some(plan(arena, 0, Change::Rebalance {}).await.is_some());
        }
        if self.plans == Some(false) {
            return false;
        }
        let members = arena.members();
        let victim = members[self.random.random_range(0..members.len())];
        let id =
            |arena: &mut Arena, i: usize| NodeId::new(&arena.node(i).id).expect("a valid name");
        let node = id(arena, victim);
        let shrinks = members.len() > NODES_MIN;
        let mut leaves = None;
        let change = match self.random.random_range(0..8) {
            0..2 if shrinks => {
                leaves = Some(victim);
                Change::Leave { node }
            }
            2..4 if shrinks => {
                self.kill(arena, victim);
                arena.retire(victim);
                crowd.meet(arena.apis());
                Change::Remove { node }
            }
            0..6 if arena.has_room() => {
                let candidate = arena.add(&["--join=manual".to_owned()]).await;
                let with = id(arena, candidate);
                self.kill(arena, victim);
                arena.retire(victim);
                crowd.meet(arena.apis());
                Change::Replace { dead: node, with }
            }
            _ => Change::Rebalance {},
        };
        let members = arena.members();
        let through = members.iter().copied().find(|m| Some(*m) != leaves);
        let through = through.expect("somebody stays");
        let is_rebalance = change == Change::Rebalance {};
        let name = format!("{change:?}");
        let began = eventually("the change begins", GENEROUS, async || {
            let plan = plan(arena, through, change.clone()).await;
            let plan = plan.ok_or("it was not planned")?;
            if plan.obstacles.is_empty() {
                return apply(arena, through, plan.plan_id).await.map(|()| true);
            }
            if is_rebalance {
                return Ok(false); // balanced as it is
            }
            Err(plan.obstacles.join("; "))
        })
        .await;
        if !began {
            return false;
        }
        if self.random.random_bool(0.5) {
            let other = members[self.random.random_range(0..members.len())];
            if Some(other) != leaves {
                self.kill(arena, other);
                self.start_under_fire(arena, &[other]).await;
            }
        }
        if let Some(leaver) = leaves {
            self.gone_from_ring(arena, through, leaver).await;
            arena.retire(leaver);
        }
        arena.agree().await;
        crowd.meet(arena.apis());
        self.done.ring_changes.push(name);
        true
    }

    /// The leaver has handed everything over.
    async fn gone_from_ring(&self, arena: &mut Arena, through: usize, leaver: usize) {
        let api = arena.api(through);
        let leaver = arena.node(leaver).id.clone();
        let what = format!("{leaver} has left the ring");
        eventually(&what, GENEROUS * 2, async || {
            let ring = api.ring().await.map_err(|e| format!("{e:#}"))?;
            let listed = ring.nodes.iter().any(|n| n.id.as_str() == leaver);
            match (&ring.transition, listed) {
                (None, false) => Ok(()),
                (transition, _) => Err(format!("{transition:?}, listed: {listed}")),
            }
        })
        .await;
    }
}

/// `None` when the daemon does not answer with a plan.
async fn plan(arena: &Arena, through: usize, change: Change) -> Option<PlanResponse> {
    let body = json!(PlanRequest { change });
    let api = arena.api(through);
    let reply = api
        .send(Method::POST, "/api/v1/ring/plan", Some(&body))
        .await;
    let reply = reply.ok().filter(|reply| reply.status == 200)?;
    reply.json().ok()
}

async fn apply(arena: &Arena, through: usize, plan_id: String) -> Result<(), String> {
    let body = json!(ApplyRequest { plan_id });
    let api = arena.api(through);
    let reply = api
        .send(Method::POST, "/api/v1/ring/apply", Some(&body))
        .await;
    let reply = reply.map_err(|e| e.to_string())?;
    if (200..300).contains(&reply.status) {
        Ok(())
    } else {
        Err(reply.text())
    }
}
