//! The generator: a number of keep-alive connections, each sending one request after the other.

use std::time::{Duration, Instant};

use anyhow::Context;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinSet};

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

pub struct Load {
    pub connections: usize,
    pub duration: Duration,
    pub value_bytes: usize,
}

pub struct Figures {
    pub per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// Answers with another status than 2xx, and 404 for reads of keys never written.
    pub failed: usize,
}

impl Load {
    /// Drives all addresses evenly and puts the samples of all connections together.
    pub async fn run(&self, addresses: &[String], kind: Kind) -> anyhow::Result<Figures> {
        if kind == Kind::Get {
            // reads need something to read
            self.fill(addresses).await?;
        }
        let mut workers = JoinSet::new();
        let began = Instant::now();
        for n in 0..self.connections {
            let address = addresses[n % addresses.len()].clone();
            let (until, bytes) = (began + self.duration, self.value_bytes);
            workers.spawn(async move { worker(&address, n, kind, until, bytes).await });
        }
        let mut samples = Vec::new();
        let mut failed = 0;
        while let Some(result) = workers.join_next().await {
            let (mut took, bad) = result??;
            samples.append(&mut took);
            failed += bad;
        }
        let seconds = began.elapsed().as_secs_f64();
        samples.sort_unstable();
        let at = |percent: usize| {
            let index = samples.len().saturating_sub(1) * percent / 100;
            samples.get(index).map_or(0.0, |d| d.as_secs_f64() * 1000.0)
        };
        Ok(Figures {
            per_second: samples.len() as f64 / seconds,
            p50_ms: at(50),
            p99_ms: at(99),
            failed,
        })
    }

    async fn fill(&self, addresses: &[String]) -> anyhow::Result<()> {
        let mut workers = JoinSet::new();
        for n in 0..self.connections {
            let address = addresses[n % addresses.len()].clone();
            let bytes = self.value_bytes;
            workers.spawn(async move {
                let mut connection = connect(&address).await?;
                for i in 0..KEYS_PER_CONNECTION {
                    send(&mut connection, &address, Kind::Put, &key(n, i), bytes).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(result) = workers.join_next().await {
            result??;
        }
        Ok(())
    }
}

type Connection = http1::SendRequest<Full<Bytes>>;

async fn worker(
    address: &str,
    n: usize,
    kind: Kind,
    until: Instant,
    value_bytes: usize,
) -> anyhow::Result<(Vec<Duration>, usize)> {
    let mut connection = connect(address).await?;
    let mut samples = Vec::with_capacity(1 << 16);
    let mut failed = 0;
    for i in 0.. {
        let began = Instant::now();
        if began >= until {
            break;
        }
        let key = key(n, i % KEYS_PER_CONNECTION);
        if send(&mut connection, address, kind, &key, value_bytes).await? {
            samples.push(began.elapsed());
        } else {
            failed += 1;
        }
    }
    Ok((samples, failed))
}

fn key(connection: usize, i: usize) -> String {
    format!("bench-{connection}-{i}")
}

async fn connect(address: &str) -> anyhow::Result<Connection> {
    let stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("cannot reach {address}"))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// One request, its answer read to the end; whether it succeeded.
async fn send(
    connection: &mut Connection,
    address: &str,
    kind: Kind,
    key: &str,
    value_bytes: usize,
) -> anyhow::Result<bool> {
    let request = Request::builder()
        .uri(format!("/api/v1/data/{key}"))
        .header("host", address);
    let request = match kind {
        Kind::Get => request.method(Method::GET).body(Full::default())?,
        Kind::Put => {
            let body = format!("{{\"value\":\"{}\"}}", "x".repeat(value_bytes));
            request
                .method(Method::PUT)
                .header("content-type", "application/json")
                .body(Full::new(Bytes::from(body)))?
        }
    };
    connection.ready().await?;
    let answer = connection.send_request(request).await?;
    let ok = answer.status().is_success();
    answer.into_body().collect().await?;
    Ok(ok)
}
