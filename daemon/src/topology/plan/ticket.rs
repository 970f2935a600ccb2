//! The opaque id of a plan. It holds all that is needed to make the plan again, so no node has to
//! remember it: `base64url(format, crc32 LE, postcard(ticket))`.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ringmaster_shared::{api::ring::Change, id::Epoch, topology::Topology};
use serde::{Deserialize, Serialize};

/// Longest accepted id, in characters; a join of a thousand nodes fits.
const CHARS_MAX: usize = 128 * 1024;
const FORMAT: u8 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    pub cluster: String,
    /// The ring it was made for.
    pub epoch: Epoch,
    pub digest: u64,
    /// Digest of what was to be proposed; 0 when there was no such change.
    pub outcome: u64,
    /// JSON, because the form of a change on the wire is not one that postcard can read.
    change: String,
}

impl Ticket {
    pub fn of(base: &Topology, next: Option<&Topology>, change: &Change) -> Self {
        Self {
            cluster: base.cluster_id.to_string(),
            epoch: base.epoch,
            digest: base.digest(),
            outcome: next.map_or(0, Topology::digest),
            change: serde_json::to_string(change).unwrap_or_default(),
        }
    }

    pub fn to_text(&self) -> String {
        let body = postcard::to_stdvec(self).unwrap_or_default();
        let mut bytes = Vec::with_capacity(body.len() + 5);
        bytes.push(FORMAT);
        bytes.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
        bytes.extend_from_slice(&body);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// `None` for anything but what [`Self::to_text`] gave.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > CHARS_MAX {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (format, rest) = bytes.split_first()?;
        let (sum, body) = rest.split_first_chunk::<4>()?;
        let sound = *format == FORMAT && crc32fast::hash(body) == u32::from_le_bytes(*sum);
        sound.then(|| postcard::from_bytes(body).ok()).flatten()
    }

    pub fn change(&self) -> Option<Change> {
        serde_json::from_str(&self.change).ok()
    }
}
