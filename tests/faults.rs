//! The promises of the README under kills, pauses and cut networks.

mod adopt;
#[cfg(debug_assertions)]
mod bites;
mod campaign;
mod changes;
mod compare_and_set;
mod crowd;
mod disk;
mod durability;
mod emptied;
mod linearizable;
mod long;
mod nemesis;
mod orders;
mod overload;
mod partition;
mod resurrection;
mod returning;
mod slow;
mod synced;
mod unseen;
