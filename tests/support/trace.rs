//! The system calls of a process, as `strace` writes them down.
//!
//! The parser is pure and takes what [`FLAGS`] make: calls of all threads, each with when it
//! began and ended by the machine's one clock, so that traces of several processes compare.

use std::process::{Command, Stdio};

/// Who is traced stays the child of whoever starts it (`-D`); descriptors come with what they
/// are (`-yy`), calls with their beginning (`-ttt`) and length (`-T`), data whole (`-s`).
pub const FLAGS: [&str; 9] = [
    "-D",
    "-f",
    "-q",
    "-yy",
    "-ttt",
    "-T",
    "-s",
    "16777216",
    "--trace=write,writev,pwrite64,pwritev,pwritev2,fdatasync,fsync,sendto,sendmsg",
];

/// Why no process can be traced here; `None` when one can.
pub fn impossible() -> Option<String> {
    let mut command = Command::new("strace");
    command.args(["-qq", "-o", "/dev/null", "true"]);
    let tried = command.stdin(Stdio::null()).output();
    match tried {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(format!("strace cannot be started: {error}")),
    }
}

/// One system call that came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub name: String,
    /// What the first descriptor is: a path, or `TCP:[from->to]`.
    pub target: String,
    /// All strings among the arguments, one after the other.
    pub data: Vec<u8>,
    /// Microseconds since the epoch.
    pub began: u64,
    pub ended: u64,
    pub result: i64,
}

impl Call {
    pub fn is_sync(&self) -> bool {
        self.name == "fdatasync" || self.name == "fsync"
    }

    /// The two ends of a TCP connection, this process's first.
    pub fn connection(&self) -> Option<(&str, &str)> {
        let inside = self.target.strip_prefix("TCP")?.split_once('[')?.1;
        inside.strip_suffix(']')?.split_once("->")
    }

    pub fn contains(&self, what: &[u8]) -> bool {
        self.data.windows(what.len()).any(|part| part == what)
    }
}

/// The calls in the order in which they began. What has no end (the process was killed) is left
/// out, and so is what is no call.
pub fn parse(trace: &str) -> Vec<Call> {
    let mut open: Vec<(&str, Call)> = Vec::new();
    let mut calls = Vec::new();
    for line in trace.lines() {
        let Some((thread, began, rest)) = line_parts(line) else {
            continue;
        };
        if let Some(rest) = rest.strip_prefix("<... ") {
            let at = open.iter().position(|(of, _)| *of == thread);
            let Some(at) = at else { continue };
            let (_, mut call) = open.swap_remove(at);
            if let Some((result, length)) = end(rest) {
                (call.result, call.ended) = (result, call.began + length);
                calls.push(call);
            }
            continue;
        }
        let Some(mut call) = arguments(rest) else {
            continue;
        };
        (call.began, call.ended) = (began, began);
        if rest.ends_with("<unfinished ...>") {
            open.push((thread, call));
        } else if let Some((result, length)) = end(rest) {
            (call.result, call.ended) = (result, began + length);
            calls.push(call);
        }
    }
    calls.sort_by_key(|call| call.began);
    calls
}

/// Thread, time and the rest of a line.
fn line_parts(line: &str) -> Option<(&str, u64, &str)> {
    let (thread, rest) = line.trim_start().split_once(' ')?;
    let (time, rest) = rest.trim_start().split_once(' ')?;
    Some((thread, micros(time)?, rest))
}

/// `12.000345` in microseconds.
fn micros(seconds: &str) -> Option<u64> {
    let (whole, part) = seconds.split_once('.')?;
    let part = format!("{part:0<6}");
    Some(whole.parse::<u64>().ok()? * 1_000_000 + part.get(..6)?.parse::<u64>().ok()?)
}

/// The result and the length of `...) = 80 <0.000027>`.
fn end(rest: &str) -> Option<(i64, u64)> {
    let (_, end) = rest.rsplit_once(" = ")?;
    let (result, length) = end.rsplit_once('<')?;
    let result = result.split(' ').next()?.parse().ok()?;
    Some((result, micros(length.strip_suffix('>')?)?))
}

/// Name, target and data of `write(17</path>, "bytes", 80`.
fn arguments(rest: &str) -> Option<Call> {
    let (name, rest) = rest.split_once('(')?;
    let (_, rest) = rest.split_once('<')?;
    let closing = [">, ", ">)", "> <"].iter();
    let closing = closing.filter_map(|end| rest.find(end)).min()?;
    Some(Call {
        name: name.to_owned(),
        target: rest[..closing].to_owned(),
        data: strings(&rest[closing..]),
        began: 0,
        ended: 0,
        result: 0,
    })
}

/// The bytes of all string literals.
fn strings(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes().iter().copied().peekable();
    let mut inside = false;
    while let Some(byte) = rest.next() {
        match (inside, byte) {
            (_, b'"') => inside = !inside,
            (false, _) => {}
            (true, b'\\') => {
                let Some(escaped) = rest.next() else { break };
                if !escaped.is_ascii_digit() {
                    bytes.push(match escaped {
                        b'n' => b'\n',
                        b't' => b'\t',
                        b'r' => b'\r',
                        b'v' => 0x0b,
                        b'f' => 0x0c,
                        other => other,
                    });
                    continue;
                }
                // up to three octal digits
                let mut value = u32::from(escaped - b'0');
                for _ in 0..2 {
                    match rest.peek() {
                        Some(digit @ b'0'..=b'7') => value = value * 8 + u32::from(digit - b'0'),
                        _ => break,
                    }
                    rest.next();
                }
                bytes.push(value as u8);
            }
            (true, other) => bytes.push(other),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_with_their_times_and_bytes() {
        let trace = r#"
53 1795392193.379420 write(17</d/log/1.log>, "<\0\1k\n\"x\"\\\3770", 80 <unfinished ...>
56 1795392193.379520 fdatasync(17</d/log/1.log>) = 0 <0.000258>
53 1795392193.379700 <... write resumed>) = 80 <0.000300>
58 1795392193.380476 writev(18<TCP:[127.0.0.1:1->127.0.0.1:2]>, [{iov_base="ab", iov_len=2}, {iov_base="c", iov_len=1}], 2) = 3 <0.000010>
58 1795392193.380500 sendto(18<TCP:[127.0.0.1:1->127.0.0.1:2]>, "x", 1, 0, NULL, 0) = -1 EAGAIN (Resource temporarily unavailable) <0.000010>
56 1795392193.380600 fdatasync(17</d/log/1.log> <unfinished ...>
56 1795392193.999999 +++ killed by SIGKILL +++
"#;
        let calls = parse(trace);
        let names: Vec<&str> = calls.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["write", "fdatasync", "writev", "sendto"]);
        let [write, sync, answer, failed] = &calls[..] else {
            panic!("four calls");
        };
        assert_eq!(write.target, "/d/log/1.log");
        assert_eq!(write.data, b"<\0\x01k\n\"x\"\\\xff0");
        assert_eq!(write.ended - write.began, 300);
        assert_eq!((write.result, write.contains(b"\"x\"")), (80, true));
        assert!(sync.is_sync() && sync.ended == sync.began + 258);
        assert_eq!(answer.data, b"abc");
        assert_eq!(answer.connection(), Some(("127.0.0.1:1", "127.0.0.1:2")));
        assert_eq!(failed.result, -1);
    }
}
