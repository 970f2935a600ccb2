//! The opaque token a read returns and a write sends back.
//!
//! It holds the version vector of what was read and the key's hash, under a checksum that covers
//! the cluster's id as well: a token of another key or another cluster, a cut or an edited one is
//! refused instead of silently superseding the wrong thing. Form:
//! `base64url(version byte, cluster tag u32 LE, checksum u64 LE, postcard(body))`.
//!
//! The checksum finds mistakes; it is no signature. Who makes up a token with effort can make a
//! valid one, and it does no harm: coordinators cut what it claims to what a read quorum knows
//! (`VersionVector::limited_to`), so it supersedes no more than a write without context would.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::{id::ClusterId, key::Key, version::VersionVector};

/// Longest accepted token, in characters: hundreds of actors.
pub const CONTEXT_MAX_CHARS: usize = 16 * 1024;
/// 1 was not bound to a cluster.
const FORMAT: u8 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ContextError {
    #[error("the context is longer than {CONTEXT_MAX_CHARS} characters")]
    TooLong,
    #[error("the context is not one that a read returned: it is damaged or was edited")]
    Damaged,
    #[error("the context was made by another version of the daemon (format {0}); read again")]
    OtherFormat(u8),
    #[error("the context belongs to another key")]
    OtherKey,
    #[error("the context belongs to another cluster")]
    OtherCluster,
}

#[derive(Serialize, Deserialize)]
struct Body {
    key_hash: u64,
    seen: VersionVector,
}

/// What of the cluster goes in: the tag says of which one a token is, the checksum holds it to it.
fn tag_and_sum(cluster: &ClusterId, body: &[u8]) -> ([u8; 4], [u8; 8]) {
    let id = xxh3_64(cluster.as_str().as_bytes());
    let sum = xxh3_64_with_seed(body, id);
    ((id as u32).to_le_bytes(), sum.to_le_bytes())
}

pub fn encode(cluster: &ClusterId, key: &Key, seen: &VersionVector) -> String {
    let body = Body {
        key_hash: key.hash(),
        seen: seen.clone(),
    };
    let body = postcard::to_stdvec(&body).unwrap_or_default();
    let (tag, sum) = tag_and_sum(cluster, &body);
    let mut bytes = Vec::with_capacity(body.len() + 13);
    bytes.push(FORMAT);
    bytes.extend_from_slice(&tag);
    bytes.extend_from_slice(&sum);
    bytes.extend_from_slice(&body);
    URL_SAFE_NO_PAD.encode(bytes)
}

pub fn decode(cluster: &ClusterId, key: &Key, token: &str) -> Result<VersionVector, ContextError> {
    if token.len() > CONTEXT_MAX_CHARS {
        return Err(ContextError::TooLong);
    }
    let bytes = URL_SAFE_NO_PAD
        .decode(token)
        .map_err(|_| ContextError::Damaged)?;
    let (format, rest) = bytes.split_first().ok_or(ContextError::Damaged)?;
    if *format != FORMAT {
        return Err(ContextError::OtherFormat(*format));
    }
    let (tag, rest) = rest.split_first_chunk::<4>().ok_or(ContextError::Damaged)?;
    let (sum, body) = rest.split_first_chunk::<8>().ok_or(ContextError::Damaged)?;
    let (our_tag, our_sum) = tag_and_sum(cluster, body);
    if *tag != our_tag {
        return Err(ContextError::OtherCluster);
    }
    if *sum != our_sum {
        return Err(ContextError::Damaged);
    }
    match postcard::take_from_bytes::<Body>(body) {
        Ok((body, [])) if body.key_hash == key.hash() => Ok(body.seen),
        Ok((_, [])) => Err(ContextError::OtherKey),
        _ => Err(ContextError::Damaged),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        id::NodeId,
        version::{Actor, Dot},
    };

    fn cluster(n: u8) -> ClusterId {
        ClusterId::new(&format!("{n}b9c7c1e-2f43-4a52-9f7e-3c1de9c0a111")).expect("valid")
    }

    fn key(text: &str) -> Key {
        Key::new(text).expect("valid")
    }

    fn seen() -> VersionVector {
        let mut seen = VersionVector::default();
        let actor = Actor {
            node: NodeId::new("node-1").expect("valid"),
            epoch: 9,
        };
        seen.add(&Dot { actor, counter: 3 });
        seen
    }

    #[test]
    fn only_the_own_untouched_token_is_accepted() {
        let (here, user) = (cluster(0), key("user:42"));
        let token = encode(&here, &user, &seen());
        assert_eq!(decode(&here, &user, &token), Ok(seen()));
        let empty = encode(&here, &user, &VersionVector::default());
        assert_eq!(decode(&here, &user, &empty), Ok(VersionVector::default()));

        let other_key = decode(&here, &key("user:43"), &token);
        assert_eq!(other_key, Err(ContextError::OtherKey));
        let other_cluster = decode(&cluster(1), &user, &token);
        assert_eq!(other_cluster, Err(ContextError::OtherCluster));
        for i in 0..token.len() {
            let mut forged = token.clone().into_bytes();
            forged[i] = if forged[i] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).expect("ascii");
            assert!(
                decode(&here, &user, &forged).is_err(),
                "byte {i} was edited"
            );
            assert!(decode(&here, &user, &token[..i]).is_err(), "cut at {i}");
        }
        let long = "A".repeat(20_000);
        assert_eq!(decode(&here, &user, &long), Err(ContextError::TooLong));
    }

    #[test]
    fn a_token_relabelled_for_another_cluster_is_damaged() {
        let (here, there, user) = (cluster(0), cluster(1), key("user:42"));
        let bytes = |c: &ClusterId| {
            let token = encode(c, &user, &seen());
            URL_SAFE_NO_PAD.decode(token).expect("own token")
        };
        let mut forged = bytes(&there);
        forged[1..5].copy_from_slice(&bytes(&here)[1..5]);
        let forged = URL_SAFE_NO_PAD.encode(forged);
        assert_eq!(decode(&here, &user, &forged), Err(ContextError::Damaged));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_fall_over(text in "\\PC{0,200}", bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let (here, user) = (cluster(0), key("k"));
            prop_assert!(decode(&here, &user, &text).is_err());
            prop_assert!(decode(&here, &user, &URL_SAFE_NO_PAD.encode(bytes)).is_err());
        }
    }
}
