//! The promises of the README under kills, pauses and cut networks.

#[cfg(debug_assertions)]
mod bites;
mod campaign;
mod crowd;
mod durability;
mod linearizable;
mod long;
mod nemesis;
mod orders;
mod partition;
mod returning;
mod synced;
mod unseen;
