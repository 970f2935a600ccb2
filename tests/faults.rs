//! The promises of the README under kills, pauses and cut networks.

mod campaign;
mod compare_and_set;
mod durability;
mod linearizable;
mod orders;
mod overload;
mod partition;
mod returning;
