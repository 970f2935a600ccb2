//! Ctrl+C, SIGTERM and a closed terminal stop the node; a second one stops it at once.
//!
//! Listened for by a thread of its own, from the start of the process to its end: whatever ends
//! or begins meanwhile (a life, its threads), a signal is not lost over it.

use std::{io, thread};

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
    hangup: Signal,
}

impl Caught {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "Ctrl+C",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hangup.recv() => "the terminal was closed",
        }
    }
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
