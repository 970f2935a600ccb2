//! Tests that need more than every machine gives: a tracer, mounts, network namespaces.

/// Says that the test does not run and why; panics where all must run (`RINGD_TEST_NO_SKIPS`).
pub fn skipped(why: &str) {
    let required = std::env::var_os("RINGD_TEST_NO_SKIPS").is_some();
    assert!(!required, "RINGD_TEST_NO_SKIPS is set, but {why}");
    eprintln!("skipped: {why}");
}
