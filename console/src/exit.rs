//! Exit codes a script can rely on.
pub const OK: u8 = 0;
pub const UNHEALTHY: u8 = 1;
pub const USAGE: u8 = 2;
pub const UNREACHABLE: u8 = 3;
pub const REFUSED: u8 = 4;
