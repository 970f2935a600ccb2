//! A whole cluster of cores in one thread, on a simulated clock and network.
//!
//! A run is a function of its seed and its parameters. Chaos first (`faults.rs`, `chaos.rs`),
//! then calm for a time that follows from the protocol's own parameters, then everybody must
//! agree on the truth (`truth.rs`). After every step of every node the rules of `checks.rs` are
//! looked at; `biting.rs` shows that each can turn red. `floors.rs` asks whether enough went wrong.
//! `regressions.rs` tells what went wrong in other engines; `figures.rs` measures.
//!
//! `world.rs` runs it all on the clock of `agenda.rs`; `nodes.rs` makes the nodes, `holds.rs`
//! makes them stand still, `posting.rs`, `connections.rs` and `exchanges.rs` carry what they send
//! over the network of `network.rs`, as bytes and under the keys of `wiring.rs` and `keys.rs`;
//! `judging.rs` looks at what each step did.

mod agenda;
mod biting;
mod chaos;
mod checks;
mod connections;
mod counters;
mod exchanges;
mod faults;
mod figures;
mod floors;
mod holds;
mod judging;
mod keys;
mod names;
mod network;
mod nodes;
mod posting;
mod regressions;
mod truth;
mod wiring;
mod world;
