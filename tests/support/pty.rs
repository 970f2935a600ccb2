//! The console in a pseudo terminal: what a person would see, and the keys they would press.

use std::{
    ffi::OsString,
    io::{Read, Write},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};

const POLL: Duration = Duration::from_millis(30);
/// Between two presses of a key that had no effect yet.
const PRESS_AGAIN: Duration = Duration::from_secs(2);

/// Around each whole drawing ("synchronized output"): what is between is half drawn.
const DRAWING: &[u8] = b"\x1b[?2026h";
const DRAWN: &[u8] = b"\x1b[?2026l";

/// What the program wrote, and what a terminal would show of it.
struct Seen {
    parser: vt100::Parser,
    raw: Vec<u8>,
    shown: String,
    is_drawing: bool,
}

impl Seen {
    fn new(rows: u16, cols: u16) -> Self {
        Self {
            parser: vt100::Parser::new(rows, cols, 0),
            raw: Vec::new(),
            shown: String::new(),
            is_drawing: false,
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        // a mark may be cut in two by the reads
        let from = self.raw.len().saturating_sub(DRAWN.len() - 1);
        self.raw.extend(bytes);
        self.parser.process(bytes);
        let marks = self.raw[from..].windows(DRAWN.len());
        let last = marks.rev().find(|m| *m == DRAWING || *m == DRAWN);
        if let Some(mark) = last {
            self.is_drawing = mark == DRAWING;
        }
        if !self.is_drawing {
            self.shown = self.parser.screen().contents();
        }
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a program wrote is here so long after its end at most.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A program on a terminal of its own; killed when dropped.
pub struct Terminal {
    seen: Arc<Mutex<Seen>>,
    writer: Box<dyn Write + Send>,
    child: Box<dyn Child + Send + Sync>,
    master: Box<dyn MasterPty + Send>,
}

impl Terminal {
    pub fn spawn(program: &Path, args: &[&str], rows: u16, cols: u16) -> Self {
        Self::spawn_with(program, args, &[], rows, cols)
    }

    /// The same, with an environment of its own on top of one that speaks UTF-8 and colours.
    pub fn spawn_with(
        program: &Path,
        args: &[&str],
        environment: &[(&str, &str)],
        rows: u16,
        cols: u16,
    ) -> Self {
        let size = PtySize {
            rows,
            cols,
            pixel_width: 0,
            pixel_height: 0,
        };
        let pair = native_pty_system()
            .openpty(size)
            .expect("a pseudo terminal");
        let mut command = CommandBuilder::new(OsString::from(program));
        command.args(args);
        command.env("TERM", "xterm-256color");
        command.env("LC_ALL", "C.UTF-8");
        command.env_remove("NO_COLOR");
        for (name, value) in environment {
            command.env(name, value);
        }
        let child = pair
            .slave
            .spawn_command(command)
            .expect("the program starts");
        drop(pair.slave);
        let seen = Arc::new(Mutex::new(Seen::new(rows, cols)));
        let mut reader = pair.master.try_clone_reader().expect("a reader");
        let eyes = seen.clone();
        // ends when the program's side of the terminal is closed
        thread::spawn(move || {
            let mut buffer = [0_u8; 4096];
            while let Ok(n) = reader.read(&mut buffer) {
                if n == 0 {
                    return;
                }
                lock(&eyes).take(&buffer[..n]);
            }
        });
        let writer = pair.master.take_writer().expect("a writer");
        Self {
            seen,
            writer,
            child,
            master: pair.master,
        }
    }

    /// The screen as text, a line a row; the last one that was drawn whole.
    pub fn text(&self) -> String {
        lock(&self.seen).shown.clone()
    }

    /// Whether the program is on the alternate screen.
    pub fn is_fullscreen(&self) -> bool {
        lock(&self.seen).parser.screen().alternate_screen()
    }

    /// Whether the terminal's cursor is hidden.
    pub fn cursor_hidden(&self) -> bool {
        lock(&self.seen).parser.screen().hide_cursor()
    }

    /// Bytes written by the program so far.
    pub fn bytes_written(&self) -> usize {
        lock(&self.seen).raw.len()
    }

    /// Every byte written by the program so far.
    pub fn raw(&self) -> Vec<u8> {
        lock(&self.seen).raw.clone()
    }

    /// Gives the terminal another size, as a window that is dragged does.
    pub fn resize(&mut self, rows: u16, cols: u16) {
        lock(&self.seen).parser.screen_mut().set_size(rows, cols);
        let size = PtySize {
            rows,
            cols,
            pixel_width: 0,
            pixel_height: 0,
        };
        self.master.resize(size).expect("the terminal takes a size");
    }

    /// Presses `keys` again every other second until the screen satisfies `seen`: for keys whose
    /// effect depends on what has arrived by then.
    pub fn press_until(
        &mut self,
        keys: &str,
        what: &str,
        deadline: Duration,
        seen: impl Fn(&str) -> bool,
    ) -> String {
        let until = Instant::now() + deadline;
        loop {
            self.press(keys);
            let again = Instant::now() + PRESS_AGAIN;
            while Instant::now() < again {
                let text = self.text();
                if seen(&text) {
                    return text;
                }
                assert!(
                    Instant::now() < until,
                    "never saw {what}; the screen is:\n{text}"
                );
                thread::sleep(POLL);
            }
        }
    }

    pub fn press(&mut self, keys: &str) {
        self.writer
            .write_all(keys.as_bytes())
            .expect("the terminal takes keys");
        self.writer.flush().expect("the terminal takes keys");
    }

    /// Waits until the screen satisfies `seen`; prints it when it never does.
    pub fn wait_for(
        &mut self,
        what: &str,
        deadline: Duration,
        seen: impl Fn(&str) -> bool,
    ) -> String {
        let mut until = Instant::now() + deadline;
        loop {
            let text = self.text();
            if seen(&text) {
                return text;
            }
            if !self.is_running() {
                until = until.min(Instant::now() + LAST_WORDS);
            }
            assert!(
                Instant::now() < until,
                "never saw {what}; the screen is:\n{text}"
            );
            thread::sleep(POLL);
        }
    }

    /// Waits until the terminal is as a shell expects it.
    pub fn wait_restored(&mut self, deadline: Duration) {
        let until = Instant::now() + deadline;
        while self.is_fullscreen() || self.cursor_hidden() {
            assert!(
                Instant::now() < until,
                "left behind: alternate screen {}, hidden cursor {}",
                self.is_fullscreen(),
                self.cursor_hidden()
            );
            thread::sleep(POLL);
        }
    }

    /// Waits for the program's end; its exit code.
    pub fn wait_exit(&mut self, deadline: Duration) -> u32 {
        let until = Instant::now() + deadline;
        loop {
            if let Some(status) = self.child.try_wait().expect("the child can be asked") {
                return status.exit_code();
            }
            assert!(
                Instant::now() < until,
                "it did not end; the screen is:\n{}",
                self.text()
            );
            thread::sleep(POLL);
        }
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if self.is_running() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
