//! One real `ringd`: its process, its folder, its output.

use std::{
    fs::{File, OpenOptions},
    net::{TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::binaries::binaries;

/// How long a graceful end may take.
const STOP_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// Killed when dropped.
pub struct Node {
    pub id: String,
    pub port: u16,
    folder: PathBuf,
    environment: Vec<(String, String)>,
    /// A program that runs it, with its arguments.
    wrapper: Vec<String>,
    child: Option<Child>,
}

impl Node {
    /// Not started yet. Data and output go below `root`.
    pub fn new(id: &str, root: &Path) -> Self {
        Self {
            id: id.to_owned(),
            port: free_port(),
            folder: root.join(id),
            environment: Vec::new(),
            wrapper: Vec::new(),
            child: None,
        }
    }

    /// For every later start.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Later starts go through this program (as a tracer is), which must become the node.
    pub fn set_wrapper(&mut self, program_and_arguments: Vec<String>) {
        self.wrapper = program_and_arguments;
    }

    /// `localhost:port`, as the guide writes it.
    pub fn address(&self) -> String {
        format!("localhost:{}", self.port)
    }

    pub fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Part of its data is gone (all of it: ""), while it does not run.
    pub fn lose(&self, what: &str) {
        assert!(self.child.is_none(), "{} runs", self.id);
        let gone = self.data_dir().join(what);
        std::fs::remove_dir_all(&gone).expect("the folder can be removed");
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("output.log")
    }

    /// Everything it has printed in all its lives.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Starts it the guide's way, with `more` flags (seeds).
    pub fn start(&mut self, more: &[String]) {
        assert!(self.child.is_none(), "{} runs already", self.id);
        std::fs::create_dir_all(&self.folder).expect("a folder for the node");
        let output = self.open_log();
        let errors = output.try_clone().expect("a second handle");
        let ringd = &binaries().ringd;
        let mut command = match self.wrapper.split_first() {
            None => Command::new(ringd),
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(ringd);
                command
            }
        };
        let child = command
            .arg(format!("--node-id={}", self.id))
            .arg(format!("--port={}", self.port))
            .arg(format!("--data-dir={}", self.data_dir().display()))
            .args(more)
            .envs(self.environment.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .expect("ringd starts");
        self.child = Some(child);
    }

    fn open_log(&self) -> File {
        let mut options = OpenOptions::new();
        let log = options.create(true).append(true).open(self.log_path());
        log.expect("a file for the output")
    }

    /// Before a first start, when somebody else took the port.
    pub fn take_another_port(&mut self) {
        self.port = free_port();
    }

    pub fn is_running(&mut self) -> bool {
        self.ended().is_none() && self.child.is_some()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let child = self.child.as_mut()?;
        child.try_wait().expect("the process can be asked")
    }

    /// SIGKILL: nothing is flushed, nobody is told.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("the process can be killed");
            child.wait().expect("the process can be waited for");
        }
    }

    /// What Ctrl+C does; waits for the end.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::INT);
        let began = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                self.child = None;
                return status;
            }
            assert!(
                began.elapsed() < STOP_LIMIT,
                "{} did not end within {} s of Ctrl+C",
                self.id,
                STOP_LIMIT.as_secs()
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// SIGSTOP: it neither answers nor ends.
    pub fn pause(&mut self) {
        self.signal(Signal::STOP);
    }

    pub fn resume(&mut self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("the node runs");
        kill_process(Pid::from_child(child), signal).expect("the signal is sent");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// A port free for TCP and UDP, below those the system gives to outgoing connections (or one of
/// these could take it while the node restarts), and handed out once only.
pub fn free_port() -> u16 {
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // tests in other processes begin elsewhere
    let offset = (std::process::id() % 997) as u16 * 20;
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + offset.wrapping_add(step) % COUNT;
        let tcp = TcpListener::bind(("127.0.0.1", port));
        if tcp.is_ok() && UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free between {FIRST} and {}", FIRST + COUNT);
}
