//! Serf's RPC, as little as is needed: a handshake and the list of members, in `MessagePack`.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context, bail};
use serde_json::{Map, Value};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(2);
/// More than any list of members here takes.
const ANSWER_BYTES_MAX: usize = 1 << 20;
const DEPTH_MAX: usize = 16;

/// One connection to an agent, kept between questions.
pub struct Rpc {
    stream: TcpStream,
    /// Read, not yet taken apart.
    rest: Vec<u8>,
    seq: u8,
}

impl Rpc {
    pub async fn connect(port: u16) -> anyhow::Result<Self> {
        let stream = timeout(PATIENCE, TcpStream::connect(("127.0.0.1", port))).await??;
        stream.set_nodelay(true)?;
        let mut rpc = Self {
            stream,
            rest: Vec::new(),
            seq: 0,
        };
        let mut version = vec![0x81];
        text(&mut version, "Version");
        version.push(1);
        rpc.ask("handshake", &version).await?;
        Ok(rpc)
    }

    /// Status by name: `alive`, `failed`, `leaving`, `left`.
    pub async fn members(&mut self) -> anyhow::Result<HashMap<String, String>> {
        self.ask("members", &[]).await?;
        let body = timeout(PATIENCE, self.value()).await??;
        let list = body["Members"].as_array().context("no list of members")?;
        let word = |m: &Value, key: &str| m[key].as_str().unwrap_or_default().to_owned();
        Ok(list
            .iter()
            .map(|m| (word(m, "Name"), word(m, "Status")))
            .collect())
    }

    /// Sends a request and reads the head of its answer.
    async fn ask(&mut self, command: &str, body: &[u8]) -> anyhow::Result<()> {
        self.seq = (self.seq + 1) % 100;
        let mut request = vec![0x82];
        text(&mut request, "Command");
        text(&mut request, command);
        text(&mut request, "Seq");
        request.push(self.seq);
        request.extend_from_slice(body);
        self.stream.write_all(&request).await?;
        let head = timeout(PATIENCE, self.value()).await??;
        let error = head["Error"].as_str().unwrap_or_default();
        anyhow::ensure!(error.is_empty(), "{command}: {error}");
        Ok(())
    }

    /// The next whole value of the stream.
    async fn value(&mut self) -> anyhow::Result<Value> {
        loop {
            let mut reader = Reader {
                bytes: &self.rest,
                at: 0,
            };
            match reader.value(0) {
                Ok(value) => {
                    let used = reader.at;
                    self.rest.drain(..used);
                    return Ok(value);
                }
                Err(Stuck::Short) if self.rest.len() < ANSWER_BYTES_MAX => {}
                Err(Stuck::Short) => bail!("an answer without end"),
                Err(Stuck::Unknown(byte)) => bail!("unexpected byte {byte:#x} in an answer"),
            }
            if self.stream.read_buf(&mut self.rest).await? == 0 {
                bail!("the agent closed the connection");
            }
        }
    }
}

/// A string of less than 32 bytes.
fn text(out: &mut Vec<u8>, word: &str) {
    out.push(0xa0 | word.len() as u8);
    out.extend_from_slice(word.as_bytes());
}

enum Stuck {
    /// More bytes are needed.
    Short,
    Unknown(u8),
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take(&mut self, count: usize) -> Result<&[u8], Stuck> {
        let end = self.at.checked_add(count).ok_or(Stuck::Short)?;
        let taken = self.bytes.get(self.at..end).ok_or(Stuck::Short)?;
        self.at = end;
        Ok(taken)
    }

    /// A number of `count` bytes, greatest first.
    fn number(&mut self, count: usize) -> Result<u64, Stuck> {
        let bytes = self.take(count)?;
        Ok(bytes
            .iter()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    }

    /// Signs of wide numbers and the meaning of floats are lost: nobody here reads them.
    fn value(&mut self, depth: usize) -> Result<Value, Stuck> {
        let byte = self.number(1)? as u8;
        if depth > DEPTH_MAX {
            return Err(Stuck::Unknown(byte));
        }
        Ok(match byte {
            0x00..=0x7f => byte.into(),
            0x80..=0x8f => self.map(u64::from(byte & 0x0f), depth)?,
            0x90..=0x9f => self.list(u64::from(byte & 0x0f), depth)?,
            0xa0..=0xbf => self.words(u64::from(byte & 0x1f))?,
            0xc0 => Value::Null,
            0xc2 => false.into(),
            0xc3 => true.into(),
            0xc4 | 0xd9 => self.counted(1, depth, Self::raw)?,
            0xc5 | 0xda => self.counted(2, depth, Self::raw)?,
            0xc6 | 0xdb => self.counted(4, depth, Self::raw)?,
            0xcc | 0xd0 => self.number(1)?.into(),
            0xcd | 0xd1 => self.number(2)?.into(),
            0xca | 0xce | 0xd2 => self.number(4)?.into(),
            0xcb | 0xcf | 0xd3 => self.number(8)?.into(),
            0xdc => self.counted(2, depth, Self::list)?,
            0xdd => self.counted(4, depth, Self::list)?,
            0xde => self.counted(2, depth, Self::map)?,
            0xdf => self.counted(4, depth, Self::map)?,
            0xe0..=0xff => i64::from(byte.cast_signed()).into(),
            _ => return Err(Stuck::Unknown(byte)),
        })
    }

    fn counted(
        &mut self,
        width: usize,
        depth: usize,
        read: fn(&mut Self, u64, usize) -> Result<Value, Stuck>,
    ) -> Result<Value, Stuck> {
        let count = self.number(width)?;
        read(self, count, depth)
    }

    fn words(&mut self, count: u64) -> Result<Value, Stuck> {
        let count = usize::try_from(count).map_err(|_| Stuck::Short)?;
        Ok(String::from_utf8_lossy(self.take(count)?).into())
    }

    fn raw(&mut self, count: u64, _depth: usize) -> Result<Value, Stuck> {
        self.words(count)
    }

    fn list(&mut self, count: u64, depth: usize) -> Result<Value, Stuck> {
        let items: Result<Vec<Value>, Stuck> = (0..count).map(|_| self.value(depth + 1)).collect();
        Ok(items?.into())
    }

    fn map(&mut self, count: u64, depth: usize) -> Result<Value, Stuck> {
        let mut map = Map::new();
        for _ in 0..count {
            let key = self.value(depth + 1)?;
            let value = self.value(depth + 1)?;
            map.insert(key.as_str().unwrap_or_default().to_owned(), value);
        }
        Ok(map.into())
    }
}
