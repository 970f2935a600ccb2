//! `ringmaster`: the operator's console of a `ringd` cluster.

mod app;
mod cluster;
mod config;
mod doctor;
#[cfg(test)]
mod fixture;
mod format;
mod keymap;
mod link;
mod message;
mod progress;
mod screen;
mod theme;
mod widget;

fn main() {}
