//! `ringmaster`: the operator's console of a `ringd` cluster.

mod app;
mod batch;
mod change;
mod cli;
mod client;
mod cluster;
mod command;
mod config;
mod demo;
mod doctor;
mod exit;
#[cfg(test)]
mod fixture;
mod format;
mod keymap;
mod link;
mod matrix;
mod message;
mod procedure;
mod progress;
mod runtime;
mod screen;
mod terminal;
mod theme;
mod widget;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(tokio) => {
            let code = tokio.block_on(run(cli));
            // A name that is being resolved, or a key that is being waited for, must not hold
            // the console's end.
            tokio.shutdown_background();
            code
        }
        Err(error) => {
            eprintln!("ringmaster: cannot start its threads: {error}");
            exit::FAILED.into()
        }
    }
}

async fn run(cli: cli::Cli) -> ExitCode {
    match cli.verb {
        None => runtime::run(config::Settings::new(&cli.common)).await,
        Some(cli::Verb::Demo(demo)) => demo::run(&cli.common, demo).await,
        Some(cli::Verb::Batch(verb)) => batch::run(&cli.common, verb).await,
    }
}
