//! A network of its own for each node: namespaces joined by a bridge, and links that lose
//! packets without a word, in one direction or both, all of them or UDP only.
//!
//! The test itself sits on the bridge and reaches every node whatever is cut between them.
//! Needs root, `ip` and `tc`; [`Network::lay`] says why when it cannot be had. Everything made
//! here carries this process's id in its name and goes when the [`Network`] is dropped, or when
//! making it failed half-way.

use std::{
    ffi::OsStr,
    fmt::Write,
    process::{Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use reqwest::Client;
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{
    client::{Api, http},
    cluster::agreement,
    node::Node,
    skip::skipped,
    wait::{GENEROUS, eventually, same},
};

/// All nodes listen on the same port; each has an address of its own.
const PORT: u16 = 8080;
/// The test's own place on the bridge.
const OWN_PLACE: usize = 254;
/// The interface inside a namespace.
const INSIDE: &str = "eth0";
/// Where lost packets go: one end of a pair whose other end nobody listens at.
const VOID: &str = "void";
const LOG_TAIL: usize = 60;

/// Networks at a time; they are slow together.
static TURN: Semaphore = Semaphore::const_new(1);
static LAID: AtomicUsize = AtomicUsize::new(0);

/// What a link loses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loses {
    Everything,
    Udp,
}

/// Namespaces on one bridge.
pub struct Network {
    /// Part of every name that is made.
    tag: String,
    subnet: usize,
    hosts: Vec<Host>,
    _turn: SemaphorePermit<'static>,
}

/// One namespace.
struct Host {
    /// Last part of its address.
    place: usize,
    /// Addresses that are refused on the spot.
    refused: Vec<String>,
}

impl Network {
    /// A bridge without hosts. `None`, and one line that says why, where that is not possible.
    pub async fn lay() -> Option<Self> {
        static POSSIBLE: OnceLock<Result<(), String>> = OnceLock::new();
        let turn = TURN.acquire().await.expect("never closed");
        match POSSIBLE.get_or_init(rehearse) {
            Ok(()) => Some(Self::on_a_free_subnet(turn)),
            Err(why) => {
                skipped(&format!("no network namespaces here: {why}"));
                None
            }
        }
    }

    fn on_a_free_subnet(turn: SemaphorePermit<'static>) -> Self {
        let number = LAID.fetch_add(1, Ordering::Relaxed);
        let first = std::process::id() as usize + number;
        let taken = |subnet: &usize| {
            let range = format!("10.77.{subnet}.0/24");
            let found = ip(["-o", "-4", "address", "show", "to", &range]);
            !found.expect("addresses can be listed").is_empty()
        };
        let subnet = (0..256).map(|n| (first + n) % 256).find(|s| !taken(s));
        let network = Self {
            tag: format!("{}n{}", std::process::id(), number % 100),
            subnet: subnet.expect("a free subnet in 10.77.0.0/16"),
            hosts: Vec::new(),
            _turn: turn,
        };
        let (bridge, own) = (network.bridge(), network.address_of_place(OWN_PLACE));
        must(ip(["link", "add", "name", &bridge, "type", "bridge"]));
        must(ip(["address", "add", &format!("{own}/24"), "dev", &bridge]));
        must(ip(["link", "set", &bridge, "up"]));
        network
    }

    fn bridge(&self) -> String {
        format!("rb{}", self.tag)
    }

    fn namespace(&self, host: usize) -> String {
        format!("ringd-test-{}h{host}", self.tag)
    }

    /// The bridge's end of a host's link.
    fn plug(&self, host: usize) -> String {
        format!("rl{}h{host}", self.tag)
    }

    fn address_of_place(&self, place: usize) -> String {
        format!("10.77.{}.{place}", self.subnet)
    }

    pub fn address(&self, host: usize) -> String {
        self.address_of_place(self.hosts[host].place)
    }

    /// A new namespace on the bridge; its index.
    pub fn add_host(&mut self) -> usize {
        let host = self.hosts.len();
        self.hosts.push(Host {
            place: host + 1,
            refused: Vec::new(),
        });
        let (namespace, plug) = (self.namespace(host), self.plug(host));
        must(ip(["netns", "add", &namespace]));
        let pair = ["link", "add", "name", &plug, "type", "veth", "peer", "name"];
        let pair = pair.into_iter().chain([INSIDE, "netns", &namespace]);
        must(ip(pair));
        must(ip(["link", "set", &plug, "master", &self.bridge(), "up"]));
        let own = format!("{}/24", self.address(host));
        for inside in [
            "link set lo up",
            &format!("address add {own} dev {INSIDE}"),
            &format!("link set {INSIDE} up"),
            &format!("link add name {VOID} type veth peer name {VOID}-end"),
            &format!("link set {VOID} up"),
            &format!("link set {VOID}-end up"),
        ] {
            must(self.ip_inside(host, inside));
        }
        must(self.tc_inside(host, &format!("qdisc add dev {INSIDE} clsact")));
        host
    }

    fn ip_inside(&self, host: usize, words: &str) -> Result<String, String> {
        let namespace = self.namespace(host);
        ip(["-n", &namespace].into_iter().chain(words.split(' ')))
    }

    fn tc_inside(&self, host: usize, words: &str) -> Result<String, String> {
        let namespace = self.namespace(host);
        let words = ["-n", &namespace].into_iter().chain(words.split(' '));
        run("tc", words)
    }

    /// Runs the program that follows inside, and becomes it.
    pub fn wrapper(&self, host: usize) -> Vec<String> {
        let words = ["ip", "netns", "exec", &self.namespace(host)];
        words.map(str::to_owned).to_vec()
    }

    /// From now on `to` hears nothing of `from`, and neither is told.
    pub fn lose(&self, from: usize, to: usize, what: Loses) {
        let mut rule = format!("filter add dev {INSIDE} ingress protocol ip pref 10 u32");
        let source = self.address(from);
        write!(rule, " match ip src {source}/32").expect("a String takes everything");
        if what == Loses::Udp {
            rule += " match ip protocol 17 0xff";
        }
        write!(rule, " action mirred egress redirect dev {VOID}").expect("as above");
        must(self.tc_inside(to, &rule));
    }

    /// The same in both directions.
    pub fn cut(&self, a: usize, b: usize, what: Loses) {
        self.lose(a, b, what);
        self.lose(b, a, what);
    }

    /// Cuts one host off all others, not off the test.
    pub fn isolate(&self, host: usize, what: Loses) {
        for other in (0..self.hosts.len()).filter(|other| *other != host) {
            self.cut(host, other, what);
        }
    }

    /// The same, but whoever sends is told at once: blackhole routes on both sides.
    pub fn refuse(&mut self, host: usize) {
        for other in (0..self.hosts.len()).filter(|other| *other != host) {
            for (at, of) in [(host, other), (other, host)] {
                let address = self.address(of);
                must(self.ip_inside(at, &format!("route add blackhole {address}/32")));
                self.hosts[at].refused.push(address);
            }
        }
    }

    /// All links are whole again.
    pub fn heal(&mut self) {
        for host in 0..self.hosts.len() {
            must(self.tc_inside(host, &format!("filter delete dev {INSIDE} ingress")));
            for address in std::mem::take(&mut self.hosts[host].refused) {
                must(self.ip_inside(host, &format!("route delete blackhole {address}/32")));
            }
        }
    }

    /// Gives a host another address instead of its own.
    pub fn move_host(&mut self, host: usize) {
        let before = self.address(host);
        self.hosts[host].place += 100;
        let after = self.address(host);
        // in this order: a second address of a network goes when the first one does
        must(self.ip_inside(host, &format!("address delete {before}/24 dev {INSIDE}")));
        must(self.ip_inside(host, &format!("address add {after}/24 dev {INSIDE}")));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // one that fails must not keep the others from going; the names are this process's own
        for host in 0..self.hosts.len() {
            let _ = ip(["link", "delete", &self.plug(host)]);
            let _ = ip(["netns", "delete", &self.namespace(host)]);
        }
        let _ = ip(["link", "delete", &self.bridge()]);
    }
}

/// Makes one of everything in a namespace and throws it away.
fn rehearse() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("this needs root".into());
    }
    let namespace = format!("ringd-test-{}-rehearsal", std::process::id());
    ip(["netns", "add", &namespace])?;
    let inside = |program, words: &str| {
        let words = ["-n", &namespace].into_iter().chain(words.split(' '));
        run(program, words).map(drop)
    };
    let filter = "filter add dev one ingress protocol ip pref 10 u32 match ip src 10.77.0.1/32 \
                  match ip protocol 17 0xff action mirred egress redirect dev two";
    let made = inside("ip", "link add name joint type bridge")
        .and_then(|()| inside("ip", "link add name one type veth peer name two"))
        .and_then(|()| inside("tc", "qdisc add dev one clsact"))
        .and_then(|()| inside("tc", filter));
    ip(["netns", "delete", &namespace])?;
    made
}

fn ip<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<String, String> {
    run("ip", words)
}

/// What it printed, or one line of why not.
fn run<'a>(program: &str, words: impl IntoIterator<Item = &'a str>) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null());
    let output = command
        .output()
        .map_err(|e| format!("{program} cannot be started: {e}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
    let said = String::from_utf8_lossy(&output.stderr).replace('\n', " ");
    Err(format!("{program} {}: {}", words.join(" "), said.trim()))
}

fn must(result: Result<String, String>) {
    if let Err(why) = result {
        panic!("{why}");
    }
}

/// Nodes, each in a namespace with the index of the node.
pub struct Cluster {
    // before the network: nobody may live in a namespace that is to go
    pub nodes: Vec<Node>,
    pub network: Network,
    http: Client,
    root: TempDir,
    environment: Vec<(String, String)>,
}

impl Cluster {
    /// No nodes yet; `None` where there can be no namespaces.
    pub async fn empty() -> Option<Self> {
        Some(Self {
            nodes: Vec::new(),
            network: Network::lay().await?,
            http: http(),
            root: tempfile::tempdir().expect("a temporary folder"),
            environment: Vec::new(),
        })
    }

    /// `count` nodes, agreed.
    pub async fn start(count: usize) -> Option<Self> {
        Self::start_with(count, &[]).await
    }

    /// The same, with an environment of their own.
    pub async fn start_with(count: usize, environment: &[(&str, &str)]) -> Option<Self> {
        let mut cluster = Self::empty().await?;
        let own = environment.iter();
        cluster.environment = own.map(|(k, v)| (k.to_string(), v.to_string())).collect();
        for i in 0..count {
            let node = cluster.add();
            let seeds = if i == 0 { vec![] } else { cluster.seeds(&[0]) };
            cluster.run(node, &seeds).await;
            cluster.agree().await;
        }
        Some(cluster)
    }

    /// A host for one more node, which does not run yet; its index.
    pub fn add(&mut self) -> usize {
        let host = self.network.add_host();
        let node = self.node_at(host, &format!("node-{}", host + 1), "");
        self.nodes.push(node);
        host
    }

    /// A node that lives at this host, with its data below `folder` of this cluster's own.
    fn node_at(&self, host: usize, id: &str, folder: &str) -> Node {
        let mut node = Node::new(id, &self.root.path().join(folder));
        node.port = PORT;
        node.set_wrapper(self.network.wrapper(host));
        for (name, value) in &self.environment {
            node.set_env(name, value);
        }
        node
    }

    /// A node that founds a cluster of its own, at the address of one that must not run. It is none
    /// of [`Self::nodes`].
    pub async fn run_stranger(&self, host: usize, id: &str) -> Node {
        let mut node = self.node_at(host, id, &format!("stranger-{id}"));
        let address = self.network.address(host);
        node.start(&[
            format!("--bind={address}"),
            format!("--advertise={address}:{PORT}"),
        ]);
        let api = self.api(host);
        eventually("the stranger answers", GENEROUS, async || {
            let status = api.status().await.map_err(|e| format!("{e:#}"))?;
            same("its id", &status.node.id.as_str(), &id)?;
            let founded = !status.cluster.cluster_id.is_empty();
            founded.then_some(()).ok_or("no cluster yet".to_owned())
        })
        .await;
        node
    }

    /// Starts the node, without waiting for it.
    pub fn launch(&mut self, index: usize, flags: &[String]) {
        let address = self.network.address(index);
        let mut all = vec![
            format!("--bind={address}"),
            format!("--advertise={address}:{PORT}"),
        ];
        all.extend_from_slice(flags);
        self.nodes[index].start(&all);
    }

    /// Starts the node and waits until its port answers.
    pub async fn run(&mut self, index: usize, flags: &[String]) {
        self.launch(index, flags);
        let api = self.api(index);
        let node = &mut self.nodes[index];
        eventually("the port answers", GENEROUS, async || {
            assert!(node.is_running(), "{} ended", node.id);
            api.status().await.map_err(|e| format!("{e:#}"))
        })
        .await;
    }

    /// `host:port` of a node.
    pub fn address(&self, index: usize) -> String {
        format!("{}:{PORT}", self.network.address(index))
    }

    /// The flag that names these nodes as seeds.
    pub fn seeds(&self, of: &[usize]) -> Vec<String> {
        let addresses: Vec<String> = of.iter().map(|i| self.address(*i)).collect();
        vec![format!("--seed-nodes={}", addresses.join(","))]
    }

    pub fn api(&self, index: usize) -> Api {
        Api::at(self.http.clone(), &self.address(index))
    }

    /// Every node by its id, for campaigns.
    pub fn apis(&self) -> Vec<(String, Api)> {
        let nodes = self.nodes.iter().enumerate();
        nodes.map(|(i, n)| (n.id.clone(), self.api(i))).collect()
    }

    /// All nodes serve and go by the same members and the same settled ring.
    pub async fn agree(&self) {
        let apis: Vec<Api> = self.apis().into_iter().map(|(_, api)| api).collect();
        let what = format!("{} nodes agree", apis.len());
        eventually(&what, GENEROUS, async || agreement(&apis).await).await;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for node in &self.nodes {
            let log = node.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(LOG_TAIL)..];
            eprintln!("--- {}\n{}", node.id, tail.join("\n"));
        }
    }
}
