//! `ringmaster` as a script calls it.

use std::process::{Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use super::LONG;
use crate::support::binaries::binaries;

/// How a call ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ended {
    /// What it printed, which must be one JSON document.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// Started, killed when dropped.
pub fn begin(endpoints: &[String], args: &[&str]) -> Child {
    begin_with(endpoints, args, &[])
}

fn begin_with(endpoints: &[String], args: &[&str], env: &[(&str, &str)]) -> Child {
    let mut command = Command::new(&binaries().ringmaster);
    command
        .args(args)
        .args(super::flags(endpoints))
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command.spawn().expect("ringmaster starts")
}

/// Waits for its end.
pub async fn end(child: Child) -> Ended {
    let output = timeout(LONG, child.wait_with_output()).await;
    let Output {
        status,
        stdout,
        stderr,
    } = output
        .expect("it ends in time")
        .expect("it can be waited for");
    Ended {
        code: status.code(),
        out: String::from_utf8_lossy(&stdout).into_owned(),
        err: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

pub async fn ringmaster(endpoints: &[String], args: &[&str]) -> Ended {
    end(begin(endpoints, args)).await
}

/// With these settings in its environment.
pub async fn ringmaster_with(endpoints: &[String], args: &[&str], env: &[(&str, &str)]) -> Ended {
    end(begin_with(endpoints, args, env)).await
}

/// What Ctrl+C does.
pub fn interrupt(child: &Child) {
    let id = child.id().and_then(|id| id.try_into().ok());
    let pid = id.and_then(Pid::from_raw).expect("it runs");
    kill_process(pid, Signal::INT).expect("the signal is sent");
}
