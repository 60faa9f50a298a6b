//! When to look at what the watcher heard.
//!
//! Not while plans follow each other closely: most of what is heard then is about what they are making, and the kernel lets
//! only one of us in at a time. And what is read whole is not read again at once, so that a host whose routes or rules
//! never stand still does not keep us busy with them.

use std::time::{Duration, Instant};

/// How long no plan came before it is looked at anything, and how long that may wait at most.
const PAUSE: Duration = Duration::from_millis(3);
const PAUSE_AT_MOST: Duration = Duration::from_millis(30);
/// How many times as long as a reading of routes or rules took it takes until the next, and the longest.
const REST: u32 = 4;
const REST_AT_MOST: Duration = Duration::from_secs(1);

/// When plans came, and when something was read whole.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// When the first and the last plan ended since all was looked at.
    plans: Option<(Instant, Instant)>,
    /// Before that time nothing is read whole.
    rested: Option<Instant>,
}

impl Pace {
    /// A plan was carried out.
    pub(crate) fn plan(&mut self, now: Instant) {
        // What came of an earlier row was looked at long ago, if anything came of it.
        let row = self.plans.filter(|(_, last)| now < *last + PAUSE_AT_MOST);
        let first = row.map_or(now, |(first, _)| first);
        self.plans = Some((first, now));
    }

    /// How long to wait for a pause between plans; zero when there is one, or none came for long enough.
    pub(crate) fn until_pause(&self, now: Instant) -> Duration {
        let Some((first, last)) = self.plans else { return Duration::ZERO };
        (last + PAUSE).min(first + PAUSE_AT_MOST).saturating_duration_since(now)
    }

    /// All was looked at, but for what is read whole.
    pub(crate) fn caught_up(&mut self) {
        self.plans = None;
    }

    /// Something was read whole.
    pub(crate) fn heavy(&mut self, begun: Instant, ended: Instant) {
        self.rested = Some(ended + (ended.saturating_duration_since(begun) * REST).min(REST_AT_MOST));
    }

    /// How long to wait before something is read whole again.
    pub(crate) fn until_heavy(&self, now: Instant) -> Duration {
        self.rested.map_or(Duration::ZERO, |rested| rested.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_waits_for_a_pause_between_plans_but_not_for_long() {
        let begun = Instant::now();
        let at = |millis| begun + Duration::from_millis(millis);
        let mut pace = Pace::default();
        assert_eq!(pace.until_pause(begun), Duration::ZERO);
        pace.plan(begun);
        assert_eq!(pace.until_pause(at(1)), Duration::from_millis(2));
        pace.plan(at(2));
        assert_eq!(pace.until_pause(at(3)), Duration::from_millis(2));
        assert_eq!(pace.until_pause(at(5)), Duration::ZERO);
        pace.caught_up();
        for plan in 10..40 {
            pace.plan(at(plan));
            assert!(!pace.until_pause(at(plan)).is_zero(), "{plan}");
        }
        pace.plan(at(40));
        assert_eq!(pace.until_pause(at(40)), Duration::ZERO);
        // And then at all of it, however many plans come meanwhile.
        pace.plan(at(41));
        assert_eq!(pace.until_pause(at(41)), Duration::ZERO);
        pace.caught_up();
        pace.plan(at(42));
        assert_eq!(pace.until_pause(at(42)), PAUSE);
        pace.plan(at(90));
        assert_eq!(pace.until_pause(at(90)), PAUSE, "another row");
    }

    #[test]
    fn what_is_read_whole_rests_in_proportion_to_what_it_took() {
        let begun = Instant::now();
        let at = |millis| begun + Duration::from_millis(millis);
        let mut pace = Pace::default();
        assert_eq!(pace.until_heavy(begun), Duration::ZERO);
        pace.heavy(at(0), at(10));
        assert_eq!(pace.until_heavy(at(10)), Duration::from_millis(40));
        assert_eq!(pace.until_heavy(at(50)), Duration::ZERO);
        pace.heavy(at(0), at(5000));
        assert_eq!(pace.until_heavy(at(5000)), REST_AT_MOST);
    }
}
