//! `ringmaster`: the operator's console of a `ringd` cluster.

mod app;
mod batch;
mod client;
mod cluster;
mod config;
mod demo;
mod doctor;
mod exit;
#[cfg(test)]
mod fixture;
mod format;
mod keymap;
mod link;
mod message;
mod procedure;
mod progress;
mod screen;
mod theme;
mod widget;

fn main() {}
