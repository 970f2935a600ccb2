//! What replaces what.
