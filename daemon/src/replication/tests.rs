//! A cluster in one process: real stores, identities, topologies and coordinators over a network
//! that the tests cut, stall and repair.

mod damage;
mod forgetting;
pub(crate) mod lab;
pub(super) mod moving;
mod repairing;
mod serving;
