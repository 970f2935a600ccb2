//! `ringmaster`: the operator's console of a `ringd` cluster.

mod app;
mod batch;
mod client;
mod cluster;
mod config;
mod demo;
mod exit;
mod keymap;
mod link;
mod message;
mod procedure;
mod progress;
mod screen;

fn main() {}
