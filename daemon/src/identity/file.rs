//! The form of `identity.json`, and how it gets to the disk whole.
//!
//! An envelope of format and checksum around a body that a person can read. It is written beside
//! the old one, synced, renamed over it, and the folder is synced: a crash leaves the old file or
//! the new one.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use ringmaster_shared::{
    id::{ClusterId, Epoch, Generation, NodeId},
    topology::{ChangeKind, Topology, Transition},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::breaks::broken;

use super::{AcceptorState, Adopting, IdentityError, REMEMBERED_MAX, RememberedMember};

pub(super) const FILE_NAME: &str = "identity.json";
pub(super) const TEMP_NAME: &str = "identity.json.tmp";
const FORMAT: u32 = 1;
/// A file larger than this is not ours; two topologies of 32768 partitions stay below.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Everything that outlives the process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Persisted {
    pub node_id: NodeId,
    /// No life of this node above this one was ever begun.
    #[serde(rename = "generation")]
    pub leased_generation: Generation,
    pub cluster_id: Option<ClusterId>,
    pub actor_epoch: u64,
    /// No dot counter of this actor above this mark was ever given.
    pub dots_leased_to: u64,
    pub needs_refill: bool,
    /// What this node acknowledged by a ring up to this epoch may be gone.
    #[serde(default)]
    pub lost_through: Epoch,
    /// A store was opened in this data dir before.
    #[serde(default)]
    pub had_store: bool,
    pub filled_epoch: Epoch,
    /// Votes on top of epochs up to this one may have been given and forgotten; the highest
    /// number there is while nothing is known of them.
    #[serde(default)]
    pub abstain_through: Epoch,
    /// A ring of this cluster had this node as a settled member.
    #[serde(default)]
    pub was_member: bool,
    /// The last ring that had it was letting it go as it had been asked to.
    #[serde(default)]
    pub was_leaving: bool,
    pub remembered: Vec<RememberedMember>,
    /// How far this node is with leaving one cluster for another.
    #[serde(default)]
    pub adopting: Option<Adopting>,
    /// The cluster that was given up last.
    #[serde(default)]
    pub given_up: Option<ClusterId>,
    #[serde(with = "one_line")]
    pub topology: Option<Topology>,
    #[serde(with = "one_line")]
    pub acceptor: Option<AcceptorState>,
}

impl Persisted {
    pub(super) fn first(node_id: NodeId, now_ms: u64) -> Self {
        Self {
            node_id,
            leased_generation: 0,
            cluster_id: None,
            actor_epoch: if broken("reuse-actor") { 1 } else { now_ms },
            dots_leased_to: 0,
            needs_refill: false,
            lost_through: 0,
            had_store: false,
            filled_epoch: 0,
            abstain_through: 0,
            was_member: false,
            was_leaving: false,
            remembered: Vec::new(),
            adopting: None,
            given_up: None,
            topology: None,
            acceptor: None,
        }
    }

    /// Remembers what this ring says of this node's membership; says nothing where it is none.
    /// Takes a decided ring; promises about earlier epochs can decide nothing any more.
    pub(super) fn go_by(&mut self, ring: &Topology) {
        // the one before as well: a file of an earlier version has no note of it
        if let Some(before) = self.topology.replace(ring.clone()) {
            self.note_membership(&before);
            // what was filled in a change stays so when that begins anew
            if ring.begins_anew(&before) && self.filled_epoch == before.epoch {
                self.filled_epoch = ring.epoch;
            }
        }
        self.note_membership(ring);
        let outdated = |a: &AcceptorState| a.base_epoch < ring.epoch;
        if self.acceptor.as_ref().is_some_and(outdated) {
            self.acceptor = None;
        }
    }

    /// Giving up a cluster for another also drops what the old one decided.
    pub(super) fn move_to(&mut self, id: ClusterId) {
        if self.cluster_id.as_ref() != Some(&id) {
            self.topology = None;
            self.acceptor = None;
            self.filled_epoch = 0;
            self.was_member = false;
            self.was_leaving = false;
            self.cluster_id = Some(id);
        }
    }

    pub(super) fn note_membership(&mut self, ring: &Topology) {
        let id = &self.node_id;
        if ring.contains(id) && !ring.is_joining(id) {
            let leaves = |t: &Transition| t.kind == ChangeKind::Leave;
            self.was_leaving = ring.is_leaving(id) && ring.transition.iter().any(leaves);
            self.was_member = true;
        }
    }

    /// What a checksum cannot tell: whether the parts belong together.
    fn contradiction(&self) -> Option<String> {
        let accepted = self.acceptor.as_ref().and_then(|a| a.accepted.as_ref());
        let topologies = self.topology.iter().chain(accepted.map(|(_, t)| t));
        for t in topologies {
            if !t.is_well_formed() {
                return Some(format!("its topology of epoch {} is malformed", t.epoch));
            }
            if self.cluster_id.as_ref() != Some(&t.cluster_id) {
                return Some(format!(
                    "its topology is of another cluster, {}",
                    t.cluster_id
                ));
            }
        }
        let pushing = matches!(self.adopting, Some(Adopting::Pushing(_)));
        if pushing && self.cluster_id.is_some() {
            return Some("it gave its cluster up and names one".into());
        }
        if self.remembered.len() > REMEMBERED_MAX {
            return Some("it remembers too many members".into());
        }
        None
    }
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    format: u32,
    /// CRC-32 of the text of `identity`, hex.
    #[serde(default)]
    checksum: String,
    identity: Box<RawValue>,
}

/// Reads only what every format has.
#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

pub(super) struct IdentityFile {
    dir: PathBuf,
    path: PathBuf,
}

impl IdentityFile {
    pub(super) fn in_folder(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            path: dir.join(FILE_NAME),
        }
    }

    /// `None` when there is no file yet.
    pub(super) fn read(&self) -> Result<Option<Persisted>, IdentityError> {
        let bytes = match fs::metadata(&self.path) {
            Ok(meta) if meta.len() > FILE_BYTES_MAX => {
                return Err(self.damaged(format!("it is {} bytes long", meta.len())));
            }
            Ok(_) => fs::read(&self.path),
            Err(why) => Err(why),
        };
        match bytes {
            Ok(bytes) => self.decode(&bytes).map(Some),
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(why) => Err(IdentityError::Read {
                file: self.path.clone(),
                why,
            }),
        }
    }

    fn decode(&self, bytes: &[u8]) -> Result<Persisted, IdentityError> {
        let not_json = |why: serde_json::Error| self.damaged(why.to_string());
        let FormatOnly { format } = serde_json::from_slice(bytes).map_err(not_json)?;
        if format > FORMAT {
            return Err(IdentityError::NewerFormat {
                file: self.path.clone(),
                found: format,
                known: FORMAT,
            });
        }
        let envelope: Envelope = serde_json::from_slice(bytes).map_err(not_json)?;
        let body = envelope.identity.get();
        if checksum(body) != envelope.checksum {
            return Err(self.damaged("its checksum does not match, it was damaged or edited"));
        }
        let persisted: Persisted = serde_json::from_str(body).map_err(not_json)?;
        match persisted.contradiction() {
            Some(why) => Err(self.damaged(why)),
            None => Ok(persisted),
        }
    }

    fn damaged(&self, why: impl Into<String>) -> IdentityError {
        IdentityError::Damaged {
            file: self.path.clone(),
            why: why.into(),
        }
    }

    /// Returns once the new content is on the disk under its name.
    pub(super) fn write(&self, persisted: &Persisted) -> Result<(), IdentityError> {
        let failed = |why: io::Error| IdentityError::Write {
            file: self.path.clone(),
            why,
        };
        let text = encode(persisted).map_err(|why| failed(why.into()))?;
        self.replace(text.as_bytes()).map_err(failed)
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let beside = self.dir.join(TEMP_NAME);
        let mut file = File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, &self.path)?;
        File::open(&self.dir)?.sync_all()
    }
}

fn encode(persisted: &Persisted) -> Result<String, serde_json::Error> {
    let body = serde_json::to_string_pretty(persisted)?;
    let envelope = Envelope {
        format: FORMAT,
        checksum: checksum(&body),
        identity: RawValue::from_string(body)?,
    };
    let mut text = serde_json::to_string_pretty(&envelope)?;
    text.push('\n');
    Ok(text)
}

fn checksum(body: &str) -> String {
    format!("{:08x}", crc32fast::hash(body.as_bytes()))
}

/// Tables on one line: thousands of rows of one number each would bury what a person looks for.
mod one_line {
    use serde::{Deserializer, Serialize, Serializer, de::DeserializeOwned, ser};
    use serde_json::value::to_raw_value;

    pub(super) fn serialize<T: Serialize, S: Serializer>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let raw = to_raw_value(value).map_err(ser::Error::custom)?;
        raw.serialize(serializer)
    }

    pub(super) fn deserialize<'de, T: DeserializeOwned, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        T::deserialize(deserializer)
    }
}
