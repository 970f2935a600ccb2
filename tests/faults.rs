//! The promises of the README under kills, pauses and cut networks.

#[cfg(debug_assertions)]
mod bites;
mod campaign;
mod durability;
mod linearizable;
mod orders;
mod partition;
mod returning;
