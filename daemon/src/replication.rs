//! Replication: quorum reads and writes, connections between nodes, repair.

pub mod codec;
pub mod coordinator;
pub mod frames;
pub mod peers;
pub mod replica;
pub mod server;
