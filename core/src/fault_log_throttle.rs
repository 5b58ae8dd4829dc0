//! What the log says about refusals: a line a second for each cause, however many there are.
//!
//! Knows: which causes there are. Does not know: the words, or what decides when a line is said, which
//! is in `throttle`.

use crate::error::Fault;
use crate::throttle::{Throttle, Unsaid};
use crate::time::Time;

#[derive(Debug)]
pub(crate) struct FaultLogThrottle {
    causes: [Throttle; Fault::ALL.len()],
}

impl FaultLogThrottle {
    pub(crate) const fn new() -> Self {
        Self { causes: [Throttle::new(); Fault::ALL.len()] }
    }

    /// Something was refused. Says whether to tell of it, and how often that was left out before.
    pub(crate) fn tell(&mut self, fault: Fault, now: Time) -> Option<Unsaid> {
        self.causes.get_mut(fault as usize)?.tell(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_a_second_for_each_cause() {
        let mut refusals = FaultLogThrottle::new();
        let at = |millis: u64| Time::from_micros(millis * 1_000);
        assert_eq!(refusals.tell(Fault::NotFound, at(0)), Some(Unsaid(0)));
        assert_eq!(refusals.tell(Fault::NotFound, at(0)), None);
        assert_eq!(refusals.tell(Fault::Busy, at(1)), Some(Unsaid(0)));
        assert_eq!(refusals.tell(Fault::NotFound, at(999)), None);
        assert_eq!(refusals.tell(Fault::NotFound, at(1_000)), Some(Unsaid(2)));
        assert_eq!(refusals.tell(Fault::NotFound, at(2_000)), Some(Unsaid(0)));
    }
}
