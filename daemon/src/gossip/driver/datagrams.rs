//! Datagrams in and out, and what is said about those that are refused.

use std::{io, net::SocketAddr, time::Duration};

use ringmaster_shared::event::EventCode;

use super::{Driver, Exchange, PACKETS_AT_ONCE, Turn, look_up};
use crate::gossip::{
    addresses::Route,
    codec::{Body, Packet},
    core::Dest,
    envelope::{Card, Speaks},
    rejected::Rejected,
    wire::{Datagram, Refusal},
};

/// Between two calling cards, whoever they are for.
const CARD_GAP_MS: u64 = 200;

impl<E: Exchange> Driver<E> {
    pub(super) async fn receive(
        &mut self,
        turn: &mut Turn<E>,
        buffer: &mut [u8],
        ready: io::Result<()>,
    ) {
        let mut error = ready.err();
        for _ in 0..PACKETS_AT_ONCE {
            match self.socket.try_recv_from(buffer) {
                Ok((length, source)) => {
                    turn.receive_errors = 0;
                    self.traffic.received(length);
                    self.take_datagram(turn, source, &buffer[..length]);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => {
                    error = Some(e);
                    break;
                }
            }
        }
        let Some(error) = error else { return };
        // some systems report a peer's closed port here; a real fault must not spin the loop
        turn.receive_errors = turn.receive_errors.saturating_add(1);
        if turn.receive_errors > 3 {
            self.log(turn, || {
                format!("gossip cannot read its UDP socket: {error}")
            });
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn take_datagram(&mut self, turn: &mut Turn<E>, source: SocketAddr, bytes: &[u8]) {
        let now = self.clock.now();
        match self.wire.read(now.unix_ms, bytes) {
            Ok(Datagram::Packet(packet)) => {
                if let Body::Ack { seq } = packet.body
                    && let Some(us) = turn.ledger.ping_answered(seq, self.clock.us())
                {
                    self.round_trips.observe(us as f64 / 1e6);
                }
                self.core.handle(now, source, *packet);
            }
            Ok(Datagram::Card(card, speaks)) => self.take_card(turn, source, &card, speaks),
            Err(refusal) => {
                if refusal.why == Rejected::Version {
                    self.send_card(turn, source, true);
                }
                let bytes = bytes.len();
                self.refused(turn, &source.to_string(), &refusal, || {
                    format!("a packet of {bytes} bytes from {source} is dropped")
                });
            }
        }
    }

    /// Counts a message that was not taken, and says so, loudly when only an operator can help.
    pub(super) fn refused(
        &mut self,
        turn: &mut Turn<E>,
        whom: &str,
        refusal: &Refusal,
        what: impl FnOnce() -> String,
    ) {
        self.core.count_rejected(refusal.why);
        match refusal.why {
            Rejected::Unsealed | Rejected::Unopened => {
                let text = format!("gossip of {whom} is refused: it is {}", refusal.text);
                self.complain_of_keys(turn, whom, text);
            }
            // who came before envelopes has no card to tell its name by
            Rejected::Version if refusal.speaks.is_some_and(|theirs| theirs.highest < 2) => {
                self.complain_of_version(turn, whom, refusal.speaks);
            }
            // networks double packets; the counter tells of more than that
            Rejected::Replayed => tracing::debug!("{}: {}", what(), refusal.text),
            _ => self.log(turn, || format!("{}: {}", what(), refusal.text)),
        }
    }

    pub(super) fn complain_of_keys(&mut self, turn: &mut Turn<E>, whom: &str, text: String) {
        if turn.complaints.due(whom, self.clock.now().ms) {
            self.events.warn(EventCode::KeyMismatch, None, text);
        }
    }

    fn complain_of_version(&mut self, turn: &mut Turn<E>, whom: &str, theirs: Option<Speaks>) {
        let Some(theirs) = theirs else { return };
        if turn.complaints.due(whom, self.clock.now().ms) {
            let ours = self.wire.speaks();
            let text = format!(
                "{whom} speaks gossip protocol {theirs}, this node {ours}: they do not understand each other; upgrade the older of the two"
            );
            self.events.warn(EventCode::ProtocolMismatch, None, text);
        }
    }

    fn take_card(&mut self, turn: &mut Turn<E>, source: SocketAddr, card: &Card, theirs: Speaks) {
        if card.asks {
            self.send_card(turn, source, false);
        }
        if self.wire.speaks().common(theirs).is_none() {
            self.core.count_rejected(Rejected::Version);
            let whom = format!("{} at {source}", card.id);
            self.complain_of_version(turn, &whom, Some(theirs));
        }
    }

    fn send_card(&mut self, turn: &mut Turn<E>, to: SocketAddr, asks: bool) {
        let now = self.clock.now().ms;
        if now >= turn.next_card_ms {
            turn.next_card_ms = now + CARD_GAP_MS;
            self.send_bytes(to, &self.wire.card(asks));
        }
    }

    pub(super) fn send(&mut self, turn: &mut Turn<E>, to: Dest, packet: &Packet) {
        let Some(bytes) = self.wire.packet(self.clock.now().ms, packet) else {
            return;
        };
        let address = match to {
            Dest::Source(source) => return self.send_bytes(source, &bytes),
            Dest::Address(address) => address,
        };
        match turn.addresses.route(&address, &bytes, self.clock.now().ms) {
            Route::Now(to) => self.send_bytes(to, &bytes),
            Route::NowAndLookUp(to) => {
                self.send_bytes(to, &bytes);
                look_up(turn, address);
            }
            Route::LookUp => look_up(turn, address),
            Route::Wait => {}
        }
    }

    pub(super) fn send_bytes(&self, to: SocketAddr, bytes: &[u8]) {
        // a full buffer or an unreachable network is a lost packet, which the protocol expects
        match self.socket.try_send_to(bytes, to) {
            Ok(_) => self.traffic.sent(bytes.len()),
            Err(error) => tracing::trace!(%to, %error, "packet not sent"),
        }
    }
}
