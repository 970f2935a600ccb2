# what CI runs
check:
    .ci/run

test:
    cargo test --workspace

# a local cluster and the console on it
demo:
    cargo build --release && ./target/release/ringmaster demo

# one table, beside a bare axum echo
bench:
    cargo build --release && cargo run --release -p tests --bin bench
