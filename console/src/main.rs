//! `ringmaster`: the operator's console of a `ringd` cluster.

mod app;
mod cluster;
mod command;
mod config;
mod keymap;
mod link;
mod message;
mod procedure;
mod progress;
mod screen;

fn main() {}
