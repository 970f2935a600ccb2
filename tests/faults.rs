//! The promises of the README under kills, pauses and cut networks.

mod adopt;
mod campaign;
mod changes;
mod compare_and_set;
mod durability;
mod linearizable;
mod orders;
mod overload;
mod partition;
mod returning;
