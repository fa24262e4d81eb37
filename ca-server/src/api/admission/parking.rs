//! Agents that cannot read our hint come again within a second, and each time all over. They get their
//! refusal a little later instead; a bounded number of them.

use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};

/// Places for those who are refused and wait for it.
#[derive(Debug)]
pub struct Parking {
    places: Semaphore,
    time: Duration,
}

impl Parking {
    /// So many places, for so long.
    pub fn new(places: usize, time: Duration) -> Self {
        Self { places: Semaphore::new(places), time }
    }

    /// Holds a refusal, if there is room: until the time is over, or half of what is left until the deadline, so
    /// that the caller still hears it.
    pub async fn hold(&self, deadline: Instant) {
        if let Ok(_place) = self.places.try_acquire() {
            let now = Instant::now();
            sleep_until(now + self.time.min(deadline.saturating_duration_since(now) / 2)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_held_for_its_time_or_half_of_what_is_left_and_where_there_is_room() {
        let parking = Parking::new(1, Duration::from_millis(500));
        let began = Instant::now();
        let late = began + Duration::from_secs(5);
        let (_, second) = tokio::join!(parking.hold(late), async {
            parking.hold(late).await;
            began.elapsed()
        });
        assert_eq!(second, Duration::ZERO, "no room");
        assert_eq!(began.elapsed(), Duration::from_millis(500));
        parking.hold(Instant::now() + Duration::from_millis(20)).await;
        assert_eq!(began.elapsed(), Duration::from_millis(510));
    }
}
