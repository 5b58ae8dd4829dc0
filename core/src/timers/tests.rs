use alloc::collections::BTreeMap;
use core::time::Duration;

use super::*;

fn timeouts() -> Timeouts {
    Timeouts {
        session_idle: Some(Duration::from_secs(60)),
        session_lifetime: None,
        ..Timeouts::default()
    }
}

fn seconds(s: u64) -> Time {
    Time::from_micros(s * 1_000_000)
}

#[test]
fn fires_in_order_of_deadline_across_lanes() {
    let (mut timers, timeouts) = (Timers::new(), timeouts());
    timers.arm(TimerKind::Body, 1, seconds(0), &timeouts); // 30
    timers.arm(TimerKind::Head, 2, seconds(1), &timeouts); // 11
    timers.arm(TimerKind::Heartbeat, 1, seconds(2), &timeouts); // 17
    assert_eq!(timers.earliest(), Some((seconds(11), TimerKind::Head)));
    assert_eq!(timers.pop_due(seconds(10)), None);
    assert_eq!(timers.pop_due(seconds(40)), Some((TimerKind::Head, 2)));
    assert_eq!(timers.pop_due(seconds(40)), Some((TimerKind::Heartbeat, 1)));
    assert_eq!(timers.pop_due(seconds(40)), Some((TimerKind::Body, 1)));
    assert_eq!(timers.pop_due(seconds(40)), None);
    timers.check();
}

#[test]
fn kinds_of_one_role_replace_each_other() {
    let (mut timers, timeouts) = (Timers::new(), timeouts());
    timers.arm(TimerKind::Head, 0, seconds(0), &timeouts);
    timers.arm(TimerKind::Body, 0, seconds(0), &timeouts);
    assert_eq!(timers.pop_due(seconds(29)), None);
    assert_eq!(timers.pop_due(seconds(30)), Some((TimerKind::Body, 0)));
}

#[test]
fn a_kind_without_an_interval_is_merely_disarmed() {
    let (mut timers, timeouts) = (Timers::new(), timeouts());
    timers.arm(TimerKind::SessionLifetime, 0, seconds(0), &timeouts);
    assert!(!timers.is_armed(Role::SessionLifetime, 0));
    assert_eq!(timers.earliest(), None);
}

/// Arms, re-arms and disarms at random, and agrees with a naive ordered map at every step.
#[test]
fn agrees_with_a_naive_map() {
    let (mut timers, timeouts) = (Timers::new(), timeouts());
    let mut naive: BTreeMap<(u8, u32), (Time, TimerKind)> = BTreeMap::new();
    let mut random = crate::testing::Random::seeded(11);
    let mut now = Time::ZERO;
    for step in 0..40_000 {
        now = now.saturating_add(Duration::from_millis(random.below(400) as u64));
        let kind = TimerKind::ALL[random.below(LANES)];
        let owner = random.below(50) as u32;
        let slot = (kind.role() as u8, owner);
        match random.below(4) {
            0 => {
                timers.disarm(kind.role(), owner);
                naive.remove(&slot);
            }
            1 => {
                while let Some((kind, owner)) = timers.pop_due(now) {
                    let (at, expected) = naive.remove(&(kind.role() as u8, owner)).expect("armed");
                    assert_eq!(kind, expected);
                    assert!(at <= now);
                }
                assert!(naive.values().all(|(at, _)| *at > now), "something due was missed");
            }
            _ => {
                timers.arm(kind, owner, now, &timeouts);
                naive.remove(&slot);
                if let Some(interval) = kind.interval(&timeouts) {
                    naive.insert(slot, (now.saturating_add(interval), kind));
                }
            }
        }
        assert_eq!(timers.earliest().map(|e| e.0), naive.values().map(|e| e.0).min());
        if step % 500 == 0 {
            timers.check();
        }
    }
}
