//! Short texts: SPIFFE IDs, trust domains, durations, serial numbers; and PEM as a form.

use signet_certs::duration;
use signet_certs::pem;
use signet_certs::serial::Serial;
use signet_certs::spiffe_id::{MAX_SPIFFE_ID, MAX_TRUST_DOMAIN, SpiffeId, TrustDomain};

use super::{assert_printable, pki};

/// What is read prints as what is read again.
pub fn names(data: &[u8]) {
    pem_blocks(data);
    let Ok(text) = str::from_utf8(data) else { return };
    match SpiffeId::parse(text) {
        Ok(id) => {
            assert_eq!(id.to_string(), text);
            assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
            assert!(text.len() <= MAX_SPIFFE_ID && id.trust_domain().as_str().len() <= MAX_TRUST_DOMAIN);
            assert_eq!(TrustDomain::parse(id.trust_domain().as_str()).as_ref(), Ok(id.trust_domain()));
            assert!(!id.path().split('/').any(|segment| segment == "." || segment == ".."));
        }
        Err(error) => assert_printable(&error.to_string()),
    }
    if let Some((domain, (namespace, account))) =
        text.split_once('\n').and_then(|(domain, rest)| Some((domain, rest.split_once('\n')?)))
        && let Ok(domain) = TrustDomain::parse(domain)
        && let Ok(id) = SpiffeId::workload(&domain, namespace, account)
    {
        assert_eq!(SpiffeId::parse(id.as_str()).as_ref(), Ok(&id));
        assert_eq!(id.path(), format!("/ns/{namespace}/sa/{account}"));
        assert_eq!(id.path().split('/').count(), 5, "no name adds a segment");
    }
    match duration::parse(text) {
        Ok(length) => {
            assert!(!length.is_zero());
            assert_eq!(duration::parse(&format!("{}ms", length.as_millis())), Ok(length));
            assert!(pki::now().checked_add(length * 2).is_some() && pki::now().checked_sub(length).is_some());
        }
        Err(what) => assert_printable(&what),
    }
    if let Some(serial) = Serial::parse(text) {
        assert_eq!(Serial::parse(&serial.to_string()), Some(serial));
    }
}

fn pem_blocks(data: &[u8]) {
    let found = match pem::blocks(data) {
        Ok(found) => found,
        Err(error) => return assert_printable(&error.to_string()),
    };
    for block in &found {
        let again = pem::blocks(pem::encode(&block.label, &block.der).as_bytes()).unwrap();
        assert!(matches!(again.as_slice(), [one] if one.der == block.der && one.label == block.label));
    }
    if let Ok(text) = str::from_utf8(data)
        && let Ok(only) = pem::only(text)
    {
        assert!(matches!(found.as_slice(), [one] if one.der == only.der));
    }
}
