//! Waiting for what must become true, with a limit that a busy machine does not reach.

use std::time::{Duration, Instant};

/// Limit for anything that should take seconds at most.
pub const GENEROUS: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(50);

/// Looks again and again until `look` is content; panics with what it last complained about.
pub async fn eventually<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let began = Instant::now();
    loop {
        match look().await {
            Ok(found) => return found,
            Err(why) => assert!(
                began.elapsed() < limit,
                "waited {} s for this: {what}; but {why}",
                limit.as_secs()
            ),
        }
        tokio::time::sleep(POLL).await;
    }
}

/// `Err` with both sides unless they are equal; for use in [`eventually`].
pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, is: &T, want: &T) -> Result<(), String> {
    if is == want {
        Ok(())
    } else {
        Err(format!("{what} is {is:?}, not {want:?}"))
    }
}
