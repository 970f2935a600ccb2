//! Knocking at seeds until one opens.

use std::time::Duration;

use ringmaster_shared::{event::EventCode, id::ClusterId, topology::Topology};

use crate::{
    cli::Failure,
    gossip::{
        MemberState,
        secrecy::{
            Secrecy,
            joining::{self, Proof},
        },
    },
    node::SharedNode,
    replication::{
        frames::{RefusalCode, Request, Response},
        peers::{PeerError, Peers},
    },
};

/// How long a seed has to answer.
const ANSWER_TIME: Duration = Duration::from_secs(3);
/// Short: nodes that are started together with their seed find it opening its store.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The same wait is told again after so long.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// What a seed says to whom it lets in.
#[derive(Debug)]
pub struct Welcome {
    pub seed: String,
    pub cluster_id: ClusterId,
    pub topology: Topology,
    pub members: Vec<MemberState>,
}

/// Why a seed did not let us in.
#[derive(Debug)]
pub enum Closed {
    /// It may later.
    Later(String),
    Never(Foreign),
}

/// A seed of another cluster.
#[derive(Debug)]
pub struct Foreign {
    pub seed: String,
    /// Its cluster, when it said so in so many words.
    pub theirs: Option<ClusterId>,
    why: String,
}

impl Foreign {
    pub fn failure(&self) -> Failure {
        Failure::Failed(format!(
            "the seed belongs to another cluster: {}; give a seed of this node's cluster, or an empty --data-dir to join the other; or start it with --adopt to give up this node's cluster and carry all it holds into the other",
            self.why
        ))
    }
}

/// Why knocking ended without a welcome.
#[derive(Debug)]
pub enum Refused {
    Foreign(Foreign),
    Broken(Failure),
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Foreign(foreign) => foreign.failure(),
            Refused::Broken(failure) => failure,
        }
    }
}

/// What the node does meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meanwhile {
    /// Nothing: without a seed it gets nowhere.
    Waits,
    /// It serves; the seeds are only to be told that it is back.
    Serves,
}

/// Tries all seeds in turn for ever.
pub async fn knock(
    node: &SharedNode,
    seeds: &[String],
    meanwhile: Meanwhile,
) -> Result<Welcome, Refused> {
    let bug = |what: &str| Refused::Broken(Failure::Failed(format!("a bug: {what}")));
    let peers = node
        .peers
        .get()
        .ok_or_else(|| bug("no connections before seeds"))?;
    let mut told = Told::default();
    for attempt in 0_u32.. {
        let mut whys = Vec::new();
        for seed in seeds {
            match ask(node, peers, seed).await {
                Ok(welcome) => return Ok(welcome),
                Err(Closed::Later(why)) => whys.push(why),
                Err(Closed::Never(foreign)) => return Err(Refused::Foreign(foreign)),
            }
        }
        match meanwhile {
            Meanwhile::Waits => told.tell(node, &whys.join("; ")),
            Meanwhile::Serves if attempt == 0 => {
                tracing::info!(
                    "no seed answers yet: {}; tried on beside serving",
                    whys.join("; ")
                );
            }
            Meanwhile::Serves => {}
        }
        tokio::time::sleep(pause(attempt, rand::random())).await;
    }
    Err(bug("the seeds were given up"))
}

async fn ask(node: &SharedNode, peers: &Peers, seed: &str) -> Result<Welcome, Closed> {
    let secrecy = node.secrecy.as_ref();
    let member = node.member_state();
    let proof = Proof::of(secrecy, &member);
    let request = Request::Join {
        member,
        proof: proof.bytes.clone(),
    };
    let answer = peers.call_address(seed, request, ANSWER_TIME).await;
    let answer = answer.map(|(_, response)| response);
    judge(seed, unseal(seed, secrecy, &proof, answer)?)
}

/// What a seed says, once it is clear that it holds a key where this node insists on keys.
fn unseal(
    seed: &str,
    secrecy: Option<&Secrecy>,
    proof: &Proof,
    answer: Result<Response, PeerError>,
) -> Result<Result<Response, PeerError>, Closed> {
    let later = |why: String| Closed::Later(format!("{seed}: {why}"));
    match answer {
        Ok(Response::SealedWelcome { sealed }) => {
            let plain = proof.open(secrecy, &sealed).map_err(later)?;
            let welcome = postcard::from_bytes(&plain);
            let welcome = welcome.map_err(|_| later("its sealed welcome is unreadable".into()))?;
            Ok(Ok(welcome))
        }
        Ok(Response::Welcome { .. }) if !joining::may_be_plain(secrecy) => Err(later(
            "it does not seal its welcome, and this node takes only sealed ones; has it the same gossip.keyring_file and gossip.verify_outgoing?".into(),
        )),
        answer => Ok(answer),
    }
}

fn judge(seed: &str, answer: Result<Response, PeerError>) -> Result<Welcome, Closed> {
    match answer {
        Ok(Response::Welcome {
            cluster_id,
            topology,
            members,
        }) if topology.is_well_formed() && topology.cluster_id == cluster_id => Ok(Welcome {
            seed: seed.to_owned(),
            cluster_id,
            topology,
            members,
        }),
        Ok(Response::Refused {
            code: RefusalCode::WrongCluster,
            reason,
        }) => Err(Closed::Never(Foreign {
            seed: seed.to_owned(),
            theirs: None,
            why: format!("{seed}: {reason}"),
        })),
        Ok(Response::NotReady { reason } | Response::Refused { reason, .. }) => {
            Err(Closed::Later(format!("{seed}: {reason}")))
        }
        Ok(_) => Err(Closed::Later(format!(
            "{seed}: gave an answer that makes no sense"
        ))),
        Err(ref error @ PeerError::WrongCluster { ref theirs, .. }) => {
            Err(Closed::Never(Foreign {
                seed: seed.to_owned(),
                theirs: ClusterId::new(theirs).ok(),
                why: error.to_string(),
            }))
        }
        Err(error) => Err(Closed::Later(error.to_string())),
    }
}

/// Doubles up to a limit, between half and all of it.
pub fn pause(attempt: u32, random: f64) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << attempt.min(10));
    doubled.min(LONGEST_PAUSE).mul_f64(0.5 + random / 2.0)
}

/// Says what is waited for when it changes, and now and then.
#[derive(Default)]
pub struct Told {
    last: Option<(String, std::time::Instant)>,
}

impl Told {
    pub fn tell(&mut self, node: &SharedNode, whys: &str) {
        let waits = format!("a seed to answer: {whys}");
        node.control.update(|facts| {
            facts.waiting_for = Some(waits.clone());
        });
        let repeated = match &self.last {
            Some((text, at)) if *text == waits => {
                if at.elapsed() < TELL_AGAIN {
                    return;
                }
                true
            }
            _ => false,
        };
        if repeated {
            tracing::info!("still waiting for {waits}");
        } else {
            let message = format!("waiting for {waits}");
            node.events
                .info(EventCode::WaitingForSeed, Some(&node.facts.id), message);
        }
        self.last = Some((waits, std::time::Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::tests::topology;

    #[test]
    fn pauses_grow_to_a_limit() {
        assert_eq!(pause(0, 1.0), FIRST_PAUSE);
        assert_eq!(pause(0, 0.0), FIRST_PAUSE / 2);
        assert_eq!(pause(2, 1.0), FIRST_PAUSE * 4);
        assert_eq!(pause(u32::MAX, 1.0), LONGEST_PAUSE);
    }

    #[test]
    fn answers_of_seeds_are_judged() {
        let t = topology(&["b"]);
        let welcome = |topology: Topology| {
            Ok(Response::Welcome {
                cluster_id: t.cluster_id.clone(),
                topology,
                members: Vec::new(),
            })
        };
        assert!(judge("h:1", welcome(t.clone())).is_ok());
        let mut broken = t.clone();
        broken.table = Vec::new();
        let later = [
            welcome(broken),
            Ok(Response::NotReady {
                reason: "no cluster yet".into(),
            }),
            Ok(Response::Done),
            Err(PeerError::Lost {
                address: "h:1".into(),
            }),
        ];
        for answer in later {
            assert!(matches!(judge("h:1", answer), Err(Closed::Later(_))));
        }
        let other = Err(PeerError::WrongCluster {
            address: "h:1".into(),
            theirs: "their-id".into(),
            ours: "our-id".into(),
        });
        let Err(Closed::Never(foreign)) = judge("h:1", other) else {
            panic!("another cluster is final");
        };
        let failure = foreign.failure();
        let text = failure.to_string();
        for part in ["their-id", "our-id", "--adopt"] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(failure.exit_code(), 1);
    }
}
