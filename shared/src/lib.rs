//! What the daemon and the console must agree on.
//!
//! Ids, hashing, partition and placement arithmetic, versions, quorum arithmetic, REST and
//! WebSocket types. Nothing in here does I/O, reads a clock or draws a random number: every
//! function is a function of its arguments, which is what lets both programs, the simulator and
//! the tests share it.

pub mod api;
pub mod clock;
pub mod context;
pub mod error;
pub mod event;
pub mod feed;
pub mod id;
pub mod key;
pub mod member;
pub mod placement;
pub mod quorum;
pub mod topology;
pub mod version;
