//! The contract on the wire: every answer in its format, every mistake told, nothing broken by it.

mod bad_input;
mod batches;
mod command_line;
mod conditions;
mod data;
mod feed;
mod transport;
