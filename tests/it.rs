//! Real processes on real ports: the guide, the contract, and the promises under faults.

mod console;
mod contract;
mod faults;
mod guide;
mod support;
