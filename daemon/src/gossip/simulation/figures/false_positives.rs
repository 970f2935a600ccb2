//! Healthy members that are declared dead because others are overloaded: the experiment of the
//! Lifeguard paper (Dadgar, Phillips, Currey 2018).
//!
//! Of a hundred members some are blocked for `D` ms, free for `I` ms, and so on, all of them
//! starting at once, for two minutes. Every healthy member that anybody holds dead is a false
//! positive, once for each who holds that. One healthy member really crashes.

use rand::seq::index;
use ringmaster_shared::member::MemberStatus;

use super::{
    detection::{Crashes, Figures},
    formed_with, median_and_99th, table,
};
use crate::gossip::{
    GossipConfig, Lifeguard,
    simulation::{
        holds::{Hold, Stretch},
        names::Who,
    },
};

const N: usize = 100;
const OVERLOADED: [usize; 5] = [1, 4, 8, 16, 32];
const BLOCKED_MS: [u64; 4] = [2_048, 8_192, 16_384, 32_768];
const FREE_MS: [u64; 3] = [16, 512, 8_192];
const RUN_MS: u64 = 120_000;
/// After this the crash.
const CRASH_MS: u64 = 30_000;

#[derive(Default)]
struct Outcome {
    /// Deaths of healthy members, held by anybody and by healthy ones.
    at_all: u64,
    at_healthy: u64,
    /// Members that anybody wrongly held dead.
    victims: u64,
    crash: Figures,
    bytes: u64,
}

fn experiment(
    seed: u64,
    n: usize,
    lifeguard: Lifeguard,
    overloaded: usize,
    stretch: Stretch,
    sum: &mut Outcome,
) {
    let config = GossipConfig {
        lifeguard,
        ..GossipConfig::default()
    };
    let mut world = formed_with(seed, n, config);
    world.noted = Some(Vec::new());
    let picked = index::sample(&mut world.rng, n, overloaded + 1).into_vec();
    let (victim, slow) = picked.split_last().expect("one more than overloaded");
    for who in slow {
        let until_ms = world.now + RUN_MS;
        world.overload(
            *who,
            Stretch {
                until_ms,
                ..stretch
            },
        );
    }
    let start = world.now;
    let mut watch = Crashes::default();
    world.run_until(start + CRASH_MS);
    watch.crash(&mut world, *victim);
    world.run_until(start + RUN_MS);
    let noted = world.noted.take().unwrap_or_default();
    watch.take(&noted);
    let is_healthy = |who: Who| !slow.contains(&who);
    let healthy: Vec<Who> = (0..n).filter(|w| is_healthy(*w) && w != victim).collect();
    watch.figures(&healthy, &mut sum.crash);
    let mut victims = vec![false; n];
    for noted in &noted {
        let about = noted.change.about;
        let wrong =
            noted.change.after.1 == MemberStatus::Dead && is_healthy(about) && about != *victim;
        if wrong {
            sum.at_all += 1;
            sum.at_healthy += u64::from(is_healthy(noted.observer));
            victims[about] = true;
        }
    }
    sum.victims += victims.iter().filter(|v| **v).count() as u64;
    sum.bytes += world.counters.sent_bytes;
}

/// Deaths of healthy members, held by healthy ones and by anybody, when one of `n` is blocked now
/// and then.
pub fn of_one_blocked(n: usize) -> (u64, u64) {
    let mut sum = Outcome::default();
    for (seed, stretch) in grid(Hold::Blocked).enumerate() {
        experiment(seed as u64, n, Lifeguard::default(), 1, stretch, &mut sum);
    }
    (sum.at_healthy, sum.at_all)
}

fn configurations() -> [(&'static str, Lifeguard); 5] {
    let all = Lifeguard::default();
    let none = Lifeguard {
        health: false,
        confirmations: false,
        buddy: false,
    };
    [
        ("SWIM alone", none),
        (
            "health",
            Lifeguard {
                health: true,
                ..none
            },
        ),
        (
            "confirmations",
            Lifeguard {
                confirmations: true,
                ..none
            },
        ),
        (
            "buddy",
            Lifeguard {
                buddy: true,
                ..none
            },
        ),
        ("Lifeguard", all),
    ]
}

fn grid(hold: Hold) -> impl Iterator<Item = Stretch> {
    BLOCKED_MS.into_iter().flat_map(move |blocked_ms| {
        FREE_MS.into_iter().map(move |free_ms| Stretch {
            hold,
            blocked_ms,
            free_ms,
            until_ms: 0,
        })
    })
}

fn print(hold: Hold) {
    let mut rows = Vec::new();
    for (name, lifeguard) in configurations() {
        let mut row = vec![name.to_owned()];
        let mut crash = Figures::default();
        for overloaded in OVERLOADED {
            let mut sum = Outcome::default();
            for (seed, stretch) in grid(hold).enumerate() {
                experiment(seed as u64, N, lifeguard, overloaded, stretch, &mut sum);
            }
            row.push(format!("{} / {}", sum.at_healthy, sum.at_all));
            crash.first_dead.append(&mut sum.crash.first_dead);
            crash.all_dead.append(&mut sum.crash.all_dead);
            crash.unknown += sum.crash.unknown;
        }
        row.push(median_and_99th(&mut crash.first_dead));
        row.push(median_and_99th(&mut crash.all_dead));
        row.push(crash.unknown.to_string());
        // it takes long: each row as soon as it is there
        println!("{hold:?}: {}", row.join(" | "));
        rows.push(row);
    }
    let head = [
        "parts",
        "1 overloaded",
        "4",
        "8",
        "16",
        "32",
        "crash: first held dead",
        "crash: dead everywhere healthy",
        "crash: not known everywhere",
    ];
    println!(
        "\nFalse positives at healthy members / at all, {N} members, {hold:?} for {BLOCKED_MS:?} \
         ms with {FREE_MS:?} ms between, two minutes each:\n\n{}",
        table(&head, &rows)
    );
}

#[test]
#[ignore = "minutes; prints a table of docs/gossip.md"]
fn false_positives_of_blocked_members() {
    print(Hold::Blocked);
}

#[test]
#[ignore = "minutes; prints a table of docs/gossip.md"]
fn false_positives_of_paused_members() {
    print(Hold::Paused);
}

/// The shape of the paper's result, at a size that takes little time.
#[test]
fn lifeguard_spares_the_healthy() {
    let [(_, none), .., (_, all)] = configurations();
    let run = |lifeguard| {
        let mut sum = Outcome::default();
        for seed in 0..2 {
            let stretch = Stretch {
                hold: Hold::Blocked,
                blocked_ms: 16_384,
                free_ms: 64,
                until_ms: 0,
            };
            experiment(seed, 32, lifeguard, 4, stretch, &mut sum);
        }
        sum
    };
    let (swim, lifeguard) = (run(none), run(all));
    println!(
        "{} and {} at healthy members, {} and {} at all",
        swim.at_healthy, lifeguard.at_healthy, swim.at_all, lifeguard.at_all
    );
    assert!(swim.at_healthy > 10 * lifeguard.at_healthy.max(1));
    assert!(swim.at_all > 2 * lifeguard.at_all);
    assert_eq!(lifeguard.crash.unknown, 0);
}
