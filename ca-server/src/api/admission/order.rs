//! In which order those who wait get their turn; without clocks, locks or tasks.
//!
//! Three turns of four go by need: whose certificate ends, the soonest first; then who has none; then whoever
//! renews early. The fourth goes by fairness, to those whose namespace, node and own requests had least, so that
//! need starves nobody: lifetimes are the caller's choice, and whoever asks for short ones always needs another.
//! A caller has one need at a time: what it asks for beside that is early. Where there is no more room, those go
//! who have had most.
//!
//! Fairness is start-time fair queueing: a request is stamped with the time, counted in requests, at which its
//! turn would come if all groups had the same share; of the groups that it belongs to, the busiest decides.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, SystemTime};

/// Of so many turns one goes by fairness, and so much of the room is kept from those whose certificate ends.
const FAIR: usize = 4;
/// Stamps are tidied when there are so many more than can be waiting.
const UNTIDY: usize = 8;

/// Why a certificate is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// The one that the caller has ends then, and is in the second half of its life.
    Ending(SystemTime),
    /// The caller has none.
    First,
    /// The one that it has is good for long.
    Early,
}

impl Need {
    /// What a caller needs whose latest certificate ends at `ends`, and that asks for one of this `lifetime`.
    pub fn of(ends: Option<SystemTime>, lifetime: Duration, now: SystemTime) -> Self {
        match ends.and_then(|ends| Some((ends, ends.duration_since(now).ok()?))) {
            None => Self::First,
            Some((ends, left)) if left <= lifetime / 2 => Self::Ending(ends),
            Some(_) => Self::Early,
        }
    }
}

/// Who asks, as far as attestation has proven it.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// Its identity, and its pod if that is known.
    pub caller: (&'a str, &'a str),
    /// Its trust domain and namespace.
    pub namespace: (&'a str, &'a str),
    /// Its node, if that is known.
    pub node: Option<&'a str>,
}

/// The groups that an asker belongs to, as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Groups {
    pub(super) caller: u64,
    namespace: u64,
    node: Option<u64>,
}

impl Groups {
    /// Numbers that differ from one server to the next, so that nobody can make two groups one.
    pub(super) fn of(asker: &Asker<'_>, hasher: &RandomState) -> Self {
        let number = |kind: u8, name: (&str, &str)| hasher.hash_one((kind, name));
        Self {
            caller: number(0, asker.caller),
            namespace: number(1, asker.namespace),
            node: asker.node.map(|node| number(2, (node, ""))),
        }
    }

    fn all(self) -> impl Iterator<Item = u64> {
        [self.caller, self.namespace].into_iter().chain(self.node)
    }
}

/// Where something stands in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    need: Need,
    stamp: u64,
    number: u64,
}

impl Place {
    fn is_ending(self) -> bool {
        matches!(self.need, Need::Ending(_))
    }

    fn by_fairness(self) -> (u64, u64) {
        (self.stamp, self.number)
    }
}

/// What waits, in order.
#[derive(Debug)]
pub(super) struct Order<T> {
    by_need: BTreeMap<Place, (Groups, T)>,
    /// Where they stand by stamp and number: those whose certificate ends, and the others.
    ending: BTreeMap<(u64, u64), Place>,
    others: BTreeMap<(u64, u64), Place>,
    /// What each group's next stamp is at the least; forgotten when nobody waits.
    stamps: HashMap<u64, u64>,
    /// The stamp of a group that has asked for nothing.
    now: u64,
    /// Callers that wait or have a turn, and how many times.
    callers: HashMap<u64, usize>,
    turns: usize,
    numbers: u64,
}

/// What became of something that came to wait.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entered<T> {
    /// It waits.
    Waits,
    /// It waits, and this had to go.
    InPlaceOf(T),
    /// All that wait come before it.
    Refused,
}

impl<T> Default for Order<T> {
    fn default() -> Self {
        Self {
            by_need: BTreeMap::new(),
            ending: BTreeMap::new(),
            others: BTreeMap::new(),
            stamps: HashMap::new(),
            now: 0,
            callers: HashMap::new(),
            turns: 0,
            numbers: 0,
        }
    }
}

impl<T> Order<T> {
    pub(super) fn len(&self) -> usize {
        self.by_need.len()
    }

    /// Where a newcomer would stand.
    pub(super) fn place(&self, groups: Groups, need: Need) -> Place {
        let need = if self.callers.contains_key(&groups.caller) { Need::Early } else { need };
        let stamp = groups.all().map(|group| self.stamp(group)).max().unwrap_or(self.now);
        Place { need, stamp, number: self.numbers }
    }

    /// Begins to wait at the place that was just found, where there is room for so many; at most one other has
    /// to go for it.
    pub(super) fn enter(&mut self, place: Place, groups: Groups, room: usize, item: T) -> Entered<T> {
        let gone = match self.len() < room {
            true => None,
            false => match self.worse_than(place, room).and_then(|worse| self.remove(worse)) {
                None => return Entered::Refused,
                gone => gone,
            },
        };
        self.numbers += 1;
        for group in groups.all() {
            *self.stamps.entry(group).or_default() = self.stamp(group) + 1;
        }
        self.come(groups.caller);
        self.fair(place).insert(place.by_fairness(), place);
        self.by_need.insert(place, (groups, item));
        match gone {
            None => Entered::Waits,
            Some(gone) => Entered::InPlaceOf(gone),
        }
    }

    /// Whose turn is next.
    pub(super) fn next(&mut self) -> Option<(Groups, T)> {
        self.turns += 1;
        let firsts = [&self.ending, &self.others].map(|fair| fair.first_key_value());
        let fairest = firsts.into_iter().flatten().min().map(|(_, place)| *place);
        self.now = fairest.map_or(self.now, |place| self.now.max(place.stamp));
        let by_fairness = fairest.filter(|_| self.turns.is_multiple_of(FAIR));
        let place = by_fairness.or_else(|| self.by_need.first_key_value().map(|(place, _)| *place))?;
        self.fair(place).remove(&place.by_fairness());
        let next = self.by_need.remove(&place);
        self.tidy();
        next
    }

    /// It waits no longer, and had no turn.
    pub(super) fn remove(&mut self, place: Place) -> Option<T> {
        let (groups, item) = self.by_need.remove(&place)?;
        self.fair(place).remove(&place.by_fairness());
        for group in groups.all() {
            if let Some(stamp) = self.stamps.get_mut(&group) {
                *stamp = stamp.saturating_sub(1);
            }
        }
        self.leave(groups.caller);
        self.tidy();
        Some(item)
    }

    /// How many turns go before its own, at the most, if nobody else comes.
    pub(super) fn ahead(&self, place: Place) -> usize {
        let by_need = self.by_need.range(..place).count();
        let fairer = [&self.ending, &self.others].map(|fair| fair.range(..place.by_fairness()).count());
        let fairer: usize = fairer.into_iter().sum();
        (by_need + by_need.div_ceil(FAIR - 1)).min((fairer + 1) * FAIR)
    }

    /// A caller has a request that waits or has a turn.
    pub(super) fn come(&mut self, caller: u64) {
        *self.callers.entry(caller).or_default() += 1;
    }

    /// That request is over.
    pub(super) fn leave(&mut self, caller: u64) {
        if let Some(requests) = self.callers.get_mut(&caller) {
            *requests -= 1;
            if *requests == 0 {
                self.callers.remove(&caller);
            }
        }
    }

    fn stamp(&self, group: u64) -> u64 {
        self.stamps.get(&group).map_or(self.now, |stamp| self.now.max(*stamp))
    }

    fn fair(&mut self, place: Place) -> &mut BTreeMap<(u64, u64), Place> {
        if place.is_ending() { &mut self.ending } else { &mut self.others }
    }

    /// Who has to go for a newcomer, if somebody has: of its kind the one that had most, if that had more, or
    /// comes later by need. Those whose certificate ends take of the others' room, but not all of it.
    fn worse_than(&self, newcomer: Place, room: usize) -> Option<Place> {
        let last = |fair: &BTreeMap<(u64, u64), Place>| fair.last_key_value().map(|(_, place)| *place);
        if !newcomer.is_ending() {
            return last(&self.others).filter(|most| most.stamp > newcomer.stamp);
        }
        if self.ending.len() < room - room / FAIR && !self.others.is_empty() {
            // Early ones before those that have none, and of them who had most.
            return self.by_need.last_key_value().map(|(place, _)| *place);
        }
        last(&self.ending).filter(|most| most.stamp > newcomer.stamp || *most > newcomer)
    }

    /// Forgets stamps that say nothing.
    fn tidy(&mut self) {
        if self.by_need.is_empty() {
            self.stamps.clear();
        } else if self.stamps.len() > UNTIDY * (64 + self.by_need.len()) {
            self.stamps.retain(|_, stamp| *stamp > self.now);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn asker<'a>(caller: &'a str, namespace: &'a str) -> Asker<'a> {
        Asker { caller: (caller, ""), namespace: ("cluster.local", namespace), node: None }
    }

    fn groups(asker: &Asker<'_>) -> Groups {
        static HASHER: std::sync::LazyLock<RandomState> = std::sync::LazyLock::new(RandomState::new);
        Groups::of(asker, &HASHER)
    }

    struct Queue(Order<String>);

    impl Queue {
        fn new() -> Self {
            Self(Order::default())
        }

        fn ask(&mut self, caller: &str, namespace: &str, need: Need, room: usize) -> Entered<String> {
            let groups = groups(&asker(caller, namespace));
            let place = self.0.place(groups, need);
            self.0.enter(place, groups, room, caller.to_owned())
        }

        fn wait(&mut self, caller: &str, namespace: &str, need: Need) {
            assert_eq!(self.ask(caller, namespace, need, 1000), Entered::Waits);
        }

        fn all(mut self) -> Vec<String> {
            std::iter::from_fn(|| Some(self.0.next()?.1)).collect()
        }
    }

    #[test]
    fn what_is_needed_follows_from_the_certificate_that_the_caller_has() {
        let (day, now) = (Duration::from_secs(86_400), at(1_000_000));
        let need = |left: u64| Need::of(Some(now + Duration::from_secs(left)), day, now);
        assert_eq!(need(43_200), Need::Ending(now + Duration::from_secs(43_200)));
        assert_eq!(need(43_201), Need::Early);
        assert_eq!(Need::of(Some(at(999_999)), day, now), Need::First, "one that has ended is none");
        assert_eq!(Need::of(None, day, now), Need::First);
    }

    #[test]
    fn the_soonest_ending_comes_first_then_who_has_none_then_who_is_early() {
        let mut queue = Queue::new();
        queue.wait("early", "a", Need::Early);
        queue.wait("first", "a", Need::First);
        queue.wait("ends-late", "a", Need::Ending(at(20)));
        queue.wait("ends-soon", "a", Need::Ending(at(10)));
        // The fourth turn is the only one left for whoever is early.
        assert_eq!(queue.all(), ["ends-soon", "ends-late", "first", "early"]);
    }

    #[test]
    fn every_fourth_turn_goes_by_fairness_so_that_need_starves_nobody() {
        let mut queue = Queue::new();
        for number in 0..9 {
            queue.wait(&format!("ends-{number}"), "a", Need::Ending(at(number)));
        }
        queue.wait("first", "b", Need::First);
        queue.wait("early", "b", Need::Early);
        let order = queue.all();
        assert_eq!((order[3].as_str(), order[7].as_str()), ("first", "early"), "{order:?}");
    }

    #[test]
    fn a_busy_namespace_and_a_busy_node_take_turns_with_quiet_ones() {
        let mut queue = Queue::new();
        for number in 0..50 {
            queue.wait(&format!("busy-{number}"), "busy", Need::First);
        }
        queue.wait("quiet", "quiet", Need::First);
        assert_eq!(queue.all().iter().position(|caller| caller == "quiet"), Some(1));

        let mut order = Order::default();
        for number in 0..50 {
            let (caller, namespace) = (format!("busy-{number}"), format!("namespace-{number}"));
            let groups = groups(&Asker { node: Some("busy"), ..asker(&caller, &namespace) });
            order.enter(order.place(groups, Need::First), groups, 1000, caller);
        }
        let groups = groups(&Asker { node: Some("quiet"), ..asker("quiet", "x") });
        order.enter(order.place(groups, Need::First), groups, 1000, "quiet".to_owned());
        assert_eq!(Queue(order).all().iter().position(|caller| caller == "quiet"), Some(1));
    }

    #[test]
    fn a_caller_has_one_need_at_a_time() {
        let mut queue = Queue::new();
        for _ in 0..3 {
            queue.wait("greedy", "a", Need::Ending(at(1)));
        }
        queue.wait("other", "a", Need::First);
        assert_eq!(queue.all()[..2], ["greedy", "other"]);
    }

    #[test]
    fn a_turn_that_is_over_frees_the_caller_s_need() {
        let mut queue = Queue::new();
        queue.wait("a", "a", Need::Ending(at(1)));
        let (groups, _) = queue.0.next().unwrap();
        queue.wait("b", "a", Need::Ending(at(5)));
        queue.wait("a", "a", Need::Ending(at(1)));
        assert_eq!(queue.0.next().unwrap().1, "b", "a's first request is not over yet");
        queue.0.next().unwrap();
        queue.0.leave(groups.caller);
        queue.0.leave(groups.caller);
        queue.wait("c", "a", Need::Ending(at(5)));
        queue.wait("a", "a", Need::Ending(at(1)));
        let (_, (_, first)) = queue.0.by_need.first_key_value().unwrap();
        assert_eq!(first, "a");
    }

    #[test]
    fn where_there_is_no_room_those_go_who_had_most() {
        let mut queue = Queue::new();
        for number in 0..8 {
            assert_eq!(queue.ask(&format!("busy-{number}"), "busy", Need::First, 8), Entered::Waits);
        }
        assert_eq!(queue.ask("busy-8", "busy", Need::First, 8), Entered::Refused);
        let Entered::InPlaceOf(gone) = queue.ask("quiet", "quiet", Need::Early, 8) else { panic!() };
        assert_eq!(gone, "busy-7");
        let Entered::InPlaceOf(gone) = queue.ask("ends", "busy", Need::Ending(at(1)), 8) else { panic!() };
        assert_eq!(gone, "quiet", "early ones go first for whoever has a certificate that ends");
    }

    #[test]
    fn those_that_end_leave_a_fourth_of_the_room_to_others() {
        let mut queue = Queue::new();
        for number in 0..8 {
            queue.wait(&format!("first-{number}"), "a", Need::First);
        }
        for number in 0..6 {
            let entered = queue.ask(&format!("ends-{number}"), "b", Need::Ending(at(10 + number)), 8);
            assert!(matches!(entered, Entered::InPlaceOf(..)), "{number}");
        }
        assert_eq!(queue.ask("ends-last", "b", Need::Ending(at(30)), 8), Entered::Refused);
        let Entered::InPlaceOf(gone) = queue.ask("ends-first", "b", Need::Ending(at(1)), 8) else { panic!() };
        assert_eq!(gone, "ends-5");
        assert_eq!(queue.0.others.len(), 2);
    }

    #[test]
    fn short_certificates_of_one_namespace_do_not_keep_another_s_from_being_renewed() {
        let mut queue = Queue::new();
        for number in 0..100 {
            queue.wait(&format!("short-{number}"), "busy", Need::Ending(at(number)));
        }
        queue.wait("quiet", "quiet", Need::Ending(at(10_000)));
        for turn in 0..8 {
            let (groups, caller) = queue.0.next().unwrap();
            if caller == "quiet" {
                return;
            }
            queue.0.leave(groups.caller);
            queue.wait(&format!("again-{turn}"), "busy", Need::Ending(at(turn)));
        }
        panic!("it was not served");
    }

    #[test]
    fn whoever_has_had_most_goes_also_for_one_whose_certificate_ends_later() {
        let mut queue = Queue::new();
        for number in 0..8 {
            queue.wait(&format!("short-{number}"), "busy", Need::Ending(at(number)));
        }
        let entered = queue.ask("quiet", "quiet", Need::Ending(at(10_000)), 8);
        assert_eq!(entered, Entered::InPlaceOf("short-7".to_owned()));
        assert_eq!(queue.ask("late", "busy", Need::Ending(at(20_000)), 8), Entered::Refused);
    }

    #[test]
    fn whoever_leaves_without_a_turn_is_not_charged_for_it() {
        let mut queue = Queue::new();
        queue.wait("x", "x", Need::First);
        let mut places = Vec::new();
        for number in 0..20 {
            let groups = groups(&asker(&format!("a-{number}"), "a"));
            places.push(queue.0.place(groups, Need::First));
            queue.wait(&format!("a-{number}"), "a", Need::First);
        }
        for place in places {
            queue.0.remove(place).unwrap();
        }
        queue.wait("x-2", "x", Need::First);
        queue.wait("a", "a", Need::First);
        assert_eq!(queue.all(), ["x", "a", "x-2"]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_nobody_waits_longer_than_said(
            requests in prop::collection::vec((0..6_u8, 0..3_u8, 0..3_u8, 1..50_u64), 1..60),
        ) {
            let mut queue = Queue::new();
            let mut last = None;
            let (mut waiting, mut answered) = (0, 0);
            for (caller, namespace, need, ends) in requests {
                let need = [Need::Ending(at(ends)), Need::First, Need::Early][usize::from(need)];
                let (caller, namespace) = (format!("{caller}"), format!("{namespace}"));
                let place = queue.0.place(groups(&asker(&caller, &namespace)), need);
                match queue.ask(&caller, &namespace, need, 20) {
                    Entered::Waits => (waiting, last) = (waiting + 1, Some(place)),
                    Entered::InPlaceOf(_) => (answered, last) = (answered + 1, Some(place)),
                    Entered::Refused => {}
                }
            }
            prop_assert_eq!(queue.0.len(), waiting);
            let last = last.unwrap();
            let ahead = queue.0.by_need.contains_key(&last).then(|| queue.0.ahead(last));
            let mut turns = 0;
            while let Some((groups, _)) = queue.0.next() {
                if ahead.is_some() && !queue.0.by_need.contains_key(&last) {
                    prop_assert!(turns <= ahead.unwrap(), "{} turns, {} said", turns, ahead.unwrap());
                    break;
                }
                queue.0.leave(groups.caller);
                turns += 1;
            }
            prop_assert!(answered + waiting >= 1);
        }
    }
}
