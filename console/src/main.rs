//! `ringmaster`: the operator's console of a `ringd` cluster.

mod app;
mod cluster;
mod config;
mod keymap;
mod link;
mod message;
mod progress;
mod screen;

fn main() {}
