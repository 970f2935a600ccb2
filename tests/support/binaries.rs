//! The programs under test, built once a process with the profile the tests were built with.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

#[derive(Debug)]
pub struct Binaries {
    pub ringd: PathBuf,
    pub ringmaster: PathBuf,
}

/// Builds both programs when that has not happened yet; panics with cargo's words if it fails.
pub fn binaries() -> &'static Binaries {
    static BUILT: OnceLock<Binaries> = OnceLock::new();
    BUILT.get_or_init(build)
}

/// `target/<profile>` of the running test: its executable lies in `deps` below.
fn profile_dir() -> PathBuf {
    let test = std::env::current_exe().expect("the test knows its own path");
    let deps = test.parent().and_then(Path::parent);
    deps.expect("the test lies in target/<profile>/deps").into()
}

fn build() -> Binaries {
    let output = profile_dir();
    let target = output.parent().expect("a target folder");
    let profile = output.file_name().and_then(|name| name.to_str());
    let profile = match profile.expect("a profile name") {
        "debug" => "dev",
        other => other,
    };
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let built = Command::new(env!("CARGO"))
        .current_dir(workspace.expect("the package lies in the workspace"))
        .args(["build", "--quiet", "-p", "ringd", "-p", "ringmaster"])
        .args(["--profile", profile, "--target-dir"])
        .arg(target)
        .output()
        .expect("cargo can be started");
    assert!(
        built.status.success(),
        "the programs under test do not build:\n{}",
        String::from_utf8_lossy(&built.stderr)
    );
    let path = |name: &str| {
        let path = output.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
        assert!(path.is_file(), "{} was not built", path.display());
        path
    };
    Binaries {
        ringd: path("ringd"),
        ringmaster: path("ringmaster"),
    }
}
