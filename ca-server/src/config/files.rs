//! The files that the configuration names: read and judged before anything starts, so that one start shows
//! all that must be mended. Nothing is written.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use signet_certs::cacerts::Cacerts;
use signet_certs::spiffe_id::TrustDomain;
use signet_service::logging::with_causes;
use signet_service::settings::Values;

use super::Serving;
use crate::attestation::{Attestation, TokenIssuer};
use crate::authority::{loader, rehearsal};
use crate::data_folder;
use crate::sealing::Sealer;

/// What could be read of the configuration; what could not is a fault already.
pub(super) struct Named<'a> {
    pub(super) cacerts: Option<&'a Path>,
    pub(super) data: Option<&'a Path>,
    pub(super) key_encryption_key_file: Option<&'a Path>,
    pub(super) serving: Option<&'a Serving>,
    pub(super) trust_domain: Option<&'a TrustDomain>,
    /// Each with its key.
    pub(super) token_issuers: &'a [(String, TokenIssuer)],
}

/// Each fault under the key that names the file.
pub(super) fn examine(named: &Named<'_>, starts: bool, values: &mut Values) {
    for (key, issuer) in named.token_issuers {
        if let Err(error) = Attestation::try_keys(issuer) {
            values.fault(key, with_causes(&error));
        }
    }
    if let Err(error) = Sealer::from_file(named.key_encryption_key_file) {
        values.fault("key_encryption_key_file", with_causes(&error));
    }
    if let Some(data) = named.data
        && let Err(error) = data_folder::check_writable(data)
    {
        values.fault("data", with_causes(&error));
    }
    let started_before = starts && named.data.is_some_and(data_folder::has_authority);
    if let Some(cacerts) = named.cacerts.filter(|_| !started_before) {
        examine_cacerts(cacerts, named, values);
    }
}

fn examine_cacerts(folder: &Path, named: &Named<'_>, values: &mut Values) {
    let now = SystemTime::now();
    let read = loader::read(folder);
    if read.is_empty() {
        return;
    }
    let cacerts = match Cacerts::read(&read, now) {
        Ok(cacerts) => cacerts,
        Err(faults) => {
            for fault in faults {
                values.fault("cacerts", format!("{}: {fault}", folder.display()));
            }
            return;
        }
    };
    let (Some(trust_domain), Some(serving)) = (named.trust_domain, named.serving) else { return };
    let issuers = named.token_issuers.iter().map(|(_, issuer)| &issuer.trust_domain);
    let domains = issuers.chain([trust_domain]).cloned().collect();
    if let Err(error) = rehearsal::rehearse(Arc::new(cacerts), &domains, serving, now) {
        values.fault("cacerts", format!("{}: {}", folder.display(), with_causes(&error)));
    }
}
