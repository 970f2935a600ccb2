//! What the tests stand on: real nodes, clients that measure, faults, and judges of histories.

pub mod binaries;
pub mod checks;
pub mod client;
pub mod cluster;
pub mod field;
pub mod history;
pub mod linearizability;
pub mod netns;
pub mod node;
pub mod observer;
pub mod proxy;
pub mod pty;
pub mod raw;
pub mod skip;
pub mod trace;
pub mod wait;
