//! Ctrl+C, SIGTERM and a closed terminal stop the node; a second one stops it at once.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::orders::{Order, OrderSender};

/// Exit code after a second signal, as shells report SIGINT.
const AT_ONCE: i32 = 130;

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "Ctrl+C",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hangup.recv() => "the terminal was closed",
        }
    }
}

pub fn watch(orders: OrderSender) -> std::io::Result<()> {
    let mut signals = Signals {
        interrupt: signal(SignalKind::interrupt())?,
        terminate: signal(SignalKind::terminate())?,
        hangup: signal(SignalKind::hangup())?,
    };
    tokio::spawn(async move {
        let why = signals.next().await.to_owned();
        // a full queue holds orders that end this process as well
        let _ = orders.try_send(Order::Stop { why });
        let why = signals.next().await;
        tracing::warn!("stopping at once ({why} again); acknowledged data is safe");
        std::process::exit(AT_ONCE);
    });
    Ok(())
}
