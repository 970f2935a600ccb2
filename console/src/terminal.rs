//! The terminal: entered once, left once, whatever ends the console.
//!
//! Leaving undoes every step of entering, in the opposite order, and does so exactly once: on a
//! normal end, on an error, on a panic (before its message is printed) and on a suspend. The
//! mouse is never captured, so that the terminal's own selection works. Each draw is wrapped in
//! synchronized output, so that no half-drawn frame is seen over a slow line.

use std::{
    io::{self, Stdout, Write, stdout},
    panic,
    sync::atomic::{AtomicBool, Ordering},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use crossterm::{
    cursor::Show,
    event::{DisableBracketedPaste, EnableBracketedPaste},
    execute, queue,
    style::ResetColor,
    terminal::{
        BeginSynchronizedUpdate, EndSynchronizedUpdate, EnterAlternateScreen, LeaveAlternateScreen,
        disable_raw_mode, enable_raw_mode,
    },
};
use ratatui::{Frame, Terminal, backend::CrosstermBackend};

/// Whether the terminal is ours; whoever turns it off leaves.
static ACTIVE: AtomicBool = AtomicBool::new(false);

/// The screen. Leaves the terminal when dropped.
pub struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    /// Takes the terminal over. When a step fails, those before it are undone.
    pub fn enter() -> io::Result<Self> {
        // The theme decides about colours; the library's own NO_COLOR handling would write
        // resets that take bold and reverse away as well.
        crossterm::style::force_color_output(true);
        hook_panics();
        let entered = take().and_then(|()| Terminal::new(CrosstermBackend::new(stdout())));
        match entered {
            Ok(terminal) => Ok(Self { terminal }),
            Err(error) => {
                leave();
                Err(error)
            }
        }
    }

    pub fn draw(&mut self, render: impl FnOnce(&mut Frame)) -> io::Result<()> {
        if !ACTIVE.load(Ordering::SeqCst) {
            // A task panicked and gave the terminal back; drawing on would hide what it said.
            return Err(io::Error::other("a part of the console broke, see above"));
        }
        queue!(stdout(), BeginSynchronizedUpdate)?;
        let drawn = self.terminal.draw(render).map(|_| ());
        // Also after a failure: a terminal that is never told to go on shows nothing more.
        execute!(stdout(), EndSynchronizedUpdate)?;
        drawn
    }

    pub fn size(&self) -> io::Result<(u16, u16)> {
        let size = self.terminal.size()?;
        Ok((size.width, size.height))
    }

    /// Hands text to the terminal's clipboard (OSC 52), which works over ssh as well.
    pub fn yank(&mut self, text: &str) -> io::Result<()> {
        let encoded = BASE64_STANDARD.encode(text);
        let out = self.terminal.backend_mut();
        write!(out, "\x1b]52;c;{encoded}\x07")?;
        Write::flush(out)
    }

    /// Gives the terminal back and stops this process, until the shell continues it.
    pub fn suspend(&mut self) -> io::Result<()> {
        leave();
        let stopped = stop_self();
        take()?;
        // A new one draws everything. Clearing the old one would ask the terminal where its
        // cursor is, and the answer would go to whoever waits for keys.
        self.terminal = Terminal::new(CrosstermBackend::new(stdout()))?;
        stopped
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

fn take() -> io::Result<()> {
    ACTIVE.store(true, Ordering::SeqCst);
    enable_raw_mode()?;
    execute!(stdout(), EnterAlternateScreen, EnableBracketedPaste)
}

/// Gives the terminal back, once. Errors are not shown: there is nobody left to show them to.
pub fn leave() {
    if !ACTIVE.swap(false, Ordering::SeqCst) {
        return;
    }
    let _ = execute!(
        stdout(),
        EndSynchronizedUpdate,
        DisableBracketedPaste,
        ResetColor,
        LeaveAlternateScreen,
        Show
    );
    let _ = disable_raw_mode();
}

/// A panic's message is printed on the shell's screen, where it can be read and copied.
fn hook_panics() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        leave();
        before(info);
    }));
}

#[cfg(unix)]
fn stop_self() -> io::Result<()> {
    use rustix::process::{Signal, getpid, kill_process};
    // SIGTSTP is what the shell's job control expects.
    kill_process(getpid(), Signal::TSTP).map_err(io::Error::from)
}

#[cfg(not(unix))]
fn stop_self() -> io::Result<()> {
    Ok(())
}
