//! Saying once in a while, not at every packet, who could not be understood. Pure.

use std::collections::HashMap;

/// The same complaint about the same node is made again after so long, milliseconds.
const AGAIN_MS: u64 = 600_000;
/// Nodes complained about that are remembered; a flood from many addresses is told of no more.
const REMEMBERED_MAX: usize = 64;

/// Who was complained about, and when.
#[derive(Debug, Default)]
pub struct Complaints {
    made: HashMap<String, u64>,
}

impl Complaints {
    /// Whether it is time to complain about `whom`; if so, it counts as done.
    pub fn due(&mut self, whom: &str, now_ms: u64) -> bool {
        if self.made.contains_key(whom) || self.made.len() >= REMEMBERED_MAX {
            self.made
                .retain(|_, at| now_ms.saturating_sub(*at) < AGAIN_MS);
        }
        if self.made.contains_key(whom) || self.made.len() >= REMEMBERED_MAX {
            return false;
        }
        self.made.insert(whom.to_owned(), now_ms);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_in_a_while_and_of_a_few() {
        let mut complaints = Complaints::default();
        assert!(complaints.due("a", 0));
        assert!(!complaints.due("a", AGAIN_MS - 1));
        assert!(complaints.due("a", AGAIN_MS));
        for n in 0..1000 {
            complaints.due(&n.to_string(), AGAIN_MS);
        }
        assert!(complaints.made.len() <= REMEMBERED_MAX);
        assert!(!complaints.due("new", AGAIN_MS + 1));
        assert!(complaints.due("new", 3 * AGAIN_MS));
    }
}
