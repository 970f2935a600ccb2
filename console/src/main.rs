//! `ringmaster`: the operator's console of a `ringd` cluster.

mod app;
mod cluster;
mod command;
mod config;
mod doctor;
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
