//! A node of a few prepared answers, for tests: what the client makes of each, byte by byte.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// What becomes of one request.
#[derive(Debug, Clone)]
pub enum Reply {
    /// The status line's end and the body.
    Answer(&'static str, String),
    /// It is read, and the node dies over it.
    Dies,
}

impl Reply {
    pub fn new(status: &'static str, body: &str) -> Self {
        Self::Answer(status, body.to_owned())
    }

    /// The one error body, with these details.
    pub fn refusal(status: &'static str, code: &str, details: &serde_json::Value) -> Self {
        let body = serde_json::json!({"error": "no.", "code": code, "details": details});
        Self::Answer(status, body.to_string())
    }
}

/// Answers so many requests, one after the other, and is gone.
pub struct FakeNode {
    pub endpoint: String,
    server: JoinHandle<Vec<String>>,
}

impl FakeNode {
    pub async fn start(replies: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = listener.local_addr().expect("bound").to_string();
        let server = tokio::spawn(async move {
            let mut asked = Vec::new();
            for reply in replies {
                let (mut stream, _) = listener.accept().await.expect("asked");
                asked.push(question(&mut stream).await);
                if let Reply::Answer(status, body) = reply {
                    let head = format!(
                        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                        body.len()
                    );
                    let answer = head + &body;
                    stream.write_all(answer.as_bytes()).await.expect("taken");
                }
            }
            asked
        });
        Self { endpoint, server }
    }

    /// The requests as they came, head and body, once all were answered.
    pub async fn asked(self) -> Vec<String> {
        self.server.await.expect("answered")
    }
}

/// An address where nobody listens.
pub fn nobody() -> String {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    socket.local_addr().expect("bound").to_string()
}

async fn question(stream: &mut TcpStream) -> String {
    let mut asked = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&asked).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_lowercase();
            let length = head.lines().find_map(|l| l.strip_prefix("content-length:"));
            let length: usize = length.map_or(0, |n| n.trim().parse().expect("a length"));
            if body.len() >= length {
                return text;
            }
        }
        let mut some = [0; 4096];
        let n = stream.read(&mut some).await.expect("readable");
        assert!(n > 0, "the whole question");
        asked.extend_from_slice(&some[..n]);
    }
}
