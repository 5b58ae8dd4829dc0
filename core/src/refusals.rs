//! What the log says about refusals: a line a second for each cause, however many there are.
//!
//! Knows: when each cause was last told of, and how often it was not. Does not know: the words.

use core::time::Duration;

use crate::error::Fault;
use crate::time::Time;

/// Whoever floods a server is not to flood its log as well.
const INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Refusals {
    causes: [Cause; Fault::ALL.len()],
}

#[derive(Clone, Copy, Debug)]
struct Cause {
    told: Option<Time>,
    untold: u64,
}

impl Refusals {
    pub(crate) const fn new() -> Self {
        Self { causes: [Cause { told: None, untold: 0 }; Fault::ALL.len()] }
    }

    /// Something was refused. Says whether to tell of it, and how often that was left out before.
    pub(crate) fn tell(&mut self, fault: Fault, now: Time) -> Option<u64> {
        let cause = self.causes.get_mut(fault as usize)?;
        if cause.told.is_some_and(|told| now.saturating_since(told) < INTERVAL) {
            cause.untold += 1;
            return None;
        }
        cause.told = Some(now);
        Some(core::mem::take(&mut cause.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_a_second_for_each_cause() {
        let mut refusals = Refusals::new();
        let at = |millis: u64| Time::from_micros(millis * 1_000);
        assert_eq!(refusals.tell(Fault::NotFound, at(0)), Some(0));
        assert_eq!(refusals.tell(Fault::NotFound, at(0)), None);
        assert_eq!(refusals.tell(Fault::Busy, at(1)), Some(0));
        assert_eq!(refusals.tell(Fault::NotFound, at(999)), None);
        assert_eq!(refusals.tell(Fault::NotFound, at(1_000)), Some(2));
        assert_eq!(refusals.tell(Fault::NotFound, at(2_000)), Some(0));
    }
}
