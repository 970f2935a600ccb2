//! The ceiling: an axum server that parses and answers, and does nothing else.

use std::{process::Stdio, time::Duration};

use anyhow::Context;
use axum::{Json, Router, routing::get};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    process::{Child, Command},
};

use crate::load::{Dialect, Target};

/// Serves until killed.
pub async fn serve(port: u16) -> anyhow::Result<()> {
    let hello = get(|| async { Json(json!({"value": "hello"})) })
        .put(|Json(body): Json<Value>| async move { Json(body) });
    let router = Router::new().route("/api/v1/data/{key}", hello);
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    axum::serve(
        axum::serve::ListenerExt::tap_io(listener, |io| {
            let _ = io.set_nodelay(true);
        }),
        router,
    )
    .await?;
    Ok(())
}

/// The echo as a child process; ends when dropped.
pub struct Echo {
    port: u16,
    child: Child,
}

impl Echo {
    pub async fn start() -> anyhow::Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port();
        let child = Command::new(std::env::current_exe()?)
            .arg(format!("--echo-server={port}"))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start")?;
        let echo = Self { port, child };
        for _ in 0..200 {
            if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return Ok(echo);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::bail!("it does not listen on port {port}")
    }

    pub fn target(&self) -> Target {
        Target {
            name: "bare axum echo".into(),
            addresses: vec![format!("127.0.0.1:{}", self.port)],
            dialect: Dialect::Ring,
            pids: self.child.id().into_iter().collect(),
        }
    }
}
