//! A local cluster to look at.

use std::process::ExitCode;

use crate::{
    cli::{Common, DemoArgs},
    exit,
};

/// Starts the daemons, opens the console on them, stops them.
pub async fn run(common: &Common, demo: DemoArgs) -> ExitCode {
    let _ = (common, demo);
    exit::USAGE.into()
}
