//! The opaque token a read returns and a write sends back.
//!
//! It holds the version vector of what was read, the key's hash and a checksum, so that a token
//! of another key, a truncated or an edited one is refused instead of silently superseding the
//! wrong thing. Form: `base64url(version byte, crc32 LE, postcard(body))`.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{key::Key, version::VersionVector};

/// Longest accepted token, in characters.
pub const CONTEXT_MAX_CHARS: usize = 16 * 1024;
const FORMAT: u8 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ContextError {
    #[error("the context is longer than {CONTEXT_MAX_CHARS} characters")]
    TooLong,
    #[error("the context is not one that a read returned: it is damaged or was edited")]
    Damaged,
    #[error("the context was made by a newer version of the daemon (format {0})")]
    Newer(u8),
    #[error("the context belongs to another key")]
    OtherKey,
}

#[derive(Serialize, Deserialize)]
struct Body {
    key_hash: u64,
    seen: VersionVector,
}

pub fn encode(key: &Key, seen: &VersionVector) -> String {
    let body = Body {
        key_hash: key.hash(),
        seen: seen.clone(),
    };
    let body = postcard::to_stdvec(&body).unwrap_or_default();
    let mut bytes = Vec::with_capacity(body.len() + 5);
    bytes.push(FORMAT);
    bytes.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
    bytes.extend_from_slice(&body);
    URL_SAFE_NO_PAD.encode(bytes)
}

pub fn decode(key: &Key, token: &str) -> Result<VersionVector, ContextError> {
    if token.len() > CONTEXT_MAX_CHARS {
        return Err(ContextError::TooLong);
    }
    let bytes = URL_SAFE_NO_PAD
        .decode(token)
        .map_err(|_| ContextError::Damaged)?;
    let (format, rest) = bytes.split_first().ok_or(ContextError::Damaged)?;
    if *format != FORMAT {
        return Err(ContextError::Newer(*format));
    }
    let (sum, body) = rest.split_first_chunk::<4>().ok_or(ContextError::Damaged)?;
    if crc32fast::hash(body) != u32::from_le_bytes(*sum) {
        return Err(ContextError::Damaged);
    }
    let body: Body = postcard::from_bytes(body).map_err(|_| ContextError::Damaged)?;
    if body.key_hash == key.hash() {
        Ok(body.seen)
    } else {
        Err(ContextError::OtherKey)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::NodeId,
        version::{Actor, Dot},
    };

    #[test]
    fn only_the_own_untouched_token_is_accepted() {
        let key = Key::new("user:42").expect("valid");
        let mut seen = VersionVector::default();
        let actor = Actor {
            node: NodeId::new("node-1").expect("valid"),
            epoch: 9,
        };
        seen.add(&Dot { actor, counter: 3 });
        let token = encode(&key, &seen);
        assert_eq!(decode(&key, &token), Ok(seen));

        let other = Key::new("user:43").expect("valid");
        assert_eq!(decode(&other, &token), Err(ContextError::OtherKey));
        for i in 0..token.len() {
            let mut forged = token.clone().into_bytes();
            forged[i] = if forged[i] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).expect("ascii");
            assert!(decode(&key, &forged).is_err(), "byte {i} was edited");
            assert!(decode(&key, &token[..i]).is_err(), "cut at {i}");
        }
        assert_eq!(
            decode(&key, &"A".repeat(20_000)),
            Err(ContextError::TooLong)
        );
    }
}
