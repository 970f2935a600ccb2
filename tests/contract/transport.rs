//! Clients that do not even speak properly: half requests, floods, silence.

use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

use crate::support::{
    cluster::Cluster,
    raw::{self, PATIENCE},
};

/// Shorter than the defaults, so that silence is told from slowness sooner.
const SHORT: [(&str, &str); 2] = [
    ("RINGD_LIMITS_HEADER_TIMEOUT", "3s"),
    ("RINGD_LIMITS_BODY_TIMEOUT", "3s"),
];

async fn still_well(cluster: &mut Cluster) {
    assert!(cluster.nodes[0].is_running());
    let status = cluster.api(0).status().await.expect("it answers");
    assert_eq!(status.storage.key_count, 0, "something was stored");
}

#[tokio::test]
async fn what_is_no_http_is_ended() {
    let mut cluster = Cluster::start(1).await;
    let port = cluster.nodes[0].port;
    let long_line = [b"GET /".as_slice(), &vec![b'a'; 1 << 20]].concat();
    let many_headers = [
        b"GET /api/v1/status HTTP/1.1\r\nhost: h\r\n".to_vec(),
        b"x-filler: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n".repeat(20_000),
        b"\r\n".to_vec(),
    ]
    .concat();
    let cases: [&[u8]; 11] = [
        b"\x00\x01\x02\x03\xff\xfe\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"nonsense\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /api/v1/status HTTP/9.9\r\n\r\n",
        b"GET /api/v1/status HTTP/1.1\r\nno colon here\r\n\r\n",
        b"GET /api/v1/status HTTP/1.1\r\nhost: h\r\ncontent-length: abc\r\n\r\n",
        b"PUT /api/v1/data/k HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"PUT /api/v1/data/k HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\
          transfer-encoding: chunked\r\n\r\nzz\r\n{\"value\":1}\r\n0\r\n\r\n",
        &long_line,
        &many_headers,
    ];
    for bytes in cases {
        let answer = raw::exchange(port, bytes, true).await;
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        if let Some(reply) = raw::parse(&answer) {
            assert!(
                (400..500).contains(&reply.status),
                "{shown:?} got {}",
                reply.status
            );
            // also what no handler ever sees
            reply.error();
        } else {
            assert!(answer.is_empty(), "{shown:?} got {answer:?}");
        }
    }
    still_well(&mut cluster).await;
}

#[tokio::test]
async fn requests_that_break_off_change_nothing() {
    let mut cluster = Cluster::start(1).await;
    let port = cluster.nodes[0].port;
    let whole = b"PUT /api/v1/data/k HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\
        content-type: application/json\r\ncontent-length: 12\r\n\r\n{\"value\": 1}";
    for length in (0..whole.len()).step_by(7) {
        let answer = raw::exchange(port, &whole[..length], true).await;
        let stored = raw::parse(&answer).is_some_and(|reply| reply.status == 200);
        assert!(!stored, "cut at {length}");
    }
    still_well(&mut cluster).await;
}

#[tokio::test]
async fn silence_is_not_waited_for_for_ever() {
    let mut cluster = Cluster::start_with(1, &SHORT).await;
    let port = cluster.nodes[0].port;
    let half_body = b"PUT /api/v1/data/k HTTP/1.1\r\nhost: h\r\n\
        content-type: application/json\r\ncontent-length: 12\r\n\r\n{\"val";
    let cases: [&[u8]; 4] = [
        b"",
        b"G",
        b"GET /api/v1/status HTTP/1.1\r\nhost: h\r\n",
        half_body,
    ];
    for bytes in cases {
        // panics when it is never ended
        let answer = raw::exchange(port, bytes, false).await;
        if let Some(reply) = raw::parse(&answer) {
            assert_eq!(reply.status, 408, "{}", reply.text());
        }
    }
    still_well(&mut cluster).await;
}

#[tokio::test]
async fn a_crowd_of_silent_clients_keeps_nobody_out() {
    let mut cluster = Cluster::start_with(1, &SHORT).await;
    let port = cluster.nodes[0].port;
    let mut crowd = Vec::new();
    for _ in 0..400 {
        let client = TcpStream::connect(("127.0.0.1", port)).await;
        crowd.push(client.expect("the node listens"));
    }
    still_well(&mut cluster).await;
    for mut client in crowd {
        let mut answer = Vec::new();
        let ended = timeout(PATIENCE, client.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "a silent client is kept for ever");
    }
    still_well(&mut cluster).await;
}

#[tokio::test]
async fn past_the_limit_clients_are_turned_away_not_hung() {
    let limit = [("RINGD_LIMITS_CONNECTIONS", "20"), SHORT[0]];
    let mut cluster = Cluster::start_with(1, &limit).await;
    let port = cluster.nodes[0].port;
    let mut crowd = Vec::new();
    for _ in 0..60 {
        let client = TcpStream::connect(("127.0.0.1", port)).await;
        crowd.push(client.expect("the node listens"));
    }
    let mut turned_away = 0;
    for client in &mut crowd {
        let mut answer = Vec::new();
        let ended = timeout(PATIENCE, client.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "a client is kept for ever");
        turned_away += usize::from(answer.starts_with(b"HTTP/1.1 503"));
    }
    assert!(turned_away > 0, "nobody was told");
    drop(crowd);
    still_well(&mut cluster).await;
}
