//! Restart procedures: what they would do, and how they are carried out.

use tokio::sync::{mpsc, watch};

use crate::{
    cluster::Cluster,
    progress::{Preview, ProcedureKind, Progress, Target},
};

/// What `kind` would do to the cluster as it is known now.
pub fn preview(kind: ProcedureKind, cluster: &Cluster, now_ms: u64) -> Preview {
    let members = cluster.members.as_ref();
    let nodes = members.map(|m| m.value.cluster_members.keys().cloned().collect());
    let stale = cluster.is_stale(now_ms);
    Preview {
        kind,
        nodes: nodes.unwrap_or_default(),
        steps: Vec::new(),
        effects: Vec::new(),
        blocked: stale
            .then(|| "the picture of the cluster is stale".to_owned())
            .into_iter()
            .collect(),
    }
}

/// Carries it out, telling `progress` after every change; the last one has an outcome. `cancel`
/// turns true when the operator wants it to stop at the next safe point.
pub async fn run(
    kind: ProcedureKind,
    targets: Vec<Target>,
    progress: mpsc::Sender<Progress>,
    cancel: watch::Receiver<bool>,
) {
    let _ = (kind, targets, progress, cancel);
}
