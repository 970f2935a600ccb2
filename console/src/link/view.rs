//! What the screens know of the connection: plain values.

/// The three words of the product.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LinkState {
    /// The feed's handshake is done and a frame came within two heartbeats.
    Connected,
    /// REST polls succeed while the feed keeps being tried.
    Fallback,
    #[default]
    Disconnected,
}

impl LinkState {
    pub fn label(self) -> &'static str {
        match self {
            Self::Connected => "Connected",
            Self::Fallback => "Fallback Mode",
            Self::Disconnected => "Disconnected",
        }
    }
}

/// How one way to one endpoint is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Way {
    #[default]
    Untried,
    Trying,
    Up,
    Down,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointView {
    /// `host:port`.
    pub address: String,
    /// Learned from the members, not configured.
    pub learned: bool,
    pub ws: Way,
    pub rest: Way,
    pub last_error: Option<String>,
}

/// What the header shows of the connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkView {
    pub state: LinkState,
    /// Console clock when this state began.
    pub since_ms: u64,
    /// Where the data comes from; the last one when disconnected.
    pub endpoint: Option<String>,
    pub rtt_ms: Option<u64>,
    /// Console clock of the last frame or poll answer.
    pub last_data_ms: Option<u64>,
    /// Tries of the feed since it was last up.
    pub attempt: u32,
    /// Console clock of the next try of the feed; absent while one is under way or it is up.
    pub next_retry_ms: Option<u64>,
    /// Milliseconds between REST polls in Fallback Mode.
    pub poll_ms: u64,
    pub endpoints: Vec<EndpointView>,
}

impl LinkView {
    /// Age of the newest data, milliseconds.
    pub fn age_ms(&self, now_ms: u64) -> Option<u64> {
        self.last_data_ms.map(|t| now_ms.saturating_sub(t))
    }
}
