//! Ctrl+C, SIGTERM and a closed terminal stop the node; a second one stops it at once. Where the
//! process was started so that a closed terminal does not matter (`nohup`), it does not.
//!
//! Listened for by a thread of its own, from the start of the process to its end: whatever ends
//! or begins meanwhile (a life, its threads), a signal is not lost over it.

use std::{fs, io, thread};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use super::orders::{Order, OrderSender};

/// Exit code after a second signal, as shells report SIGINT.
const AT_ONCE: i32 = 130;

struct Caught {
    interrupt: Signal,
    terminate: Signal,
    /// `None`: ignored when the process began, which is to stay so.
    hangup: Option<Signal>,
}

impl Caught {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: if ignores_hangup() {
                None
            } else {
                Some(signal(SignalKind::hangup())?)
            },
        })
    }

    async fn next(&mut self) -> &'static str {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => "Ctrl+C",
            _ = self.terminate.recv() => "SIGTERM",
            _ = hangup => "the terminal was closed",
        }
    }
}

/// Asked of the kernel, before anything here listens: a process keeps over `exec` what it ignores.
fn ignores_hangup() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    is_ignored(&status, SignalKind::hangup().as_raw_value())
}

/// Whether a process of this status (proc(5)) ignores the signal. Where there is none, it does not.
fn is_ignored(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// The signals of this process, through all lives in it.
pub struct Signals {
    first: watch::Receiver<Option<&'static str>>,
}

impl Signals {
    /// From now on.
    pub fn listen() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        let mut caught = {
            let _inside = runtime.enter();
            Caught::new()?
        };
        let (told, first) = watch::channel(None);
        let listen = async move {
            told.send_replace(Some(caught.next().await));
            let why = caught.next().await;
            tracing::warn!("stopping at once ({why} again); acknowledged data is safe");
            std::process::exit(AT_ONCE);
        };
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || runtime.block_on(listen))?;
        Ok(Self { first })
    }

    /// What asked this process to stop, if something did.
    pub fn asked(&self) -> Option<&'static str> {
        *self.first.borrow()
    }

    /// Orders a life to stop when the process is asked to, or was already.
    pub fn stop(&self, orders: OrderSender) {
        let mut first = self.first.clone();
        tokio::spawn(async move {
            let asked = first.wait_for(Option::is_some).await;
            let why = asked.ok().and_then(|why| *why);
            if let Some(why) = why {
                let why = why.to_owned();
                // a life that has ended is not begun anew: that is asked before it would
                let _ = orders.send(Order::Stop { why }).await;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_read_from_the_mask() {
        let status = "Name:\tringd\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001000\n";
        assert!(is_ignored(status, 13));
        assert!(!is_ignored(status, 1), "blocked is not ignored");
        assert!(is_ignored("SigIgn:\t0000000000000001", 1));
        assert!(!is_ignored("", 1));
        assert!(!is_ignored("SigIgn:\tnonsense", 1));
    }
}
