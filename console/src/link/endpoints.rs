//! The endpoints: those configured, those learned from the members, which was good last, and how
//! each is doing.

use super::{EndpointView, Way};

/// Endpoints known at most; a larger cluster has enough ways in.
const ENDPOINTS_MAX: usize = 64;

#[derive(Debug, Clone)]
pub(super) struct Endpoints {
    all: Vec<Entry>,
    /// The address to begin with.
    first: Option<String>,
}

#[derive(Debug, Clone)]
struct Entry {
    address: String,
    learned: bool,
    ws: Way,
    rest: Way,
    rest_at_ms: u64,
    error: Option<String>,
}

impl Entry {
    fn new(address: &str, learned: bool) -> Self {
        Self {
            address: address.to_owned(),
            learned,
            ws: Way::Untried,
            rest: Way::Untried,
            rest_at_ms: 0,
            error: None,
        }
    }
}

impl Endpoints {
    pub(super) fn new(configured: &[String]) -> Self {
        let mut endpoints = Self {
            all: Vec::new(),
            first: None,
        };
        for address in configured {
            endpoints.add(address, false);
        }
        endpoints
    }

    fn add(&mut self, address: &str, learned: bool) {
        let known = self.all.iter().any(|e| same_place(&e.address, address));
        if !known && self.all.len() < ENDPOINTS_MAX {
            self.all.push(Entry::new(address, learned));
        }
    }

    /// Takes over the members' addresses; learned ones that are no members' any more go, except
    /// the one in use.
    pub(super) fn learn(&mut self, members: &[String], keep: Option<&str>) {
        self.all.retain(|e| {
            !e.learned
                || keep == Some(e.address.as_str())
                || members.iter().any(|m| same_place(m, &e.address))
        });
        for address in members {
            self.add(address, true);
        }
    }

    pub(super) fn addresses(&self) -> Vec<String> {
        self.all.iter().map(|e| e.address.clone()).collect()
    }

    /// All, beginning with the one that was good last, or after the one that failed last.
    pub(super) fn order_for_feed(&self) -> Vec<String> {
        let start = self
            .first
            .as_ref()
            .and_then(|f| self.all.iter().position(|e| &e.address == f))
            .unwrap_or(0);
        let (before, from) = self.all.split_at(start.min(self.all.len()));
        let rotated = from.iter().chain(before);
        rotated.map(|e| e.address.clone()).collect()
    }

    /// All, beginning with `source` unless it is down; those that are down last.
    pub(super) fn order_for_poll(&self, source: Option<&str>) -> Vec<String> {
        let mut order = self.order_for_feed();
        let rank = |address: &str| {
            let rest = self.find(address).map_or(Way::Untried, |e| e.rest);
            match rest {
                Way::Down => 3,
                _ if source == Some(address) => 0,
                Way::Up => 1,
                Way::Untried | Way::Trying => 2,
            }
        };
        order.sort_by_key(|a| rank(a));
        order
    }

    fn find(&self, address: &str) -> Option<&Entry> {
        self.all.iter().find(|e| e.address == address)
    }

    fn change(&mut self, address: &str, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.all.iter_mut().find(|e| e.address == address) {
            change(entry);
        }
    }

    pub(super) fn ws_up(&mut self, address: &str) {
        self.first = Some(address.to_owned());
        self.ws_answers(address);
    }

    /// Its feed delivers, whatever that is worth.
    pub(super) fn ws_answers(&mut self, address: &str) {
        self.change(address, |e| {
            e.ws = Way::Up;
            e.error = None;
        });
    }

    pub(super) fn ws_down(&mut self, address: &str, reason: &str) {
        self.change(address, |e| {
            e.ws = Way::Down;
            e.error = Some(format!("feed: {reason}"));
        });
    }

    pub(super) fn rest_up(&mut self, address: &str, now_ms: u64) {
        self.change(address, |e| {
            e.rest = Way::Up;
            e.rest_at_ms = now_ms;
        });
    }

    pub(super) fn rest_down(&mut self, address: &str, reason: &str) {
        self.change(address, |e| {
            e.rest = Way::Down;
            e.error = Some(format!("REST: {reason}"));
        });
    }

    /// The next round begins after `address`.
    pub(super) fn rotate_past(&mut self, address: &str) {
        let at = self.all.iter().position(|e| e.address == address);
        if let Some(at) = at {
            let next = (at + 1) % self.all.len();
            self.first = Some(self.all[next].address.clone());
        }
    }

    /// Until when some REST answer is fresh; `None` when no endpoint is up.
    pub(super) fn rest_fresh_until(&self, fresh_ms: u64) -> Option<u64> {
        self.all
            .iter()
            .filter(|e| e.rest == Way::Up)
            .map(|e| e.rest_at_ms + fresh_ms)
            .max()
    }

    pub(super) fn views(&self, live: Option<&str>, trying: &[&str]) -> Vec<EndpointView> {
        let ws = |e: &Entry| {
            if live == Some(e.address.as_str()) {
                Way::Up
            } else if trying.contains(&e.address.as_str()) {
                Way::Trying
            } else {
                e.ws
            }
        };
        self.all
            .iter()
            .map(|e| EndpointView {
                address: e.address.clone(),
                learned: e.learned,
                ws: ws(e),
                rest: e.rest,
                last_error: e.error.clone(),
            })
            .collect()
    }
}

/// Whether two addresses name the same place: this machine has several names.
pub fn same_place(a: &str, b: &str) -> bool {
    let split = |s: &str| {
        let (host, port) = s.rsplit_once(':').unwrap_or((s, ""));
        let host = match host {
            "127.0.0.1" | "[::1]" => "localhost",
            other => other,
        };
        (host.to_ascii_lowercase(), port.to_owned())
    };
    split(a) == split(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn members_are_learned_once_and_forgotten_when_they_go() {
        let mut e = Endpoints::new(&list(&["localhost:1", "localhost:1", "a:2"]));
        assert_eq!(e.addresses(), ["localhost:1", "a:2"]);
        e.learn(&list(&["127.0.0.1:1", "b:3", "c:4"]), None);
        assert_eq!(e.addresses(), ["localhost:1", "a:2", "b:3", "c:4"]);
        e.learn(&list(&["d:5"]), Some("c:4"));
        assert_eq!(e.addresses(), ["localhost:1", "a:2", "c:4", "d:5"]);
        let many: Vec<String> = (0..500).map(|n| format!("n{n}:1")).collect();
        e.learn(&many, None);
        assert_eq!(e.addresses().len(), ENDPOINTS_MAX);
    }

    #[test]
    fn rounds_begin_with_the_good_and_after_the_failed() {
        let mut e = Endpoints::new(&list(&["a:1", "b:1", "c:1"]));
        assert_eq!(e.order_for_feed(), ["a:1", "b:1", "c:1"]);
        e.ws_up("b:1");
        assert_eq!(e.order_for_feed(), ["b:1", "c:1", "a:1"]);
        e.rotate_past("b:1");
        assert_eq!(e.order_for_feed(), ["c:1", "a:1", "b:1"]);
        e.rest_down("c:1", "refused");
        e.rest_up("b:1", 5);
        assert_eq!(e.order_for_poll(Some("a:1")), ["a:1", "b:1", "c:1"]);
        assert_eq!(e.order_for_poll(Some("c:1")), ["b:1", "a:1", "c:1"]);
    }
}
