//! Names the commit in `--version` and `/api/v1/status`; works without git and outside a checkout.

use std::{path::Path, process::Command};

fn main() {
    println!("cargo:rerun-if-env-changed=RINGD_COMMIT");
    let commit = std::env::var("RINGD_COMMIT")
        .ok()
        .filter(|c| !c.is_empty())
        .or_else(|| git(&["rev-parse", "--short=12", "HEAD"]))
        .unwrap_or_else(|| "unknown".into());
    println!("cargo:rustc-env=RINGD_COMMIT={commit}");
    println!("cargo:rerun-if-changed=build.rs");
    // HEAD moves on checkout, its log on every commit; absent files would rebuild every time.
    for name in ["HEAD", "logs/HEAD"] {
        if let Some(path) =
            git(&["rev-parse", "--git-path", name]).filter(|p| Path::new(p).exists())
        {
            println!("cargo:rerun-if-changed={path}");
        }
    }
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}
