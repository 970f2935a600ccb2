//! Seeded runs of many faults under load, judged by every check there is. Short by default, long
//! when asked: `RINGD_CAMPAIGN_SECONDS=3600`, `RINGD_KILL_CYCLES=1000`; `RINGD_CAMPAIGN_SEED`
//! repeats the faults of a run (the nodes' own timing stays theirs).

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{SeedableRng, rngs::StdRng};
use reqwest::Method;

use super::{
    crowd::Crowd,
    nemesis::{ALL, Fault, KILLS, Nemesis},
};
use crate::support::{
    checks::{Check, ended::End, record::Seen},
    field::Arena,
    history::Recorder,
    observer::settled,
};

const CAMPAIGN_SECONDS: u64 = 40;
const KILL_CYCLES: u64 = 10;
/// Histories are judged at least this often, so that they stay small.
const ROUND: Duration = Duration::from_secs(60);
/// The same for kills.
const ROUND_CYCLES: usize = 25;
/// How long replicas may differ when all is quiet; comparing them comes round every minute.
const QUIET: Duration = Duration::from_secs(150);

/// What every run must have examined.
const CHECKS: [Check; 8] = [
    Check::NothingLost,
    Check::NoFalseDominance,
    Check::DotsAreUnique,
    Check::NoResurrection,
    Check::Convergence,
    Check::SiblingsAreConcurrent,
    Check::Sessions,
    Check::StaleContexts,
];

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// The deck of `RINGD_CAMPAIGN_FAULTS=Ring,Join,KillAll`, else all.
fn deck() -> Vec<Fault> {
    let Ok(names) = std::env::var("RINGD_CAMPAIGN_FAULTS") else {
        return ALL.to_vec();
    };
    let of_name = |name: &str| {
        let found = ALL.iter().find(|fault| format!("{fault:?}") == name);
        *found.unwrap_or_else(|| panic!("no fault is called {name}; there are {ALL:?}"))
    };
    names.split(',').map(of_name).collect()
}

fn seed(name: &str) -> u64 {
    let seed = setting("RINGD_CAMPAIGN_SEED").unwrap_or_else(|| rand::random::<u32>().into());
    eprintln!("{name}: RINGD_CAMPAIGN_SEED={seed}");
    seed
}

/// One cluster, attacked for as many rounds as it takes.
struct Campaign {
    name: &'static str,
    seed: u64,
    arena: Arena,
    nemesis: Nemesis,
    rounds: usize,
    /// What earlier rounds ended with; nothing may change it afterwards.
    kept: BTreeMap<String, Seen>,
    all_killed: usize,
}

impl Campaign {
    async fn new(name: &'static str, deck: &[Fault]) -> Self {
        let seed = seed(name);
        Self {
            name,
            seed,
            arena: Arena::start(3).await,
            nemesis: Nemesis::new(StdRng::seed_from_u64(seed), deck),
            rounds: 0,
            kept: BTreeMap::new(),
            all_killed: 0,
        }
    }

    /// Strikes under load until `enough` says so, then heals, waits and judges.
    async fn round(&mut self, mut enough: impl FnMut(&Nemesis) -> bool) {
        let recorder = Arc::new(Recorder::new());
        let prefix = format!("{}-{}", self.name, self.rounds);
        let seed = self.seed.wrapping_add(self.rounds as u64);
        let crowd = Crowd::start(&recorder, self.arena.apis(), &prefix, seed);
        while !enough(&self.nemesis) {
            self.nemesis
                .strike(&mut self.arena, &crowd, &recorder)
                .await;
            crowd.next_phase();
        }
        crowd.stop().await;
        self.arena.agree().await;
        let nodes = self.arena.apis();
        for (_, api) in &nodes {
            // it comes by itself as well, only later
            let _ = api.send(Method::POST, "/api/v1/repair", None).await;
        }
        let keys = recorder.keys();
        let end = settled(&nodes, &keys, QUIET).await;
        eprintln!("{} round {}: {}", self.name, self.rounds, self.nemesis.done);
        let judged = recorder.must_hold(&end, &CHECKS);
        assert!(judged > 0, "no key was judged as a register");
        let killed = recorder.judge(&end).examined(Check::Durability);
        self.all_killed += killed;
        self.keep(&end).await;
        self.rounds += 1;
    }

    /// What earlier rounds left is still there, and what this one left is to stay.
    async fn keep(&mut self, end: &End) {
        let keys: Vec<String> = self.kept.keys().cloned().collect();
        let now = settled(&self.arena.apis(), &keys, QUIET).await;
        for (key, was) in &self.kept {
            // a tombstone may be forgotten meanwhile, and with it what was known of the key
            let contents = |seen: &Seen| (seen.found, seen.values.clone());
            let is = now.seen(key).map(contents);
            assert_eq!(is, Some(contents(was)), "{key} of an earlier round");
        }
        for key in end.keys.keys() {
            if let Some(seen) = end.seen(key) {
                self.kept.insert(key.clone(), seen.clone());
            }
        }
    }
}

#[tokio::test]
async fn a_campaign_of_all_faults() {
    let seconds = setting("RINGD_CAMPAIGN_SECONDS").unwrap_or(CAMPAIGN_SECONDS);
    let over = Instant::now() + Duration::from_secs(seconds);
    let at_last = over + Duration::from_secs(2 * seconds);
    let kinds = deck().len();
    let mut campaign = Campaign::new("campaign", &deck()).await;
    loop {
        // a round beyond the end is a whole one: a shorter one would show nothing either
        let end = if Instant::now() < over { over } else { at_last };
        let round_over = (Instant::now() + ROUND).min(end);
        let begin = campaign.nemesis.done.faults.len();
        campaign
            .round(|nemesis| {
                // in a short run each kind has its turn all the same
                let drawn = nemesis.drawn();
                drawn >= kinds && Instant::now() >= round_over && nemesis.done.faults.len() > begin
            })
            .await;
        // a short run may draw its one kill of all before there was anything to lose
        let shows_all = campaign.all_killed > 0 || !deck().contains(&Fault::KillAll);
        if Instant::now() >= if shows_all { over } else { at_last } {
            break;
        }
    }
    assert!(
        campaign.all_killed > 0 || !deck().contains(&Fault::KillAll),
        "nothing was shown of a kill of all"
    );
}

#[tokio::test]
async fn kill_cycles() {
    let cycles = setting("RINGD_KILL_CYCLES").unwrap_or(KILL_CYCLES) as usize;
    let mut campaign = Campaign::new("cycles", &KILLS).await;
    let began = Instant::now();
    loop {
        let done = campaign.nemesis.done.faults.len();
        // a short run may draw its one kill of all before there was anything to lose
        let shows_nothing = campaign.all_killed == 0 && done < 3 * cycles;
        if done >= cycles && !shows_nothing {
            break;
        }
        let until = (done + ROUND_CYCLES).min(cycles.max(done + 3));
        campaign
            .round(|nemesis| nemesis.done.faults.len() >= until)
            .await;
    }
    let done = &campaign.nemesis.done;
    let seconds = began.elapsed().as_secs();
    eprintln!("{cycles} cycles in {seconds} s: {done}");
    assert!(
        done.kills >= cycles && done.kills_during_start > 0,
        "{done}"
    );
    assert!(
        campaign.all_killed > 0,
        "nothing was shown of a kill of all"
    );
}
