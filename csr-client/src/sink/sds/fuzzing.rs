//! Doors for the fuzz targets: secret discovery as its streams see it, without a socket.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use signet_certs::chain::Certificate;
use signet_certs::key::PrivateKey;
use signet_certs::spiffe_id::TrustDomain;
use signet_proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use signet_proto::signet::trust::v1::Acknowledgement;
use tokio::sync::watch;
use tonic::Status;

use super::stream::{Peer, Stream};
use super::{Source, Subscribers};
use crate::identity::{Served, Svid};
use crate::trust::Trust;
use crate::trust::acknowledgement::{self, Facts};

/// Streams of subscribers whose process cannot be seen, and what is served to them.
pub struct Sds {
    source: Source,
    served: watch::Sender<Served>,
    subscribers: Arc<Subscribers>,
    streams: BTreeMap<usize, Stream>,
    opened: usize,
}

impl Sds {
    /// Nobody is subscribed, and nothing served.
    pub fn new(trust_domain: TrustDomain) -> Self {
        let (served, receiver) = watch::channel(Served::default());
        let source = Source { served: receiver, trust_domain, include_roots_in_chain: false };
        Self { source, served, subscribers: Arc::default(), streams: BTreeMap::new(), opened: 0 }
    }

    /// From now on this leaf is served.
    pub fn serve_leaf(&self, leaf: &Certificate, key: &PrivateKey) {
        let svid = Svid::new(leaf.clone(), Vec::new(), key.to_pkcs8_pem(), SystemTime::now());
        self.served.send_modify(|served| served.svid = Some(Arc::new(svid)));
    }

    /// From now on these roots are served.
    pub fn serve_trust(&self, trust: Trust) {
        self.served.send_modify(|served| served.trust = Some(Arc::new(trust)));
    }

    /// A new stream by its first request.
    ///
    /// # Errors
    /// There is none.
    pub fn open(&mut self, first: DiscoveryRequest) -> Result<usize, Status> {
        let metrics = Arc::default();
        let stream = Stream::open(first, &Peer { subscribers: &self.subscribers, metrics, process: None })?;
        self.opened += 1;
        self.streams.insert(self.opened, stream);
        Ok(self.opened)
    }

    /// Another request of an open stream; one that breaks a rule ends it.
    ///
    /// # Errors
    /// What it is told at its end.
    pub fn take(&mut self, stream: usize, request: DiscoveryRequest) -> Result<(), Status> {
        let Some(open) = self.streams.get_mut(&stream) else { return Ok(()) };
        open.take(request).inspect_err(|_| drop(self.streams.remove(&stream)))
    }

    /// What an open stream is sent now, if anything is due.
    pub fn answer(&mut self, stream: usize) -> Option<DiscoveryResponse> {
        let (open, served) = (self.streams.get_mut(&stream)?, self.served.borrow().clone());
        let due = open.due(&served, &self.source);
        (!due.is_empty()).then(|| open.respond(&due, &served, &self.source))
    }

    /// The subscriber closes a stream.
    pub fn close(&mut self, stream: usize) {
        self.streams.remove(&stream);
    }

    /// What the agent states to the CA.
    pub fn state(&self) -> Option<Acknowledgement> {
        let served = self.served.borrow();
        acknowledgement::state(&Facts {
            own: &self.source.trust_domain,
            trust: served.trust.as_deref()?,
            serial: served.svid.as_ref().map(|svid| svid.serial()),
            subscribers: &self.subscribers.snapshot(),
            files: None,
        })
    }
}
