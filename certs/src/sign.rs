//! Signing: the only place where a CA's private key is used on a certificate. It takes [`Checked`] bytes
//! and signs exactly those.

use rustls_pki_types::CertificateDer;

use crate::check::Checked;
use crate::der;
use crate::key::{KeyError, PrivateKey};

/// Signs the checked bytes with `key`, which must be the issuer's; answers the certificate's DER.
pub fn sign(checked: &Checked, key: &PrivateKey) -> Result<CertificateDer<'static>, KeyError> {
    let signature = key.sign(checked.tbs())?;
    let parts = [checked.tbs(), key.algorithm_identifier(), &der::bit_string(&signature)];
    Ok(CertificateDer::from(der::sequence(&parts)))
}
