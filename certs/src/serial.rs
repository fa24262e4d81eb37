//! Serial numbers (RFC 5280, 4.1.2.2): positive, at most 20 octets, never the same twice.

use std::fmt;

use ring::rand::{SecureRandom, SystemRandom};

use crate::key::KeyError;

/// A serial number as big-endian bytes without leading zeros.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Serial(Vec<u8>);

impl Serial {
    /// Sixteen random bytes, of which 126 bits are free: always positive and of one length.
    pub fn random() -> Result<Self, KeyError> {
        let mut bytes = [0; 16];
        SystemRandom::new().fill(&mut bytes).map_err(|_| KeyError::Random)?;
        bytes[0] = (bytes[0] & 0x7f) | 0x40;
        Ok(Self(bytes.to_vec()))
    }

    /// As found in a certificate, leading zeros dropped.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes[bytes.iter().take_while(|byte| **byte == 0).count()..].to_vec())
    }

    /// Reads what people paste: hex digits, with or without colons or a leading `0x`.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().trim_start_matches("0x").replace(':', "");
        let text = if text.len() % 2 == 1 { format!("0{text}") } else { text };
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
        let bytes = text
            .as_bytes()
            .chunks(2)
            .map(|pair| Some((digit(pair[0])? << 4) | digit(pair[1])?))
            .collect::<Option<Vec<u8>>>()?;
        (!bytes.is_empty()).then(|| Self::from_bytes(&bytes))
    }

    /// Big-endian.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Serial {
    /// Lower-case hex of at least 32 digits, as `istioctl` prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for _ in self.0.len()..16 {
            f.write_str("00")?;
        }
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Serial({self})")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn serials_are_sixteen_positive_bytes_and_differ() {
        let drawn: HashSet<_> = (0..10_000).map(|_| Serial::random().unwrap()).collect();
        assert_eq!(drawn.len(), 10_000);
        assert!(drawn.iter().all(|serial| serial.as_bytes().len() == 16 && serial.as_bytes()[0] >> 6 == 1));
    }

    #[test]
    fn what_people_paste_reads_back() {
        let serial = Serial::random().unwrap();
        assert_eq!(Serial::parse(&serial.to_string()), Some(serial));
        assert_eq!(Serial::parse("0A:0b"), Some(Serial::from_bytes(&[0x0a, 0x0b])));
        assert_eq!(Serial::parse("0xabc").unwrap().as_bytes(), [0x0a, 0xbc]);
        for bad in ["", "xyz", "0x", "éé"] {
            assert_eq!(Serial::parse(bad), None, "{bad}");
        }
        assert_eq!(Serial::from_bytes(&[0, 0, 7]).to_string(), format!("{:032x}", 7));
    }
}
