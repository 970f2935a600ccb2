//! The node's port: TCP and UDP on the same number.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use crate::cli::Failure;

#[derive(Debug)]
pub struct Sockets {
    pub tcp: Vec<tokio::net::TcpListener>,
    pub udp: UdpSocket,
}

/// Must run inside a tokio runtime.
pub fn bind(ip: IpAddr, port: u16) -> Result<Sockets, Failure> {
    let at = SocketAddr::new(ip, port);
    let fail = |what: &str, e: &io::Error| sentence(at, what, e);
    let listener = TcpListener::bind(at).map_err(|e| fail("TCP", &e))?;
    let udp = UdpSocket::bind(at).map_err(|e| fail("UDP", &e))?;
    let mut tcp = vec![into_tokio(listener).map_err(|e| fail("TCP", &e))?];
    if ip == IpAddr::from([127, 0, 0, 1]) {
        tcp.extend(also_on_ipv6(port)?);
    }
    Ok(Sockets { tcp, udp })
}

/// `localhost` may mean `::1` as well. A machine without IPv6 does without.
fn also_on_ipv6(port: u16) -> Result<Option<tokio::net::TcpListener>, Failure> {
    let at = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port);
    match TcpListener::bind(at).and_then(into_tokio) {
        Ok(listener) => Ok(Some(listener)),
        Err(e) if e.kind() == io::ErrorKind::AddrInUse && somebody_listens(at) => {
            Err(sentence(at, "TCP", &e))
        }
        Err(_) => Ok(None),
    }
}

/// An outgoing connection may hold the number as well; that takes nothing away.
fn somebody_listens(at: SocketAddr) -> bool {
    TcpStream::connect_timeout(&at, Duration::from_millis(200)).is_ok()
}

fn into_tokio(listener: TcpListener) -> io::Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}

fn sentence(at: SocketAddr, what: &str, error: &io::Error) -> Failure {
    let port = at.port();
    Failure::Usage(match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "port {port} is taken: another program uses it for {what} on {}; stop that program or choose another --port",
            at.ip()
        ),
        io::ErrorKind::PermissionDenied => {
            format!("port {port} may not be used by this user; choose a --port above 1023")
        }
        io::ErrorKind::AddrNotAvailable => format!(
            "--bind {}: this machine has no such address; 127.0.0.1 and 0.0.0.0 always work",
            at.ip()
        ),
        _ => format!("cannot listen on {at} ({what}): {error}"),
    })
}

/// Throws away what arrived while nobody listened: old gossip would be taken for news.
pub fn empty(socket: &UdpSocket) -> io::Result<()> {
    /// More than any receive buffer holds.
    const PACKETS_MAX: usize = 100_000;
    socket.set_nonblocking(true)?;
    let mut byte = [0; 1];
    for _ in 0..PACKETS_MAX {
        match socket.recv_from(&mut byte) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[tokio::test]
    async fn a_taken_port_is_one_sentence() {
        let tcp = TcpListener::bind((LOCAL, 0)).expect("a port");
        let port = tcp.local_addr().expect("bound").port();
        let error = bind(LOCAL, port).expect_err("taken").to_string();
        assert!(error.contains(&format!("port {port} is taken")), "{error}");

        // the same number may be somebody's TCP port: then the sentence is about that
        let about_udp = (0..20).any(|_| {
            let udp = UdpSocket::bind((LOCAL, 0)).expect("a port");
            let port = udp.local_addr().expect("bound").port();
            bind(LOCAL, port)
                .expect_err("taken")
                .to_string()
                .contains("for UDP on")
        });
        assert!(about_udp);

        let elsewhere = "203.0.113.7".parse().expect("an address");
        let error = bind(elsewhere, 1).expect_err("not ours");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn old_packets_are_thrown_away() {
        let socket = UdpSocket::bind((LOCAL, 0)).expect("a port");
        let sender = UdpSocket::bind((LOCAL, 0)).expect("a port");
        let at = socket.local_addr().expect("bound");
        for _ in 0..5 {
            sender.send_to(b"old", at).expect("sent");
        }
        empty(&socket).expect("emptied");
        let error = socket.recv_from(&mut [0; 8]).expect_err("empty");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
