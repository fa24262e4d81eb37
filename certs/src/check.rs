//! The last look before a signature: encoded bytes are read back by another parser and compared with
//! what was meant. Only [`Checked`] bytes can be signed, and they are signed as they were checked.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use thiserror::Error;
use x509_parser::certificate::TbsCertificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Version;

use crate::clock::{to_unix, whole_seconds};
use crate::key::{KeyKind, key_identifier};
use crate::name;
use crate::template::{Names, Template};
use crate::validity::BACKDATE;

/// What is wrong with a template or with its encoding; each names the field.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CheckError {
    /// The public key is none that we certify.
    #[error("the public key is not allowed")]
    Key(#[from] crate::key::KeyError),
    /// The encoding does not read back.
    #[error("the encoded certificate does not parse")]
    Encoding,
    /// A field does not say what it should.
    #[error("{0} is not what the profile and the grant say")]
    Field(&'static str),
    /// NotAfter lies further ahead than allowed.
    #[error("the certificate would be valid {over} s longer than the maximum of {maximum} s")]
    TooLong {
        /// Seconds over the maximum.
        over: i64,
        /// The maximum in seconds.
        maximum: u64,
    },
}

/// What bounds the validity.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// When the request came.
    pub now: SystemTime,
    /// Longest time from now to NotAfter.
    pub maximum: Duration,
}

/// A TBSCertificate that says what was meant.
#[derive(Debug)]
pub struct Checked {
    tbs: Vec<u8>,
}

impl Checked {
    /// The bytes to sign.
    pub fn tbs(&self) -> &[u8] {
        &self.tbs
    }
}

/// Encodes the template, reads the bytes back and compares every field and extension.
pub fn check(template: &Template, bounds: Bounds) -> Result<Checked, CheckError> {
    let tbs = template.encode()?;
    check_validity(template, bounds)?;
    check_encoding(template, &tbs)?;
    Ok(Checked { tbs })
}

fn check_validity(template: &Template, bounds: Bounds) -> Result<(), CheckError> {
    let now = whole_seconds(bounds.now);
    let validity = template.validity;
    let backdated_too_far = now.duration_since(validity.not_before).is_ok_and(|back| back > BACKDATE);
    if validity.not_before > now || backdated_too_far {
        return Err(CheckError::Field("notBefore"));
    }
    if validity.not_after <= now {
        return Err(CheckError::Field("notAfter"));
    }
    let over = to_unix(validity.not_after) - to_unix(now + bounds.maximum);
    if over > 0 {
        return Err(CheckError::TooLong { over, maximum: bounds.maximum.as_secs() });
    }
    Ok(())
}

fn check_encoding(template: &Template, bytes: &[u8]) -> Result<(), CheckError> {
    let (rest, tbs) = TbsCertificate::from_der(bytes).map_err(|_| CheckError::Encoding)?;
    let must = |holds: bool, field: &'static str| if holds { Ok(()) } else { Err(CheckError::Field(field)) };
    let serial = tbs.raw_serial();
    must(rest.is_empty() && tbs.version() == X509Version::V3, "version")?;
    must((9..=19).contains(&serial.len()) && serial[0] & 0x80 == 0, "serialNumber")?;
    must(serial == template.serial.as_bytes(), "serialNumber")?;
    must(tbs.issuer().as_raw() == template.issuer, "issuer")?;
    must(tbs.subject().as_raw() == template.subject(), "subject")?;
    must(tbs.subject_pki.raw == template.spki, "subjectPublicKeyInfo")?;
    must(tbs.validity.not_before.timestamp() == to_unix(template.validity.not_before), "notBefore")?;
    must(tbs.validity.not_after.timestamp() == to_unix(template.validity.not_after), "notAfter")?;
    let no_unique_ids = tbs.issuer_uid.is_none() && tbs.subject_uid.is_none();
    must(no_unique_ids, "unique identifiers")?;
    check_extensions(template, &tbs)
}

fn check_extensions(template: &Template, tbs: &TbsCertificate<'_>) -> Result<(), CheckError> {
    let profile = template.profile;
    let kind = KeyKind::of_spki(&template.spki)?;
    let mut wanted = vec!["authorityKeyIdentifier", "keyUsage", "basicConstraints"];
    if template.states_key_id() {
        wanted.push("subjectKeyIdentifier");
    }
    if !profile.is_ca() {
        wanted.push("extendedKeyUsage");
    }
    if !matches!(template.names, Names::Subject(_)) {
        wanted.push("subjectAltName");
    }
    // Critical where there is no subject beside it, and only there (RFC 5280, 4.2.1.6).
    let critical_names = template.subject() == name::EMPTY;
    for extension in tbs.extensions() {
        let (field, holds) = match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => (
                "authorityKeyIdentifier",
                id.authority_cert_issuer.is_none()
                    && id.key_identifier.as_ref().map(|id| id.0) == Some(&template.issuer_key_id),
            ),
            ParsedExtension::SubjectKeyIdentifier(id) => {
                ("subjectKeyIdentifier", id.0 == key_identifier(&template.spki))
            }
            // The parser counts bit 0 as the lowest, DER as the highest.
            ParsedExtension::KeyUsage(usage) => {
                ("keyUsage", extension.critical && usage.flags == profile.key_usage(kind).reverse_bits())
            }
            ParsedExtension::ExtendedKeyUsage(usage) => (
                "extendedKeyUsage",
                (usage.server_auth, usage.client_auth) == profile.extended_key_usage()
                    && usage.other.is_empty()
                    && !(usage.any || usage.code_signing || usage.email_protection),
            ),
            ParsedExtension::BasicConstraints(constraints) => (
                "basicConstraints",
                extension.critical
                    && constraints.ca == profile.is_ca()
                    && constraints.path_len_constraint == profile.path_length().map(u32::from),
            ),
            ParsedExtension::SubjectAlternativeName(names) => (
                "subjectAltName",
                extension.critical == critical_names && names_are(&template.names, &names.general_names),
            ),
            _ => return Err(CheckError::Field("an extension that no profile has")),
        };
        // Each exactly once: what was seen is taken off the list.
        let at = wanted.iter().position(|name| *name == field).ok_or(CheckError::Field(field))?;
        wanted.swap_remove(at);
        if !holds {
            return Err(CheckError::Field(field));
        }
    }
    wanted.first().map_or(Ok(()), |missing| Err(CheckError::Field(missing)))
}

fn names_are(meant: &Names, found: &[GeneralName<'_>]) -> bool {
    match meant {
        Names::SpiffeId(id) => matches!(found, [GeneralName::URI(uri)] if *uri == id.as_str()),
        Names::Hosts { dns, ip } => hosts_are(dns, ip, found),
        Names::Subject(_) => false,
        Names::SubjectAndHosts { dns, .. } => hosts_are(dns, &[], found),
    }
}

fn hosts_are(dns: &[String], ip: &[IpAddr], found: &[GeneralName<'_>]) -> bool {
    // In the order in which they are encoded, so that none is missing behind one that stands twice.
    let (hosts, addresses) = found.split_at(dns.len().min(found.len()));
    let host = |(name, meant): (&GeneralName<'_>, &String)| matches!(name, GeneralName::DNSName(host) if *host == meant);
    let address = |(name, meant): (&GeneralName<'_>, &IpAddr)| match (name, meant) {
        (GeneralName::IPAddress(bytes), IpAddr::V4(v4)) => v4.octets() == *bytes,
        (GeneralName::IPAddress(bytes), IpAddr::V6(v6)) => v6.octets() == *bytes,
        _ => false,
    };
    !found.is_empty()
        && (hosts.len(), addresses.len()) == (dns.len(), ip.len())
        && hosts.iter().zip(dns).all(host)
        && addresses.iter().zip(ip).all(address)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::clock::from_unix;
    use crate::key::PrivateKey;
    use crate::name::ca_name;
    use crate::profile::Profile;
    use crate::serial::Serial;
    use crate::spiffe_id::SpiffeId;
    use crate::validity::Validity;

    const DAY: Duration = Duration::from_secs(86_400);

    fn now() -> SystemTime {
        from_unix(1_800_000_000)
    }

    fn good() -> Template {
        let key = PrivateKey::generate_p256().unwrap();
        Template {
            profile: Profile::Workload,
            serial: Serial::random().unwrap(),
            validity: Validity { not_before: now() - BACKDATE, not_after: now() + DAY },
            names: Names::SpiffeId(SpiffeId::parse("spiffe://td/ns/n/sa/s").unwrap()),
            spki: key.spki().to_vec(),
            issuer: ca_name("Signet", None, "Root CA"),
            issuer_key_id: vec![7; 20],
            signature_algorithm: key.algorithm_identifier().to_vec(),
        }
    }

    fn judge(template: &Template) -> Result<(), CheckError> {
        check(template, Bounds { now: now(), maximum: DAY }).map(|_| ())
    }

    #[test]
    fn every_profile_s_own_encoding_passes() {
        assert_eq!(judge(&good()), Ok(()));
        let subject = Names::Subject(ca_name("Signet", None, "Intermediate CA"));
        let profile = Profile::Intermediate { path_length: 0 };
        assert_eq!(judge(&Template { profile, names: subject.clone(), ..good() }), Ok(()));
        assert_eq!(judge(&Template { profile: Profile::Root, names: subject, ..good() }), Ok(()));
        let names = Names::Hosts {
            dns: vec!["localhost".to_owned()],
            ip: vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()],
        };
        assert_eq!(judge(&Template { profile: Profile::Serving, names, ..good() }), Ok(()));
    }

    #[test]
    fn case_25_validity_and_serial_are_held_to_their_bounds() {
        let with = |from: SystemTime, to: SystemTime| {
            judge(&Template { validity: Validity { not_before: from, not_after: to }, ..good() })
        };
        let second = Duration::from_secs(1);
        assert_eq!(
            with(now() - BACKDATE, now() + DAY + second),
            Err(CheckError::TooLong { over: 1, maximum: 86_400 })
        );
        assert_eq!(with(now() - BACKDATE - second, now() + DAY), Err(CheckError::Field("notBefore")));
        assert_eq!(with(now() + second, now() + DAY), Err(CheckError::Field("notBefore")));
        assert_eq!(with(now() - BACKDATE, now()), Err(CheckError::Field("notAfter")));
        for (length, fine) in [(8, false), (9, true), (19, true), (20, false)] {
            let serial = Serial::from_bytes(&vec![0x41; length]);
            assert_eq!(judge(&Template { serial, ..good() }).is_ok(), fine, "{length} bytes");
        }
    }

    #[test]
    fn a_leaf_states_its_key_id_only_where_its_issuer_has_no_name() {
        let named = good();
        let nameless = Template { issuer: name::EMPTY.to_vec(), ..named.clone() };
        let bounds = Bounds { now: now(), maximum: DAY };
        for (template, stated) in [(&named, false), (&nameless, true)] {
            let checked = check(template, bounds).unwrap();
            let id = key_identifier(&template.spki);
            assert_eq!(checked.tbs().windows(id.len()).any(|window| window == id), stated);
        }
    }

    #[test]
    fn case_20_a_leaf_s_subject_is_empty_and_its_name_critical() {
        let template = good();
        let checked = check(&template, Bounds { now: now(), maximum: DAY }).unwrap();
        let (_, tbs) = TbsCertificate::from_der(checked.tbs()).unwrap();
        assert_eq!(tbs.subject().iter_attributes().count(), 0);
        assert!(tbs.subject_alternative_name().unwrap().unwrap().critical);
    }

    #[test]
    fn an_encoding_that_says_something_else_is_found() {
        let meant = good();
        let other_names = Names::SpiffeId(SpiffeId::parse("spiffe://td/ns/n/sa/other").unwrap());
        let others = [
            ("serialNumber", Template { serial: Serial::random().unwrap(), ..meant.clone() }),
            ("issuer", Template { issuer: ca_name("Other", None, "Root CA"), ..meant.clone() }),
            ("authorityKeyIdentifier", Template { issuer_key_id: vec![8; 20], ..meant.clone() }),
            ("subjectAltName", Template { names: other_names, ..meant.clone() }),
            ("subjectPublicKeyInfo", Template { spki: good().spki, ..meant.clone() }),
            ("extendedKeyUsage", Template { profile: Profile::Serving, ..meant.clone() }),
            ("subjectKeyIdentifier", Template { profile: Profile::Root, ..meant.clone() }),
        ];
        for (field, other) in others {
            let bytes = other.encode().unwrap();
            assert_eq!(check_encoding(&meant, &bytes), Err(CheckError::Field(field)));
        }
        assert_eq!(check_encoding(&meant, &[1, 2, 3]), Err(CheckError::Encoding));
    }

    #[test]
    fn a_host_that_stands_twice_does_not_hide_one_that_is_missing() {
        let hosts = |dns: &[&str]| Names::Hosts {
            dns: dns.iter().map(|name| (*name).to_owned()).collect(),
            ip: vec!["127.0.0.1".parse().unwrap()],
        };
        let serving = Template { profile: Profile::Serving, names: hosts(&["a", "b"]), ..good() };
        assert_eq!(judge(&serving), Ok(()));
        let twice = Template { names: hosts(&["a", "a"]), ..serving.clone() }.encode().unwrap();
        assert_eq!(check_encoding(&serving, &twice), Err(CheckError::Field("subjectAltName")));
    }

    #[test]
    fn case_20_a_ca_s_host_names_stand_beside_its_subject_and_are_not_critical() {
        let subject = ca_name("Istio", Some("cluster1"), "Intermediate CA");
        let named = |dns: &[&str]| Template {
            profile: Profile::Intermediate { path_length: 0 },
            names: Names::SubjectAndHosts {
                subject: subject.clone(),
                dns: dns.iter().map(|name| (*name).to_owned()).collect(),
            },
            ..good()
        };
        let meant = named(&["istiod.istio-system.svc"]);
        let checked = check(&meant, Bounds { now: now(), maximum: DAY }).unwrap();
        let (_, tbs) = TbsCertificate::from_der(checked.tbs()).unwrap();
        assert_eq!(tbs.subject().as_raw(), subject);
        assert!(!tbs.subject_alternative_name().unwrap().unwrap().critical);

        let missing = Template { names: Names::Subject(subject.clone()), ..meant.clone() };
        let more = named(&["istiod.istio-system.svc", "b"]);
        for other in [missing, more, named(&["b"])] {
            let bytes = Template { serial: meant.serial.clone(), spki: meant.spki.clone(), ..other }
                .encode()
                .unwrap();
            assert_eq!(check_encoding(&meant, &bytes), Err(CheckError::Field("subjectAltName")));
        }
        // A CA with no host names says so by `Subject`, not by an empty extension.
        assert_eq!(judge(&named(&[])), Err(CheckError::Field("subjectAltName")));
        let nameless = Names::SubjectAndHosts { subject: name::EMPTY.to_vec(), dns: vec!["a".to_owned()] };
        let nameless = judge(&Template { names: nameless, ..meant });
        assert_eq!(
            nameless,
            Err(CheckError::Field("subjectAltName")),
            "not critical beside an empty subject"
        );
    }

    #[test]
    fn a_key_outside_the_allow_list_is_never_certified() {
        assert!(matches!(judge(&Template { spki: vec![0x30, 0], ..good() }), Err(CheckError::Key(_))));
    }
}
