//! Which replicas each partition should have.
