//! The console in a pseudo terminal: what a person would see, and the keys they would press.

use std::{
    ffi::OsString,
    io::{Read, Write},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};

const POLL: Duration = Duration::from_millis(30);
/// Between two presses of a key that had no effect yet.
const PRESS_AGAIN: Duration = Duration::from_secs(2);

/// A program on a terminal of its own; killed when dropped.
pub struct Terminal {
    parser: Arc<Mutex<vt100::Parser>>,
    /// Every byte the program wrote.
    raw: Arc<Mutex<Vec<u8>>>,
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
        let parser = Arc::new(Mutex::new(vt100::Parser::new(rows, cols, 0)));
        let raw = Arc::new(Mutex::new(Vec::new()));
        let mut reader = pair.master.try_clone_reader().expect("a reader");
        let (screen, bytes) = (parser.clone(), raw.clone());
        // ends when the program's side of the terminal is closed
        thread::spawn(move || {
            let mut buffer = [0_u8; 4096];
            while let Ok(n) = reader.read(&mut buffer) {
                if n == 0 {
                    return;
                }
                screen
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .process(&buffer[..n]);
                bytes
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .extend(&buffer[..n]);
            }
        });
        let writer = pair.master.take_writer().expect("a writer");
        Self {
            parser,
            raw,
            writer,
            child,
            master: pair.master,
        }
    }

    /// The screen as text, a line a row.
    pub fn text(&self) -> String {
        self.parser
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .screen()
            .contents()
    }

    /// Whether the program is on the alternate screen.
    pub fn is_fullscreen(&self) -> bool {
        self.parser
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .screen()
            .alternate_screen()
    }

    /// Whether the terminal's cursor is hidden.
    pub fn cursor_hidden(&self) -> bool {
        self.parser
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .screen()
            .hide_cursor()
    }

    /// Bytes written by the program so far.
    pub fn bytes_written(&self) -> usize {
        self.raw
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Every byte written by the program so far.
    pub fn raw(&self) -> Vec<u8> {
        self.raw
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Gives the terminal another size, as a window that is dragged does.
    pub fn resize(&mut self, rows: u16, cols: u16) {
        let mut parser = self.parser.lock().unwrap_or_else(PoisonError::into_inner);
        parser.screen_mut().set_size(rows, cols);
        drop(parser);
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
        let until = Instant::now() + deadline;
        loop {
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
