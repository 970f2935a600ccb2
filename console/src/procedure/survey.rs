//! Asks every member for its view; one that does not answer is an answer too.
//!
//! Every endpoint that was named is asked, not only the first that answers: one of them may belong
//! to another cluster, and then nothing that holds for "all members" would hold for what the
//! operator named. One that is silent is no fault by itself: its members are asked all the same.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use futures_util::future::join_all;
use ringmaster_shared::{
    api::{health::StatusResponse, membership::MembersResponse, ring::ClusterResponse},
    id::NodeId,
    member::Lifecycle,
};

use crate::{
    client::{Client, ClientError},
    cluster::sees_only_itself,
    progress::Target,
};

/// What the cluster looks like from all its members.
#[derive(Debug, Clone)]
pub struct Survey {
    /// Members of the newest ring, sorted by id.
    pub targets: Vec<Target>,
    /// The picture of each target, in the same order.
    pub views: Vec<Result<ClusterResponse, String>>,
    /// Everybody who was named and answered, a member or not.
    pub heard: Vec<Heard>,
}

/// A node that answered where it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// `host:port`
    pub endpoint: String,
    pub id: NodeId,
    /// Empty while it belongs to none.
    pub cluster_id: String,
    /// What it is doing, and what it waits for.
    pub state: String,
}

impl Heard {
    pub fn of(endpoint: &str, status: &StatusResponse) -> Self {
        Self {
            endpoint: endpoint.to_owned(),
            id: status.node.id.clone(),
            cluster_id: status.cluster.cluster_id.clone(),
            state: doing(status),
        }
    }
}

/// `joining, waiting for the store to open`, `draining: it is about to stop`
pub fn doing(status: &StatusResponse) -> String {
    let lifecycle = status.node.lifecycle;
    let name = lifecycle.as_str();
    match &status.node.waiting_for {
        Some(why) if lifecycle == Lifecycle::Draining => format!("{name}: {why}"),
        Some(what) => format!("{name}, waiting for {what}"),
        None => name.to_owned(),
    }
}

impl Survey {
    /// Asks all endpoints at once, takes the members from the newest ring they tell, and asks each
    /// member. An error only when no endpoint answered.
    pub async fn take(client: &Client, endpoints: &[String]) -> Result<Self, ClientError> {
        let answers = ask(client, endpoints).await;
        let Some(newest) = newest(&answers) else {
            return Err(why_nobody(answers));
        };
        let targets = members_of(newest);
        let heard = answers.iter().filter_map(|(endpoint, answer)| {
            let answer = answer.as_ref().ok()?;
            Some(Heard::of(endpoint, &answer.status))
        });
        let heard = heard.collect();
        // nobody is asked twice: a member that is silent is silent for seconds
        let known: BTreeMap<&str, _> = answers.iter().map(|(e, a)| (e.as_str(), a)).collect();
        let views = join_all(targets.iter().map(|t| async {
            let view = match known.get(t.address.as_str()) {
                Some(answer) => (*answer).clone(),
                None => client.picture(&t.address).await,
            };
            own_view(t, view)
        }))
        .await;
        Ok(Self {
            targets,
            views,
            heard,
        })
    }

    /// A sentence for when nobody who answered has a ring.
    pub fn nobody(&self) -> String {
        let who: Vec<String> = self
            .heard
            .iter()
            .map(|h| format!("{} ({}) is {}", h.endpoint, h.id, h.state))
            .collect();
        format!(
            "nobody who answers has joined a cluster: {}",
            who.join("; ")
        )
    }

    /// Why what was asked is not one cluster, and what to do; nothing when it is one.
    pub fn split(&self) -> Option<String> {
        let mut clusters: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        let named = self.heard.iter();
        let named = named.map(|h| (h.cluster_id.as_str(), h.endpoint.as_str(), &h.id));
        let members = self.targets.iter().zip(&self.views);
        let members = members.filter_map(|(target, view)| {
            let cluster = view.as_ref().ok()?.status.cluster.cluster_id.as_str();
            Some((cluster, target.address.as_str(), &target.id))
        });
        for (cluster, endpoint, id) in named.chain(members) {
            // who belongs to none yet contradicts nobody
            if !cluster.is_empty() {
                let of = clusters.entry(cluster).or_default();
                of.insert(format!("{endpoint} ({id})"));
            }
        }
        if clusters.len() < 2 {
            return None;
        }
        let parts: Vec<String> = clusters
            .iter()
            .map(|(cluster, who)| {
                let who: Vec<&str> = who.iter().map(String::as_str).collect();
                format!("{cluster} at {}", who.join(", "))
            })
            .collect();
        Some(format!(
            "these endpoints answer for {} clusters: {}. Make them one with `ringmaster adopt`, as \
             docs/operations.md says in \"Two clusters where there should be one\", or name the \
             endpoints of one of them only",
            clusters.len(),
            parts.join("; ")
        ))
    }
}

/// The picture of each endpoint, in their order.
async fn ask(
    client: &Client,
    endpoints: &[String],
) -> Vec<(String, Result<ClusterResponse, ClientError>)> {
    join_all(
        endpoints
            .iter()
            .map(|e| async { (e.clone(), client.picture(e).await) }),
    )
    .await
}

/// How much of the cluster can be told by who answers; the less the better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Sight {
    Whole,
    /// It is about to go, or not yet there.
    Passing,
    /// It knows the ring, and of the members only itself.
    OnlyItself,
}

impl Sight {
    fn of(status: &StatusResponse) -> Self {
        use Lifecycle::{Draining, Joining, Standby, Stopped};
        match status.node.lifecycle {
            _ if sees_only_itself(status) => Self::OnlyItself,
            Draining | Joining | Standby | Stopped => Self::Passing,
            _ => Self::Whole,
        }
    }
}

/// Of the answer with the newest ring: a node without a ring knows nobody. Of several the one that
/// sees most, and of equals the first.
fn newest(answers: &[(String, Result<ClusterResponse, ClientError>)]) -> Option<&ClusterResponse> {
    let rank = |a: &ClusterResponse| (Reverse(a.ring.epoch), Sight::of(&a.status));
    let answers = answers.iter().filter_map(|(_, a)| a.as_ref().ok());
    answers.min_by_key(|a| rank(a))
}

fn why_nobody(answers: Vec<(String, Result<ClusterResponse, ClientError>)>) -> ClientError {
    let mut last = ClientError::no_endpoint();
    for error in answers.into_iter().filter_map(|(_, a)| a.err()) {
        last.outdone_by(error);
    }
    last
}

/// Members of the ring at the addresses gossip knows: a changed one it knows before the ring does.
pub fn members_of(view: &ClusterResponse) -> Vec<Target> {
    let target = |node: &ringmaster_shared::api::ring::RingNode| {
        let live = view.members.cluster_members.get(&node.id);
        Target {
            id: node.id.clone(),
            address: live.map_or_else(|| node.address.clone(), |m| m.address.clone()),
        }
    };
    let mut targets: Vec<Target> = view.ring.nodes.iter().map(target).collect();
    targets.sort();
    targets
}

fn own_view(
    target: &Target,
    view: Result<ClusterResponse, ClientError>,
) -> Result<ClusterResponse, String> {
    match view {
        Ok(view) if view.status.node.id == target.id => Ok(view),
        Ok(view) => Err(format!(
            "{} is {}, not {}",
            target.address, view.status.node.id, target.id
        )),
        Err(e) => Err(e.to_string()),
    }
}

/// The picture with the newest ring that an endpoint gives; all are asked.
pub async fn newest_answer(
    client: &Client,
    endpoints: &[String],
) -> Result<ClusterResponse, ClientError> {
    let answers = ask(client, endpoints).await;
    match newest(&answers) {
        Some(answer) => Ok(answer.clone()),
        None => Err(why_nobody(answers)),
    }
}

/// The whole picture from the first endpoint that sees the cluster; where none does, from the one
/// that sees most.
pub async fn first_answer(
    client: &Client,
    endpoints: &[String],
) -> Result<ClusterResponse, ClientError> {
    let mut last = ClientError::no_endpoint();
    let mut best: Option<(Sight, ClusterResponse)> = None;
    for endpoint in endpoints {
        match client.picture(endpoint).await {
            Ok(answer) => {
                let sight = Sight::of(&answer.status);
                if sight == Sight::Whole {
                    return Ok(answer);
                }
                if best.as_ref().is_none_or(|(other, _)| sight < *other) {
                    best = Some((sight, answer));
                }
            }
            Err(e) => last.outdone_by(e),
        }
    }
    best.map(|(_, answer)| answer).ok_or(last)
}

/// The endpoints in the order in which a question should go to them: first the first one that sees
/// the cluster, last those that see less, or do not answer.
pub async fn seeing_first(client: &Client, endpoints: &[String]) -> Vec<String> {
    let mut ranked = Vec::new();
    let mut found = endpoints.len() < 2;
    for endpoint in endpoints {
        let rank = if found {
            1
        } else {
            match client.status(endpoint).await.map(|s| Sight::of(&s)) {
                Ok(Sight::Whole) => {
                    found = true;
                    0
                }
                Ok(Sight::Passing) => 2,
                Ok(Sight::OnlyItself) => 3,
                Err(_) => 4,
            }
        };
        ranked.push((rank, endpoint.clone()));
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, endpoint)| endpoint).collect()
}

/// `/api/v1/status` of each target.
pub async fn statuses(
    client: &Client,
    targets: &[Target],
) -> Vec<(Target, Result<StatusResponse, ClientError>)> {
    join_all(
        targets
            .iter()
            .map(|t| async { (t.clone(), client.get(&t.address, "/api/v1/status").await) }),
    )
    .await
}

/// `/gossip/members` of each target.
pub async fn members(
    client: &Client,
    targets: &[Target],
) -> Vec<(Target, Result<MembersResponse, ClientError>)> {
    join_all(
        targets
            .iter()
            .map(|t| async { (t.clone(), client.get(&t.address, "/gossip/members").await) }),
    )
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procedure::fixture::{CLUSTER, heard, id, survey};

    const OTHER: &str = "d32d7c1e-2f43-4a52-9f7e-3c1de9c0a222";

    #[test]
    fn one_cluster_is_no_split_whoever_is_silent_or_still_joining() {
        let mut one = survey(&["a", "b", "c"], &[5, 5, 5]);
        assert_eq!(one.split(), None);
        one.views[1] = Err("connection refused".into());
        one.heard = vec![heard("a:1", "a", CLUSTER), heard("d:1", "d", "")];
        assert_eq!(one.split(), None);
    }

    #[test]
    fn a_split_names_every_cluster_and_who_answers_for_it() {
        let mut two = survey(&["a"], &[5]);
        two.heard = vec![heard("a:1", "a", CLUSTER), heard("b:1", "b", OTHER)];
        let why = two.split().expect("two clusters");
        for part in [
            "2 clusters",
            &format!("{CLUSTER} at a:1 (a)"),
            &format!("{OTHER} at b:1 (b)"),
            "ringmaster adopt",
            "Two clusters where there should be one",
        ] {
            assert!(why.contains(part), "no {part}: {why}");
        }
        // a member that answers for another one is as bad, named or not
        let mut inner = survey(&["a", "b"], &[5, 5]);
        if let Ok(view) = &mut inner.views[1] {
            view.status.cluster.cluster_id = OTHER.into();
        }
        let why = inner.split().expect("two clusters");
        assert!(why.contains(&format!("{OTHER} at b:1 (b)")), "{why}");
    }

    #[test]
    fn the_newest_ring_counts_and_of_equals_the_first() {
        let views = survey(&["a", "b", "c"], &[0, 7, 7]).views;
        let names = ["a:1", "b:1", "c:1"].map(str::to_owned);
        let refused = || ("d:1".to_owned(), Err(ClientError::no_endpoint()));
        let answers = names
            .into_iter()
            .zip(views)
            .map(|(e, v)| (e, Ok(v.expect("a view"))));
        let answers: Vec<_> = std::iter::once(refused()).chain(answers).collect();
        let best = newest(&answers).expect("an answer");
        assert_eq!(best.status.node.id, id("b"));
        assert!(newest(&[refused()]).is_none());
        assert!(why_nobody(vec![refused()]).is_unreachable());
    }

    /// What somebody answers who is at that point of its life; its gossip is silent where it can be.
    fn view(who: &str, lifecycle: Lifecycle, gossips: bool) -> ClusterResponse {
        let view = survey(&[who], &[7]).views.remove(0);
        let mut view = view.expect("a view");
        view.status.node.lifecycle = lifecycle;
        view.status.gossip = gossips.then(Default::default);
        view
    }

    #[test]
    fn of_equal_rings_who_sees_most_is_believed() {
        use Lifecycle::{Draining, Joining, Recovering, Serving, Standby};
        let held = || view("held", Standby, false);
        let cases = [
            (vec![held(), view("b", Serving, true)], "b"),
            (
                vec![view("a", Joining, false), view("b", Recovering, true)],
                "b",
            ),
            (
                vec![view("a", Draining, true), view("b", Serving, true)],
                "b",
            ),
            // one that takes its data from the others knows them
            (vec![held(), view("b", Joining, true)], "b"),
            (vec![held(), view("a", Standby, false)], "held"),
        ];
        for (views, best) in cases {
            let answers: Vec<_> = views.into_iter().map(|v| (String::new(), Ok(v))).collect();
            let found = newest(&answers).expect("an answer");
            assert_eq!(found.status.node.id, id(best));
        }
    }

    #[tokio::test]
    async fn who_sees_only_itself_is_asked_for_want_of_a_better() {
        use crate::fixture::server::{FakeNode, nobody, ok};
        let node = async |view: ClusterResponse| {
            let answers = move |request: &str, _: &_| match request {
                "GET /api/v1/status" => ok(&view.status),
                _ => ok(&view),
            };
            FakeNode::start(answers).await
        };
        let held = node(view("held", Lifecycle::Standby, false)).await;
        let going = node(view("going", Lifecycle::Draining, true)).await;
        let serves = node(view("serves", Lifecycle::Serving, true)).await;
        let [held, going, serves] = [&held, &going, &serves].map(|n| n.address.clone());
        let silent = nobody();
        let client = Client::new().expect("a client");
        let cases = [
            (vec![&held, &silent, &serves, &going], "serves"),
            (vec![&held, &going, &silent], "going"),
            (vec![&silent, &held], "held"),
        ];
        for (endpoints, best) in cases {
            let endpoints: Vec<String> = endpoints.into_iter().cloned().collect();
            let answer = first_answer(&client, &endpoints).await.expect("an answer");
            assert_eq!(answer.status.node.id, id(best));
            let order = seeing_first(&client, &endpoints).await;
            let first = client.status(&order[0]).await.expect("a status");
            assert_eq!((first.node.id, order.len()), (id(best), endpoints.len()));
        }
        let nobody = first_answer(&client, &[silent]).await;
        assert!(nobody.expect_err("silence").is_unreachable());
    }
}
