//! From `host:port` to a socket address, without ever blocking the loop.
//!
//! Literal addresses are read directly, names are looked up aside and remembered for a while;
//! packets wait for the first lookup of a name in a short queue. Of several addresses one of the
//! socket's own family is taken, so `localhost` works whichever it resolves to first.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr, SocketAddrV6},
    time::Duration,
};

/// How long a looked-up name is used before it is looked up again (the old address serves until
/// the answer is there).
const FRESH_MS: u64 = 30_000;
/// Before a name that could not be resolved is tried again; twice as long after each further
/// failure, up to [`FRESH_MS`], and then for ever.
const RETRY_MS: u64 = 1_000;
/// Packets kept for a name that is being looked up.
const WAITING_MAX: usize = 8;
/// Names remembered.
const NAMES_MAX: usize = 20_000;
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(3);

/// What to do with a packet for an address.
#[derive(Debug, PartialEq, Eq)]
pub enum Route {
    Now(SocketAddr),
    /// Known, but old: send, and look it up again.
    NowAndLookUp(SocketAddr),
    /// Not known yet: the packet waits; start a lookup.
    LookUp,
    /// It waits for a lookup under way, or was dropped.
    Wait,
}

#[derive(Default)]
struct Name {
    address: Option<SocketAddr>,
    looked_up_ms: u64,
    /// Lookups in a row that failed.
    failures: u32,
    under_way: bool,
    waiting: Vec<Vec<u8>>,
}

impl Name {
    /// How long after a failed lookup the next one may be.
    fn retry_ms(&self) -> u64 {
        let doublings = self.failures.saturating_sub(1).min(5);
        (RETRY_MS << doublings).min(FRESH_MS)
    }
}

/// The names in use.
pub struct Addresses {
    /// Whether the socket is an IPv6 one.
    v6: bool,
    names: HashMap<String, Name>,
}

impl Addresses {
    pub fn new(local: Option<SocketAddr>) -> Self {
        Self {
            v6: local.is_some_and(|a| a.is_ipv6()),
            names: HashMap::new(),
        }
    }

    /// Where to send `bytes`; keeps them when that is not known yet.
    pub fn route(&mut self, address: &str, bytes: &[u8], now_ms: u64) -> Route {
        if let Ok(literal) = address.parse::<SocketAddr>() {
            return fit(literal, self.v6).map_or(Route::Wait, Route::Now);
        }
        if self.names.len() >= NAMES_MAX && !self.names.contains_key(address) {
            self.names.retain(|_, name| name.under_way);
        }
        let name = self.names.entry(address.to_owned()).or_default();
        let age = now_ms.saturating_sub(name.looked_up_ms);
        let retry_ms = name.retry_ms();
        match name.address {
            Some(known) if age < FRESH_MS || name.under_way => Route::Now(known),
            Some(known) => {
                name.under_way = true;
                Route::NowAndLookUp(known)
            }
            None => {
                if name.waiting.len() < WAITING_MAX {
                    name.waiting.push(bytes.to_vec());
                }
                let failed_just_now = name.failures > 0 && age < retry_ms;
                if name.under_way || failed_just_now {
                    Route::Wait
                } else {
                    name.under_way = true;
                    Route::LookUp
                }
            }
        }
    }

    /// A lookup ended; returns the address and what waited for it. A failed lookup keeps an
    /// address known before.
    pub fn resolved(
        &mut self,
        address: &str,
        found: &[SocketAddr],
        now_ms: u64,
    ) -> Option<(SocketAddr, Vec<Vec<u8>>)> {
        let chosen = choose(found, self.v6);
        let name = self.names.get_mut(address)?;
        name.under_way = false;
        name.looked_up_ms = now_ms;
        name.failures = match chosen {
            Some(_) => 0,
            None => name.failures.saturating_add(1),
        };
        name.address = chosen.or(name.address);
        let waiting = std::mem::take(&mut name.waiting);
        name.address.map(|address| (address, waiting))
    }

    /// No lookup could be started; the next packet tries again.
    pub fn not_started(&mut self, address: &str) {
        if let Some(name) = self.names.get_mut(address) {
            name.under_way = false;
        }
    }

    /// Nobody answered there: the next packet has the name looked up again, unless that just
    /// failed.
    pub fn doubt(&mut self, address: &str) {
        if let Some(name) = self.names.get_mut(address).filter(|n| n.failures == 0) {
            name.looked_up_ms = 0;
        }
    }

    /// Packets that wait for a lookup.
    pub fn waiting(&self) -> usize {
        self.names.values().map(|n| n.waiting.len()).sum()
    }
}

/// Looks a name up; empty when it cannot be resolved in time.
pub async fn look_up(address: String) -> Vec<SocketAddr> {
    let lookup = tokio::net::lookup_host(address);
    match tokio::time::timeout(LOOKUP_TIMEOUT, lookup).await {
        Ok(Ok(found)) => found.collect(),
        Ok(Err(_)) | Err(_) => Vec::new(),
    }
}

/// The first address of the socket's family, else the first it can reach at all.
fn choose(found: &[SocketAddr], v6: bool) -> Option<SocketAddr> {
    found
        .iter()
        .find(|a| a.is_ipv6() == v6)
        .copied()
        .or_else(|| found.iter().find_map(|a| fit(*a, v6)))
}

/// The address as a socket of that family can send to it: IPv4 from an IPv6 socket is mapped.
fn fit(address: SocketAddr, v6: bool) -> Option<SocketAddr> {
    match (address.ip(), v6) {
        (IpAddr::V4(ip), true) => Some(SocketAddr::V6(SocketAddrV6::new(
            ip.to_ipv6_mapped(),
            address.port(),
            0,
            0,
        ))),
        (IpAddr::V6(ip), false) => ip
            .to_ipv4_mapped()
            .map(|ip| SocketAddr::new(IpAddr::V4(ip), address.port())),
        _ => Some(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn the_family_of_the_socket_decides() {
        let both = [addr("[::1]:8081"), addr("127.0.0.1:8081")];
        assert_eq!(choose(&both, false), Some(both[1]));
        assert_eq!(choose(&both, true), Some(both[0]));
        assert_eq!(
            choose(&both[1..], true),
            Some(addr("[::ffff:127.0.0.1]:8081"))
        );
        assert_eq!(choose(&both[..1], false), None);
        assert_eq!(choose(&[], false), None);
    }

    #[test]
    fn a_name_is_looked_up_once_and_packets_wait_for_it() {
        let mut book = Addresses::new(Some(addr("127.0.0.1:1")));
        assert_eq!(
            book.route("127.0.0.1:5", b"x", 0),
            Route::Now(addr("127.0.0.1:5"))
        );
        assert_eq!(book.route("n:5", b"one", 10), Route::LookUp);
        for _ in 0..20 {
            assert_eq!(book.route("n:5", b"more", 11), Route::Wait);
        }
        assert_eq!(book.waiting(), WAITING_MAX, "the queue is bounded");
        let (to, packets) = book
            .resolved("n:5", &[addr("10.0.0.1:5")], 12)
            .expect("known now");
        assert_eq!((to, packets.len()), (addr("10.0.0.1:5"), WAITING_MAX));
        assert_eq!(packets[0], b"one");
        assert_eq!(book.route("n:5", b"x", 13), Route::Now(to));
        let later = 13 + FRESH_MS;
        assert_eq!(book.route("n:5", b"x", later), Route::NowAndLookUp(to));
        assert_eq!(book.route("n:5", b"x", later), Route::Now(to), "once");
        book.resolved("n:5", &[], later);
        assert_eq!(book.route("n:5", b"x", later + 1), Route::Now(to), "kept");
        book.doubt("n:5");
        assert_eq!(
            book.route("n:5", b"x", later + 1 + FRESH_MS),
            Route::NowAndLookUp(to)
        );
    }

    #[test]
    fn a_failed_lookup_is_not_repeated_at_once() {
        let mut book = Addresses::new(None);
        assert_eq!(book.route("gone:5", b"x", 100), Route::LookUp);
        assert_eq!(book.resolved("gone:5", &[], 100), None);
        assert_eq!(book.waiting(), 0, "what waited is dropped");
        assert_eq!(book.route("gone:5", b"x", 101), Route::Wait);
        assert_eq!(book.route("gone:5", b"x", 100 + RETRY_MS), Route::LookUp);
    }

    #[test]
    fn a_name_that_never_resolves_is_tried_for_ever_and_seldom() {
        let mut book = Addresses::new(None);
        let mut lookups = Vec::new();
        for now in (0..3_600_000).step_by(100) {
            if book.route("gone:5", b"x", now) == Route::LookUp {
                lookups.push(now);
                book.resolved("gone:5", &[], now);
            }
        }
        let gaps: Vec<u64> = lookups.windows(2).map(|w| w[1] - w[0]).collect();
        assert_eq!(gaps[..6], [1_000, 2_000, 4_000, 8_000, 16_000, 30_000]);
        assert!(gaps[5..].iter().all(|gap| *gap == FRESH_MS), "{gaps:?}");
        assert!(lookups.len() > 100, "for ever");
        let there = [addr("10.0.0.1:5")];
        book.resolved("gone:5", &there, 3_600_000);
        assert_eq!(book.route("gone:5", b"x", 3_600_001), Route::Now(there[0]));
    }

    #[tokio::test]
    async fn localhost_resolves() {
        let found = look_up("localhost:8081".to_owned()).await;
        assert!(choose(&found, false).is_some(), "{found:?}");
        assert!(look_up("no port here".to_owned()).await.is_empty());
    }
}
