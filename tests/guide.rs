//! The operations guide, section by section, with `ringd` where it starts a server.

mod bootstrap;
mod recovery;
mod restart;
mod scripts;
mod troubleshooting;
