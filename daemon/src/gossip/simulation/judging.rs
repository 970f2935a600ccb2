//! Looks at what a step of a node did, with the eyes of `checks.rs`.

use ringmaster_shared::member::MemberStatus;

use super::{
    checks::{self, Change, Rule, Violation},
    names::{self, Who},
    nodes::Condition,
    world::{Parameters, World, ms},
};
use crate::gossip::{
    claim,
    codec::Body,
    core::{Happening, Output},
    members::Held,
};

/// A change, and where.
#[derive(Debug, Clone, Copy)]
pub struct Noted {
    pub at_ms: u64,
    pub observer: Who,
    pub change: Change,
}

impl World {
    pub(super) fn note_probe(&mut self, who: Who, output: &Output) {
        let Output::Send { packet, .. } = output else {
            return;
        };
        let Body::Ping { .. } = packet.body else {
            return;
        };
        let depths = self.nodes[who].core.depths();
        let (n, again) = (depths.members + 1, depths.probed_again);
        if let Some(about) = names::who(&packet.to) {
            let judged = self.nodes[who].rounds.probed(self.now, about, n, again);
            self.judged(who, judged);
        }
    }

    pub(super) fn note_happening(&mut self, who: Who, happening: &Happening) {
        self.counters.count(happening);
        if !self.parameters.checked {
            return;
        }
        self.mix_happening(who, happening);
        if let Happening::Superseded { .. } = happening {
            let rule = Rule::OwnWord;
            let what = format!("nobody has a namesake here, but it says {happening:?}");
            self.judged(who, Err(Violation { rule, what }));
        }
    }

    pub(super) fn judge_own_word(&mut self, who: Who, outputs: usize) {
        let node = &self.nodes[who];
        let local = node.core.local();
        let held = (claim::freshness(local), local.status);
        let may_end = matches!(node.condition, Condition::Stopped | Condition::Left);
        let depths = node.core.depths();
        let judged = self
            .checks
            .word(who, held, may_end)
            .and_then(|()| checks::within_bounds(depths, outputs));
        self.judged(who, judged);
    }

    pub(super) fn judge_changes(&mut self, who: Who) {
        for change in self.changes(who) {
            let Change {
                about,
                before,
                after,
            } = change;
            let up_generation = |held: Held| {
                let node = &self.nodes[about];
                held.1 == MemberStatus::Alive
                    && held.0.0 == node.generation
                    && node.condition == Condition::Up
            };
            let was_right = before.is_some_and(up_generation);
            let is_right = up_generation(after);
            if self.nodes[who].condition == Condition::Up {
                self.right_pairs += usize::from(is_right);
                self.right_pairs -= usize::from(was_right);
            }
            let ((generation, incarnation), status) = after;
            let status = u64::from(status as u8);
            self.mix(&[who as u64, about as u64, generation, incarnation, status]);
            if self.parameters.checked {
                let judged = self.checks.change(self.now, &change);
                self.judged(who, judged);
                if after.1.is_reachable() {
                    self.nodes[who].rounds.reachable(self.now, about);
                } else {
                    self.nodes[who].rounds.gone(about);
                }
            }
            let plain =
                after.1 == MemberStatus::Alive && before.is_none_or(|b| b.1 == MemberStatus::Alive);
            if let Some(noted) = self.noted.as_mut().filter(|_| !plain) {
                noted.push(Noted {
                    at_ms: self.now,
                    observer: who,
                    change,
                });
            }
        }
    }

    /// What changed in a node's list since this was last asked.
    pub(super) fn changes(&mut self, who: Who) -> Vec<Change> {
        let mutations = self.nodes[who].core.take_mutations();
        let mut changes = Vec::with_capacity(mutations.len());
        for mutation in mutations {
            let cluster = self.nodes[who].cluster;
            let about = names::who(&mutation.about)
                .filter(|a| self.nodes.get(*a).is_some_and(|n| n.cluster == cluster));
            let Some(about) = about else {
                let what = format!("{} is not of its cluster", mutation.about);
                let rule = Rule::Stranger;
                self.judged(who, Err(Violation { rule, what }));
                continue;
            };
            let before = mutation.before;
            if self.parameters.checked {
                let by = (who, self.nodes[who].life);
                let step = (before, mutation.after);
                let judged = self.checks.held(self.now, by, about, step);
                self.judged(who, judged);
            }
            if let Some(after) = mutation.after {
                changes.push(Change {
                    about,
                    before,
                    after,
                });
            }
        }
        changes
    }

    /// Mixes what happened now into the digest of the run.
    pub(super) fn mix(&mut self, numbers: &[u64]) {
        let mut bytes = self.now.to_le_bytes().to_vec();
        bytes.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
        self.mix_bytes(&bytes);
    }

    /// As [`Self::mix`], what a node said happened.
    pub(super) fn mix_happening(&mut self, who: Who, happening: &Happening) {
        let text = format!("{} {who} {happening:?}", self.now);
        self.mix_bytes(text.as_bytes());
    }

    fn mix_bytes(&mut self, bytes: &[u8]) {
        self.trace = xxhash_rust::xxh3::xxh3_64_with_seed(bytes, self.trace);
    }

    /// The checks that look at everything a node keeps.
    pub(super) fn walk(&mut self) {
        // the slowest a node may probe by its own account, and a hold or two
        let gap_max_ms = 20 * ms(self.parameters.config.probe_interval);
        for who in 0..self.nodes.len() {
            let node = &self.nodes[who];
            if node.condition == Condition::Up && node.hold.is_none() {
                let judged = node.rounds.check(self.now, gap_max_ms);
                self.judged(who, judged);
            }
        }
    }

    /// A broken rule ends the run, in a way that says how to see it again.
    pub fn judged(&mut self, who: Who, judged: Result<(), Violation>) {
        let Err(violation) = judged else { return };
        if self.violation_expected {
            self.violation.get_or_insert(violation);
            return;
        }
        let id = &self.nodes[who].id;
        self.fail(&format!("{id} breaks a rule. {violation}"));
    }

    pub fn no_convergence(&mut self, what: &str) {
        let rule = Rule::Convergence;
        if self.violation_expected {
            let what = what.to_owned();
            self.violation.get_or_insert(Violation { rule, what });
            return;
        }
        self.fail(what);
    }

    pub fn fail(&self, what: &str) -> ! {
        let Parameters {
            seed,
            nodes,
            chaos_ms,
            ..
        } = self.parameters;
        panic!(
            "seed {seed}, {nodes} nodes, at {} ms: {what}\nSee it again with: \
             RINGD_SIMULATION_SEEDS={seed} RINGD_SIMULATION_NODES={nodes} \
             RINGD_SIMULATION_CHAOS_MS={chaos_ms} cargo test -p ringd \
             gossip::simulation::chaos -- --ignored --nocapture",
            self.now
        );
    }
}
