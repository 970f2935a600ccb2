//! What the operator asked for: flags beat environment beats file beats default.
//!
//! Every setting stands once in [`settings::SETTINGS`]; this file turns the winning texts into a
//! [`Config`] of checked types. Errors name the place the bad text came from. No I/O except
//! reading the file that `--config` names.

mod duration;
mod file;
pub mod layers;
pub mod seeds;
pub mod settings;

use std::{
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    time::Duration,
};

use ringmaster_shared::id::NodeId;

use crate::{
    cli::Failure,
    gossip::{GossipConfig, Lifeguard, secrecy::Verify},
};
pub use duration::in_words;
pub use layers::Layers;

/// The checked configuration of one node.
#[derive(Debug, Clone)]
pub struct Config {
    pub node_id: NodeId,
    pub port: u16,
    pub data_dir: PathBuf,
    pub bind: IpAddr,
    /// `host:port` that others are told.
    pub advertise: String,
    pub zone: String,
    /// As given, without repetitions; may name this node itself.
    pub seeds: Vec<String>,
    /// A seed of another cluster is joined, with all this node holds.
    pub adopt: bool,
    pub replication_factor: u8,
    pub join: JoinWay,
    pub gossip: GossipConfig,
    pub secrecy: SecrecyConfig,
    pub limits: Limits,
    pub storage: StorageConfig,
    /// Flags that start this node again as it is set up; see [`start_flags`].
    pub start_flags: Vec<String>,
}

/// How a node that is not in the ring gets into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinWay {
    /// The members take it in as soon as it is there.
    Auto,
    /// It waits as a candidate for an operator's plan.
    Manual,
}

/// The largest `limits.value_bytes`: several writers that do not know of each other can still leave
/// their values side by side in one record, which has to fit into one message.
const VALUE_BYTES_MAX: u64 = 4 << 20;

/// Bounds on what clients can cost.
#[derive(Debug, Clone)]
pub struct Limits {
    pub connections: usize,
    /// Client requests for data under way at once.
    pub requests: usize,
    pub value_bytes: usize,
    /// Bytes of request bodies held at once.
    pub body_bytes_total: usize,
    pub feeds: usize,
    /// For a request's head to arrive, and for an idle connection to be kept.
    pub header_timeout: Duration,
    pub body_timeout: Duration,
    /// For a quorum to answer.
    pub request_timeout: Duration,
    /// For requests in flight to finish when stopping.
    pub drain_timeout: Duration,
}

/// Keys of the gossip; `verify` means nothing without any.
#[derive(Debug, Clone)]
pub struct SecrecyConfig {
    pub keyring_file: Option<PathBuf>,
    pub verify: Verify,
}

#[derive(Debug, Clone)]
pub struct StorageConfig {
    pub cache_bytes: u64,
    pub segment_bytes: u64,
    pub hint_bytes_max: u64,
    pub reserve_bytes: u64,
    pub min_free_bytes: u64,
    pub hint_max_age: Duration,
    pub tombstone_grace: Duration,
}

/// How logs look; needed before anything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    pub json: bool,
    pub level: tracing::Level,
}

impl Config {
    /// Seeds that are not this node.
    pub fn other_seeds(&self) -> Vec<String> {
        seeds::without_self(&self.seeds, &self.advertise, self.bind, self.port)
    }

    pub fn resolve(layers: &Layers) -> Result<Self, Failure> {
        let node_id: NodeId = layers
            .optional("node_id", |t| NodeId::new(t).map_err(|e| e.to_string()))?
            .ok_or_else(|| {
                Failure::Usage("--node-id is missing: name this node, e.g. --node-id=node-1".into())
            })?;
        let port = layers.required("port", port)?;
        let bind = layers.required("bind", bind)?;
        let data_dir = layers
            .optional("data_dir", path)?
            .unwrap_or_else(|| PathBuf::from("data").join(node_id.as_str()));
        let advertise = advertise(layers, bind, port)?;
        let zone = layers.required("zone", zone)?;
        let seeds = seeds::collect(layers.all(&["seed_node", "seed_nodes"]))?;
        Ok(Self {
            start_flags: start_flags(layers, &data_dir),
            node_id,
            port,
            data_dir,
            bind,
            advertise,
            zone,
            seeds,
            adopt: layers.required("adopt", truth)?,
            replication_factor: layers.required("replication_factor", |t| whole(t, 1, 9))? as u8,
            join: layers.required("join", |t| match t {
                "auto" => Ok(JoinWay::Auto),
                "manual" => Ok(JoinWay::Manual),
                _ => Err("a way to join is auto or manual".into()),
            })?,
            gossip: gossip(layers)?,
            secrecy: SecrecyConfig {
                keyring_file: layers.optional("gossip.keyring_file", path)?,
                verify: verify(layers)?,
            },
            limits: limits(layers)?,
            storage: StorageConfig {
                cache_bytes: layers.required("storage.cache_bytes", |t| bytes(t, 1 << 20))?,
                segment_bytes: layers.required("storage.segment_bytes", |t| bytes(t, 1 << 16))?,
                hint_bytes_max: layers.required("storage.hint_bytes", |t| bytes(t, 0))?,
                reserve_bytes: layers.required("storage.reserve_bytes", |t| bytes(t, 0))?,
                min_free_bytes: layers.required("storage.min_free_bytes", |t| bytes(t, 0))?,
                hint_max_age: layers.required("storage.hint_max_age", duration::parse)?,
                tombstone_grace: layers.required("storage.tombstone_grace", grace)?,
            },
        })
    }
}

impl LogConfig {
    pub fn resolve(layers: &Layers) -> Result<Self, Failure> {
        Ok(Self {
            json: layers.required("log_format", |t| match t {
                "text" => Ok(false),
                "json" => Ok(true),
                _ => Err("a log format is text or json".into()),
            })?,
            level: layers.required("log_level", |t| match t {
                "error" | "warn" | "info" | "debug" | "trace" => {
                    t.parse().map_err(|_| String::new())
                }
                _ => Err("a log level is error, warn, info, debug or trace".into()),
            })?,
        })
    }
}

/// Whatever source a setting came from; paths are absolute, so that it does not matter where they
/// are used. How the node found its cluster is left out: it knows members now, and whoever starts
/// it again names a seed that runs.
fn start_flags(layers: &Layers, data_dir: &Path) -> Vec<String> {
    let left_out = ["seed_node", "seed_nodes", "adopt"];
    let settings = settings::SETTINGS.iter();
    let settings = settings.filter(|s| !left_out.contains(&s.key));
    let flag = |s: &settings::Setting| {
        let given = layers.all(&[s.key]).pop().map(|g| g.text.trim().to_owned());
        let text = match s.key {
            "data_dir" => absolute(data_dir),
            "gossip.keyring_file" => absolute(Path::new(&given?)),
            // what names the node is said even when it is the default
            "node_id" | "port" => given.or(s.default.map(str::to_owned))?,
            _ => given.filter(|text| Some(text.as_str()) != s.default)?,
        };
        Some(format!("--{}={text}", s.flag()))
    };
    settings.filter_map(flag).collect()
}

fn absolute(path: &Path) -> String {
    let whole = std::path::absolute(path);
    whole
        .unwrap_or_else(|_| path.to_owned())
        .display()
        .to_string()
}

/// Within a quarter of it all members must have answered.
fn grace(text: &str) -> Result<Duration, String> {
    let grace = duration::parse(text)?;
    if grace < Duration::from_millis(200) {
        return Err("deleted keys are remembered for at least 200ms".into());
    }
    Ok(grace)
}

fn gossip(layers: &Layers) -> Result<GossipConfig, Failure> {
    let time = |key| layers.required(key, duration::parse);
    let count = |key, most| layers.required(key, |t| whole(t, 1, most));
    Ok(GossipConfig {
        probe_interval: time("gossip.probe_interval")?,
        probe_timeout: time("gossip.probe_timeout")?,
        indirect_probes: count("gossip.indirect_probes", 16)? as usize,
        gossip_interval: time("gossip.interval")?,
        gossip_fanout: count("gossip.fanout", 16)? as usize,
        suspicion_mult: count("gossip.suspicion_mult", 100)? as u32,
        suspicion_max_mult: count("gossip.suspicion_max_mult", 100)? as u32,
        awareness_max: count("gossip.awareness_max", 64)? as u32,
        retransmit_mult: count("gossip.retransmit_mult", 100)? as u32,
        push_pull_interval: time("gossip.push_pull_interval")?,
        reconnect_interval: time("gossip.reconnect_interval")?,
        packet_bytes_max: layers.required("gossip.packet_bytes", |t| whole(t, 512, 60_000))?
            as usize,
        lifeguard: Lifeguard::default(),
    })
}

/// Who asks in plain has nothing that a sealed answer could be bound to, so an old one would do:
/// insisting on seals without sealing is no step on any way to keys or from them.
fn verify(layers: &Layers) -> Result<Verify, Failure> {
    let verify = Verify {
        incoming: layers.required("gossip.verify_incoming", truth)?,
        outgoing: layers.required("gossip.verify_outgoing", truth)?,
    };
    if verify.incoming && !verify.outgoing {
        return Err(Failure::Usage(
            "--gossip-verify-outgoing=false needs --gossip-verify-incoming=false as well: a node that takes only sealed gossip has to seal its own (docs/operations.md, \"Encrypting gossip\")".into(),
        ));
    }
    Ok(verify)
}

fn limits(layers: &Layers) -> Result<Limits, Failure> {
    let time = |key| layers.required(key, duration::parse);
    let count = |key| layers.required(key, |t| whole(t, 1, 1_000_000));
    Ok(Limits {
        connections: count("limits.connections")? as usize,
        requests: count("limits.requests")? as usize,
        feeds: count("limits.feeds")? as usize,
        value_bytes: layers.required("limits.value_bytes", |t| whole(t, 1, VALUE_BYTES_MAX))?
            as usize,
        body_bytes_total: layers.required("limits.body_bytes_total", |t| bytes(t, 32 << 20))?
            as usize,
        header_timeout: time("limits.header_timeout")?,
        body_timeout: time("limits.body_timeout")?,
        request_timeout: time("limits.request_timeout")?,
        drain_timeout: time("limits.drain_timeout")?,
    })
}

fn port(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err("a port is a number from 1 to 65535".into()),
    }
}

fn bind(text: &str) -> Result<IpAddr, String> {
    if text == "localhost" {
        return Ok(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    text.trim_matches(['[', ']'])
        .parse()
        .map_err(|_| "the address to bind is an IP address, e.g. 127.0.0.1 or 0.0.0.0".into())
}

fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("a path is needed".into());
    }
    Ok(PathBuf::from(text))
}

fn zone(text: &str) -> Result<String, String> {
    let fits = !text.is_empty()
        && text.len() <= 64
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if fits {
        Ok(text.to_owned())
    } else {
        Err("a zone is 1 to 64 letters, digits, '-', '_' or '.'".into())
    }
}

fn advertise(layers: &Layers, bind: IpAddr, port: u16) -> Result<String, Failure> {
    if let Some(given) = layers.optional("advertise", seeds::check_address)? {
        return Ok(given);
    }
    if bind.is_loopback() {
        return Ok(format!("localhost:{port}"));
    }
    if bind.is_unspecified() {
        return Err(Failure::Usage(format!(
            "--bind {bind} needs --advertise HOST:PORT, because others cannot reach {bind}"
        )));
    }
    Ok(std::net::SocketAddr::new(bind, port).to_string())
}

fn truth(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("true or false is needed".into()),
    }
}

fn whole(text: &str, least: u64, most: u64) -> Result<u64, String> {
    match text.parse::<u64>() {
        Ok(n) if (least..=most).contains(&n) => Ok(n),
        _ => Err(format!("a whole number from {least} to {most} is needed")),
    }
}

fn bytes(text: &str, least: u64) -> Result<u64, String> {
    whole(text, least, 1 << 40)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> Result<Config, Failure> {
        let args = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), vec![(*v).to_owned()]))
            .collect();
        Config::resolve(&Layers::of_flags(args))
    }

    #[test]
    fn defaults_are_those_of_the_manual() {
        let c = config(&[("node_id", "node-1"), ("port", "8081")]).expect("valid");
        assert_eq!(c.advertise, "localhost:8081");
        assert_eq!(c.bind.to_string(), "127.0.0.1");
        assert_eq!(c.zone, "default");
        assert_eq!(c.join, JoinWay::Auto);
        assert_eq!(c.data_dir, PathBuf::from("data/node-1"));
        assert_eq!(c.limits.connections, 16_384);
        assert_eq!(c.gossip.gossip_interval, Duration::from_millis(200));
    }

    #[test]
    fn start_flags_are_what_was_set_with_whole_paths() {
        let c = config(&[
            ("node_id", "node-1"),
            ("zone", "b"),
            ("bind", "127.0.0.1"),
            ("seed_node", "localhost:8082"),
            ("adopt", "true"),
            ("gossip.keyring_file", "/etc/ringd/keyring"),
            ("gossip.verify_incoming", "false"),
        ]);
        let here = std::env::current_dir().expect("a folder");
        let data = format!("--data-dir={}", here.join("data/node-1").display());
        assert_eq!(
            c.expect("valid").start_flags,
            [
                "--node-id=node-1",
                "--port=8081",
                data.as_str(),
                "--zone=b",
                "--gossip-keyring-file=/etc/ringd/keyring",
                "--gossip-verify-incoming=false",
            ]
        );
    }

    #[test]
    fn misuse_is_one_sentence_that_names_the_flag() {
        let cases: [(&[(&str, &str)], &str); 12] = [
            (&[], "--node-id is missing"),
            (&[("node_id", "a b")], "--node-id"),
            (&[("node_id", "a"), ("port", "0")], "--port"),
            (&[("node_id", "a"), ("join", "later")], "--join"),
            (&[("node_id", "a"), ("port", "70000")], "--port"),
            (&[("node_id", "a"), ("bind", "0.0.0.0")], "--advertise"),
            (
                &[("node_id", "a"), ("limits.value_bytes", "4194305")],
                "--limits-value-bytes",
            ),
            (&[("node_id", "a"), ("advertise", "nohost")], "--advertise"),
            (
                &[("node_id", "a"), ("seed_node", "localhost")],
                "--seed-node",
            ),
            (
                &[("node_id", "a"), ("seed_nodes", "h:1,h:0")],
                "--seed-nodes",
            ),
            (
                &[("node_id", "a"), ("gossip.interval", "fast")],
                "--gossip-interval",
            ),
            // answers to plain questions could be replayed
            (
                &[
                    ("node_id", "a"),
                    ("port", "1"),
                    ("gossip.verify_outgoing", "false"),
                ],
                "--gossip-verify-outgoing",
            ),
        ];
        for (pairs, names) in cases {
            let error = config(pairs).expect_err("must be refused");
            assert!(matches!(error, Failure::Usage(_)), "{pairs:?}");
            let text = error.to_string();
            assert!(text.contains(names), "{text:?} must name {names}");
            assert!(!text.contains('\n'));
        }
    }

    #[test]
    fn log_settings_are_checked() {
        let layers = Layers::of_flags([("log_level".to_owned(), vec!["loud".to_owned()])].into());
        assert!(LogConfig::resolve(&layers).is_err());
        let log = LogConfig::resolve(&Layers::default()).expect("defaults");
        assert_eq!((log.json, log.level), (false, tracing::Level::INFO));
    }
}
