//! A proxy that passes everything on but, when told so, the live feed: like one in front of a
//! cluster that knows nothing of WebSocket.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::AbortHandle,
};

const FEED: &[u8] = b"GET /ws";

/// Gone when dropped.
pub struct FeedProxy {
    pub port: u16,
    target: watch::Sender<u16>,
    feed: watch::Sender<bool>,
    accepting: AbortHandle,
}

impl FeedProxy {
    /// Has its port already, but nobody to pass connections on to.
    pub async fn bind() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let (feed, allowed) = watch::channel(true);
        let (target, to) = watch::channel(0);
        let accepting = tokio::spawn(async move {
            while let Ok((inward, _)) = listener.accept().await {
                tokio::spawn(pass(inward, *to.borrow(), allowed.clone()));
            }
        });
        Self {
            port,
            target,
            feed,
            accepting: accepting.abort_handle(),
        }
    }

    pub fn pass_to(&self, port: u16) {
        self.target.send_replace(port);
    }

    /// Whether the feed passes. Taking it away ends the feeds that are open.
    pub fn let_feed_pass(&self, allowed: bool) {
        self.feed.send_replace(allowed);
    }
}

impl Drop for FeedProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn pass(mut inward: TcpStream, port: u16, mut allowed: watch::Receiver<bool>) {
    let mut start = [0; FEED.len()];
    if inward.read_exact(&mut start).await.is_err() {
        return;
    }
    let is_feed = start == FEED;
    if is_feed && !*allowed.borrow() {
        return;
    }
    let target = SocketAddr::from(([127, 0, 0, 1], port));
    let Ok(mut outward) = TcpStream::connect(target).await else {
        return;
    };
    if outward.write_all(&start).await.is_err() {
        return;
    }
    tokio::select! {
        // either end may go whenever it likes
        _ = copy_bidirectional(&mut inward, &mut outward) => {}
        _ = allowed.wait_for(|allowed| !allowed), if is_feed => {}
    }
}
