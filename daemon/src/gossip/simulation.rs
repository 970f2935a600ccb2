//! A whole cluster of cores in one thread, on a simulated clock and network.
//!
//! A run is a function of its seed and its parameters. Chaos first (`faults.rs`, `chaos.rs`),
//! then calm for a time that follows from the protocol's own parameters, then everybody must
//! agree on the truth (`truth.rs`). After every step of every node the rules of `checks.rs` are
//! looked at; `biting.rs` shows that each can turn red. `regressions.rs` tells what went wrong
//! in other engines. `world.rs` runs it all, on the clock of `agenda.rs` and over the network
//! of `network.rs`.

mod agenda;
mod biting;
mod chaos;
mod checks;
mod counters;
mod faults;
mod names;
mod network;
mod regressions;
mod truth;
mod world;
