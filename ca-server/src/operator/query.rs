//! Which records an operator wants: the flags of `log list`, the query that travels, and the filter that
//! it becomes.

use std::time::{Duration, SystemTime};

use clap::Args;
use serde::{Deserialize, Serialize};
use signet_certs::clock::rfc3339;
use signet_certs::duration;
use signet_certs::serial::Serial;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::issuance_log::{Filter, IdentityFilter, Kind};

/// Records in one page.
const PAGE: usize = 1000;

/// The conditions; all that are set must hold.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
pub struct RecordQuery {
    /// SPIFFE ID; with a star at its end, those that begin so
    #[arg(long, value_name = "ID")]
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    /// Pod uid or agent id
    #[arg(long, value_name = "ID")]
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
    /// Serial number in hex
    #[arg(long, value_name = "HEX")]
    #[serde(skip_serializing_if = "Option::is_none")]
    serial: Option<String>,
    /// Recorded since this time (RFC 3339) or for this long (such as 1h)
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    /// Recorded before this time (RFC 3339) or until this long ago
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    /// Key id of the issuer in hex
    #[arg(long, value_name = "HEX")]
    #[serde(skip_serializing_if = "Option::is_none")]
    issuer: Option<String>,
    /// workload or serving
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<String>,
    /// certificate or act
    #[arg(long, value_name = "KIND")]
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    /// First record to look at
    #[arg(long, value_name = "INDEX", default_value_t = 0)]
    #[serde(default)]
    pub from: u64,
    /// At most so many records; 0 for all
    #[arg(long, value_name = "N", default_value_t = 0)]
    #[serde(default)]
    pub limit: usize,
}

impl RecordQuery {
    /// Records in the next page.
    pub fn page(&self) -> usize {
        if self.limit == 0 { PAGE } else { self.limit.min(PAGE) }
    }

    /// With times that were given as "so long ago" made absolute, so that every page means the same.
    pub fn resolved(mut self, now: SystemTime) -> Result<Self, String> {
        for time in [&mut self.since, &mut self.until].into_iter().flatten() {
            let absolute = moment(time, now)?;
            // A moment that was given stays as exact as it was given.
            if duration::parse(time).is_ok() {
                *time = rfc3339(absolute);
            }
        }
        self.filter().map(|_| self)
    }

    /// What the log understands; the error says which condition is no good.
    pub fn filter(&self) -> Result<Filter, String> {
        let hex = |text: &String| {
            Serial::parse(text)
                .map(|bytes| bytes.as_bytes().to_vec())
                .ok_or_else(|| format!("{text:?} is not a number in hex"))
        };
        let time = |text: &String| moment(text, SystemTime::UNIX_EPOCH);
        let identity = self.identity.as_ref().map(|text| match text.strip_suffix('*') {
            Some(prefix) => IdentityFilter::Prefix(prefix.to_owned()),
            None => IdentityFilter::Exact(text.clone()),
        });
        let kind = match self.kind.as_deref() {
            None => None,
            Some("certificate") => Some(Kind::Certificate),
            Some("act") => Some(Kind::Act),
            Some(other) => return Err(format!("expected certificate or act, found {other:?}")),
        };
        Ok(Filter {
            kind,
            identity,
            instance: self.instance.clone(),
            serial: self.serial.as_ref().map(hex).transpose()?,
            since: self.since.as_ref().map(time).transpose()?,
            until: self.until.as_ref().map(time).transpose()?,
            issuer_key_id: self.issuer.as_deref().map(key_id).transpose()?,
            profile: self.profile.clone(),
        })
    }
}

/// Key ids keep their leading zeros, unlike serial numbers.
fn key_id(text: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
    if digits.len() != text.chars().count() || !digits.len().is_multiple_of(2) || digits.is_empty() {
        return Err(format!("{text:?} is not a key id in hex"));
    }
    Ok(digits.chunks(2).map(|pair| (pair[0] << 4) | pair[1]).collect())
}

fn moment(text: &str, now: SystemTime) -> Result<SystemTime, String> {
    if let Ok(moment) = OffsetDateTime::parse(text, &Rfc3339) {
        return Ok(SystemTime::from(moment));
    }
    let ago: Duration = duration::parse(text).map_err(|_| {
        format!("{text:?} is neither a time such as 2026-01-31T12:00:00Z nor a duration such as 1h")
    })?;
    Ok(now.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use signet_certs::clock::from_unix;

    #[test]
    fn conditions_become_a_filter() {
        let query = RecordQuery {
            identity: Some("spiffe://td/ns/a/*".into()),
            serial: Some("0A0b".into()),
            issuer: Some("00ff".into()),
            since: Some("1h".into()),
            kind: Some("certificate".into()),
            ..RecordQuery::default()
        };
        let filter = query.resolved(from_unix(7200)).unwrap().filter().unwrap();
        assert_eq!(filter.identity, Some(IdentityFilter::Prefix("spiffe://td/ns/a/".into())));
        assert_eq!(filter.serial.unwrap(), [0x0a, 0x0b]);
        assert_eq!(filter.issuer_key_id.unwrap(), [0, 0xff]);
        assert_eq!(filter.since, Some(from_unix(3600)));
        assert_eq!(filter.kind, Some(Kind::Certificate));
    }

    #[test]
    fn what_is_no_condition_is_said() {
        let fault = |query: RecordQuery| query.filter().unwrap_err();
        assert!(fault(RecordQuery { serial: Some("x".into()), ..Default::default() }).contains("hex"));
        assert!(fault(RecordQuery { issuer: Some("abc".into()), ..Default::default() }).contains("key id"));
        assert!(fault(RecordQuery { since: Some("soon".into()), ..Default::default() }).contains("soon"));
        assert!(
            fault(RecordQuery { kind: Some("x".into()), ..Default::default() })
                .contains("certificate or act")
        );
    }
}
