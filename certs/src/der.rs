//! Writing DER (X.690): only what certificates and requests need. Reading is `x509-parser`'s business,
//! so that [`crate::check`] judges our bytes by other eyes.

use std::time::SystemTime;

use time::OffsetDateTime;

use crate::clock::to_unix;

/// One tag-length-value over the concatenated parts.
pub(crate) fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(length + 6);
    out.push(tag);
    if length < 0x80 {
        out.push(length as u8);
    } else {
        let bytes = length.to_be_bytes();
        let skip = bytes.iter().take_while(|byte| **byte == 0).count();
        out.push(0x80 | (bytes.len() - skip) as u8);
        out.extend_from_slice(&bytes[skip..]);
    }
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

pub(crate) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(0x30, parts)
}

pub(crate) fn set(parts: &[&[u8]]) -> Vec<u8> {
    tlv(0x31, parts)
}

/// The contents of an OID are given encoded, as constants beside their use.
pub(crate) fn oid(encoded: &[u8]) -> Vec<u8> {
    tlv(0x06, &[encoded])
}

/// A non-negative integer from big-endian bytes.
pub(crate) fn unsigned(bytes: &[u8]) -> Vec<u8> {
    let skip = bytes.iter().take_while(|byte| **byte == 0).count().min(bytes.len().saturating_sub(1));
    let bytes = &bytes[skip..];
    match bytes.first() {
        None => tlv(0x02, &[&[0]]),
        Some(first) if first & 0x80 != 0 => tlv(0x02, &[&[0], bytes]),
        Some(_) => tlv(0x02, &[bytes]),
    }
}

pub(crate) fn octet_string(content: &[u8]) -> Vec<u8> {
    tlv(0x04, &[content])
}

/// A bit string of whole octets.
pub(crate) fn bit_string(content: &[u8]) -> Vec<u8> {
    tlv(0x03, &[&[0], content])
}

/// A named-bit list (X.690, 11.2.2: trailing zero bits are cut). `bits` counts bit 0 as the highest.
pub(crate) fn named_bits(bits: u16) -> Vec<u8> {
    let bytes = bits.to_be_bytes();
    let used = if bytes[1] != 0 { 2 } else { 1 };
    let unused = if bits == 0 { 0 } else { (bits.trailing_zeros() % 8) as u8 };
    tlv(0x03, &[&[unused], &bytes[..used]])
}

pub(crate) fn boolean_true() -> Vec<u8> {
    tlv(0x01, &[&[0xff]])
}

pub(crate) fn utf8_string(text: &str) -> Vec<u8> {
    tlv(0x0c, &[text.as_bytes()])
}

/// `[number]` around something constructed.
pub(crate) fn context_constructed(number: u8, parts: &[&[u8]]) -> Vec<u8> {
    tlv(0xa0 | number, parts)
}

/// `[number]` in place of a primitive type's tag.
pub(crate) fn context_primitive(number: u8, content: &[u8]) -> Vec<u8> {
    tlv(0x80 | number, &[content])
}

/// UTCTime through 2049, GeneralizedTime from 2050 on (RFC 5280, 4.1.2.5).
pub(crate) fn time(moment: SystemTime) -> Vec<u8> {
    let t = OffsetDateTime::from_unix_timestamp(to_unix(moment)).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (month, day, hour, minute, second) = (u8::from(t.month()), t.day(), t.hour(), t.minute(), t.second());
    let rest = format!("{month:02}{day:02}{hour:02}{minute:02}{second:02}Z");
    if (1950..2050).contains(&t.year()) {
        tlv(0x17, &[format!("{:02}{rest}", t.year() % 100).as_bytes()])
    } else {
        tlv(0x18, &[format!("{:04}{rest}", t.year()).as_bytes()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::from_unix;

    #[test]
    fn lengths_take_the_short_and_the_long_form() {
        assert_eq!(tlv(4, &[&[0; 127]])[..2], [4, 127]);
        assert_eq!(tlv(4, &[&[0; 128]])[..3], [4, 0x81, 128]);
        assert_eq!(tlv(4, &[&[0; 256]])[..4], [4, 0x82, 1, 0]);
    }

    #[test]
    fn integers_stay_positive_and_minimal() {
        assert_eq!(unsigned(&[]), [2, 1, 0]);
        assert_eq!(unsigned(&[0, 0]), [2, 1, 0]);
        assert_eq!(unsigned(&[0, 1]), [2, 1, 1]);
        assert_eq!(unsigned(&[0x80]), [2, 2, 0, 0x80]);
    }

    #[test]
    fn named_bits_cut_their_trailing_zeros() {
        assert_eq!(named_bits(0x8000), [3, 2, 7, 0x80]);
        assert_eq!(named_bits(0x0600), [3, 2, 1, 0x06]);
        assert_eq!(named_bits(0x0080), [3, 3, 7, 0x00, 0x80]);
    }

    #[test]
    fn the_form_of_a_time_changes_with_2050() {
        assert_eq!(&time(from_unix(2_524_607_999))[2..], b"491231235959Z");
        assert_eq!(&time(from_unix(2_524_608_000))[2..], b"20500101000000Z");
    }
}
