//! The promises of the README under kills, pauses and cut networks.

mod campaign;
mod durability;
mod linearizable;
mod orders;
mod partition;
mod returning;
mod slow;
