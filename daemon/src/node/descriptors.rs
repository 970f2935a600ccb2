//! File descriptors: as many as the system lets this process have, with a reserve.
//!
//! Connections of clients must not take the last ones: the store opens files while it runs, and
//! one it cannot open ends the node.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Enough for any number of connections this node takes; some systems refuse more.
const WANTED: u64 = 65_536;
/// Kept for the store and for connections to other nodes.
const RESERVE: u64 = 512;

/// Raises the soft limit as far as it goes, and returns how many connections that leaves room
/// for, at most `wanted`.
pub fn connections(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let goal = limit.maximum.unwrap_or(WANTED).min(WANTED);
    if limit.current.is_some_and(|current| current < goal) {
        let raised = Rlimit {
            current: Some(goal),
            maximum: limit.maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::debug!("the limit of open files stays as it is: {error}");
        }
    }
    let room = getrlimit(Resource::Nofile).current.map(room);
    let connections = room.map_or(wanted, |room| wanted.min(room));
    if connections < wanted {
        tracing::warn!(
            "the system lets this process open too few files for {wanted} connections, {connections} are taken at most; raise it with ulimit -n"
        );
    }
    connections
}

/// Places for connections among so many descriptors; the reserve is at most half of them.
fn room(descriptors: u64) -> usize {
    let reserve = RESERVE.min(descriptors / 2);
    usize::try_from(descriptors - reserve).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_is_kept() {
        assert_eq!(room(65_536), 65_024);
        assert_eq!(room(1024), 512);
        assert_eq!(room(256), 128);
        assert_eq!(room(0), 0);
        assert!(connections(10) <= 10);
    }
}
