//! What every screen draws from: the console's state, and what is made of it once a frame.

use std::time::Duration;

use ratatui::layout::Rect;

use super::ring_view::RingView;
use crate::{
    app::App,
    cluster::{Cluster, Known},
    doctor::{Finding, diagnose},
    link::LinkState,
    theme::Theme,
    widget::Freshness,
};

/// From here on a screen has room for everything it can show.
const FULL_WIDTH: u16 = 100;
const FULL_HEIGHT: u16 = 30;

/// What every screen draws from; made once a frame.
pub struct View<'a> {
    pub app: &'a App,
    /// The live picture, or the frozen one.
    pub cluster: &'a Cluster,
    pub theme: Theme,
    pub findings: Vec<Finding>,
    pub ring: RingView,
}

impl<'a> View<'a> {
    pub fn new(app: &'a App) -> Self {
        let cluster = app.shown();
        Self {
            app,
            cluster,
            theme: Theme::new(app.display.tier, app.display.ascii),
            findings: diagnose(cluster, &app.link, app.now_ms, app.utc),
            ring: RingView::new(cluster),
        }
    }

    /// How fresh a value is. Without a connection nothing is: the last known state stays, marked.
    pub fn fresh<T>(&self, known: Option<&Known<T>>) -> Freshness {
        let Some(known) = known else {
            return Freshness::default();
        };
        let age = known.age_ms(self.app.now_ms);
        let cut = self.app.link.state == LinkState::Disconnected;
        Freshness {
            age: Some(Duration::from_millis(age)),
            stale: cut || known.is_stale(self.app.now_ms),
        }
    }

    /// Whether nothing was ever heard.
    pub fn is_empty(&self) -> bool {
        self.cluster.status.is_none() && self.cluster.members.is_none()
    }

    /// Room for the full layout.
    pub fn is_roomy(area: Rect) -> bool {
        area.width >= FULL_WIDTH && area.height >= FULL_HEIGHT - 5
    }
}
