//! Every finding by its stable name, and why it matters. The texts name who suffers: Envoy (BoringSSL),
//! ztunnel and other rustls peers, Istio's agent (Go).

use super::finding::Kind;

macro_rules! kinds {
    ($($code:ident $why:literal)*) => {
        $(pub(super) const $code: Kind = Kind { code: stringify!($code), why: $why };)*

        /// All of them, in their order here.
        pub(super) const ALL: &[Kind] = &[$($code),*];
    };
}

kinds! {
    // Files.
    INCOMPLETE "A CA is taken from all files of a form together or not at all, as Istio does."
    UNREADABLE "A file that cannot be read may hold anything, so nothing is taken from the folder."
    BOTH_FORMS "Istio takes tls.crt and passes over the other form, so a change to the form that is not \
        read changes nothing."
    NOT_READ "A file that nothing reads misleads whoever changes it."
    NO_CERTIFICATE "Without a certificate here there is no chain to answer with."
    DAMAGED "A certificate that does not read would be refused by every peer."
    KEY_BESIDE_CERTIFICATES "This file is handed out: Istio copies root-cert.pem into a ConfigMap of every \
        namespace, a key in it with it."
    // Keys.
    KEY_MISSING "Without the CA's private key nothing can be signed."
    KEY_DAMAGED "A key that does not read whole cannot sign."
    KEY_ENCRYPTED "The CA starts without anybody to ask for a password."
    KEY_SEVERAL "Programs differ in which key of several they take; Istio takes the first."
    KEY_KIND "Peers could not verify what such a key signs: rustls knows RSA, P-256, P-384 and Ed25519 only."
    KEY_SIZE "Below 2048 bits RSA is broken with money, and peers refuse it; above 4096 signing is too \
        slow for a mesh."
    KEY_EXPONENT "Small RSA exponents make forging signatures easier where a verifier is careless; \
        libraries refuse them."
    KEY_PSS "A certificate whose key is bound to RSASSA-PSS is refused by rustls peers and by Envoy."
    KEY_PARAMETERS "Peers accept EC keys by the curve's name only; spelled-out parameters have carried \
        forgeries."
    KEY_NO_PUBLIC_PART "The signing library checks the private key against its public part and does not \
        compute it."
    KEY_OF_ANOTHER "What this key signs would not verify by this certificate, so no peer would accept it."
    // Order and path.
    SIGNER_CHOSEN "Istio takes the first certificate of the file, whatever the key; there this folder \
        would not load."
    SIGNER_NOT_IN_CHAIN "Peers know roots only, so each answer must carry the signing certificate; Istio \
        sends this file as it is."
    CHAIN_REORDERED "TLS wants each certificate to be followed by its signer, and Istio sends the file as \
        it stands."
    CHAIN_AMBIGUOUS "More than one order is possible, and which one peers can use is not for a program to \
        guess."
    CHAIN_DUPLICATE "Every handshake of the mesh would carry the certificate twice."
    CHAIN_STRANGER "It signs nothing here, so every handshake would carry it for nothing."
    CHAIN_ROOT_UNTRUSTED "Peers trust what stands among the roots, and nothing because it stands in a chain."
    CHAIN_BROKEN "Peers follow signatures from a leaf up to a root that they hold; this path ends before one."
    CHAIN_KEY_MISMATCH "The names fit and the keys do not: most likely one of the two was issued anew."
    CHAIN_NAME_ENCODING "Go and rustls peers compare names byte for byte, so a name in another string type \
        is another name."
    CHAIN_TOO_LONG "Rustls peers (ztunnel) refuse more than six certificates between a leaf and its root."
    CHAIN_CROSS_SIGNED "Peers that hold any one of these roots can follow a path."
    // A CA certificate.
    NOT_A_CA "Peers refuse whatever a certificate signed that is not marked as a CA."
    NO_BASIC_CONSTRAINTS "A certificate without basic constraints is no CA, and peers refuse what it signed."
    NO_CERT_SIGN "Envoy (OpenSSL's rules) refuses what a CA signed that may not sign certificates."
    NO_KEY_USAGE "Strict verifiers want a key usage in a CA's certificate (RFC 5280, 4.2.1.3)."
    PATH_LENGTH "Peers refuse a chain with more CAs below this one than it allows."
    URI_CONSTRAINTS "Rustls peers (ztunnel) refuse every chain with constraints on URI names, and a SPIFFE \
        ID is one."
    DIRECTORY_CONSTRAINTS "Rustls peers (ztunnel) refuse every chain with constraints on directory names."
    OTHER_CONSTRAINTS "SPIFFE IDs are not touched, but the CA's own port and intermediates with such names \
        are."
    EXTENDED_KEY_USAGE "Envoy and rustls peers take the extended key usage of a CA as a limit on all \
        leaves below it, which serve and call; anyExtendedKeyUsage does not help."
    SHA1_SIGNATURE "Peers refuse SHA-1 and MD5 in signatures of a chain, since they can be forged."
    SHA1_ROOT "Nobody verifies a root's signature on itself, so it does no harm; some scanners complain."
    SIGNATURE_ALGORITHM "Rustls peers verify RSA (PKCS#1 v1.5) with SHA-2, ECDSA with SHA-256 or SHA-384, \
        and Ed25519; this CA only these."
    CRITICAL_EXTENSION "A peer must refuse a certificate with a critical extension that it does not know, \
        or one with an extension that it needs and cannot read (RFC 5280, 4.2)."
    NOT_YET_VALID "Every leaf's chain contains it, and peers refuse the chain until then."
    ENDED "Every leaf's chain contains it, and peers refuse the chain since then."
    ENDS_FIRST "No leaf outlives its chain, so leaves get shorter from here on, and none can be signed \
        after the end."
    KEY_ID_MISMATCH "OpenSSL and Envoy take a certificate for the issuer only if its key id (and serial, \
        where one is stated) is the one that stands below."
    EMPTY_SUBJECT "RFC 5280 (4.1.2.6) wants a name in every CA's certificate; OpenSSL's strict mode \
        refuses chains without, while Envoy, Go and rustls take them."
    SERIAL "RFC 5280 (4.1.2.2) wants a positive serial number of at most 20 octets; Go 1.23 and later \
        refuse negative ones."
    // Roots.
    NOT_A_ROOT "Peers end a path at a certificate that signed itself; OpenSSL does not take an \
        intermediate for a root."
    ROOT_VERSION_1 "It has no extensions, so nothing limits it; OpenSSL, Go and rustls take such roots."
    ROOT_UNUSABLE "Some peers cannot verify by it, so it must not be the root that this mesh depends on."
    ROOT_ENDED "Peers skip it; it makes every answer larger."
    ROOT_NOT_YET "Peers skip it until then; a rotation to it has to wait."
    ROOTS_SAME_NAME "Peers that find an issuer by its name try both; that works where key ids are set, and \
        confuses people."
    ROOTS_MANY "Every answer and every proxy's secret carries all roots."
    // CRLs.
    CRL_DAMAGED "A CRL that does not read makes Envoy reject the whole secret."
    CRL_MISSING "Where one CA of a chain has a CRL, Envoy wants one for every CA of it, the root included, \
        and refuses all peers otherwise."
    CRL_SIGNATURE "A CRL that its CA did not sign is refused, and all peers with it."
    CRL_NO_CRL_SIGN "Envoy (OpenSSL's rules) refuses the CRL of a CA whose key usage lacks cRLSign."
    CRL_REVOKES_CHAIN "Peers that read this CRL refuse every leaf below."
    CRL_ENDED "Envoy refuses every chain by a CRL whose next update is over."
    CRL_STRANGER "No CA of this chain issued it; it is passed on for peers whose chain has its CA."
    CRL_NOT_READ "Istio reads CRLs beside ca-cert.pem only, not in the form of tls.crt."
}

#[cfg(test)]
mod tests {
    use super::ALL;
    use std::collections::BTreeSet;

    #[test]
    fn each_name_is_one_and_each_reason_a_sentence() {
        assert_eq!(ALL.iter().map(|kind| kind.code).collect::<BTreeSet<_>>().len(), ALL.len());
        for kind in ALL {
            assert!(kind.why.ends_with('.') && kind.why.len() > 40, "{kind:?}");
        }
    }
}
