//! Who is subscribed, and what each one really has.
//!
//! Facts, not guesses: what was sent, what was accepted, what was refused and why. Envoy opens one stream
//! per secret, so streams of one node and process count as one subscriber. One that went away is
//! remembered for as long as its process lives, because it then goes on using what it had. Where its process
//! cannot be seen (an Envoy in a container of its own, say), also across restarts of the agent, until the
//! node is back: with its streams, or as a process that can be seen and has accepted roots.

use super::process::Process;
use super::subscription::Resource;
use signet_certs::serial::Serial;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::watch;

/// Most subscribers, those that went away included, and most streams.
const MOST: usize = 256;

/// SHA-256 of roots' DER.
pub(crate) type RootDigests = Arc<BTreeSet<[u8; 32]>>;

/// One resource as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    Certificate(Serial),
    /// With the digest of the CRLs beside them, if there are any.
    Roots(RootDigests, Option<[u8; 32]>),
}

impl Content {
    /// Of which secret it is.
    pub(super) fn resource(&self) -> Resource {
        match self {
            Self::Certificate(_) => Resource::Certificate,
            Self::Roots(..) => Resource::Roots,
        }
    }
}

/// How far one stream is with one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delivery<T> {
    /// The last content that was accepted.
    pub(crate) accepted: Option<T>,
    /// Sent, and neither accepted nor refused yet.
    pub(crate) pending: Option<T>,
    /// Why the last content was refused, until another one is sent.
    pub(crate) rejected: Option<String>,
}

impl<T: PartialEq + Clone> Delivery<T> {
    fn new() -> Self {
        Self { accepted: None, pending: None, rejected: None }
    }

    fn sent(&mut self, content: &T) {
        self.pending = Some(content.clone());
        self.rejected = None;
    }

    fn accepted(&mut self, content: &T) {
        self.accepted = Some(content.clone());
        if self.pending.as_ref() == Some(content) {
            self.pending = None;
        }
    }

    fn rejected(&mut self, content: &T, reason: &str) {
        if self.pending.as_ref() == Some(content) {
            self.pending = None;
            self.rejected = Some(reason.to_owned());
        }
    }

    /// Whether the last content that was sent is accepted.
    pub(crate) fn is_settled(&self) -> bool {
        self.accepted.is_some() && self.pending.is_none() && self.rejected.is_none()
    }
}

/// One stream; `None` for what it does not watch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StreamFacts {
    pub(crate) certificate: Option<Delivery<Serial>>,
    pub(crate) roots: Option<Delivery<RootDigests>>,
}

/// One subscriber.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Subscriber {
    /// Its streams; none if it went away while its process lives, or may live.
    pub(crate) streams: BTreeMap<u64, StreamFacts>,
    /// The leaf that it accepted last on a stream that has ended.
    pub(crate) last_serial: Option<Serial>,
}

impl Subscriber {
    fn has_accepted_roots(&self) -> bool {
        let mut roots = self.streams.values().filter_map(|facts| facts.roots.as_ref());
        roots.any(|delivery| delivery.accepted.is_some())
    }
}

/// A node and, where the socket tells it, the process that speaks for it.
pub(crate) type Key = (String, Option<Process>);

#[derive(Debug, Default)]
struct Table {
    subscribers: BTreeMap<Key, Subscriber>,
    streams: usize,
    next: u64,
}

/// All subscribers.
#[derive(Debug, Default)]
pub struct Subscribers {
    table: Mutex<Table>,
    changes: watch::Sender<()>,
}

/// There are as many subscribers as we keep track of.
#[derive(Debug)]
pub(super) struct Full;

impl Subscribers {
    /// Begins with subscribers of an earlier run of the agent. Those whose process lives, or may live, go on
    /// using what they had, and have not come back yet.
    pub(crate) fn remembering(earlier: Vec<Key>) -> Self {
        let known = earlier.into_iter().map(|key| (key, Subscriber::default()));
        let table = Table { subscribers: known.take(MOST).collect(), ..Table::default() };
        Self { table: Mutex::new(table), changes: watch::Sender::new(()) }
    }

    /// What the next run must remember, as [`Subscribers::remembering`] takes it.
    pub(crate) fn to_remember(&self) -> Vec<Key> {
        let mut table = self.table();
        table.forget_ended();
        table.subscribers.keys().cloned().collect()
    }

    /// Adds a stream. An observer is counted as a stream and otherwise leaves no trace.
    pub(super) fn join(
        self: &Arc<Self>,
        node: String,
        process: Option<Process>,
        observer: bool,
    ) -> Result<Registration, Full> {
        let mut table = self.table();
        table.forget_ended();
        let key = (node, process);
        let known = table.subscribers.contains_key(&key);
        if !observer && !known && table.subscribers.len() >= MOST {
            table.make_room();
        }
        if table.streams >= MOST || (!observer && !known && table.subscribers.len() >= MOST) {
            return Err(Full);
        }
        table.streams += 1;
        table.next += 1;
        let id = table.next;
        if !observer {
            let subscriber = table.subscribers.entry(key.clone()).or_default();
            subscriber.streams.insert(id, StreamFacts::default());
        }
        drop(table);
        self.changes.send_replace(());
        Ok(Registration { subscribers: self.clone(), key: (!observer).then_some(key), id })
    }

    /// All subscribers of this moment; those whose process has ended are forgotten first.
    pub(crate) fn snapshot(&self) -> Vec<Subscriber> {
        let mut table = self.table();
        table.forget_ended();
        table.subscribers.values().cloned().collect()
    }

    /// Marks each change of the facts.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing panics while it is held; if something did, the facts are still the last good ones.
        self.table.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Table {
    fn forget_ended(&mut self) {
        // A node id names one proxy, so this is the one that went away.
        let returned: BTreeSet<_> = self
            .subscribers
            .iter()
            .filter(|((_, process), subscriber)| process.is_some() && subscriber.has_accepted_roots())
            .map(|((node, _), _)| node.clone())
            .collect();
        self.subscribers.retain(|(node, process), subscriber| {
            // Without a process to look at, only its return can tell.
            !subscriber.streams.is_empty() || process.map_or_else(|| !returned.contains(node), Process::lives)
        });
    }

    /// Puts one entry in the place of all that went away without a process to look at: that there are some
    /// is all that a statement says of them. No node has its empty name, so it stays; a living subscriber
    /// that is refused its secrets would be worse than a doubt that stays.
    fn make_room(&mut self) {
        let before = self.subscribers.len();
        self.subscribers.retain(|(_, process), one| process.is_some() || !one.streams.is_empty());
        if self.subscribers.len() < before {
            self.subscribers.insert((String::new(), None), Subscriber::default());
        }
    }
}

/// A stream's entry; dropped with the stream.
#[derive(Debug)]
pub(super) struct Registration {
    subscribers: Arc<Subscribers>,
    key: Option<Key>,
    id: u64,
}

impl Registration {
    /// The stream now watches exactly these.
    pub(super) fn watches(&self, resources: &[Resource]) {
        self.update(|facts| {
            let keep = |resource| resources.contains(&resource);
            if !keep(Resource::Certificate) {
                facts.certificate = None;
            } else if facts.certificate.is_none() {
                facts.certificate = Some(Delivery::new());
            }
            if !keep(Resource::Roots) {
                facts.roots = None;
            } else if facts.roots.is_none() {
                facts.roots = Some(Delivery::new());
            }
        });
    }

    pub(super) fn sent(&self, contents: &[Content]) {
        self.each(contents, |certificate, serial| certificate.sent(serial), |roots, set| roots.sent(set));
    }

    pub(super) fn accepted(&self, contents: &[Content]) {
        self.each(contents, |one, serial| one.accepted(serial), |one, set| one.accepted(set));
    }

    pub(super) fn rejected(&self, contents: &[Content], reason: &str) {
        self.each(contents, |one, serial| one.rejected(serial, reason), |one, set| one.rejected(set, reason));
    }

    fn each(
        &self,
        contents: &[Content],
        on_certificate: impl Fn(&mut Delivery<Serial>, &Serial),
        on_roots: impl Fn(&mut Delivery<RootDigests>, &RootDigests),
    ) {
        self.update(|facts| {
            for content in contents {
                match (content, &mut facts.certificate, &mut facts.roots) {
                    (Content::Certificate(serial), Some(delivery), _) => on_certificate(delivery, serial),
                    (Content::Roots(set, _), _, Some(delivery)) => on_roots(delivery, set),
                    // Not watched any more.
                    _ => {}
                }
            }
        });
    }

    fn update(&self, change: impl FnOnce(&mut StreamFacts)) {
        let Some(key) = &self.key else { return };
        let mut table = self.subscribers.table();
        let subscriber = table.subscribers.get_mut(key);
        if let Some(facts) = subscriber.and_then(|subscriber| subscriber.streams.get_mut(&self.id)) {
            change(facts);
        }
        drop(table);
        self.subscribers.changes.send_replace(());
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut table = self.subscribers.table();
        table.streams -= 1;
        let subscriber = self.key.as_ref().and_then(|key| table.subscribers.get_mut(key));
        if let Some(subscriber) = subscriber
            && let Some(facts) = subscriber.streams.remove(&self.id)
            && let Some(serial) = facts.certificate.and_then(|delivery| delivery.accepted)
        {
            subscriber.last_serial = Some(serial);
        }
        drop(table);
        self.subscribers.changes.send_replace(());
    }
}
