//! The promises P1 and P2 of the design, under kills and pauses.

mod campaign;
mod durability;
mod linearizable;
mod orders;
mod partition;
mod returning;
