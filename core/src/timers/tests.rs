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
fn timers_fire_in_order_of_deadline_across_lanes() {
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
fn arming_a_kind_disarms_the_other_kind_of_its_role() {
    let (mut timers, timeouts) = (Timers::new(), timeouts());
    timers.arm(TimerKind::Head, 0, seconds(0), &timeouts);
    timers.arm(TimerKind::Body, 0, seconds(0), &timeouts);
    assert_eq!(timers.pop_due(seconds(29)), None);
    assert_eq!(timers.pop_due(seconds(30)), Some((TimerKind::Body, 0)));
}

#[test]
fn arming_a_kind_without_timeout_only_disarms() {
    let (mut timers, timeouts) = (Timers::new(), timeouts());
    timers.arm(TimerKind::SessionLifetime, 0, seconds(0), &timeouts);
    assert_eq!(timers.armed(Role::SessionLifetime, 0), None);
    assert_eq!(timers.earliest(), None);
}

/// Arms, re-arms and disarms at random, and compares every step with an ordered map.
#[test]
fn timers_agree_with_an_ordered_map_on_random_operations() {
    let (mut timers, timeouts) = (Timers::new(), timeouts());
    let mut reference: BTreeMap<(u8, u32), (Time, TimerKind)> = BTreeMap::new();
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
                reference.remove(&slot);
            }
            1 => {
                while let Some((kind, owner)) = timers.pop_due(now) {
                    let (at, expected) =
                        reference.remove(&(kind.role() as u8, owner)).expect("armed");
                    assert_eq!(kind, expected);
                    assert!(at <= now);
                }
                assert!(reference.values().all(|(at, _)| *at > now), "something due was missed");
            }
            _ => {
                timers.arm(kind, owner, now, &timeouts);
                reference.remove(&slot);
                if let Some(interval) = kind.interval(&timeouts) {
                    reference.insert(slot, (now.saturating_add(interval), kind));
                }
            }
        }
        assert_eq!(timers.earliest().map(|e| e.0), reference.values().map(|e| e.0).min());
        if step % 500 == 0 {
            timers.check();
        }
    }
}
