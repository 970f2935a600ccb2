//! Optional pre-shared keys: what goes out is sealed, what comes in is opened and taken once.
//!
//! This file is the door: [`Secrecy`], the one keyring of the process with its counter and its
//! windows, shared by the engine, the door for joiners and the orders that change keys. Pure
//! behind it: `key.rs` and `keyring.rs` (XChaCha20-Poly1305), `replays.rs`, `others.rs` (who seals
//! with another key). `file.rs` is the disk.
//!
//! Promises: keys are never printed; a nonce is random and never repeated; what is sealed is
//! bound to its cluster, its purpose and its header; a change is on the disk before it counts.
//! Who is only asked to *read* sealed messages yet (`verify_*` off) takes plain ones as well.

pub mod complaints;
pub mod file;
pub mod joining;
mod key;
mod keyring;
mod others;
mod replays;

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use rand::RngCore;
use ringmaster_shared::id::{Generation, NodeId};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

use self::{
    complaints::Complaints,
    file::{Keeping, KeyringFileError},
    key::{FINGERPRINT_BYTES, NONCE_BYTES},
    others::Others,
    replays::Replays,
};
pub use self::{
    key::{Fingerprint, Key, Nonce},
    keyring::{Keyring, OpenError, Opened, RingError, SEAL_BYTES},
};

/// What the number and the generation of a sealed message take at most.
const STAMP_BYTES_MAX: usize = 20;
/// What sealing adds to a packet at most.
pub const OVERHEAD_BYTES: usize = SEAL_BYTES + STAMP_BYTES_MAX;

/// What a sealed message is for; one made for another purpose cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Packet,
    /// A question of a full-state exchange.
    Ask,
    /// The answer to one, bound to its nonce.
    Answer,
    /// A node's proof that it may be let in.
    Join,
    /// The welcome, bound to the proof.
    Welcome,
    /// A change of keys.
    Order,
}

/// Whether a cluster that has keys insists on them; off only while they are being introduced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verify {
    /// Plain messages are refused.
    pub incoming: bool,
    /// Messages are sealed.
    pub outgoing: bool,
}

/// Numbers a sealed message within the life of its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    generation: Generation,
    number: u64,
}

/// An opened message. Nothing of it counts before [`Secrecy::admit`] said yes.
#[derive(Debug, PartialEq, Eq)]
pub struct Unsealed {
    stamp: Stamp,
    pub key: Fingerprint,
    pub nonce: Nonce,
    /// Wiped unless it is taken out: it may hold a key.
    pub plain: Zeroizing<Vec<u8>>,
}

impl Unsealed {
    /// The life of the sender that sealed it.
    pub fn generation(&self) -> Generation {
        self.stamp.generation
    }
}

/// The nonce of sealed bytes.
pub fn nonce_of(sealed: &[u8]) -> Option<Nonce> {
    sealed.get(FINGERPRINT_BYTES..)?.first_chunk().copied()
}

/// Why keys were not changed.
#[derive(Debug, Error)]
pub enum ChangeError {
    #[error(transparent)]
    Ring(#[from] RingError),
    #[error(transparent)]
    File(#[from] KeyringFileError),
}

/// Which change of the keyring is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    Install(Key),
    Use(Fingerprint),
    Remove(Fingerprint),
}

impl Change {
    pub fn about(&self) -> Fingerprint {
        match self {
            Self::Install(key) => key.fingerprint(),
            Self::Use(name) | Self::Remove(name) => *name,
        }
    }
}

/// Cheap handle of the process's keyring.
#[derive(Clone)]
pub struct Secrecy {
    shared: Arc<Shared>,
}

struct Shared {
    verify: Verify,
    /// Drawn at the start; an order for another process of this node is refused.
    session: [u8; 16],
    /// `None`: nothing is kept (tests).
    keeping: Option<Keeping>,
    /// One change at a time; only changes wait for the disk, nothing that is sealed does.
    changing: Mutex<()>,
    /// What complaints go by: a wall clock that is set back would silence them.
    begun: Instant,
    complaints: Mutex<Complaints>,
    state: Mutex<State>,
}

struct State {
    ring: Arc<Keyring>,
    generation: Generation,
    next_number: u64,
    /// Packets and calls come over different ways and overtake each other.
    packets: Replays,
    calls: Replays,
    others: Others,
}

impl Secrecy {
    /// The keyring of `given` or of the data dir; `None` without either.
    pub fn load(
        given: Option<&Path>,
        data_dir: &Path,
        verify: Verify,
        generation: Generation,
    ) -> Result<Option<Self>, KeyringFileError> {
        let loaded = file::load(given, data_dir)?;
        Ok(loaded.map(|(ring, keeping)| Self::new(ring, Some(keeping), verify, generation)))
    }

    fn new(
        ring: Keyring,
        keeping: Option<Keeping>,
        verify: Verify,
        generation: Generation,
    ) -> Self {
        let mut session = [0; 16];
        rand::rng().fill_bytes(&mut session);
        let state = State {
            ring: Arc::new(ring),
            generation,
            next_number: 1,
            packets: Replays::default(),
            calls: Replays::default(),
            others: Others::default(),
        };
        let shared = Shared {
            verify,
            session,
            keeping,
            changing: Mutex::new(()),
            begun: Instant::now(),
            complaints: Mutex::default(),
            state: Mutex::new(state),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    #[cfg(test)]
    pub fn for_tests(keys: &[u8], verify: Verify, generation: Generation) -> Self {
        let ring = Keyring::of(keys.iter().map(|n| Key::new([*n; 32])));
        let ring = ring.expect("a key").expect("not too many");
        Self::new(ring, None, verify, generation)
    }

    pub fn verify(&self) -> Verify {
        self.shared.verify
    }

    pub fn session(&self) -> [u8; 16] {
        self.shared.session
    }

    /// The primary first.
    pub fn fingerprints(&self) -> Vec<Fingerprint> {
        self.ring().fingerprints()
    }

    /// The process goes on as a later life of its node: whatever it seals from now on is of that.
    pub fn live_on_as(&self, generation: Generation) {
        let mut state = self.state();
        state.generation = state.generation.max(generation);
    }

    /// Seals for one receiver: with the key it is known to use, now and then and else with the
    /// primary (`others.rs`). The time with it is monotonic milliseconds.
    pub fn seal(
        &self,
        purpose: Purpose,
        about: &[&[u8]],
        to: Option<(&NodeId, u64)>,
        plain: &[u8],
    ) -> Vec<u8> {
        let with = to.and_then(|(to, now_ms)| self.state().others.key_for(now_ms, to));
        self.seal_with(purpose, about, with, plain)
    }

    /// Seals with the key of that name, with the primary when it is gone.
    pub fn seal_with(
        &self,
        purpose: Purpose,
        about: &[&[u8]],
        with: Option<Fingerprint>,
        plain: &[u8],
    ) -> Vec<u8> {
        let (ring, stamp) = {
            let mut state = self.state();
            let stamp = Stamp {
                generation: state.generation,
                number: state.next_number,
            };
            state.next_number += 1;
            (Arc::clone(&state.ring), stamp)
        };
        let mut nonce = [0; NONCE_BYTES];
        rand::rng().fill_bytes(&mut nonce);
        let mut stamped = Vec::with_capacity(plain.len() + STAMP_BYTES_MAX);
        // cannot fail: numbers into memory
        stamped = postcard::to_extend(&stamp, stamped).unwrap_or_default();
        stamped.extend_from_slice(plain);
        let sealed = ring.seal(with, &nonce, &associated(purpose, about), &stamped);
        stamped.zeroize();
        sealed
    }

    pub fn open(
        &self,
        purpose: Purpose,
        about: &[&[u8]],
        bytes: &[u8],
    ) -> Result<Unsealed, OpenError> {
        let ring = self.ring();
        let Opened {
            key,
            nonce,
            mut plain,
        } = ring.open(&associated(purpose, about), bytes)?;
        let (stamp, content) =
            postcard::take_from_bytes::<Stamp>(&plain).map_err(|_| OpenError::Forged(key))?;
        let content = Zeroizing::new(content.to_vec());
        plain.zeroize();
        Ok(Unsealed {
            stamp,
            key,
            nonce,
            plain: content,
        })
    }

    /// Whether the message of `sender` may be taken: not when it came before. What is bound to a
    /// question of this process (answers, welcomes) needs no asking.
    pub fn admit(&self, purpose: Purpose, sender: &NodeId, message: &Unsealed) -> bool {
        let Stamp { generation, number } = message.stamp;
        let mut state = self.state();
        if !state.windows(purpose).admit(sender, generation, number) {
            return false;
        }
        state.note_key(sender, message.key);
        true
    }

    /// The latest life of `sender` of which a message was taken.
    pub fn heard_of(&self, purpose: Purpose, sender: &NodeId) -> Option<Generation> {
        let mut state = self.state();
        state.windows(purpose).latest(sender)
    }

    /// Whether it is time to say that `whom` shows no key.
    pub fn complain(&self, whom: &str) -> bool {
        let now_ms = self.shared.begun.elapsed().as_millis() as u64;
        let complaints = self.shared.complaints.lock();
        let mut complaints = complaints.unwrap_or_else(PoisonError::into_inner);
        complaints.due(whom, now_ms)
    }

    /// Changes the keyring; false when there was nothing to change. Blocks until it is on disk.
    pub fn change(&self, change: Change) -> Result<bool, ChangeError> {
        let changing = &self.shared.changing;
        let _one_at_a_time = changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ring = (*self.ring()).clone();
        let changed = match change {
            Change::Install(key) => ring.install(key)?,
            Change::Use(name) => ring.make_primary(name)?,
            Change::Remove(name) => ring.remove(name)?,
        };
        if changed {
            if let Some(keeping) = &self.shared.keeping {
                keeping.keep(&ring)?;
            }
            let primary = ring.primary().fingerprint();
            let mut state = self.state();
            state.others.remove_key(primary);
            state.ring = Arc::new(ring);
        }
        Ok(changed)
    }

    fn ring(&self) -> Arc<Keyring> {
        Arc::clone(&self.state().ring)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn windows(&mut self, purpose: Purpose) -> &mut Replays {
        match purpose {
            Purpose::Packet => &mut self.packets,
            _ => &mut self.calls,
        }
    }

    fn note_key(&mut self, sender: &NodeId, key: Fingerprint) {
        if key == self.ring.primary().fingerprint() {
            self.others.remove(sender);
        } else {
            self.others.note(sender, key);
        }
    }
}

/// Everything a sealed message is bound to, each part with its length before it.
fn associated(purpose: Purpose, about: &[&[u8]]) -> Vec<u8> {
    let mut bytes = b"ringmaster gossip 1".to_vec();
    bytes.push(match purpose {
        Purpose::Packet => 1,
        Purpose::Ask => 2,
        Purpose::Answer => 3,
        Purpose::Join => 4,
        Purpose::Welcome => 5,
        Purpose::Order => 6,
    });
    for part in about {
        bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::{super::testing::id, *};

    const ON: Verify = Verify {
        incoming: true,
        outgoing: true,
    };

    /// Compiles for what wipes itself.
    fn assert_wiped(_: &impl zeroize::ZeroizeOnDrop) {}

    #[test]
    fn a_message_is_taken_once_and_for_its_purpose() {
        let (a, b) = (
            Secrecy::for_tests(&[1], ON, 7),
            Secrecy::for_tests(&[1], ON, 8),
        );
        let sealed = a.seal(Purpose::Packet, &[b"c", b"h"], None, b"news");
        assert!(sealed.len() <= 4 + OVERHEAD_BYTES);
        assert_ne!(
            sealed,
            a.seal(Purpose::Packet, &[b"c", b"h"], None, b"news")
        );
        let opened = b
            .open(Purpose::Packet, &[b"c", b"h"], &sealed)
            .expect("opens");
        assert_eq!(*opened.plain, b"news");
        assert_wiped(&opened.plain);
        assert!(b.admit(Purpose::Packet, &id("a"), &opened));
        assert!(!b.admit(Purpose::Packet, &id("a"), &opened), "a replay");
        let others: [(Purpose, &[&[u8]]); 4] = [
            (Purpose::Ask, &[b"c", b"h"]),
            (Purpose::Packet, &[b"d", b"h"]),
            (Purpose::Packet, &[b"ch", b""]),
            (Purpose::Packet, &[b"c"]),
        ];
        for (purpose, about) in others {
            let refused = b.open(purpose, about, &sealed);
            assert!(matches!(refused, Err(OpenError::Forged(_))), "{about:?}");
        }
    }

    #[test]
    fn a_member_with_the_old_key_is_answered_with_it() {
        let (old, new) = (
            Secrecy::for_tests(&[1], ON, 7),
            Secrecy::for_tests(&[2, 1], ON, 8),
        );
        let to_old = |new: &Secrecy| {
            let sealed = new.seal(Purpose::Packet, &[], Some((&id("old"), 0)), b"x");
            old.open(Purpose::Packet, &[], &sealed)
        };
        assert!(to_old(&new).is_err(), "nothing is known of it yet");
        let said = old.seal(Purpose::Packet, &[], None, b"x");
        let said = new
            .open(Purpose::Packet, &[], &said)
            .expect("the old key is held");
        assert!(new.admit(Purpose::Packet, &id("old"), &said));
        assert!(to_old(&new).is_ok());
        new.change(Change::Remove(Key::new([1; 32]).fingerprint()))
            .expect("not the primary");
        assert!(to_old(&new).is_err(), "a removed key is used for nothing");
    }

    /// Each answers under the key in which it is spoken to; that must not hold for ever.
    #[test]
    fn members_that_changed_their_primary_one_after_the_other_end_with_the_new_one() {
        let (one, two) = (Key::new([1; 32]), Key::new([2; 32]));
        let a = Secrecy::for_tests(&[1, 2], ON, 7);
        let b = Secrecy::for_tests(&[1, 2], ON, 8);
        let say = |from: (&Secrecy, &str), to: (&Secrecy, &str), now_ms| {
            let sealed = from
                .0
                .seal(Purpose::Packet, &[], Some((&id(to.1), now_ms)), b"x");
            let opened = to.0.open(Purpose::Packet, &[], &sealed).expect("opens");
            assert!(to.0.admit(Purpose::Packet, &id(from.1), &opened));
            opened.key
        };
        let (a, b) = ((&a, "a"), (&b, "b"));
        for turn in [a, b] {
            turn.0.change(Change::Use(two.fingerprint())).expect("held");
            // one message under the old key was on its way to the one that changed
            let late = Secrecy::for_tests(&[1], ON, 1);
            let sealed = late.seal(Purpose::Packet, &[], None, b"x");
            let opened = turn.0.open(Purpose::Packet, &[], &sealed).expect("opens");
            let other = if turn.1 == "a" { "b" } else { "a" };
            assert!(turn.0.admit(Purpose::Packet, &id(other), &opened));
        }
        let mut last_old = None;
        for second in 0..300 {
            let used = [say(a, b, 1_000 * second), say(b, a, 1_000 * second)];
            if used.contains(&one.fingerprint()) {
                last_old = Some(second);
            }
        }
        assert_eq!(last_old, Some(59), "then both seal with the new one");
    }

    #[test]
    fn a_change_is_kept_or_not_made() {
        let dir = tempfile::tempdir().expect("a folder");
        let (ring, keeping) = {
            let ring = Keyring::new(Key::new([1; 32]));
            Keeping::in_folder(dir.path()).keep(&ring).expect("written");
            file::load(None, dir.path())
                .expect("readable")
                .expect("there")
        };
        let secrecy = Secrecy::new(ring, Some(keeping), ON, 1);
        let two = Key::new([2; 32]);
        assert!(secrecy.change(Change::Install(two.clone())).expect("kept"));
        assert!(!secrecy.change(Change::Install(two.clone())).expect("there"));
        drop(dir);
        let change = secrecy.change(Change::Use(two.fingerprint()));
        assert!(matches!(change, Err(ChangeError::File(_))), "{change:?}");
        assert_ne!(secrecy.fingerprints()[0], two.fingerprint());
    }
}
