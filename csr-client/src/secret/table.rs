//! The dump as a table: one row for each secret, judged by its first certificate.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use signet_certs::chain::Certificate;
use signet_certs::clock::rfc3339;
use std::time::SystemTime;

const HEADERS: [&str; 7] =
    ["RESOURCE NAME", "TYPE", "STATUS", "VALID CERT", "SERIAL NUMBER", "NOT AFTER", "NOT BEFORE"];
/// Spaces between the widest cell of a column and the next column, as istioctl has them.
const GAP: usize = 5;
/// What stands where there is no certificate to read.
const MISSING: &str = "NA";

/// The table, judged at `now`, with a newline after each row.
pub(super) fn render(dump: &Value, now: SystemTime) -> String {
    let mut rows = vec![HEADERS.map(str::to_owned)];
    for (list, status) in [("dynamicActiveSecrets", "ACTIVE"), ("dynamicWarmingSecrets", "WARMING")] {
        let entries = dump[list].as_array().map(Vec::as_slice).unwrap_or_default();
        rows.extend(entries.iter().map(|entry| row(entry, status, now)));
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or_default() + GAP;
    let widths: [usize; 7] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let line: String = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn row(entry: &Value, status: &str, now: SystemTime) -> [String; 7] {
    let name = entry["name"].as_str().unwrap_or(MISSING).to_owned();
    let secret = &entry["secret"];
    let (kind, source) = if secret["validationContext"].is_object() || name == "ROOTCA" {
        ("CA", &secret["validationContext"]["trustedCa"])
    } else {
        ("Cert Chain", &secret["tlsCertificate"]["certificateChain"])
    };
    let head = [name, kind.to_owned(), status.to_owned()];
    let tail = match certificate(source) {
        Some(certificate) => {
            let facts = certificate.facts();
            [
                facts.validity.at(now).is_ok().to_string(),
                facts.serial.to_string(),
                rfc3339(facts.validity.not_after),
                rfc3339(facts.validity.not_before),
            ]
        }
        None => ["false".to_owned(), MISSING.to_owned(), MISSING.to_owned(), MISSING.to_owned()],
    };
    let mut cells = head.into_iter().chain(tail);
    std::array::from_fn(|_| cells.next().unwrap_or_default())
}

/// The first certificate of an inline source.
fn certificate(source: &Value) -> Option<Certificate> {
    let pem = match (source["inlineBytes"].as_str(), source["inlineString"].as_str()) {
        (Some(bytes), _) => STANDARD.decode(bytes).ok()?,
        (None, Some(text)) => text.as_bytes().to_vec(),
        (None, None) => return None,
    };
    Certificate::from_pem(&pem).ok()
}
