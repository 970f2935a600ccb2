//! The machine by table and by law, and the driver against real sockets.

mod law;
mod machine;
mod sockets;
