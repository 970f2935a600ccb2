//! The keys a node holds: it seals with the primary and opens with any. Pure.
//!
//! Sealed bytes are: the key's fingerprint (6), the nonce (24), the content and its tag (16). The
//! fingerprint costs nothing to forge and saves trying every key: bytes under an unknown key are
//! refused without any cryptography.

use thiserror::Error;

use super::key::{FINGERPRINT_BYTES, Fingerprint, Key, NONCE_BYTES, Nonce, TAG_BYTES};

/// More keys than this are a mistake.
pub const KEYS_MAX: usize = 16;
/// What sealing adds.
pub const SEAL_BYTES: usize = FINGERPRINT_BYTES + NONCE_BYTES + TAG_BYTES;

/// Why something was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum OpenError {
    #[error("sealed with key {0}, which this node does not hold")]
    UnknownKey(Fingerprint),
    #[error("sealed with key {0}, but damaged, or made for another cluster or purpose")]
    Forged(Fingerprint),
    #[error("too short to be sealed")]
    Short,
}

/// Why a keyring was not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RingError {
    #[error("key {0} is not on the keyring: install it first")]
    Missing(Fingerprint),
    #[error("key {0} is the primary: use another one first")]
    Primary(Fingerprint),
    #[error("the keyring holds {KEYS_MAX} keys already: remove one first")]
    Full,
}

/// At least one key; the first is the primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyring {
    keys: Vec<Key>,
}

/// What was opened, and with which key.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened {
    pub key: Fingerprint,
    pub nonce: Nonce,
    pub plain: Vec<u8>,
}

impl Keyring {
    pub fn new(primary: Key) -> Self {
        Self {
            keys: vec![primary],
        }
    }

    /// The first is the primary; repetitions are left out. `None` without a key.
    pub fn of(keys: impl IntoIterator<Item = Key>) -> Option<Result<Self, RingError>> {
        let mut keys = keys.into_iter();
        let mut ring = Self::new(keys.next()?);
        for key in keys {
            if let Err(error) = ring.install(key) {
                return Some(Err(error));
            }
        }
        Some(Ok(ring))
    }

    pub fn primary(&self) -> &Key {
        &self.keys[0]
    }

    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    pub fn fingerprints(&self) -> Vec<Fingerprint> {
        self.keys.iter().map(Key::fingerprint).collect()
    }

    pub fn get(&self, fingerprint: Fingerprint) -> Option<&Key> {
        self.keys.iter().find(|k| k.fingerprint() == fingerprint)
    }

    /// False when it was there already.
    pub fn install(&mut self, key: Key) -> Result<bool, RingError> {
        if self.get(key.fingerprint()).is_some() {
            return Ok(false);
        }
        if self.keys.len() >= KEYS_MAX {
            return Err(RingError::Full);
        }
        self.keys.push(key);
        Ok(true)
    }

    /// Makes a key the primary; false when it was.
    pub fn make_primary(&mut self, fingerprint: Fingerprint) -> Result<bool, RingError> {
        let at = self
            .keys
            .iter()
            .position(|k| k.fingerprint() == fingerprint);
        let at = at.ok_or(RingError::Missing(fingerprint))?;
        self.keys[..=at].rotate_right(1);
        Ok(at != 0)
    }

    /// False when it was not there.
    pub fn remove(&mut self, fingerprint: Fingerprint) -> Result<bool, RingError> {
        if self.primary().fingerprint() == fingerprint {
            return Err(RingError::Primary(fingerprint));
        }
        let before = self.keys.len();
        self.keys.retain(|k| k.fingerprint() != fingerprint);
        Ok(self.keys.len() < before)
    }

    /// Seals with the key of that name, with the primary when it is not held (any more).
    pub fn seal(
        &self,
        with: Option<Fingerprint>,
        nonce: &Nonce,
        aad: &[u8],
        plain: &[u8],
    ) -> Vec<u8> {
        let key = with.and_then(|f| self.get(f)).unwrap_or(self.primary());
        let mut bytes = Vec::with_capacity(plain.len() + SEAL_BYTES);
        bytes.extend_from_slice(&key.fingerprint().0);
        bytes.extend_from_slice(nonce);
        bytes.extend(key.seal(nonce, aad, plain));
        bytes
    }

    pub fn open(&self, aad: &[u8], bytes: &[u8]) -> Result<Opened, OpenError> {
        let (name, rest) = bytes.split_first_chunk().ok_or(OpenError::Short)?;
        let (nonce, sealed) = rest.split_first_chunk().ok_or(OpenError::Short)?;
        let name = Fingerprint(*name);
        let key = self.get(name).ok_or(OpenError::UnknownKey(name))?;
        let plain = key.open(nonce, aad, sealed);
        let plain = plain.ok_or(OpenError::Forged(name))?;
        Ok(Opened {
            key: name,
            nonce: *nonce,
            plain,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(n: u8) -> Key {
        Key::new([n; 32])
    }

    fn ring(keys: &[u8]) -> Keyring {
        let ring = Keyring::of(keys.iter().map(|n| key(*n)));
        ring.expect("some").expect("not too many")
    }

    const NONCE: Nonce = [9; 24];

    #[test]
    fn any_key_opens_and_the_primary_seals() {
        let (old, both, new) = (ring(&[1]), ring(&[2, 1]), ring(&[2]));
        let by_old = old.seal(None, &NONCE, b"x", b"news");
        let by_both = both.seal(None, &NONCE, b"x", b"news");
        assert_eq!(by_old.len(), 4 + SEAL_BYTES);
        let opened = both.open(b"x", &by_old).expect("the old key is held");
        assert_eq!(
            (opened.plain.as_slice(), opened.key),
            (&b"news"[..], key(1).fingerprint())
        );
        assert!(new.open(b"x", &by_both).is_ok());
        let unknown = OpenError::UnknownKey(key(2).fingerprint());
        assert_eq!(old.open(b"x", &by_both), Err(unknown));
        let answered = both.seal(Some(key(1).fingerprint()), &NONCE, b"x", b"news");
        assert!(
            old.open(b"x", &answered).is_ok(),
            "sealed with the key that is known there"
        );
        let gone = both.seal(Some(key(7).fingerprint()), &NONCE, b"x", b"news");
        assert!(
            new.open(b"x", &gone).is_ok(),
            "the primary when that key is gone"
        );
    }

    #[test]
    fn what_it_was_made_for_counts() {
        let ring = ring(&[1]);
        let sealed = ring.seal(None, &NONCE, b"packet of cluster a", b"news");
        let forged = OpenError::Forged(key(1).fingerprint());
        assert_eq!(ring.open(b"packet of cluster b", &sealed), Err(forged));
    }

    #[test]
    fn the_ring_is_changed_by_its_rules() {
        let mut ring = ring(&[1]);
        let (one, two, three) = (
            key(1).fingerprint(),
            key(2).fingerprint(),
            key(3).fingerprint(),
        );
        assert_eq!(ring.make_primary(two), Err(RingError::Missing(two)));
        assert_eq!(ring.install(key(2)), Ok(true));
        assert_eq!(ring.install(key(2)), Ok(false));
        assert_eq!(ring.install(key(3)), Ok(true));
        assert_eq!(ring.remove(one), Err(RingError::Primary(one)));
        assert_eq!(ring.make_primary(three), Ok(true));
        assert_eq!(ring.make_primary(three), Ok(false));
        assert_eq!(
            ring.fingerprints(),
            [three, one, two],
            "the order of the others stays"
        );
        assert_eq!(ring.remove(one), Ok(true));
        assert_eq!(ring.remove(one), Ok(false));
        for n in 10.. {
            if ring.keys().len() == KEYS_MAX {
                assert_eq!(ring.install(key(n)), Err(RingError::Full));
                break;
            }
            assert_eq!(ring.install(key(n)), Ok(true));
        }
    }

    proptest! {
        #[test]
        fn no_changed_bit_and_no_cut_is_taken(
            plain in prop::collection::vec(any::<u8>(), 0..300),
            at in any::<prop::sample::Index>(),
            bit in 0..8u8,
        ) {
            let ring = ring(&[1, 2]);
            let sealed = ring.seal(None, &NONCE, b"x", &plain);
            let mut flipped = sealed.clone();
            let at = at.index(flipped.len());
            flipped[at] ^= 1 << bit;
            prop_assert!(ring.open(b"x", &flipped).is_err());
            prop_assert!(ring.open(b"x", &sealed[..at]).is_err());
            prop_assert_eq!(ring.open(b"x", &sealed).expect("whole").plain, plain);
        }

        #[test]
        fn random_bytes_are_not_opened(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(ring(&[1, 2]).open(b"x", &bytes).is_err());
        }
    }
}
