//! A lasting trouble is said when it begins, when it changes, and now and then while it lasts: who reads the
//! log must learn of it, and must not have to look for anything else between its lines.

use signet_service::clock_watch::{Clocks, MachineClocks};
use std::time::Duration;

/// How often a trouble that stays the same is said again.
const AGAIN: Duration = Duration::from_secs(300);

/// One trouble, from its begin to its end.
#[derive(Debug, Default)]
pub(crate) struct Complaint {
    /// What was said last, and when, since the machine's start.
    said: Option<(String, Duration)>,
    held_back: u32,
}

impl Complaint {
    /// Whether `what` is to be said at this moment: then how many were held back since the last time.
    pub(crate) fn about(&mut self, what: &str) -> Option<u32> {
        self.about_at(what, MachineClocks.read().since_start)
    }

    /// The same at `now`, counted from the machine's start.
    pub(crate) fn about_at(&mut self, what: &str, now: Duration) -> Option<u32> {
        let same = |(said, at): &(String, Duration)| said == what && now.saturating_sub(*at) < AGAIN;
        if self.said.as_ref().is_some_and(same) {
            self.held_back += 1;
            return None;
        }
        self.said = Some((what.to_owned(), now));
        Some(std::mem::take(&mut self.held_back))
    }

    /// The trouble is over; whether there was any.
    pub(crate) fn over(&mut self) -> bool {
        self.held_back = 0;
        self.said.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_said_once_in_a_while_and_a_change_at_once() {
        let mut complaint = Complaint::default();
        let mut said = Vec::new();
        for second in 0..3600u32 {
            let what = if (1000..1010).contains(&second) { "full" } else { "away" };
            let held_back = complaint.about_at(what, Duration::from_secs(second.into()));
            said.extend(held_back.map(|held_back| (second, held_back)));
        }
        assert_eq!(said[..5], [(0, 0), (300, 299), (600, 299), (900, 299), (1000, 99)]);
        assert_eq!((said[5], said.len()), ((1010, 9), 14));
        assert!(complaint.over());
        assert!(!complaint.over());
        assert_eq!(complaint.about_at("away", Duration::from_secs(3601)), Some(0), "it began anew");
    }
}
