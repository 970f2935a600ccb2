//! How far a long text is scrolled.

use std::cell::Cell;

/// Lines from the top.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scroll {
    pub top: usize,
    /// The furthest `top` that showed something new when it was last drawn. Only the view knows
    /// how long a text is at this width; without this note, scrolling past the end would have
    /// to be scrolled back before anything moves.
    limit: Cell<usize>,
}

impl Default for Scroll {
    fn default() -> Self {
        Self {
            top: 0,
            limit: Cell::new(usize::MAX),
        }
    }
}

impl Scroll {
    /// For the view: the line to begin with when `last` is the furthest useful one.
    pub fn clamped(&self, last: usize) -> usize {
        self.limit.set(last);
        self.top.min(last)
    }

    pub(super) fn by(&mut self, lines: isize) {
        let limit = self.limit.get();
        self.top = self.top.min(limit).saturating_add_signed(lines).min(limit);
    }

    pub(super) fn first(&mut self) {
        self.top = 0;
    }

    pub(super) fn last(&mut self) {
        // A view that never said how long it is stays where it is.
        let limit = self.limit.get();
        if limit != usize::MAX {
            self.top = limit;
        }
    }
}
