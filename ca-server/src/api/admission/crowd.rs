//! What stands at a door: handshakes that are not finished, requests whose message is not read, connections.
//!
//! A crowd is bounded as a whole and for each address. Where it is full, whoever only stands there, and has for
//! a while, makes room for the next: the one that stands longest, of the address that has most of them. So
//! thousands that send nothing keep nobody out, and a bound need not be so low that a busy address could not
//! live with it.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::Overload;

/// Nobody is sent away sooner: what an honest client has to send is there by then.
const PATIENCE: Duration = Duration::from_millis(100);

/// Who counts as one address: an IPv4 address, or an IPv6 network of 64 bits, which is what one host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Source(IpAddr);

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into())
            }
            address @ IpAddr::V4(_) => Self(address),
        }
    }
}

/// A door and who stands at it.
#[derive(Debug)]
pub struct Crowd {
    most: usize,
    of_one: usize,
    state: Mutex<State>,
    /// Told when a place is given back.
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    present: usize,
    next: u64,
    sources: HashMap<Source, Standing>,
}

/// Of one address.
#[derive(Debug, Default)]
struct Standing {
    present: usize,
    /// Those that can be sent away, the oldest first: since when they stand there, and where they hear of it.
    idle: BTreeMap<u64, (Instant, oneshot::Sender<()>)>,
}

/// One place; dropping it gives it back.
#[derive(Debug)]
pub struct Place {
    crowd: Arc<Crowd>,
    source: Source,
    number: u64,
    settled: AtomicBool,
}

/// Comes when a place is needed for somebody else; never, once it is settled.
#[derive(Debug)]
pub struct SentAway(Option<oneshot::Receiver<()>>);

impl Crowd {
    /// At most `most` places, and `of_one` for one address.
    pub fn new(most: usize, of_one: usize) -> Arc<Self> {
        Arc::new(Self { most, of_one, state: Mutex::default(), freed: Notify::new() })
    }

    /// Takes a place; until it is [`Place::settle`]d, it may be sent away.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Result<(Place, SentAway), Overload> {
        let (source, now) = (Source::from(address), Instant::now());
        let mut state = self.lock();
        if state.sources.get(&source).is_some_and(|standing| standing.present >= self.of_one)
            && !state.send_away(source, now)
        {
            return Err(Overload::Address);
        }
        if state.present >= self.most
            && !state.busiest(now).is_some_and(|busiest| state.send_away(busiest, now))
        {
            return Err(Overload::Server);
        }
        let number = state.next;
        state.next += 1;
        state.present += 1;
        let (sender, receiver) = oneshot::channel();
        let standing = state.sources.entry(source).or_default();
        standing.present += 1;
        standing.idle.insert(number, (now, sender));
        let place = Place { crowd: self.clone(), source, number, settled: AtomicBool::new(false) };
        Ok((place, SentAway(Some(receiver))))
    }

    /// Takes a place as soon as there is one: where nobody settles, that is after a moment at the most. An address
    /// that has as many as it may is not waited for.
    pub async fn wait(self: &Arc<Self>, address: IpAddr) -> Result<(Place, SentAway), Overload> {
        loop {
            match self.enter(address) {
                Err(Overload::Server) => {}
                entered => return entered,
            }
            let next = self.lock().next();
            tokio::select! {
                () = self.freed.notified() => {}
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    /// Takes a place that nobody is sent away from.
    pub fn settle(self: &Arc<Self>, address: IpAddr) -> Result<Place, Overload> {
        let (place, _) = self.enter(address)?;
        place.settle()?;
        Ok(place)
    }

    /// Places taken.
    pub fn taken(&self) -> usize {
        self.lock().present
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The address with most of those that can be sent away.
    fn busiest(&self, now: Instant) -> Option<Source> {
        let with_idle = self.sources.iter().filter(|(_, standing)| standing.oldest(now).is_some());
        with_idle
            .max_by_key(|(_, standing)| (standing.idle.len(), std::cmp::Reverse(standing.oldest(now))))
            .map(|(source, _)| *source)
    }

    /// When somebody can be sent away next.
    fn next(&self) -> Instant {
        let oldest = |standing: &Standing| standing.idle.first_key_value().map(|(_, (since, _))| *since);
        self.sources.values().filter_map(oldest).min().unwrap_or_else(Instant::now) + PATIENCE
    }

    /// Sends away the oldest of an address that can be.
    fn send_away(&mut self, source: Source, now: Instant) -> bool {
        let Some(standing) = self.sources.get_mut(&source) else { return false };
        let Some((_, told)) = standing.oldest(now).and_then(|oldest| standing.idle.remove(&oldest)) else {
            return false;
        };
        self.leave(source);
        // It may be leaving by itself.
        let _ = told.send(());
        true
    }

    fn leave(&mut self, source: Source) {
        self.present -= 1;
        if let Some(standing) = self.sources.get_mut(&source) {
            standing.present -= 1;
            if standing.present == 0 {
                self.sources.remove(&source);
            }
        }
    }
}

impl Standing {
    /// The one that stands longest, if that is long enough.
    fn oldest(&self, now: Instant) -> Option<u64> {
        let (number, (since, _)) = self.idle.first_key_value()?;
        (*since + PATIENCE <= now).then_some(*number)
    }
}

impl Place {
    /// It has come so far that it is not sent away any more.
    ///
    /// # Errors
    /// It was sent away just before.
    pub fn settle(&self) -> Result<(), Overload> {
        // A connection is settled once and asked about with each certificate.
        if self.settled.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut state = self.crowd.lock();
        let standing = state.sources.get_mut(&self.source);
        if standing.and_then(|standing| standing.idle.remove(&self.number)).is_some() {
            self.settled.store(true, Ordering::Relaxed);
        }
        // Somebody else may have settled it in between.
        if self.settled.load(Ordering::Relaxed) { Ok(()) } else { Err(Overload::Slow) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.crowd.lock();
        let standing = state.sources.get_mut(&self.source);
        let idle = standing.is_some_and(|standing| standing.idle.remove(&self.number).is_some());
        // Whoever was sent away has left already.
        if idle || *self.settled.get_mut() {
            state.leave(self.source);
            drop(state);
            self.crowd.freed.notify_one();
        }
    }
}

impl Future for SentAway {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some(told) = &mut self.0 else { return Poll::Pending };
        let Poll::Ready(told) = Pin::new(told).poll(context) else { return Poll::Pending };
        // Settling takes the sender, and so does leaving: nobody will tell any more.
        self.0 = None;
        if told.is_ok() { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use futures::FutureExt;

    fn address(last: u8) -> IpAddr {
        [127, 0, 0, last].into()
    }

    fn is_sent_away((_, sent_away): &mut (Place, SentAway)) -> bool {
        sent_away.now_or_never().is_some()
    }

    #[test]
    fn settled_places_are_bounded_for_one_address_and_for_all_and_come_back() {
        let crowd = Crowd::new(3, 2);
        let settle = |last| crowd.settle(address(last));
        let (first, _second) = (settle(1).unwrap(), settle(1).unwrap());
        assert_eq!(settle(1).unwrap_err(), Overload::Address);
        let other = settle(2).unwrap();
        assert_eq!(settle(2).unwrap_err(), Overload::Server);
        drop(first);
        assert_eq!(crowd.taken(), 2);
        drop(other);
        assert_eq!(crowd.lock().sources.len(), 1, "addresses that left are forgotten");
        settle(1).unwrap();
    }

    #[test]
    fn whoever_is_settled_is_never_sent_away_however_often_it_asks() {
        let (place, mut sent_away) = Crowd::new(1, 1).enter(address(1)).unwrap();
        place.settle().unwrap();
        assert!((&mut sent_away).now_or_never().is_none());
        assert!((&mut sent_away).now_or_never().is_none());
        drop(place);
        assert!(sent_away.now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_crowd_sends_away_the_oldest_of_the_busiest_address() {
        let crowd = Crowd::new(4, 4);
        let mut quiet = crowd.enter(address(1)).unwrap();
        let mut busy: Vec<_> = (0..3).map(|_| crowd.enter(address(2)).unwrap()).collect();
        busy[0].0.settle().unwrap();
        assert_eq!(crowd.enter(address(3)).unwrap_err(), Overload::Server, "nobody has stood there for long");
        tokio::time::advance(PATIENCE).await;
        let newcomer = crowd.enter(address(3)).unwrap();
        let sent: Vec<bool> = busy.iter_mut().map(is_sent_away).collect();
        assert_eq!((sent, is_sent_away(&mut quiet)), (vec![false, true, false], false));
        assert_eq!(busy[1].0.settle().unwrap_err(), Overload::Slow);
        assert_eq!(crowd.taken(), 4);
        drop((quiet, busy, newcomer));
        assert_eq!(crowd.taken(), 0, "whoever was sent away is counted once");
        assert!(crowd.lock().sources.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_a_place_has_it_when_somebody_has_stood_there_long_enough() {
        let (crowd, began) = (Crowd::new(1, 1), Instant::now());
        let mut silent = crowd.enter(address(1)).unwrap();
        let place = crowd.wait(address(2)).await.unwrap();
        assert_eq!((began.elapsed(), is_sent_away(&mut silent)), (PATIENCE, true));
        let mut next = std::pin::pin!(crowd.wait(address(3)));
        assert!(futures::poll!(&mut next).is_pending());
        drop(place);
        next.await.unwrap();
        assert_eq!(began.elapsed(), PATIENCE, "a place that is given back is taken at once");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_the_place_of_an_address_that_has_enough() {
        let crowd = Crowd::new(4, 1);
        let _first = crowd.enter(address(1)).unwrap();
        assert_eq!(crowd.wait(address(1)).await.unwrap_err(), Overload::Address);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_is_full_makes_room_for_itself_only() {
        let crowd = Crowd::new(10, 2);
        let mut other = crowd.enter(address(9)).unwrap();
        let (mut oldest, mut younger) = (crowd.enter(address(1)).unwrap(), crowd.enter(address(1)).unwrap());
        tokio::time::advance(PATIENCE).await;
        let _next = crowd.enter(address(1)).unwrap();
        let sent = [&mut oldest, &mut younger, &mut other].map(is_sent_away);
        assert_eq!(sent, [true, false, false]);
    }

    #[test]
    fn one_host_of_ipv6_is_one_address_and_a_mapped_ipv4_is_itself() {
        let of = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }
}
