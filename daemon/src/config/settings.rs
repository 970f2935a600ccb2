//! The table of settings: the one place that names a flag, its variable, its key and its default.

/// One setting, whatever source it comes from.
#[derive(Debug)]
pub struct Setting {
    /// Name in the file, `section.name` inside a section.
    pub key: &'static str,
    pub value_name: &'static str,
    pub default: Option<&'static str>,
    pub repeatable: bool,
    /// `--flag` alone means true.
    pub switch: bool,
    pub heading: &'static str,
    pub help: &'static str,
}

impl Setting {
    /// `--` not included.
    pub fn flag(&self) -> String {
        self.key.replace(['.', '_'], "-")
    }

    pub fn variable(&self) -> String {
        format!("RINGD_{}", self.key.replace('.', "_").to_uppercase())
    }
}

pub fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|s| s.key == key)
}

const fn setting(
    heading: &'static str,
    key: &'static str,
    value_name: &'static str,
    default: Option<&'static str>,
    help: &'static str,
) -> Setting {
    Setting {
        key,
        value_name,
        default,
        repeatable: false,
        switch: false,
        heading,
        help,
    }
}

const fn repeatable(mut s: Setting) -> Setting {
    s.repeatable = true;
    s
}

const fn switch(mut s: Setting) -> Setting {
    s.switch = true;
    s
}

const NODE: &str = "This node";
const CLUSTER: &str = "Finding the cluster";
const LOGS: &str = "Logs";
const GOSSIP: &str = "Gossip (change on all nodes alike)";
const LIMITS: &str = "Limits";
const STORAGE: &str = "Storage";

/// In the order of the manual.
pub static SETTINGS: &[Setting] = &[
    setting(
        NODE,
        "node_id",
        "NAME",
        None,
        "Name of this node, unique in the cluster and the same at every start [required]",
    ),
    setting(
        NODE,
        "port",
        "PORT",
        Some("8081"),
        "Port for HTTP, WebSocket, gossip (UDP) and the other nodes",
    ),
    setting(
        NODE,
        "data_dir",
        "DIR",
        None,
        "Folder of this node's data; belongs to one node and one process [default: data/NAME]",
    ),
    setting(
        NODE,
        "bind",
        "IP",
        Some("127.0.0.1"),
        "Address to listen on",
    ),
    setting(
        NODE,
        "advertise",
        "HOST:PORT",
        None,
        "Where others reach this node [default: localhost:PORT when bound to a loopback address, else BIND:PORT]",
    ),
    setting(
        NODE,
        "zone",
        "NAME",
        Some("default"),
        "Failure zone; replicas of a partition are spread over zones",
    ),
    repeatable(setting(
        CLUSTER,
        "seed_node",
        "HOST:PORT",
        None,
        "A node to join the cluster through; may be repeated. Without seeds an empty node founds a new cluster",
    )),
    repeatable(setting(
        CLUSTER,
        "seed_nodes",
        "HOST:PORT,...",
        None,
        "The same, separated by commas",
    )),
    switch(setting(
        CLUSTER,
        "adopt",
        "BOOL",
        Some("false"),
        "When a seed is of another cluster: give up this node's cluster, push all it holds into the other, and join that",
    )),
    setting(
        CLUSTER,
        "join",
        "WAY",
        Some("auto"),
        "auto: the members take this node in by themselves; manual: it waits as a candidate for an operator's plan (join, or replace a dead node)",
    ),
    setting(
        CLUSTER,
        "replication_factor",
        "N",
        Some("3"),
        "Replicas of each key; counts only when this node founds a cluster",
    ),
    setting(
        LOGS,
        "log_format",
        "FORMAT",
        Some("text"),
        "text for people, json for machines",
    ),
    setting(
        LOGS,
        "log_level",
        "LEVEL",
        Some("info"),
        "error, warn, info, debug or trace",
    ),
    setting(
        LIMITS,
        "limits.connections",
        "N",
        Some("16384"),
        "Open connections; more are turned away with 503",
    ),
    setting(
        LIMITS,
        "limits.requests",
        "N",
        Some("512"),
        "Requests for data under way at once; more get 429",
    ),
    setting(
        LIMITS,
        "limits.feeds",
        "N",
        Some("256"),
        "Open live feeds (/ws)",
    ),
    setting(
        LIMITS,
        "limits.value_bytes",
        "BYTES",
        Some("1048576"),
        "Largest value, 4194304 at most",
    ),
    setting(
        LIMITS,
        "limits.body_bytes_total",
        "BYTES",
        Some("268435456"),
        "Request bodies held in memory at once, and as much again of values on their way to clients; more get 429",
    ),
    setting(
        LIMITS,
        "limits.header_timeout",
        "TIME",
        Some("15s"),
        "For the head of a request to arrive; idle connections are closed after it as well",
    ),
    setting(
        LIMITS,
        "limits.body_timeout",
        "TIME",
        Some("30s"),
        "For the whole body of a request to arrive",
    ),
    setting(
        LIMITS,
        "limits.request_timeout",
        "TIME",
        Some("5s"),
        "For enough replicas to answer",
    ),
    setting(
        LIMITS,
        "limits.drain_timeout",
        "TIME",
        Some("10s"),
        "For requests in flight to finish when the node stops",
    ),
    setting(
        STORAGE,
        "storage.cache_bytes",
        "BYTES",
        Some("67108864"),
        "Page cache of the table",
    ),
    setting(
        STORAGE,
        "storage.segment_bytes",
        "BYTES",
        Some("67108864"),
        "Size at which a commit log segment is closed",
    ),
    setting(
        STORAGE,
        "storage.hint_bytes",
        "BYTES",
        Some("268435456"),
        "Hints kept for one absent node",
    ),
    setting(
        STORAGE,
        "storage.reserve_bytes",
        "BYTES",
        Some("67108864"),
        "Disk space kept allocated and empty, so that a full disk can be started from and tidied",
    ),
    setting(
        STORAGE,
        "storage.min_free_bytes",
        "BYTES",
        Some("268435456"),
        "With less free space than this on the disk, no writes are taken until a quarter more is free",
    ),
    setting(
        STORAGE,
        "storage.hint_max_age",
        "TIME",
        Some("180m"),
        "Hints older than this are given up, and their partitions compared instead",
    ),
    setting(
        STORAGE,
        "storage.tombstone_grace",
        "TIME",
        Some("10m"),
        "How long a deleted key is remembered at least; the same on all nodes",
    ),
    setting(
        GOSSIP,
        "gossip.interval",
        "TIME",
        Some("200ms"),
        "Between rounds of gossip",
    ),
    setting(
        GOSSIP,
        "gossip.fanout",
        "N",
        Some("3"),
        "Members told in each round",
    ),
    setting(
        GOSSIP,
        "gossip.probe_interval",
        "TIME",
        Some("1s"),
        "Between probes",
    ),
    setting(
        GOSSIP,
        "gossip.probe_timeout",
        "TIME",
        Some("500ms"),
        "For the answer to a direct probe",
    ),
    setting(
        GOSSIP,
        "gossip.indirect_probes",
        "N",
        Some("3"),
        "Members asked to probe for us",
    ),
    setting(
        GOSSIP,
        "gossip.suspicion_mult",
        "N",
        Some("4"),
        "A confirmed suspicion lasts this, times log10(members), times the probe interval",
    ),
    setting(
        GOSSIP,
        "gossip.suspicion_max_mult",
        "N",
        Some("6"),
        "One that nobody confirmed lasts this many times longer",
    ),
    setting(
        GOSSIP,
        "gossip.awareness_max",
        "N",
        Some("8"),
        "A node that is slow itself gives others up to this many times longer; 1: never",
    ),
    setting(
        GOSSIP,
        "gossip.retransmit_mult",
        "N",
        Some("4"),
        "A rumor is sent this many times log10(members + 1)",
    ),
    setting(
        GOSSIP,
        "gossip.push_pull_interval",
        "TIME",
        Some("30s"),
        "Between full exchanges with one member",
    ),
    setting(
        GOSSIP,
        "gossip.reconnect_interval",
        "TIME",
        Some("5s"),
        "Between attempts to reach dead members, seeds and remembered members",
    ),
    setting(
        GOSSIP,
        "gossip.packet_bytes",
        "BYTES",
        Some("1400"),
        "Largest UDP packet",
    ),
    setting(
        GOSSIP,
        "gossip.keyring_file",
        "FILE",
        None,
        "Pre-shared keys that encrypt gossip: one base64 key a line, the primary first; mode 600",
    ),
    switch(setting(
        GOSSIP,
        "gossip.verify_incoming",
        "BOOL",
        Some("true"),
        "With keys: refuse gossip that is not sealed; false only while keys are introduced",
    )),
    switch(setting(
        GOSSIP,
        "gossip.verify_outgoing",
        "BOOL",
        Some("true"),
        "With keys: seal what is sent; false only while keys are introduced",
    )),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_do_not_clash() {
        let flags: BTreeSet<String> = SETTINGS.iter().map(Setting::flag).collect();
        let variables: BTreeSet<String> = SETTINGS.iter().map(Setting::variable).collect();
        assert_eq!(flags.len(), SETTINGS.len());
        assert_eq!(variables.len(), SETTINGS.len());
        let s = find("gossip.probe_interval").expect("known");
        assert_eq!(s.flag(), "gossip-probe-interval");
        assert_eq!(s.variable(), "RINGD_GOSSIP_PROBE_INTERVAL");
    }
}
