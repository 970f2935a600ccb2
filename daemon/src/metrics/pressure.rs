//! What admission control lets in and turns away.

use super::IntGauge;
use crate::api::Pressure;

#[derive(Default)]
pub struct PressureGauges {
    refused: IntGauge,
    requests: IntGauge,
    small_limit: IntGauge,
    large_bytes: IntGauge,
    large_limit: IntGauge,
}

impl PressureGauges {
    pub(super) fn named(&self) -> [(&'static str, &'static str, &IntGauge); 5] {
        [
            (
                "admission_refused",
                "Requests for data turned away with 429 since the start",
                &self.refused,
            ),
            (
                "admission_under_way",
                "Requests for data under way",
                &self.requests,
            ),
            (
                "admission_small_limit",
                "Requests let in at once, as found from how long they take",
                &self.small_limit,
            ),
            (
                "admission_large_bytes",
                "Bytes of large values being written",
                &self.large_bytes,
            ),
            (
                "admission_large_limit_bytes",
                "Bytes of large values let in at once, as found from how long they take",
                &self.large_limit,
            ),
        ]
    }

    pub fn set(&self, pressure: &Pressure) {
        let set = |gauge: &IntGauge, n: u64| {
            gauge.set(i64::try_from(n).unwrap_or(i64::MAX));
        };
        let load = pressure.load;
        set(&self.refused, pressure.refused);
        set(&self.requests, load.requests as u64);
        set(&self.small_limit, load.small.1 as u64);
        set(&self.large_bytes, load.large.0 as u64);
        set(&self.large_limit, load.large.1 as u64);
    }
}
