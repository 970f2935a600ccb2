//! Every kind of change, with every participant crashing at every step, under clients and a
//! network that loses and delays.
//!
//! Checked: one content for each epoch; no read misses what was acknowledged or read before it
//! began; afterwards every quorum holds it; partitions whose replicas live stay available; the
//! change is finished or rolled back, and who is out has ended by itself.

use std::collections::BTreeSet;

use rand::{Rng, SeedableRng, rngs::StdRng};
use ringmaster_shared::{api::ring::Change, id::NodeId, quorum::partition_counts};
use tokio::{task::JoinSet, time::sleep};

use super::{
    pretended::{Checks, Cluster, Filling},
    *,
};
use crate::topology::fixture::PARTITIONS;

/// For a change to come to its end, all crashes and waits included.
const END: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Join,
    JoinTwo,
    Leave,
    LeaveToTwo,
    Remove,
    Replace,
    Rebalance,
    Cancel,
}

const KINDS: [Kind; 8] = [
    Kind::Join,
    Kind::JoinTwo,
    Kind::Leave,
    Kind::LeaveToTwo,
    Kind::Remove,
    Kind::Replace,
    Kind::Rebalance,
    Kind::Cancel,
];

/// Who crashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Nobody,
    /// First in line.
    Driver,
    Gainer,
    /// Goes by the change, dead or alive; one that is dead comes back instead.
    Goer,
    OldReplica,
}

const ROLES: [Role; 5] = [
    Role::Nobody,
    Role::Driver,
    Role::Gainer,
    Role::Goer,
    Role::OldReplica,
];

/// What a participant that crashes loses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    Nothing,
    Store,
    Folder,
}

/// One change with one crash.
#[derive(Debug, Clone, Copy)]
struct Plot {
    kind: Kind,
    role: Role,
    step: u64,
    seed: u64,
    filling: Filling,
    loss: Loss,
}

/// Written before the change and left alone since: no later write or read may make up for a copy that
/// the change lost.
fn left_alone() -> impl Iterator<Item = u16> {
    (0..PARTITIONS).step_by(4)
}

struct Run {
    cluster: Cluster,
    random: StdRng,
    clients: JoinSet<()>,
}

impl Kind {
    fn nodes(self) -> &'static [&'static str] {
        match self {
            Self::LeaveToTwo => &["n1", "n2", "n3"],
            Self::Remove | Self::Rebalance => &["n1", "n2", "n3", "n4", "n5"],
            _ => &["n1", "n2", "n3", "n4"],
        }
    }

    fn goer(self) -> Option<&'static str> {
        match self {
            Self::Leave | Self::LeaveToTwo | Self::Remove | Self::Replace => Some("n3"),
            _ => None,
        }
    }

    fn change(self) -> Option<Change> {
        let node = id("n3");
        match self {
            Self::Join | Self::JoinTwo => None,
            Self::Leave | Self::LeaveToTwo | Self::Cancel => Some(Change::Leave { node }),
            Self::Remove => Some(Change::Remove { node }),
            Self::Replace => Some(Change::Replace {
                dead: node,
                with: id("n9"),
            }),
            Self::Rebalance => Some(Change::Rebalance {}),
        }
    }
}

impl Run {
    /// A settled cluster with clients at work.
    async fn prepare(kind: Kind, seed: u64, filling: Filling) -> Self {
        let cluster = Cluster::founded("n1");
        cluster.fill_in_this_way(filling, seed);
        let others = &kind.nodes()[1..];
        for name in others {
            cluster.start(name);
        }
        cluster.until_settled_with(kind.nodes().len(), SOON).await;
        let mut clients = JoinSet::new();
        cluster.lose_messages(seed, 0.08);
        for partition in 0..PARTITIONS {
            if left_alone().any(|p| p == partition) {
                for _ in 0..3 {
                    cluster.is_available(partition, SOON).await;
                }
                continue;
            }
            clients.spawn(cluster.clone().client(partition, true));
            clients.spawn(cluster.clone().client(partition, false));
        }
        sleep(Duration::from_secs(2)).await;
        Self {
            cluster,
            random: StdRng::seed_from_u64(seed),
            clients,
        }
    }

    /// What must be so before the change can be planned; then it is begun.
    async fn begin(&mut self, kind: Kind) {
        match kind {
            Kind::Join => self.cluster.start("n9"),
            Kind::JoinTwo => {
                self.cluster.start("n8");
                self.cluster.start("n9");
            }
            Kind::Remove => self.cluster.crash("n3"),
            Kind::Replace => {
                self.cluster.crash("n3");
                self.cluster.start_candidate("n9");
            }
            Kind::Rebalance => {
                for (name, zone) in [("n1", "x"), ("n2", "x"), ("n3", "y"), ("n4", "z")] {
                    self.cluster.edit(name, |m| m.zone = zone.into());
                }
                let zoned = |t: &Topology| t.members[3].zone == "z";
                self.cluster.until("n1", END, zoned).await;
                self.cluster.until("n2", END, zoned).await;
            }
            Kind::Leave | Kind::LeaveToTwo | Kind::Cancel => {}
        }
        if let Some(change) = kind.change() {
            self.order(&change).await;
        }
    }

    /// An operator who tries again, at whichever node, until the change is under way (or, for a
    /// cancel, until none is).
    async fn order(&mut self, change: &Change) {
        let began = tokio::time::Instant::now();
        loop {
            let nodes = self.cluster.coordinators();
            let through = &nodes[self.random.random_range(0..nodes.len())];
            let before = self.cluster.handle(through.as_str()).current();
            let is_cancel = matches!(change, Change::Cancel {});
            if before.is_some_and(|t| t.transition.is_some() != is_cancel)
                || self.cluster.order(through, change).await
            {
                return;
            }
            assert!(began.elapsed() < END, "{change:?} is not taken");
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// A node of that role in the change under way, or in the ring when it is over.
    fn pick(&mut self, kind: Kind, role: Role) -> Option<NodeId> {
        let nodes = self.cluster.coordinators();
        let ring = nodes
            .iter()
            .filter_map(|n| self.cluster.handle(n.as_str()).current())
            .max_by_key(|t| t.epoch)?;
        let gainers = handover::gainers(&ring);
        let pool: Vec<NodeId> = match role {
            Role::Nobody => return None,
            Role::Driver => return nodes.first().cloned(),
            Role::Goer => kind.goer().map(id).into_iter().collect(),
            Role::Gainer => gainers.into_iter().collect(),
            Role::OldReplica => {
                let old: BTreeSet<NodeId> = ring.settled_members().map(|m| m.id.clone()).collect();
                old.into_iter().filter(|n| !gainers.contains(n)).collect()
            }
        };
        if pool.is_empty() {
            return None;
        }
        Some(pool[self.random.random_range(0..pool.len())].clone())
    }

    /// It comes back after it crashed.
    async fn revive(&self, victim: &NodeId, loss: Loss) {
        let name = victim.as_str();
        if loss != Loss::Nothing {
            self.cluster.lose_data(victim);
        }
        if loss != Loss::Folder {
            return self.cluster.revive(name).await;
        }
        let coordinators = self.cluster.coordinators();
        let knows = |n: &&NodeId| {
            let ring = self.cluster.handle(n.as_str()).current();
            ring.is_some_and(|t| t.contains(victim))
        };
        match coordinators.iter().find(knows) {
            Some(seed) => {
                self.cluster
                    .revive_without_folder(name, seed.as_str())
                    .await;
            }
            // it waited to be taken in
            None => self.cluster.start(name),
        }
    }

    /// All have all their data.
    async fn until_whole(&self) {
        let began = tokio::time::Instant::now();
        let lacks = |n: &NodeId| {
            let handle = self.cluster.handle(n.as_str());
            handle.inner.identity.needs_refill()
        };
        while self.cluster.up().iter().any(lacks) {
            assert!(began.elapsed() < END, "what was lost does not come back");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Somebody goes by the epoch `steps` after `base`.
    async fn until_epoch(&self, epoch: u64) {
        let began = tokio::time::Instant::now();
        loop {
            let reached = |n: &NodeId| {
                let ring = self.cluster.handle(n.as_str()).current();
                ring.is_some_and(|t| t.epoch >= epoch)
            };
            if self.cluster.coordinators().iter().any(reached) {
                return;
            }
            assert!(began.elapsed() < END, "epoch {epoch} does not come");
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// Partitions whose replicas live can be written, although somebody is down.
    async fn check_available(&self) {
        let up: BTreeSet<NodeId> = self.cluster.up().into_iter().collect();
        let rings = self.cluster.coordinators();
        let ring = rings
            .iter()
            .filter_map(|n| self.cluster.handle(n.as_str()).current())
            .max_by_key(|t| t.epoch)
            .expect("somebody is up");
        let counts = partition_counts(&ring, &up);
        let mut works = 0;
        for p in 0..ring.partition_count() {
            let needed = ring.requirement(p, ringmaster_shared::topology::Access::Write);
            if needed.is_met(&up) {
                let available = self.cluster.is_available(p, Duration::from_secs(60)).await;
                assert!(available, "partition {p} of {ring:?}, up: {up:?}");
                works += 1;
            }
        }
        assert!(works >= counts.quorum);
    }

    /// All that are up go by one ring without a change.
    async fn until_settled(&self) -> Topology {
        let began = tokio::time::Instant::now();
        loop {
            let nodes = self.cluster.coordinators();
            let rings: BTreeSet<(u64, bool)> = nodes
                .iter()
                .filter_map(|n| self.cluster.handle(n.as_str()).current())
                .map(|t| (t.epoch, t.transition.is_some()))
                .collect();
            // whoever is up is in the ring, waits for a plan, or still has to learn that it is out
            let waiting = self.cluster.candidates();
            let all_in = nodes.len() + waiting == self.cluster.up().len();
            if all_in && rings.len() == 1 && rings.iter().all(|(_, change)| !change) {
                let ring = self.cluster.handle(nodes[0].as_str()).current();
                return (*ring.expect("one")).clone();
            }
            let seen: Vec<_> = self.cluster.up();
            assert!(began.elapsed() < END, "not settled: {rings:?}, up {seen:?}");
            sleep(Duration::from_millis(100)).await;
        }
    }
}

/// What the clients saw.
async fn run(plot: Plot) -> Checks {
    let Plot {
        kind,
        role,
        step,
        seed,
        filling,
        loss,
    } = plot;
    let mut run = Run::prepare(kind, seed, filling).await;
    let base = run.cluster.handle("n1").current().expect("one").epoch;
    let base = base + u64::from(kind == Kind::Rebalance) * 10;
    run.begin(kind).await;
    let now = run.cluster.coordinators();
    let now = now
        .iter()
        .filter_map(|n| run.cluster.handle(n.as_str()).current());
    let now = now.map(|t| t.epoch).max().expect("somebody is up");
    let first = if base > now { now } else { base + 1 };
    if kind == Kind::Cancel {
        let pause = run.random.random_range(0..60);
        sleep(Duration::from_millis(pause)).await;
        // too late is fine: then it is finished, and there is nothing to cancel
        if let Some(through) = run.cluster.coordinators().first() {
            run.cluster.order(through, &Change::Cancel {}).await;
        }
    } else {
        run.until_epoch(first + step).await;
    }
    let mut lost = None;
    if let Some(victim) = run.pick(kind, role) {
        let down = run.cluster.is_down(&victim);
        if !down {
            if loss == Loss::Store {
                let identity = run.cluster.handle(victim.as_str()).inner.identity.clone();
                run.cluster.crash(victim.as_str());
                identity.set_needs_refill().expect("writes");
            } else {
                run.cluster.crash(victim.as_str());
            }
        }
        // shorter and longer than a change waits for those who gain
        let away = [300, 4_000, 20_000, 50_000][run.random.random_range(0..4)];
        sleep(Duration::from_millis(away)).await;
        if away > 10_000 {
            run.check_available().await;
        }
        if !run.cluster.has_departed(&victim) {
            run.revive(&victim, loss).await;
            lost = (loss != Loss::Nothing).then_some(victim);
        }
    }
    // one that gave up waiting comes again, and is taken in
    run.until_settled().await;
    run.until_whole().await;
    let ring = run.until_settled().await;
    run.clients.shutdown().await;
    // what is still on its way arrives, or is refused
    sleep(Duration::from_secs(5)).await;
    run.cluster.assert_one_content_per_epoch();
    let mut checks = run.cluster.checks();
    checks
        .violations
        .extend(run.cluster.every_quorum_knows(&ring));
    if let Some(lost) = lost {
        let alone = left_alone();
        checks
            .violations
            .extend(run.cluster.lacks(&lost, &ring, alone));
    }
    if let Some(goer) = kind.goer() {
        let (goer, out) = (id(goer), !ring.contains(&id(goer)));
        assert!(!out || run.cluster.is_down(&goer), "who is out has ended");
        assert!(out || !run.cluster.has_departed(&goer), "nobody else has");
    }
    assert!(run.cluster.lost() > 0, "the loss really happened");
    checks
}

/// As a paused runtime of its own, so that one does not wait for another.
fn in_pretended_time(plot: Plot) -> Checks {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(run(plot))
}

/// `RINGD_CAMPAIGN_SEED` repeats a run, `RINGD_CAMPAIGN_ROUNDS` asks for more.
fn from_environment(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.and_then(|v| v.parse().ok()).unwrap_or(default)
}

fn campaign(kinds: &[Kind], losses: &[Loss]) {
    let first = from_environment("RINGD_CAMPAIGN_SEED", 1);
    let rounds = from_environment("RINGD_CAMPAIGN_ROUNDS", 1);
    for seed in first..first + rounds {
        for kind in kinds {
            for role in ROLES {
                let pointless = role == Role::Goer && kind.goer().is_none();
                let steps = if role == Role::Nobody { 0..1 } else { 0..3 };
                for (step, loss) in steps.flat_map(|s| losses.iter().map(move |l| (s, *l))) {
                    let plot = Plot {
                        kind: *kind,
                        role,
                        step,
                        seed,
                        filling: Filling::FromAQuorum,
                        loss,
                    };
                    if pointless || (loss != Loss::Nothing && role == Role::Nobody) {
                        continue;
                    }
                    eprintln!("{plot:?}");
                    let checks = in_pretended_time(plot);
                    assert_eq!(checks.violations, Vec::<String>::new());
                    assert!(checks.acknowledged > 50 && checks.reads > 50, "{checks:?}");
                }
            }
        }
    }
}

#[test]
fn joins_survive_every_crash() {
    campaign(&KINDS[..2], &[Loss::Nothing]);
}

#[test]
fn leaves_survive_every_crash() {
    campaign(&KINDS[2..4], &[Loss::Nothing]);
}

#[test]
fn removals_and_replacements_survive_every_crash() {
    campaign(&KINDS[4..6], &[Loss::Nothing]);
}

#[test]
fn rebalancing_and_cancelling_survive_every_crash() {
    campaign(&KINDS[6..], &[Loss::Nothing]);
}

/// With one of three replicas, or the one that gains, without what it had stored, and without its votes.
#[test]
fn changes_survive_the_loss_of_a_store_or_folder() {
    campaign(
        &[Kind::Join, Kind::Leave, Kind::Rebalance],
        &[Loss::Store, Loss::Folder],
    );
}

/// The checks bite: new replicas that are filled from one old replica only miss what that one
/// missed.
#[test]
fn filling_from_one_replica_is_noticed() {
    for seed in 1..100 {
        for kind in [Kind::LeaveToTwo, Kind::Join, Kind::Leave] {
            let checks = in_pretended_time(Plot {
                kind,
                role: Role::Nobody,
                step: 0,
                seed,
                filling: Filling::FromOne,
                loss: Loss::Nothing,
            });
            if let Some(violation) = checks.violations.first() {
                eprintln!("noticed with seed {seed}: {violation}");
                return;
            }
        }
    }
    panic!("none of 297 runs noticed it");
}
