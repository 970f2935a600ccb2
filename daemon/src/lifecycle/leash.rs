//! Ends with the program that started it: `--exit-with-parent`, for nodes that are somebody's
//! children and nobody's service.
//!
//! The parent holds the other end of standard input. However it ends, also by a `kill -9`, that
//! end is closed with it, and the node stops as on SIGTERM. A process image that is replaced
//! keeps its standard input, so the leash holds over restarts.

use std::io::Read;

use rustix::process::{Signal, getpid, kill_process};

/// Watches standard input from now on; what is written there is not looked at.
pub fn hold() -> std::io::Result<()> {
    let watch = || {
        let mut thrown_away = [0; 64];
        let mut input = std::io::stdin().lock();
        while matches!(input.read(&mut thrown_away), Ok(n) if n > 0) {}
        // the usual way out, with every step told
        if let Err(error) = kill_process(getpid(), Signal::TERM) {
            tracing::error!("the program that started this node is gone, and: {error}");
        }
    };
    std::thread::Builder::new()
        .name("leash".to_owned())
        .spawn(watch)?;
    Ok(())
}
