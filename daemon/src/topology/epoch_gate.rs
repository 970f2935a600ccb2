//! Which topology requests are served under, and when an earlier one is out of use.
//!
//! Promises: a guard names exactly the epoch that was current when it was taken; an epoch counts
//! as settled only when no guard of an earlier one is alive, and settled epochs never go back.
//! Taking a guard is two atomic operations and no lock. Leaves to others: whether a topology may
//! be entered at all.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwapOption;
use ringmaster_shared::{id::Epoch, topology::Topology};
use tokio::sync::watch;

use super::EpochMismatch;

/// Held while one replica request is served; a topology counts as settled here only when all
/// guards of earlier epochs are gone. Adopting a topology while holding one's own guard would
/// wait for ever.
pub struct EpochGuard {
    pub topology: Arc<Topology>,
    _view: Arc<View>,
}

/// One topology in use. It ends when the gate has moved on and its last guard is gone.
struct View {
    topology: Arc<Topology>,
    accounts: Arc<Accounts>,
}

impl Drop for View {
    fn drop(&mut self) {
        self.accounts.ended(self.topology.epoch);
    }
}

/// Which views are alive.
struct Accounts {
    live: Mutex<BTreeSet<Epoch>>,
    settled: watch::Sender<Epoch>,
}

impl Accounts {
    fn began(&self, epoch: Epoch) {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.insert(epoch);
        self.settle(&live);
    }

    fn ended(&self, epoch: Epoch) {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.remove(&epoch);
        self.settle(&live);
    }

    /// The earliest view alive is settled, for nothing precedes it.
    fn settle(&self, live: &BTreeSet<Epoch>) {
        if let Some(earliest) = live.first() {
            self.settled.send_if_modified(|settled| {
                let higher = earliest > settled;
                *settled = *earliest.max(settled);
                higher
            });
        }
    }
}

pub(super) struct EpochGate {
    current: ArcSwapOption<View>,
    accounts: Arc<Accounts>,
}

impl EpochGate {
    pub(super) fn new(topology: Option<Arc<Topology>>) -> Self {
        let gate = Self {
            current: ArcSwapOption::empty(),
            accounts: Arc::new(Accounts {
                live: Mutex::new(BTreeSet::new()),
                settled: watch::Sender::new(0),
            }),
        };
        if let Some(topology) = topology {
            gate.enter(topology);
        }
        gate
    }

    /// Makes a later topology the one to serve under. The caller sees to it that epochs rise and
    /// that no two threads enter at once.
    pub(super) fn enter(&self, topology: Arc<Topology>) {
        // before the swap, so that the old view cannot end while no later one is on the books
        self.accounts.began(topology.epoch);
        let view = View {
            topology,
            accounts: Arc::clone(&self.accounts),
        };
        self.current.store(Some(Arc::new(view)));
    }

    pub(super) fn current(&self) -> Option<Arc<Topology>> {
        let view = self.current.load();
        view.as_ref().map(|view| Arc::clone(&view.topology))
    }

    pub(super) fn guard(&self, epoch: Epoch) -> Result<EpochGuard, EpochMismatch> {
        // a full count, so that the view cannot end before this guard does
        let Some(view) = self.current.load_full() else {
            return Err(EpochMismatch::NoTopology);
        };
        let mine = view.topology.epoch;
        match mine.cmp(&epoch) {
            std::cmp::Ordering::Equal => Ok(EpochGuard {
                topology: Arc::clone(&view.topology),
                _view: view,
            }),
            std::cmp::Ordering::Greater => {
                Err(EpochMismatch::CallerBehind(Arc::clone(&view.topology)))
            }
            std::cmp::Ordering::Less => Err(EpochMismatch::CallerAhead {
                mine,
                theirs: epoch,
            }),
        }
    }

    pub(super) fn settled(&self) -> Epoch {
        *self.accounts.settled.borrow()
    }

    pub(super) fn watch_settled(&self) -> watch::Receiver<Epoch> {
        self.accounts.settled.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use super::*;
    use crate::topology::fixture::topology;

    fn at(epoch: Epoch) -> Arc<Topology> {
        Arc::new(topology(epoch, &["a"]))
    }

    #[test]
    fn only_the_current_epoch_is_let_in() {
        let gate = EpochGate::new(None);
        assert!(matches!(gate.guard(1), Err(EpochMismatch::NoTopology)));
        gate.enter(at(4));
        assert_eq!(gate.guard(4).expect("current").topology.epoch, 4);
        assert!(matches!(gate.guard(3), Err(EpochMismatch::CallerBehind(t)) if t.epoch == 4));
        assert!(matches!(
            gate.guard(5),
            Err(EpochMismatch::CallerAhead { mine: 4, theirs: 5 })
        ));
    }

    #[test]
    fn an_epoch_settles_when_all_earlier_guards_are_gone() {
        let gate = EpochGate::new(Some(at(1)));
        assert_eq!(gate.settled(), 1);
        let (first, other) = (gate.guard(1).expect("1"), gate.guard(1).expect("1"));
        gate.enter(at(2));
        let second = gate.guard(2).expect("2");
        gate.enter(at(3));
        let third = gate.guard(3).expect("3");
        assert_eq!(gate.settled(), 1);
        drop(second);
        assert_eq!(gate.settled(), 1, "an earlier guard is still alive");
        drop(first);
        assert_eq!(gate.settled(), 1);
        drop(other);
        assert_eq!(gate.settled(), 3);
        drop(third);
        assert_eq!(gate.settled(), 3);
    }

    /// Guards are taken and dropped while the gate moves on: nobody may hold an epoch that is
    /// lower than one already settled.
    #[test]
    fn nothing_is_settled_under_a_live_guard() {
        let gate = Arc::new(EpochGate::new(Some(at(1))));
        let stop = Arc::new(AtomicBool::new(false));
        let taken = Arc::new(AtomicU64::new(0));
        let takers: Vec<_> = (0..3)
            .map(|_| {
                let (gate, stop, taken) =
                    (Arc::clone(&gate), Arc::clone(&stop), Arc::clone(&taken));
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let Some(now) = gate.current() else { continue };
                        if let Ok(guard) = gate.guard(now.epoch) {
                            assert!(gate.settled() <= guard.topology.epoch);
                            taken.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                })
            })
            .collect();
        let mut epoch = 1;
        while epoch < 2_000 || taken.load(Ordering::Relaxed) < 2_000 {
            epoch += 1;
            gate.enter(at(epoch));
        }
        stop.store(true, Ordering::Relaxed);
        for taker in takers {
            taker.join().expect("no assertion failed");
        }
        assert_eq!(gate.settled(), epoch);
    }
}
