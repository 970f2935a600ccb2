//! How much gossip goes over the network, counted where it does.

use std::sync::atomic::{AtomicU64, Ordering};

/// Since the start of the engine. Bytes are those of datagrams and of messages inside frames;
/// what TCP, HTTP and the kernel put around them is not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GossipTraffic {
    pub udp_sent_bytes: u64,
    pub udp_received_bytes: u64,
    pub udp_sent_packets: u64,
    pub udp_received_packets: u64,
    pub exchange_bytes_sent: u64,
    pub exchange_bytes_received: u64,
    /// Exchanges this node began that found both lists the same.
    pub exchanges_equal: u64,
    pub exchanges_differing: u64,
}

/// The counters behind it.
#[derive(Debug, Default)]
pub struct Traffic {
    udp_sent_bytes: AtomicU64,
    udp_received_bytes: AtomicU64,
    udp_sent_packets: AtomicU64,
    udp_received_packets: AtomicU64,
    exchange_bytes_sent: AtomicU64,
    exchange_bytes_received: AtomicU64,
    exchanges_equal: AtomicU64,
    exchanges_differing: AtomicU64,
}

fn add(counter: &AtomicU64, more: usize) {
    counter.fetch_add(more as u64, Ordering::Relaxed);
}

impl Traffic {
    pub fn sent(&self, bytes: usize) {
        add(&self.udp_sent_bytes, bytes);
        add(&self.udp_sent_packets, 1);
    }

    pub fn received(&self, bytes: usize) {
        add(&self.udp_received_bytes, bytes);
        add(&self.udp_received_packets, 1);
    }

    pub fn exchange_sent(&self, bytes: usize) {
        add(&self.exchange_bytes_sent, bytes);
    }

    pub fn exchange_received(&self, bytes: usize) {
        add(&self.exchange_bytes_received, bytes);
    }

    pub fn exchanged(&self, equal: bool) {
        let counter = if equal {
            &self.exchanges_equal
        } else {
            &self.exchanges_differing
        };
        add(counter, 1);
    }

    pub fn read(&self) -> GossipTraffic {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        GossipTraffic {
            udp_sent_bytes: read(&self.udp_sent_bytes),
            udp_received_bytes: read(&self.udp_received_bytes),
            udp_sent_packets: read(&self.udp_sent_packets),
            udp_received_packets: read(&self.udp_received_packets),
            exchange_bytes_sent: read(&self.exchange_bytes_sent),
            exchange_bytes_received: read(&self.exchange_bytes_received),
            exchanges_equal: read(&self.exchanges_equal),
            exchanges_differing: read(&self.exchanges_differing),
        }
    }
}
