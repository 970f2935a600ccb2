//! When a disk is too full to take writes, and what the reserve does about it.
//!
//! The decision is pure: free bytes in, mode and fate of the ballast out. Asking the file system
//! and holding the ballast is [`guard`]'s job.
//!
//! The ballast is a file that is really allocated and holds nothing. It is given up when the disk
//! is all but full and something must still be written (the table's own buffers, a checkpoint,
//! the start of the node), and made again as far as space allows.

pub(super) mod guard;

/// What the operator set, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Size of the ballast.
    pub reserve: u64,
    /// Below this much free space (the ballast not counted) nothing new is stored.
    pub min_free: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Writable,
    ReadOnly,
}

/// So many times the space at which writes stop is plenty: nobody fills it between two slow looks.
const ROOMY: u64 = 16;

/// The disk at one moment, bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Disk {
    pub free: u64,
    /// What the ballast takes at the moment.
    pub ballast: u64,
    /// Something that must not fail is being written: nothing is taken away from it.
    pub busy: bool,
    /// The table may write on its own: it holds changes that are not on disk yet.
    pub dirty: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ballast {
    Keep,
    Release,
    /// Make it this large.
    Make(u64),
}

impl Limits {
    /// Where writing is taken up again: a quarter above where it stopped, so that one deleted
    /// file does not make the node go back and forth.
    fn resume_at(self) -> u64 {
        let stop = self.stop_below();
        stop + stop / 4
    }

    /// Where writing stops: at the latest where the ballast is given up, for what that frees is
    /// not for writes.
    fn stop_below(self) -> u64 {
        self.min_free.max(self.critical())
    }

    /// Free space at which the ballast is given up.
    fn critical(self) -> u64 {
        self.reserve / 8
    }

    /// Far from anything that would have to be done.
    pub fn is_roomy(self, disk: Disk) -> bool {
        self.spare(disk) / ROOMY >= self.resume_at() && disk.ballast == self.reserve
    }

    /// What is free, counted as if the whole ballast were in its place.
    pub fn spare(self, disk: Disk) -> u64 {
        (disk.free + disk.ballast).saturating_sub(self.reserve)
    }

    pub fn mode(self, now: Mode, disk: Disk) -> Mode {
        let spare = self.spare(disk);
        match now {
            Mode::Writable if spare < self.stop_below() => Mode::ReadOnly,
            Mode::ReadOnly if spare >= self.resume_at().max(1) => Mode::Writable,
            same => same,
        }
    }

    pub fn ballast(self, disk: Disk) -> Ballast {
        // given up for nothing, it would only feed whoever fills the disk
        if disk.ballast > 0 && disk.free < self.critical() && (disk.dirty || disk.busy) {
            return Ballast::Release;
        }
        // twice the critical amount stays, or it would be given up again at once
        let room = disk.free.saturating_sub(2 * self.critical());
        let wanted = self.reserve.min(disk.ballast + room);
        let step = self.critical().max(1);
        if !disk.busy && wanted > disk.ballast && (wanted == self.reserve || room >= step) {
            return Ballast::Make(wanted);
        }
        Ballast::Keep
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        reserve: 64,
        min_free: 256,
    };

    fn disk(free: u64, ballast: u64) -> Disk {
        Disk {
            free,
            ballast,
            busy: false,
            dirty: true,
        }
    }

    #[test]
    fn writing_stops_below_the_mark_and_starts_again_well_above_it() {
        use Mode::{ReadOnly, Writable};
        let cases = [
            (Writable, 256, 64, Writable),
            (Writable, 255, 64, ReadOnly),
            // the missing ballast is owed first
            (Writable, 319, 0, ReadOnly),
            (Writable, 320, 0, Writable),
            (ReadOnly, 256, 64, ReadOnly),
            (ReadOnly, 319, 64, ReadOnly),
            (ReadOnly, 320, 64, Writable),
            (ReadOnly, 383, 0, ReadOnly),
            (ReadOnly, 384, 0, Writable),
        ];
        for (now, free, ballast, then) in cases {
            let mode = LIMITS.mode(now, disk(free, ballast));
            assert_eq!(mode, then, "{now:?} with {free} free and {ballast} kept");
        }
    }

    #[test]
    fn the_ballast_goes_when_the_disk_is_all_but_full_and_comes_back_as_far_as_it_can() {
        let cases = [
            (1000, 64, Ballast::Keep),
            (8, 64, Ballast::Keep),
            (7, 64, Ballast::Release),
            (0, 1, Ballast::Release),
            (0, 0, Ballast::Keep),
            (16, 0, Ballast::Keep),
            (23, 0, Ballast::Keep),
            (24, 0, Ballast::Make(8)),
            (64, 0, Ballast::Make(48)),
            (80, 0, Ballast::Make(64)),
            (1000, 0, Ballast::Make(64)),
            (1000, 60, Ballast::Make(64)),
            (20, 48, Ballast::Keep),
        ];
        for (free, ballast, then) in cases {
            let what = LIMITS.ballast(disk(free, ballast));
            assert_eq!(what, then, "{free} free, {ballast} kept");
        }
        let busy = Disk {
            busy: true,
            ..disk(1000, 0)
        };
        assert_eq!(LIMITS.ballast(busy), Ballast::Keep);
        let clean = Disk {
            dirty: false,
            ..disk(0, 64)
        };
        assert_eq!(LIMITS.ballast(clean), Ballast::Keep, "nobody needs it");
    }

    #[test]
    fn without_limits_nothing_is_held_back() {
        let none = Limits {
            reserve: 0,
            min_free: 0,
        };
        assert_eq!(none.mode(Mode::Writable, disk(0, 0)), Mode::Writable);
        assert_eq!(none.mode(Mode::ReadOnly, disk(0, 0)), Mode::ReadOnly);
        assert_eq!(none.mode(Mode::ReadOnly, disk(1, 0)), Mode::Writable);
        assert_eq!(none.ballast(disk(1000, 0)), Ballast::Keep);
    }

    proptest! {
        /// Whatever the ballast is told, obeying it never changes the mode, and never leaves a
        /// state in which the next look says the opposite.
        #[test]
        fn the_ballast_neither_flaps_nor_decides(
            free in 0_u64..2000, ballast in 0_u64..=64, read_only: bool,
        ) {
            let mode = if read_only { Mode::ReadOnly } else { Mode::Writable };
            let before = disk(free, ballast);
            let after = match LIMITS.ballast(before) {
                Ballast::Keep => before,
                Ballast::Release => disk(free + ballast, 0),
                Ballast::Make(size) => disk(free - (size - ballast), size),
            };
            prop_assert_eq!(LIMITS.mode(mode, before), LIMITS.mode(mode, after));
            if let Ballast::Make(_) = LIMITS.ballast(before) {
                prop_assert_eq!(LIMITS.ballast(after), Ballast::Keep);
            }
        }
    }
}
