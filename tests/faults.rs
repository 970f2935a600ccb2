//! The promises of the README under kills, pauses and cut networks.

mod adopt;
mod campaign;
mod changes;
mod durability;
mod linearizable;
mod orders;
mod partition;
mod returning;
