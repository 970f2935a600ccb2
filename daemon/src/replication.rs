//! Replication: quorum reads and writes, connections between nodes, and repair.
//!
//! `coordinator` serves clients, `replica` is what one copy of the data answers, `hints`,
//! `anti_entropy` and `transfer` bring copies up that missed something, `tombstones` forgets deleted
//! keys when nothing can bring them back.

pub mod anti_entropy;
pub mod clock;
pub mod codec;
pub mod coordinator;
pub mod frames;
pub mod hints;
pub mod network;
mod outbox;
pub mod peers;
mod reach;
pub mod replica;
pub mod server;
pub mod settings;
mod site;
#[cfg(test)]
mod testing;
#[cfg(test)]
pub(crate) mod tests;
pub mod tombstones;
pub mod transfer;
