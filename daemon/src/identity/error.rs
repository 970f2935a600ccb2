//! Why an identity cannot be had. Each is one sentence: what, where, what to do.

use std::{io, path::PathBuf};

use ringmaster_shared::id::{ClusterId, Epoch, NodeId};
use thiserror::Error;

#[derive(Debug, Error)]
pub enum IdentityError {
    /// Cannot be made, or not be written to.
    #[error(
        "the data dir {} cannot be used: {why}; give a folder that this user may write to with --data-dir",
        .dir.display()
    )]
    Unusable { dir: PathBuf, why: io::Error },
    #[error(
        "the data dir {} is in use by another ringd{}; stop that one or give another folder with --data-dir",
        .dir.display(), in_process(*.pid)
    )]
    Locked { dir: PathBuf, pid: Option<u32> },
    #[error(
        "the data dir {} belongs to node {found}, not to {wanted}; start with --node-id {found} or give another folder with --data-dir",
        .dir.display()
    )]
    OtherNode {
        dir: PathBuf,
        found: NodeId,
        wanted: NodeId,
    },
    #[error(
        "the folder {} is not a data dir of ringd: it holds {found:?}; give an empty or new folder with --data-dir",
        .dir.display()
    )]
    NotADataDir { dir: PathBuf, found: String },
    #[error(
        "the identity file {} cannot be trusted: {why}; restore it from a backup, or move the whole data dir away and let the node join again under its id",
        .file.display()
    )]
    Damaged { file: PathBuf, why: String },
    #[error(
        "the identity file {} was written by a newer ringd (format {found}, this one knows {known}); start that version",
        .file.display()
    )]
    NewerFormat {
        file: PathBuf,
        found: u32,
        known: u32,
    },
    #[error("the identity file {} cannot be read: {why}", .file.display())]
    Read { file: PathBuf, why: io::Error },
    #[error("the identity file {} cannot be written: {why}", .file.display())]
    Write { file: PathBuf, why: io::Error },
    #[error(
        "a topology of cluster {theirs} at epoch {epoch} cannot be stored: {}",
        not_ours(.ours.as_ref(), .theirs)
    )]
    NotOurTopology {
        ours: Option<ClusterId>,
        theirs: ClusterId,
        epoch: Epoch,
    },
}

impl IdentityError {
    /// The person who started the daemon can mend it with other flags: exit code 2.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Unusable { .. }
            | Self::Locked { .. }
            | Self::OtherNode { .. }
            | Self::NotADataDir { .. } => true,
            Self::Damaged { .. }
            | Self::NewerFormat { .. }
            | Self::Read { .. }
            | Self::Write { .. }
            | Self::NotOurTopology { .. } => false,
        }
    }
}

fn in_process(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})"))
        .unwrap_or_default()
}

fn not_ours(ours: Option<&ClusterId>, theirs: &ClusterId) -> String {
    match ours {
        None => "this node has no cluster yet".into(),
        Some(ours) if ours != theirs => format!("this node belongs to cluster {ours}"),
        Some(_) => "its tables contradict themselves".into(),
    }
}
