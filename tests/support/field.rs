//! A cluster under attack: nodes in network namespaces where these can be had, so that links can
//! be cut, else plain ones. One set of words for both.

use std::{collections::BTreeSet, time::Duration};

use ringmaster_shared::member::Lifecycle;

use super::{
    client::Api,
    cluster::{self, agreement},
    netns::{self, Loses},
    node::Node,
    wait::{eventually, same},
};

/// Several nodes may have to be filled one after the other.
const AGREED: Duration = Duration::from_secs(180);

/// Nodes that one network has addresses for, with some to spare.
const PLACES: usize = 200;

pub enum Field {
    Cuttable(netns::Cluster),
    Plain(cluster::Cluster),
}

/// A cluster and those of its nodes that are out for good.
pub struct Arena {
    field: Field,
    gone: BTreeSet<usize>,
}

impl Arena {
    /// `count` nodes that agree.
    pub async fn start(count: usize) -> Self {
        let field = match netns::Cluster::start(count).await {
            Some(cluster) => Field::Cuttable(cluster),
            None => Field::Plain(cluster::Cluster::start(count).await),
        };
        Self {
            field,
            gone: BTreeSet::new(),
        }
    }

    pub fn can_cut(&self) -> bool {
        matches!(self.field, Field::Cuttable(_))
    }

    /// Whether more nodes can be added; those that are gone keep their places.
    pub fn has_room(&mut self) -> bool {
        self.nodes().len() < PLACES
    }

    fn nodes(&mut self) -> &mut Vec<Node> {
        match &mut self.field {
            Field::Cuttable(cluster) => &mut cluster.nodes,
            Field::Plain(cluster) => &mut cluster.nodes,
        }
    }

    pub fn node(&mut self, index: usize) -> &mut Node {
        &mut self.nodes()[index]
    }

    pub fn api(&self, index: usize) -> Api {
        match &self.field {
            Field::Cuttable(cluster) => cluster.api(index),
            Field::Plain(cluster) => cluster.api(index),
        }
    }

    /// Indexes of the nodes that belong to the cluster.
    pub fn members(&mut self) -> Vec<usize> {
        let count = self.nodes().len();
        let members = (0..count).filter(|i| !self.gone.contains(i));
        members.collect()
    }

    /// The same by name, for clients.
    pub fn apis(&mut self) -> Vec<(String, Api)> {
        let members = self.members();
        let named = members.into_iter();
        named
            .map(|i| (self.node(i).id.clone(), self.api(i)))
            .collect()
    }

    fn seeds(&mut self, but: usize) -> Vec<String> {
        let others = self.members().into_iter().filter(|i| *i != but);
        let addresses: Vec<String> = others
            .map(|i| match &self.field {
                Field::Cuttable(cluster) => cluster.address(i),
                Field::Plain(cluster) => cluster.nodes[i].address(),
            })
            .collect();
        vec![format!("--seed-nodes={}", addresses.join(","))]
    }

    /// Starts a node again, with all others as seeds; does not wait for it.
    pub fn start_node(&mut self, index: usize) {
        let seeds = self.seeds(index);
        match &mut self.field {
            Field::Cuttable(cluster) => cluster.launch(index, &seeds),
            Field::Plain(cluster) => cluster.nodes[index].start(&seeds),
        }
    }

    /// Starts a new node with further flags and waits until its port answers; its index.
    pub async fn add(&mut self, more: &[String]) -> usize {
        let count = self.nodes().len();
        let mut flags = self.seeds(count);
        flags.extend_from_slice(more);
        match &mut self.field {
            Field::Cuttable(cluster) => {
                let index = cluster.add();
                cluster.run(index, &flags).await;
                index
            }
            Field::Plain(cluster) => cluster.add(&flags).await,
        }
    }

    /// It is out of the cluster for good.
    pub fn retire(&mut self, index: usize) {
        self.node(index).kill9();
        self.gone.insert(index);
    }

    /// Cuts a node off all others, where that is possible.
    pub fn isolate(&mut self, index: usize) {
        if let Field::Cuttable(cluster) = &self.field {
            cluster.network.isolate(index, Loses::Everything);
        }
    }

    /// Cuts one link, where that is possible.
    pub fn cut(&mut self, a: usize, b: usize) {
        if let Field::Cuttable(cluster) = &self.field {
            cluster.network.cut(a, b, Loses::Everything);
        }
    }

    pub fn heal(&mut self) {
        if let Field::Cuttable(cluster) = &mut self.field {
            cluster.network.heal();
        }
    }

    /// This node takes part: its port answers and it serves. `None`: its process ended.
    pub async fn serves(&mut self, index: usize) -> Option<()> {
        let api = self.api(index);
        let node = self.node(index);
        let what = format!("{} serves", node.id);
        eventually(&what, AGREED, async || {
            if node.ended().is_some() {
                return Ok(None);
            }
            let status = api.status().await.map_err(|e| format!("{e:#}"))?;
            let lifecycle = status.node.lifecycle;
            same("lifecycle", &lifecycle, &Lifecycle::Serving).map(Some)
        })
        .await
    }

    /// This node knows what it voted, or is told that it may vote again.
    pub async fn votes(&mut self, index: usize) {
        let api = self.api(index);
        let what = format!("{} votes", self.node(index).id);
        eventually(&what, AGREED, async || cluster::votes(&api).await).await;
    }

    /// All members serve and go by the same members and the same settled ring.
    pub async fn agree(&mut self) {
        let apis: Vec<Api> = self.members().into_iter().map(|i| self.api(i)).collect();
        let what = format!("{} nodes agree", apis.len());
        eventually(&what, AGREED, async || agreement(&apis).await).await;
    }
}
