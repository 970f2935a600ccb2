//! The generator: a number of keep-alive connections, each sending one request after the other.

use std::time::{Duration, Instant};

use anyhow::Context;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinSet};

use crate::etcd;

/// Keys each connection goes round over.
const KEYS_PER_CONNECTION: usize = 500;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Put,
    Get,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Put => "PUT",
            Self::Get => "GET",
        }
    }
}

/// How a target wants to be asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// `ringd`'s REST, which the echo takes as well.
    Ring,
    /// The JSON gateway of etcd v3: keys and values in base64.
    Etcd,
}

/// What is measured: where, how, and whose processor time it costs.
#[derive(Clone)]
pub struct Target {
    pub name: String,
    /// Connections are spread over these evenly.
    pub addresses: Vec<String>,
    pub dialect: Dialect,
    pub pids: Vec<u32>,
}

pub struct Load {
    pub connections: usize,
    pub value_bytes: usize,
}

/// What several runs of one kind against one target come to.
#[derive(Default)]
pub struct Figures {
    samples: Vec<Duration>,
    seconds: f64,
    cpu_seconds: f64,
    /// Answers with another status than 2xx, and 404 for reads of keys never written.
    pub failed: usize,
}

impl Figures {
    pub fn add(&mut self, mut other: Figures) {
        self.samples.append(&mut other.samples);
        self.samples.sort_unstable();
        self.seconds += other.seconds;
        self.cpu_seconds += other.cpu_seconds;
        self.failed += other.failed;
    }

    pub fn per_second(&self) -> f64 {
        self.samples.len() as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }

    pub fn percentile_ms(&self, percent: usize) -> f64 {
        let index = self.samples.len().saturating_sub(1) * percent / 100;
        let sample = self.samples.get(index);
        sample.map_or(0.0, |d| d.as_secs_f64() * 1000.0)
    }

    /// Microseconds of processor time, user and system, of all processes of the target. Unlike the
    /// rest it says something on a busy machine too.
    pub fn cpu_us(&self) -> f64 {
        self.cpu_seconds * 1e6 / self.samples.len().max(1) as f64
    }
}

impl Load {
    /// Drives all addresses evenly and puts the samples of all connections together.
    pub async fn run(
        &self,
        target: &Target,
        kind: Kind,
        duration: Duration,
    ) -> anyhow::Result<Figures> {
        let mut workers = JoinSet::new();
        let cpu = cpu_seconds(&target.pids);
        let began = Instant::now();
        for n in 0..self.connections {
            let asker = self.asker(target, n);
            let until = began + duration;
            workers.spawn(async move { asker.work(n, kind, until).await });
        }
        let mut figures = Figures::default();
        while let Some(result) = workers.join_next().await {
            let (mut took, failed) = result??;
            figures.samples.append(&mut took);
            figures.failed += failed;
        }
        figures.seconds = began.elapsed().as_secs_f64();
        figures.cpu_seconds = cpu_seconds(&target.pids) - cpu;
        figures.samples.sort_unstable();
        Ok(figures)
    }

    /// Writes all keys once: reads need something to read.
    pub async fn fill(&self, target: &Target) -> anyhow::Result<()> {
        let mut workers = JoinSet::new();
        for n in 0..self.connections {
            let asker = self.asker(target, n);
            workers.spawn(async move {
                let mut connection = connect(&asker.address).await?;
                for i in 0..KEYS_PER_CONNECTION {
                    let ok = asker.send(&mut connection, Kind::Put, &key(n, i)).await?;
                    anyhow::ensure!(ok, "a write before the reads failed");
                }
                anyhow::Ok(())
            });
        }
        while let Some(result) = workers.join_next().await {
            result??;
        }
        Ok(())
    }

    fn asker(&self, target: &Target, n: usize) -> Asker {
        Asker {
            address: target.addresses[n % target.addresses.len()].clone(),
            dialect: target.dialect,
            value: "x".repeat(self.value_bytes),
        }
    }
}

/// Seconds the processes have run so far, from the kernel's ticks.
pub fn cpu_seconds(pids: &[u32]) -> f64 {
    /// `USER_HZ`, the same on every Linux a person meets.
    const TICKS_PER_SECOND: f64 = 100.0;
    let ticks = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // the name may hold anything, so count from its closing bracket
        let fields = stat.rsplit_once(')')?.1.split_whitespace();
        let times = fields.skip(11).take(2);
        Some(times.filter_map(|t| t.parse::<f64>().ok()).sum::<f64>())
    };
    pids.iter().filter_map(ticks).sum::<f64>() / TICKS_PER_SECOND
}

/// One connection's worth of work.
struct Asker {
    address: String,
    dialect: Dialect,
    value: String,
}

pub type Connection = http1::SendRequest<Full<Bytes>>;

impl Asker {
    async fn work(
        &self,
        n: usize,
        kind: Kind,
        until: Instant,
    ) -> anyhow::Result<(Vec<Duration>, usize)> {
        let mut connection = connect(&self.address).await?;
        let mut samples = Vec::with_capacity(1 << 16);
        let mut failed = 0;
        for i in 0.. {
            let began = Instant::now();
            if began >= until {
                break;
            }
            let key = key(n, i % KEYS_PER_CONNECTION);
            if self.send(&mut connection, kind, &key).await? {
                samples.push(began.elapsed());
            } else {
                failed += 1;
            }
        }
        Ok((samples, failed))
    }

    /// One request, its answer read to the end; whether it succeeded.
    async fn send(
        &self,
        connection: &mut Connection,
        kind: Kind,
        key: &str,
    ) -> anyhow::Result<bool> {
        let request = match self.dialect {
            Dialect::Ring => self.ring_request(kind, key)?,
            Dialect::Etcd => etcd::request(&self.address, kind, key, &self.value)?,
        };
        connection.ready().await?;
        let answer = connection.send_request(request).await?;
        let ok = answer.status().is_success();
        answer.into_body().collect().await?;
        Ok(ok)
    }

    fn ring_request(&self, kind: Kind, key: &str) -> anyhow::Result<Request<Full<Bytes>>> {
        let request = Request::builder()
            .uri(format!("/api/v1/data/{key}"))
            .header("host", &self.address);
        Ok(match kind {
            Kind::Get => request.method(Method::GET).body(Full::default())?,
            Kind::Put => {
                let body = format!("{{\"value\":\"{}\"}}", self.value);
                request
                    .method(Method::PUT)
                    .header("content-type", "application/json")
                    .body(Full::new(Bytes::from(body)))?
            }
        })
    }
}

fn key(connection: usize, i: usize) -> String {
    format!("bench-{connection}-{i}")
}

pub async fn connect(address: &str) -> anyhow::Result<Connection> {
    let stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("cannot reach {address}"))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}
