//! One pre-shared key: 32 bytes nobody gets to see, and the short name people and packets use.
//!
//! Promises: the bytes are wiped when the key goes, and no way of printing shows them. The
//! fingerprint tells keys apart and says nothing of the key: it is the tag of an authenticator
//! over a fixed text, under a nonce that no message uses (those are random).

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use thiserror::Error;
use zeroize::Zeroizing;

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
/// Bytes of a nonce; random ones of this length do not repeat.
pub const NONCE_BYTES: usize = 24;
/// Bytes of the tag behind sealed content.
pub const TAG_BYTES: usize = 16;
pub const FINGERPRINT_BYTES: usize = 6;

const FINGERPRINT_NONCE: [u8; NONCE_BYTES] = *b"ringmaster key's name, 1";
const FINGERPRINT_TEXT: &[u8] = b"the name of a key of the gossip keyring";

pub type Nonce = [u8; NONCE_BYTES];

/// Why a text is not a key. Never quotes the text.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyError {
    #[error("a key is 32 bytes in base64 (44 characters); this is not base64")]
    NotBase64,
    #[error("a key is 32 bytes in base64 (44 characters); this has {0} bytes")]
    Length(usize),
}

/// Names a key without telling it: twelve hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; FINGERPRINT_BYTES]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Fingerprint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "a key's fingerprint is {} hex digits",
                2 * FINGERPRINT_BYTES
            )
        };
        if text.len() != 2 * FINGERPRINT_BYTES || !text.is_ascii() {
            return Err(wrong());
        }
        let mut bytes = [0; FINGERPRINT_BYTES];
        for (at, byte) in bytes.iter_mut().enumerate() {
            let digits = &text[2 * at..2 * at + 2];
            *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <[u8; FINGERPRINT_BYTES]>::deserialize(deserializer).map(Self)
    }
}

/// A key of the keyring.
#[derive(Clone)]
pub struct Key {
    bytes: Zeroizing<[u8; KEY_BYTES]>,
    fingerprint: Fingerprint,
}

impl Key {
    pub fn new(bytes: [u8; KEY_BYTES]) -> Self {
        let mut key = Self {
            bytes: Zeroizing::new(bytes),
            fingerprint: Fingerprint([0; FINGERPRINT_BYTES]),
        };
        let tag = key.seal(&FINGERPRINT_NONCE, FINGERPRINT_TEXT, &[]);
        if let Some(name) = tag.first_chunk() {
            key.fingerprint = Fingerprint(*name);
        }
        key
    }

    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        let bytes = STANDARD.decode(text.trim());
        let bytes = Zeroizing::new(bytes.map_err(|_| KeyError::NotBase64)?);
        let bytes: &[u8; KEY_BYTES] = bytes
            .as_slice()
            .try_into()
            .map_err(|_| KeyError::Length(bytes.len()))?;
        Ok(Self::new(*bytes))
    }

    /// For the keyring's file and for sealed orders, nowhere else.
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.bytes.as_slice()))
    }

    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    pub fn seal(&self, nonce: &Nonce, aad: &[u8], plain: &[u8]) -> Vec<u8> {
        let payload = Payload { msg: plain, aad };
        // fails for messages of 256 GiB alone
        let sealed = self.cipher().encrypt(XNonce::from_slice(nonce), payload);
        sealed.unwrap_or_default()
    }

    /// `None` when it was sealed with another key or for another purpose, or was changed.
    pub fn open(&self, nonce: &Nonce, aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let payload = Payload { msg: sealed, aad };
        let opened = self.cipher().decrypt(XNonce::from_slice(nonce), payload);
        opened.ok()
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(self.bytes.as_ref().into())
    }
}

/// By name alone.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.fingerprint)
    }
}

/// By name, which is as good as by content and compares nothing secret.
impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Eq for Key {}

/// As base64; what holds a key is only ever sent sealed.
impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_base64())
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        Self::from_base64(&text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_from_base64_and_mistakes_do_not_quote_them() {
        let key = Key::new([7; 32]);
        let text = key.to_base64();
        assert_eq!(text.len(), 44);
        assert_eq!(Key::from_base64(&format!(" {}\n", *text)), Ok(key));
        assert_eq!(Key::from_base64("not a key!"), Err(KeyError::NotBase64));
        assert_eq!(Key::from_base64("AAAA"), Err(KeyError::Length(3)));
    }

    #[test]
    fn nothing_prints_the_key() {
        let key = Key::new(*b"0123456789abcdef0123456789abcdef");
        let shown = format!("{key:?} {:?} {}", Some(&key), key.fingerprint());
        assert!(!shown.contains(&*key.to_base64()), "{shown}");
        assert!(!shown.contains("0123456789"), "{shown}");
        assert!(shown.contains(&key.fingerprint().to_string()));
    }

    #[test]
    fn fingerprints_differ_and_can_be_typed() {
        let (a, b) = (Key::new([1; 32]), Key::new([2; 32]));
        assert_ne!(a.fingerprint(), b.fingerprint());
        let typed = a.fingerprint().to_string();
        assert_eq!(typed.len(), 12);
        assert_eq!(typed.parse(), Ok(a.fingerprint()));
        for wrong in ["", "zz", "0011223344zz", "00112233445", "äöüäöü"] {
            assert!(wrong.parse::<Fingerprint>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_cipher_is_the_one_of_the_draft() {
        // draft-irtf-cfrg-xchacha-03, A.3.1
        let mut bytes = [0; 32];
        bytes.iter_mut().zip(0x80..).for_each(|(b, n)| *b = n);
        let mut nonce = [0; 24];
        nonce.iter_mut().zip(0x40..).for_each(|(b, n)| *b = n);
        let aad = [
            0x50, 0x51, 0x52, 0x53, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7,
        ];
        let plain = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.";
        let sealed = Key::new(bytes).seal(&nonce, &aad, plain);
        assert_eq!(sealed[..4], [0xbd, 0x6d, 0x17, 0x9d]);
        let tag = [
            0xc0, 0x87, 0x59, 0x24, 0xc1, 0xc7, 0x98, 0x79, 0x47, 0xde, 0xaf, 0xd8, 0x78, 0x0a,
            0xcf, 0x49,
        ];
        assert_eq!(sealed[sealed.len() - 16..], tag);
    }
}
