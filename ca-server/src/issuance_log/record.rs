//! What a record says: the typed side of `signet.log.v1.Record`.
//!
//! An [`Entry`] is what a caller wants recorded; a [`Record`] is an entry with its place in a log. The bytes
//! of a record are made once, by the writer, and are the leaf of the Merkle tree: they are kept as written
//! and never encoded again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::Message;
use serde::{Serialize, Serializer};
use signet_certs::digest::hex;
use signet_proto::signet::log::v1 as proto;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The layout of the records that we write, and the newest that we read.
pub(super) const LAYOUT: u32 = 1;

/// Something to be recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// When it happened; kept to the microsecond.
    #[serde(serialize_with = "rfc3339")]
    pub time: SystemTime,
    /// What happened.
    #[serde(flatten)]
    pub body: EntryBody,
}

/// The two kinds of entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
#[expect(clippy::large_enum_variant, reason = "nearly every entry is a certificate")]
pub enum EntryBody {
    /// A certificate was signed.
    Certificate(CertificateEntry),
    /// An administrator, or the CA by itself, changed the CA's state.
    Act(ActEntry),
}

/// A certificate that was signed. Empty strings and lists mean "none".
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CertificateEntry {
    /// Big-endian, without a leading zero octet, at most 20 octets.
    #[serde(serialize_with = "hex_bytes")]
    pub serial: Vec<u8>,
    /// SPIFFE ID; empty for the CA's own serving certificates.
    pub identity: String,
    /// What tells consumers of one identity apart: the pod's uid, or the id that an agent sends.
    pub instance: String,
    /// Why the caller was believed.
    pub evidence: EvidenceEntry,
    /// SHA-256 of the SubjectPublicKeyInfo.
    #[serde(serialize_with = "hex_bytes")]
    pub key_hash: [u8; 32],
    /// Subject key identifier of the issuer.
    #[serde(serialize_with = "hex_bytes")]
    pub issuer_key_id: Vec<u8>,
    /// Start of the validity; whole seconds.
    #[serde(serialize_with = "rfc3339")]
    pub not_before: SystemTime,
    /// End of the validity, inclusive; whole seconds.
    #[serde(serialize_with = "rfc3339")]
    pub not_after: SystemTime,
    /// "workload" or "serving".
    pub profile: String,
    /// Epoch of the trust object that the caller was answered with.
    pub trust_epoch: u64,
    /// Its sequence within the epoch.
    pub trust_sequence: u64,
    /// SHA-256 of each root that the caller was answered with.
    #[serde(serialize_with = "hex_list")]
    pub root_digests: Vec<[u8; 32]>,
    /// What the caller's `clusterid` header said.
    pub cluster: String,
    /// The request that asked for it.
    pub request_id: String,
    /// SHA-256 of the certificate's DER.
    #[serde(serialize_with = "hex_bytes")]
    pub certificate_hash: [u8; 32],
    /// Names of a serving certificate.
    pub dns_names: Vec<String>,
    /// Of a CA certificate: what it signs names it so.
    #[serde(serialize_with = "hex_bytes")]
    pub subject_key_id: Vec<u8>,
}

/// Why a caller was believed. Nothing in it can be used to authenticate again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct EvidenceEntry {
    /// "token", "certificate" for a renewal by the certificate before, or "none" for what the CA signs for
    /// itself. What a renewal says of a token is of the one that its chain of renewals began with.
    pub kind: String,
    /// The token's issuer.
    pub issuer: String,
    /// SHA-256 of the token's id, or of the token where it has none; empty without a token.
    #[serde(serialize_with = "hex_bytes")]
    pub token_id_hash: Vec<u8>,
    /// From the token's claims, where it has them.
    pub pod_name: String,
    /// From the token's claims, where it has them.
    pub pod_uid: String,
    /// From the token's claims, where it has them.
    pub node_name: String,
    /// From the token's claims, where it has them.
    pub node_uid: String,
    /// Where a renewal by certificate came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renewal: Option<RenewalEntry>,
}

/// Where a renewal by certificate came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RenewalEntry {
    /// Serial of the certificate that was shown.
    #[serde(serialize_with = "hex_bytes")]
    pub predecessor: Vec<u8>,
    /// Serial of the certificate that a token was answered with; all these renewals followed it.
    #[serde(serialize_with = "hex_bytes")]
    pub first: Vec<u8>,
    /// When that was issued; whole seconds.
    #[serde(serialize_with = "rfc3339")]
    pub token_time: SystemTime,
}

/// Something that an administrator, or the CA by itself, did to the CA's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ActEntry {
    /// Such as "authority-active". In JSON `act`, because `kind` there tells acts from certificates.
    #[serde(rename = "act")]
    pub kind: String,
    /// `uid:<n>` over the admin socket, "ca-server" for what it did by itself.
    pub actor: String,
    /// What it was done to.
    pub subject: String,
    /// Why.
    pub reason: String,
}

/// An entry with its place in a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Record {
    /// SHA-256 of the log's public key.
    #[serde(serialize_with = "hex_bytes")]
    pub log_id: [u8; 32],
    /// Its place; the first record of a log has 0.
    pub index: u64,
    /// What it says.
    #[serde(flatten)]
    pub entry: Entry,
}

/// Why bytes are not a record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// They are no protobuf message of this type.
    #[error("cannot decode the record")]
    Encoding(#[source] prost::DecodeError),
    /// A later program wrote it.
    #[error("record has layout {0}; this program knows {LAYOUT}")]
    Layout(u32),
    /// A field is missing or has a value that it cannot have.
    #[error("record has no valid {0}")]
    Field(&'static str),
}

impl Entry {
    /// A certificate that was signed at `time`.
    pub fn certificate(time: SystemTime, certificate: CertificateEntry) -> Entry {
        Entry { time, body: EntryBody::Certificate(certificate) }
    }

    /// An act of `time`.
    pub fn act(time: SystemTime, act: ActEntry) -> Entry {
        Entry { time, body: EntryBody::Act(act) }
    }

    /// The entry as the record `index` of the log `log_id`.
    pub(crate) fn into_proto(self, log_id: &[u8; 32], index: u64) -> proto::Record {
        let body = match self.body {
            EntryBody::Certificate(certificate) => proto::record::Body::Certificate(certificate.into_proto()),
            EntryBody::Act(act) => proto::record::Body::Act(proto::Act {
                kind: act.kind,
                actor: act.actor,
                subject: act.subject,
                reason: act.reason,
            }),
        };
        proto::Record {
            layout: LAYOUT,
            log_id: log_id.to_vec(),
            index,
            time: microseconds(self.time),
            place_in_batch: 0,
            body: Some(body),
        }
    }
}

impl CertificateEntry {
    fn into_proto(self) -> proto::Certificate {
        proto::Certificate {
            serial: self.serial,
            identity: self.identity,
            instance: self.instance,
            evidence: Some(proto::Evidence {
                kind: self.evidence.kind,
                issuer: self.evidence.issuer,
                token_id_hash: self.evidence.token_id_hash,
                pod_name: self.evidence.pod_name,
                pod_uid: self.evidence.pod_uid,
                node_name: self.evidence.node_name,
                node_uid: self.evidence.node_uid,
                renewal: self.evidence.renewal.map(|renewal| proto::Renewal {
                    predecessor: renewal.predecessor,
                    first: renewal.first,
                    token_time: seconds(renewal.token_time),
                }),
            }),
            key_hash: self.key_hash.to_vec(),
            issuer_key_id: self.issuer_key_id,
            not_before: seconds(self.not_before),
            not_after: seconds(self.not_after),
            profile: self.profile,
            trust_epoch: self.trust_epoch,
            trust_sequence: self.trust_sequence,
            root_digests: self.root_digests.iter().map(|digest| digest.to_vec()).collect(),
            cluster: self.cluster,
            request_id: self.request_id,
            certificate_hash: self.certificate_hash.to_vec(),
            dns_names: self.dns_names,
            subject_key_id: self.subject_key_id,
        }
    }

    fn from_proto(certificate: proto::Certificate) -> Result<CertificateEntry, RecordError> {
        let evidence = certificate.evidence.unwrap_or_default();
        let renewal = |renewal: proto::Renewal| {
            Ok(RenewalEntry {
                predecessor: renewal.predecessor,
                first: renewal.first,
                token_time: from_microseconds(i128::from(renewal.token_time) * 1_000_000)
                    .ok_or(RecordError::Field("time of the token"))?,
            })
        };
        Ok(CertificateEntry {
            serial: certificate.serial,
            identity: certificate.identity,
            instance: certificate.instance,
            evidence: EvidenceEntry {
                kind: evidence.kind,
                issuer: evidence.issuer,
                token_id_hash: evidence.token_id_hash,
                pod_name: evidence.pod_name,
                pod_uid: evidence.pod_uid,
                node_name: evidence.node_name,
                node_uid: evidence.node_uid,
                renewal: evidence.renewal.map(renewal).transpose()?,
            },
            key_hash: sha256(certificate.key_hash, "key hash")?,
            issuer_key_id: certificate.issuer_key_id,
            not_before: from_microseconds(i128::from(certificate.not_before) * 1_000_000)
                .ok_or(RecordError::Field("not-before"))?,
            not_after: from_microseconds(i128::from(certificate.not_after) * 1_000_000)
                .ok_or(RecordError::Field("not-after"))?,
            profile: certificate.profile,
            trust_epoch: certificate.trust_epoch,
            trust_sequence: certificate.trust_sequence,
            root_digests: certificate
                .root_digests
                .into_iter()
                .map(|digest| sha256(digest, "root digest"))
                .collect::<Result<_, _>>()?,
            cluster: certificate.cluster,
            request_id: certificate.request_id,
            certificate_hash: sha256(certificate.certificate_hash, "certificate hash")?,
            dns_names: certificate.dns_names,
            subject_key_id: certificate.subject_key_id,
        })
    }
}

impl Record {
    /// Reads the bytes of one record.
    ///
    /// # Errors
    /// They are not a record of a layout that is known here.
    pub fn decode(bytes: &[u8]) -> Result<Record, RecordError> {
        let record = proto::Record::decode(bytes).map_err(RecordError::Encoding)?;
        if record.layout != LAYOUT {
            return Err(RecordError::Layout(record.layout));
        }
        let body = match record.body.ok_or(RecordError::Field("body"))? {
            proto::record::Body::Certificate(certificate) => {
                EntryBody::Certificate(CertificateEntry::from_proto(certificate)?)
            }
            proto::record::Body::Act(act) => EntryBody::Act(ActEntry {
                kind: act.kind,
                actor: act.actor,
                subject: act.subject,
                reason: act.reason,
            }),
        };
        let time = from_microseconds(record.time.into()).ok_or(RecordError::Field("time"))?;
        Ok(Record {
            log_id: sha256(record.log_id, "log id")?,
            index: record.index,
            entry: Entry { time, body },
        })
    }

    /// The certificate, if the record is of one.
    pub fn certificate(&self) -> Option<&CertificateEntry> {
        match &self.entry.body {
            EntryBody::Certificate(certificate) => Some(certificate),
            EntryBody::Act(_) => None,
        }
    }
}

/// The part of a record that says where it belongs; its other fields are skipped, not decoded.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Place {
    #[prost(uint32, tag = "1")]
    pub(super) layout: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) log_id: Vec<u8>,
    #[prost(uint64, tag = "3")]
    pub(super) index: u64,
    #[prost(uint32, tag = "5")]
    pub(super) place_in_batch: u32,
}

impl Place {
    /// How many records were durable when this one was written.
    pub(super) fn durable_before(&self) -> u64 {
        self.index.saturating_sub(self.place_in_batch.into())
    }
}

/// A time in UTC, with as many digits as it needs.
pub(super) fn format_time(time: SystemTime) -> String {
    // Fails only for years that RFC 3339 cannot write, and no time of that kind is decoded.
    OffsetDateTime::from(time).format(&Rfc3339).unwrap_or_else(|_| "(beyond the year 9999)".to_owned())
}

pub(super) fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format_time(*time))
}

pub(super) fn hex_bytes<S: Serializer>(bytes: impl AsRef<[u8]>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&hex(bytes.as_ref()))
}

fn hex_list<S: Serializer>(list: &[[u8; 32]], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(list.iter().map(|bytes| hex(bytes)))
}

fn sha256(bytes: Vec<u8>, field: &'static str) -> Result<[u8; 32], RecordError> {
    bytes.try_into().map_err(|_| RecordError::Field(field))
}

/// Microseconds since 1970, as far as they fit.
fn microseconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |micros| -micros),
    }
}

/// Whole seconds since 1970.
pub(super) fn seconds(time: SystemTime) -> i64 {
    microseconds(time).div_euclid(1_000_000)
}

/// Nothing for years that no certificate can name.
fn from_microseconds(micros: i128) -> Option<SystemTime> {
    let time = OffsetDateTime::from_unix_timestamp_nanos(micros.checked_mul(1000)?).ok()?;
    (0..=9999).contains(&time.year()).then(|| time.into())
}

/// Whole seconds since 1970 as a time, for values that [`seconds`] made.
pub(super) fn from_seconds(seconds: i64) -> SystemTime {
    let length = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { UNIX_EPOCH - length } else { UNIX_EPOCH + length }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    pub(in crate::issuance_log) fn time() -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(1_790_000_000_123_456)
    }

    /// The certificate number `n` of a made-up log; serials and instances differ, identities repeat.
    pub(crate) fn certificate(n: u64) -> Entry {
        let mut serial = vec![0x40; 16];
        serial[8..].copy_from_slice(&n.to_be_bytes());
        let issued = UNIX_EPOCH + Duration::from_secs(1_790_000_000 + n);
        let certificate = CertificateEntry {
            serial,
            identity: format!("spiffe://example.org/ns/shop/sa/account-{}", n % 3),
            instance: format!("pod-{n}"),
            evidence: EvidenceEntry {
                kind: "token".to_owned(),
                issuer: "https://issuer.example.org".to_owned(),
                token_id_hash: vec![3; 32],
                pod_name: "reviews-1".to_owned(),
                ..EvidenceEntry::default()
            },
            key_hash: [1; 32],
            issuer_key_id: vec![2; 20],
            not_before: issued - Duration::from_secs(120),
            not_after: issued + Duration::from_secs(86400),
            profile: "workload".to_owned(),
            trust_epoch: 1,
            trust_sequence: 2,
            root_digests: vec![[4; 32], [5; 32]],
            cluster: "Kubernetes".to_owned(),
            request_id: format!("request-{n}"),
            certificate_hash: [6; 32],
            dns_names: Vec::new(),
            subject_key_id: Vec::new(),
        };
        Entry::certificate(issued, certificate)
    }

    pub(in crate::issuance_log) fn act() -> Entry {
        let act = ActEntry {
            kind: "authority-active".to_owned(),
            actor: "uid:0".to_owned(),
            subject: "0202".to_owned(),
            reason: "start".to_owned(),
        };
        Entry::act(time(), act)
    }

    #[test]
    fn a_record_comes_back_as_it_was_written() {
        let mut renewed = certificate(8);
        if let EntryBody::Certificate(certificate) = &mut renewed.body {
            certificate.evidence.kind = "certificate".to_owned();
            let token_time = UNIX_EPOCH + Duration::from_secs(1_790_000_000);
            certificate.evidence.renewal =
                Some(RenewalEntry { predecessor: vec![7; 16], first: vec![8; 16], token_time });
            certificate.subject_key_id = vec![9; 20];
        }
        for (index, entry) in [(0, certificate(7)), (1, act()), (2, renewed)] {
            let bytes = entry.clone().into_proto(&[9; 32], index).encode_to_vec();
            let record = Record::decode(&bytes).unwrap();
            assert_eq!(record, Record { log_id: [9; 32], index, entry });
            let place = Place::decode(&bytes[..]).unwrap();
            assert_eq!((place.log_id, place.index), (vec![9; 32], index));
        }
    }

    #[test]
    fn what_is_not_a_record_is_refused_by_field() {
        let good = certificate(7).into_proto(&[9; 32], 0);
        let error = |change: fn(&mut proto::Record)| {
            let mut record = good.clone();
            change(&mut record);
            Record::decode(&record.encode_to_vec()).unwrap_err().to_string()
        };
        fn certificate_of(record: &mut proto::Record) -> &mut proto::Certificate {
            match record.body.as_mut().unwrap() {
                proto::record::Body::Certificate(certificate) => certificate,
                proto::record::Body::Act(_) => unreachable!(),
            }
        }
        assert_eq!(error(|r| r.layout = 2), "record has layout 2; this program knows 1");
        assert_eq!(error(|r| r.body = None), "record has no valid body");
        assert_eq!(error(|r| r.log_id = vec![1]), "record has no valid log id");
        assert_eq!(error(|r| r.time = i64::MAX), "record has no valid time");
        assert_eq!(error(|r| certificate_of(r).not_after = i64::MAX), "record has no valid not-after");
        assert_eq!(error(|r| certificate_of(r).not_before = i64::MIN), "record has no valid not-before");
        let renewed = |r: &mut proto::Record| {
            certificate_of(r).evidence.as_mut().unwrap().renewal =
                Some(proto::Renewal { token_time: i64::MAX, ..proto::Renewal::default() });
        };
        assert_eq!(error(renewed), "record has no valid time of the token");
        assert_eq!(error(|r| certificate_of(r).key_hash.clear()), "record has no valid key hash");
        assert_eq!(error(|r| certificate_of(r).root_digests[1].clear()), "record has no valid root digest");
        assert_eq!(
            error(|r| certificate_of(r).certificate_hash.clear()),
            "record has no valid certificate hash"
        );
        assert!(matches!(Record::decode(&[0xff; 9]), Err(RecordError::Encoding(_))));
    }

    #[test]
    fn json_has_hex_bytes_and_readable_times() {
        let record = Record { log_id: [0xab; 32], index: 4, entry: certificate(1) };
        let json = serde_json::to_value(&record).unwrap();
        assert_eq!(json["kind"], "certificate");
        assert_eq!(json["index"], 4);
        assert_eq!(json["log_id"], "ab".repeat(32));
        assert_eq!(json["serial"], "40404040404040400000000000000001");
        assert_eq!(json["time"], "2026-09-21T14:13:21Z");
        assert_eq!(json["root_digests"][1], "05".repeat(32));
        assert_eq!(json["evidence"]["token_id_hash"], "03".repeat(32));
        let json = serde_json::to_value(act()).unwrap();
        assert_eq!(json["kind"], "act");
        assert_eq!(json["act"], "authority-active");
        assert_eq!(json["time"], "2026-09-21T14:13:20.123456Z");
    }

    #[test]
    fn times_before_1970_round_down() {
        assert_eq!(seconds(UNIX_EPOCH - Duration::from_millis(1)), -1);
        assert_eq!(from_seconds(-1), UNIX_EPOCH - Duration::from_secs(1));
    }
}
