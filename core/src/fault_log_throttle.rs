//! Limits the lines of the log about refused requests to one per second for each [`Fault`].
//!
//! Knows: which faults there are. Does not know: the text of lines, or when a line is due (see
//! `line_throttle`).

use crate::error::Fault;
use crate::line_throttle::{LineThrottle, SuppressedLines};
use crate::time::Time;

/// One [`LineThrottle`] for each [`Fault`].
#[derive(Debug)]
pub(crate) struct FaultLogThrottle {
    causes: [LineThrottle; Fault::ALL.len()],
}

impl FaultLogThrottle {
    pub(crate) const fn new() -> Self {
        Self { causes: [LineThrottle::new(); Fault::ALL.len()] }
    }

    /// Decides about a line for a request that was refused with `fault`, as [`LineThrottle::tell`]
    /// does.
    pub(crate) fn tell(&mut self, fault: Fault, now: Time) -> Option<SuppressedLines> {
        self.causes.get_mut(fault as usize)?.tell(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_has_one_line_per_second() {
        let mut refusals = FaultLogThrottle::new();
        let at = |millis: u64| Time::from_micros(millis * 1_000);
        assert_eq!(refusals.tell(Fault::NotFound, at(0)), Some(SuppressedLines(0)));
        assert_eq!(refusals.tell(Fault::NotFound, at(0)), None);
        assert_eq!(refusals.tell(Fault::Busy, at(1)), Some(SuppressedLines(0)));
        assert_eq!(refusals.tell(Fault::NotFound, at(999)), None);
        assert_eq!(refusals.tell(Fault::NotFound, at(1_000)), Some(SuppressedLines(2)));
        assert_eq!(refusals.tell(Fault::NotFound, at(2_000)), Some(SuppressedLines(0)));
    }
}
