//! A few cores whose packets arrive at once, over links some of which let no UDP through. TCP
//! reaches everybody who lives.

use super::{super::*, *};
use crate::gossip::reconcile::Next;

/// Whether UDP gets from one to another.
pub type Udp = fn(from: usize, to: usize) -> bool;

pub struct World {
    pub cores: Vec<Core>,
    pub alive: Vec<bool>,
    /// Whom nothing reaches, and who reaches nobody.
    pub cut_off: Option<usize>,
    pub udp: Udp,
    /// Of a hundred packets so many are lost.
    pub loss: u32,
    /// Packets that did not arrive.
    pub dropped: u64,
    pub now: u64,
    /// Everything that happened: when, to whom.
    pub happened: Vec<(u64, usize, Happening)>,
    /// Exchanges: when, by whom, with whom.
    pub exchanges: Vec<(u64, usize, usize)>,
    rng: SmallRng,
}

fn port(who: usize) -> SocketAddr {
    ([127, 0, 0, 1], 1000 + who as u16).into()
}

impl World {
    /// `n` members that know one another, at rest.
    pub fn of(n: usize, config: &GossipConfig) -> Self {
        let name = |i: usize| format!("n{i}");
        let cores = (0..n).map(|i| {
            let rng = SmallRng::seed_from_u64(i as u64);
            Core::new(config.clone(), cluster(), member(&name(i)), [], rng, at(0))
        });
        let mut world = Self {
            cores: cores.collect(),
            alive: vec![true; n],
            cut_off: None,
            udp: |_, _| true,
            loss: 0,
            dropped: 0,
            now: 0,
            happened: Vec::new(),
            exchanges: Vec::new(),
            rng: SmallRng::seed_from_u64(99),
        };
        let all: Vec<_> = (0..n).map(|i| Arc::new(member(&name(i)))).collect();
        for core in &mut world.cores {
            core.welcome(at(0), all.clone());
        }
        world.run(5_000);
        world.happened.clear();
        world.exchanges.clear();
        world
    }

    pub fn run(&mut self, for_ms: u64) {
        let end = self.now + for_ms;
        self.run_until(end, |_| false);
    }

    /// Runs until `done`, or `limit_ms` later; whether it came true.
    pub fn comes(&mut self, limit_ms: u64, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + limit_ms;
        self.run_until(end, &done);
        done(self)
    }

    fn run_until(&mut self, end: u64, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            let living = (0..self.cores.len()).filter(|i| self.alive[*i]);
            let next = living.map(|i| (self.cores[i].next_wake(), i)).min();
            let Some((wake, who)) = next.filter(|(wake, _)| *wake <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(wake);
            self.cores[who].tick(at(self.now));
            self.deliver();
        }
    }

    /// Hands on what cores want done until they are content.
    pub fn deliver(&mut self) {
        loop {
            let mut outputs = Vec::new();
            for (who, core) in self.cores.iter_mut().enumerate() {
                let alive = self.alive[who];
                let all = core.take_outputs().into_iter();
                outputs.extend(all.filter(|_| alive).map(|o| (who, o)));
            }
            if outputs.is_empty() {
                return;
            }
            for (who, output) in outputs {
                self.carry_out(who, output);
            }
        }
    }

    fn at_address(&self, who: usize, address: &str) -> Option<usize> {
        let place = self.cores.iter().position(|c| c.local.address == address);
        place.filter(|to| self.alive[*to] && !self.is_cut(who, *to))
    }

    fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut_off == Some(from) || self.cut_off == Some(to)
    }

    fn carry_out(&mut self, who: usize, output: Output) {
        let now = at(self.now);
        match output {
            Output::Send { to, packet } => {
                let to = match to {
                    Dest::Address(address) => self.at_address(who, &address),
                    Dest::Source(source) => Some(usize::from(source.port()) - 1000),
                };
                let lost = self.rng.random_ratio(self.loss, 100);
                let open = |to: usize| (self.udp)(who, to) && !self.is_cut(who, to);
                let arrives = |to: &usize| self.alive[*to] && open(*to) && !lost;
                if let Some(to) = to.filter(arrives) {
                    self.cores[to].handle(now, port(who), *packet);
                } else {
                    self.dropped += 1;
                }
            }
            Output::TcpProbe { seq, address, .. } => {
                if self.at_address(who, &address).is_some() {
                    self.cores[who].tcp_answered(now, seq);
                }
            }
            Output::Exchange { address } => {
                let Some(to) = self.at_address(who, &address) else {
                    return;
                };
                self.exchanges.push((self.now, who, to));
                let (asker, answerer) = (self.cores[who].brief(), self.cores[to].brief());
                let (mut asking, mut ask) = self.cores[who].begin_exchange(self.now);
                loop {
                    let answer = self.cores[to].answer_exchange(now, &asker, ask);
                    let answer = answer.expect("it makes sense");
                    match self.cores[who].take_answer(now, &mut asking, &answerer, answer) {
                        Next::Ask(next) => ask = next,
                        Next::Done { .. } => break,
                        Next::Nonsense => panic!("nonsense"),
                    }
                }
                self.cores[who].contact_answered(now, &address, &answerer.id);
            }
            Output::Happened(happening) => self.happened.push((self.now, who, happening)),
        }
    }

    /// Who came to know of something that fits, each once, with the time.
    pub fn told(&self, fits: impl Fn(&Happening) -> bool) -> Vec<(usize, u64)> {
        let fitting = self.happened.iter().filter(|(_, _, h)| fits(h));
        fitting.map(|(when, who, _)| (*who, *when)).collect()
    }

    /// Nobody is, or was, thought ill of.
    pub fn nobody_was_doubted(&self) {
        let doubt = self.happened.iter().find(|(_, _, h)| {
            matches!(
                h,
                Happening::Suspected { .. }
                    | Happening::Dead { .. }
                    | Happening::SelfRefuted { .. }
            )
        });
        assert_eq!(doubt, None);
    }
}
