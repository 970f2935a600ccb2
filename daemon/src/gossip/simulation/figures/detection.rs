//! How soon a crash is found, and how soon everybody knows of it.

use rand::{Rng, seq::index};
use ringmaster_shared::member::MemberStatus;

use super::{SIZES, formed, median_and_99th, table};
use crate::gossip::{
    GossipConfig,
    core::suspicion_timeout,
    simulation::{judging::Noted, names::Who, nodes::Condition, world::World},
};

const NEVER: u32 = u32::MAX;

/// A member that crashes, and when each of the others heard of it.
pub struct Crash {
    who: Who,
    at_ms: u64,
    /// By observer: milliseconds from the crash to the first suspicion held, and to the death.
    suspected: Vec<u32>,
    dead: Vec<u32>,
}

/// Watches crashes while a world runs.
#[derive(Default)]
pub struct Crashes(Vec<Crash>);

impl Crashes {
    pub fn crash(&mut self, world: &mut World, who: Who) {
        world.crash(who);
        let none = vec![NEVER; world.nodes.len()];
        self.0.push(Crash {
            who,
            at_ms: world.now,
            suspected: none.clone(),
            dead: none,
        });
    }

    pub fn take(&mut self, noted: &[Noted]) {
        for Noted {
            at_ms,
            observer,
            change,
        } in noted
        {
            let Some(crash) = self.0.iter_mut().find(|c| c.who == change.about) else {
                continue;
            };
            let after = at_ms.saturating_sub(crash.at_ms) as u32;
            let lists = match change.after.1 {
                MemberStatus::Suspected => [Some(&mut crash.suspected), None],
                MemberStatus::Dead => [Some(&mut crash.suspected), Some(&mut crash.dead)],
                _ => [None, None],
            };
            for list in lists.into_iter().flatten() {
                list[*observer] = list[*observer].min(after);
            }
        }
    }

    /// Whether all of `observers` hold all of them dead.
    pub fn all_known(&self, observers: &[Who]) -> bool {
        self.0
            .iter()
            .all(|c| observers.iter().all(|o| c.dead[*o] != NEVER))
    }

    pub fn figures(&self, observers: &[Who], figures: &mut Figures) {
        let first = |list: &[u32]| observers.iter().map(|o| list[*o]).min().unwrap_or(NEVER);
        let last = |list: &[u32]| observers.iter().map(|o| list[*o]).max().unwrap_or(NEVER);
        for crash in &self.0 {
            let times = [
                first(&crash.suspected),
                last(&crash.suspected),
                first(&crash.dead),
                last(&crash.dead),
            ];
            if times.contains(&NEVER) {
                figures.unknown += 1;
                continue;
            }
            let [suspected, all_suspected, dead, all_dead] = times.map(u64::from);
            figures.first_suspected.push(suspected);
            figures.suspicion_spread.push(all_suspected - suspected);
            figures.first_dead.push(dead);
            figures.all_dead.push(all_dead);
        }
    }
}

/// Milliseconds, one of each for every crash.
#[derive(Default)]
pub struct Figures {
    pub first_suspected: Vec<u64>,
    pub suspicion_spread: Vec<u64>,
    pub first_dead: Vec<u64>,
    pub all_dead: Vec<u64>,
    /// Crashes that somebody had not heard of in the end.
    pub unknown: usize,
}

/// Crashes `crashes` members of a formed cluster, one every `gap_ms` on average, and waits until
/// everybody knows.
fn detect(seed: u64, n: usize, crashes: usize, gap_ms: u64, figures: &mut Figures) {
    let mut world = formed(seed, n);
    world.noted = Some(Vec::new());
    let mut watch = Crashes::default();
    let victims = index::sample(&mut world.rng, n, crashes).into_vec();
    for victim in victims {
        let gap = world.rng.random_range(0..=2 * gap_ms);
        world.run_for(gap);
        watch.crash(&mut world, victim);
        watch.take(&world.noted.replace(Vec::new()).unwrap_or_default());
    }
    let observers: Vec<Who> = (0..n)
        .filter(|o| world.nodes[*o].condition == Condition::Up)
        .collect();
    let patience = 10 * suspicion_timeout(&GossipConfig::default(), n).as_millis() as u64;
    let end = world.now + patience;
    while world.now < end && !watch.all_known(&observers) {
        world.run_for(500);
        watch.take(&world.noted.replace(Vec::new()).unwrap_or_default());
    }
    watch.figures(&observers, figures);
}

/// Push gossip to `fanout` members a round reaches everybody in about this many rounds
/// (`log_(f+1) n + ln n / f`, Pittel 1987).
fn rounds_to_all(n: usize, fanout: usize) -> f64 {
    let (n, f) = (n as f64, fanout as f64);
    n.ln() / (f + 1.0).ln() + n.ln() / f
}

fn row(n: usize, worlds: u64, crashes: usize, gap_ms: u64) -> Vec<String> {
    let config = GossipConfig::default();
    let mut figures = Figures::default();
    for seed in 0..worlds {
        detect(seed, n, crashes, gap_ms, &mut figures);
    }
    let expected = std::f64::consts::E / (std::f64::consts::E - 1.0);
    let rounds = rounds_to_all(n, config.gossip_fanout) * config.gossip_interval.as_secs_f64();
    let suspicion = suspicion_timeout(&config, n).as_secs_f64();
    let most = suspicion * f64::from(config.suspicion_max_mult);
    let count = figures.all_dead.len();
    let missing = match figures.unknown {
        0 => String::new(),
        unknown => format!(" (and {unknown} not known to all)"),
    };
    vec![
        n.to_string(),
        format!("{count}{missing}"),
        median_and_99th(&mut figures.first_suspected),
        format!("{expected:.2}"),
        median_and_99th(&mut figures.suspicion_spread),
        format!("{rounds:.1}"),
        median_and_99th(&mut figures.first_dead),
        format!("{suspicion:.1} to {most:.1}"),
        median_and_99th(&mut figures.all_dead),
    ]
}

const HEAD: [&str; 9] = [
    "N",
    "crashes",
    "first suspicion",
    "SWIM: e/(e-1)",
    "suspicion everywhere",
    "epidemic",
    "first held dead",
    "suspicion lasts",
    "held dead everywhere",
];

#[test]
#[ignore = "minutes; prints a table of docs/gossip.md"]
fn detection_and_dissemination() {
    let plan = [
        (10, 300, 1, 1_000),
        (100, 30, 10, 3_000),
        (1_000, 3, 100, 1_000),
        (10_000, 1, 100, 300),
    ];
    assert_eq!(plan.map(|p| p.0), SIZES);
    let rows: Vec<_> = plan
        .into_iter()
        .filter(|(n, ..)| super::is_wanted(*n))
        .map(|(n, worlds, crashes, gap)| row(n, worlds, crashes, gap))
        .collect();
    println!(
        "\nDetection and dissemination of a crash, seconds, median / 99th:\n\n{}",
        table(&HEAD, &rows)
    );
}

/// What the table must keep to, at sizes that take no time.
#[test]
fn crashes_are_found_and_known_as_the_formulas_say() {
    for (n, worlds, crashes) in [(10, 8, 1), (60, 1, 6)] {
        let mut figures = Figures::default();
        for seed in 0..worlds {
            detect(seed, n, crashes, 2_000, &mut figures);
        }
        assert_eq!(figures.unknown, 0);
        let config = GossipConfig::default();
        let suspicion = suspicion_timeout(&config, n).as_millis() as u64;
        // somebody's probe, and that probe's whole time
        let found = super::percentile(&mut figures.first_suspected, 50).expect("some");
        assert!((1_000..3_500).contains(&found), "{n}: {found} ms");
        let rounds = rounds_to_all(n, config.gossip_fanout);
        let gossip = config.gossip_interval.as_secs_f64() * 1000.0;
        let spread = super::percentile(&mut figures.suspicion_spread, 99).expect("some");
        assert!(spread as f64 <= 3.0 * rounds * gossip, "{n}: {spread} ms");
        let dead = super::percentile(&mut figures.all_dead, 99).expect("some");
        let most = 6_000 + suspicion * u64::from(config.suspicion_max_mult);
        assert!((suspicion..most).contains(&dead), "{n}: {dead} ms");
    }
}
