//! Holding: the port answers, nothing is served, until somebody says start or time runs out.

use std::time::Duration;

use crate::{
    lifecycle::{
        Ticket,
        orders::{Order, OrderReceiver},
    },
    node::{SharedNode, cause::Cause},
    time,
};

/// How the hold ended.
pub enum Held {
    Start { seeds: Option<Vec<String>> },
    End(Cause),
}

pub async fn hold(node: &SharedNode, mut ticket: Ticket, received: &mut OrderReceiver) -> Held {
    tracing::info!("in standby: {}", ticket.reason);
    loop {
        let until = time::timestamp_of_ms(ticket.hold_until);
        let waits = format!("an order to start, or {until:.0} ({})", ticket.reason);
        node.control
            .update(|facts| facts.waiting_for = Some(waits.clone()));
        tracing::info!("waiting for {waits}");
        let rest = Duration::from_millis(ticket.remaining_ms(time::unix_ms()));
        let order = tokio::select! {
            order = received.recv() => order,
            () = tokio::time::sleep(rest) => {
                tracing::warn!("the hold ran out; starting from what this node remembers");
                return Held::Start { seeds: None };
            }
        };
        match order {
            Some(Order::Start { seeds }) => return Held::Start { seeds },
            Some(Order::Standby(longer)) => ticket = longer,
            Some(order) => {
                if let Some(cause) = Cause::of(order) {
                    return Held::End(cause);
                }
            }
            None => {
                let why = "nobody is left to give orders".to_owned();
                return Held::End(Cause::Stop { why });
            }
        }
    }
}
