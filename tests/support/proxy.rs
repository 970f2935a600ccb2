//! A TCP proxy in front of one port, which can be cut and mended.

use std::net::SocketAddr;

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::AbortHandle,
};

/// Gone when dropped.
pub struct CuttableProxy {
    pub port: u16,
    connected: watch::Sender<bool>,
    accepting: AbortHandle,
}

impl CuttableProxy {
    /// Passes connections on to `127.0.0.1:target`.
    pub async fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let (connected, state) = watch::channel(true);
        let target = SocketAddr::from(([127, 0, 0, 1], target));
        let accepting = tokio::spawn(async move {
            while let Ok((inward, _)) = listener.accept().await {
                if *state.borrow() {
                    tokio::spawn(pass(inward, target, state.clone()));
                }
                // else dropped: whoever connects is cut off at once
            }
        });
        Self {
            port,
            connected,
            accepting: accepting.abort_handle(),
        }
    }

    /// Ends every connection; new ones are ended at once.
    pub fn cut(&self) {
        self.connected.send_replace(false);
    }

    pub fn mend(&self) {
        self.connected.send_replace(true);
    }
}

impl Drop for CuttableProxy {
    fn drop(&mut self) {
        self.cut();
        self.accepting.abort();
    }
}

async fn pass(mut inward: TcpStream, target: SocketAddr, mut state: watch::Receiver<bool>) {
    let Ok(mut outward) = TcpStream::connect(target).await else {
        return;
    };
    let _ = inward.set_nodelay(true);
    let _ = outward.set_nodelay(true);
    tokio::select! {
        // either end may go whenever it likes
        _ = copy_bidirectional(&mut inward, &mut outward) => {}
        _ = state.wait_for(|connected| !connected) => {}
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn echo() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        port
    }

    async fn says_back(stream: &mut TcpStream) -> bool {
        let mut answer = [0; 4];
        stream.write_all(b"ping").await.is_ok()
            && stream.read_exact(&mut answer).await.is_ok()
            && &answer == b"ping"
    }

    #[tokio::test]
    async fn it_passes_cuts_and_mends() {
        let proxy = CuttableProxy::to(echo().await).await;
        let connect = || TcpStream::connect(("127.0.0.1", proxy.port));
        let mut first = connect().await.expect("listens");
        assert!(says_back(&mut first).await);
        proxy.cut();
        assert!(!says_back(&mut first).await, "cut while open");
        let mut second = connect().await.expect("listens");
        assert!(!says_back(&mut second).await, "cut from the start");
        proxy.mend();
        let mut third = connect().await.expect("listens");
        assert!(says_back(&mut third).await);
    }
}
