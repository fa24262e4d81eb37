//! Distinguished names. Those of others are kept as the bytes they are; the ceremony makes its own.

use std::net::IpAddr;

use x509_parser::asn1_rs::{Any, Tag};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

use crate::der;

const OID_COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const OID_LOCALITY: &[u8] = &[0x55, 0x04, 0x07];
const OID_ORGANIZATION: &[u8] = &[0x55, 0x04, 0x0a];

/// The name without any attribute, which leaves have.
pub const EMPTY: &[u8] = &[0x30, 0x00];

/// A CA's name: organization, locality where there is one, common name; UTF8String each.
pub fn ca_name(organization: &str, locality: Option<&str>, common_name: &str) -> Vec<u8> {
    let attribute =
        |oid: &[u8], value: &str| der::set(&[&der::sequence(&[&der::oid(oid), &der::utf8_string(value)])]);
    let locality = locality.map(|name| attribute(OID_LOCALITY, name)).unwrap_or_default();
    der::sequence(&[
        &attribute(OID_ORGANIZATION, organization),
        &locality,
        &attribute(OID_COMMON_NAME, common_name),
    ])
}

/// For people: `O=Signet, CN=Root CA`; `(empty)` for a name without attributes. Control characters are
/// escaped, since names come from outside.
pub fn display(der: &[u8]) -> String {
    match X509Name::from_der(der) {
        Ok((_, name)) if name.iter_rdn().next().is_none() => "(empty)".to_owned(),
        Ok((_, name)) => escaped(&name.to_string()),
        Err(_) => "(unreadable name)".to_owned(),
    }
}

/// Whether the bytes are a name to their end. The parser passes over what follows the last part that it knows,
/// and a certificate whose subject it reads so is one that OpenSSL refuses, and so is every leaf under it.
pub(crate) fn is_whole(der: &[u8]) -> bool {
    fn all(tag: Tag, der: &[u8], holds: impl Fn(&[u8]) -> bool) -> bool {
        values(der).is_some_and(|values| values.iter().all(|value| value.tag() == tag && holds(value.data)))
    }
    let attribute = |der: &[u8]| {
        values(der).is_some_and(|pair| matches!(pair.as_slice(), [kind, _] if kind.tag() == Tag::Oid))
    };
    all(Tag::Sequence, der, |name| all(Tag::Set, name, |part| all(Tag::Sequence, part, attribute)))
}

/// The values that stand one behind the other.
fn values(mut der: &[u8]) -> Option<Vec<Any<'_>>> {
    let mut found = Vec::new();
    while !der.is_empty() {
        let (rest, value) = Any::from_der(der).ok()?;
        found.push(value);
        der = rest;
    }
    Some(found)
}

/// For people: a general name with its type, such as `URI:spiffe://td/x` or `DNS:localhost`; control
/// characters are escaped.
pub fn display_general(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::URI(uri) => format!("URI:{}", escaped(uri)),
        GeneralName::DNSName(host) => format!("DNS:{}", escaped(host)),
        GeneralName::RFC822Name(address) => format!("email:{}", escaped(address)),
        GeneralName::IPAddress(bytes) => match ip_address(bytes) {
            Some(address) => format!("IP:{address}"),
            None => "IP:(of a wrong length)".to_owned(),
        },
        GeneralName::DirectoryName(name) => format!("DirName:({})", escaped(&name.to_string())),
        GeneralName::RegisteredID(oid) => format!("RID:{oid}"),
        _ => "(a name of another type)".to_owned(),
    }
}

/// The address in the octets of a general name; nothing if they are neither 4 nor 16.
pub(crate) fn ip_address(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => <[u8; 4]>::try_from(octets).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(octets).ok().map(IpAddr::from),
        _ => None,
    }
}

/// Text from outside with its control characters escaped.
pub fn escaped(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_as_they_were_made() {
        assert_eq!(display(&ca_name("Signet", None, "Root CA")), "O=Signet, CN=Root CA");
        assert_eq!(
            display(&ca_name("Signet", Some("cluster1"), "Intermediate CA")),
            "O=Signet, L=cluster1, CN=Intermediate CA"
        );
        assert_eq!(display(EMPTY), "(empty)");
        assert_eq!(display(&[1, 2]), "(unreadable name)");
        assert!(!display(&ca_name("a\u{1b}[2Jb", None, "x")).contains('\u{1b}'));
    }

    #[test]
    fn a_name_is_one_to_its_end() {
        let good = ca_name("Signet", Some("cluster1"), "CA");
        assert!(is_whole(&good) && is_whole(EMPTY));
        let attribute = |value: &[u8]| der::set(&[&der::sequence(&[&der::oid(OID_COMMON_NAME), value])]);
        let name = |parts: &[u8]| der::sequence(&[parts]);
        assert!(is_whole(&name(&attribute(&der::utf8_string("x")))));
        for bad in [
            name(&[attribute(&der::utf8_string("x")), vec![0, 0]].concat()),
            name(&attribute(b"")),
            name(&attribute(&[0x0c, 5])),
            name(&der::set(&[&der::utf8_string("x")])),
            name(&der::sequence(&[])),
            good[..good.len() - 1].to_vec(),
        ] {
            assert!(!is_whole(&bad), "{bad:02x?}");
        }
    }

    #[test]
    fn general_names_show_their_type_and_no_control_characters() {
        for (name, text) in [
            (GeneralName::URI("spiffe://td/x"), "URI:spiffe://td/x"),
            (GeneralName::DNSName("a\nb"), "DNS:a\\nb"),
            (GeneralName::RFC822Name("a@b"), "email:a@b"),
            (GeneralName::IPAddress(&[127, 0, 0, 1]), "IP:127.0.0.1"),
            (GeneralName::IPAddress(&[0; 16]), "IP:::"),
            (GeneralName::IPAddress(&[1, 2]), "IP:(of a wrong length)"),
        ] {
            assert_eq!(display_general(&name), text);
        }
    }
}
