//! Whose tokens are believed: the one issuer that flags can name, and the rows of `[[token_issuers]]`.

use std::path::PathBuf;

use serde::Deserialize;
use signet_certs::spiffe_id::TrustDomain;
use signet_service::settings::Values;

use super::domain;
use crate::attestation::{KeySource, TokenIssuer};

/// A row of `[[token_issuers]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    issuer: String,
    jwks: String,
    jwks_ca: Option<PathBuf>,
    audiences: Option<Vec<String>>,
    api_server_audiences: Option<Vec<String>>,
    trust_domain: Option<String>,
    namespaces: Option<Vec<String>>,
}

/// All issuers, each with its key; what is wrong with one is a fault under that.
pub(super) fn read(values: &mut Values, trust_domain: Option<&TrustDomain>) -> Vec<(String, TokenIssuer)> {
    let mut rows = Vec::from_iter(of_flags(values).map(|row| ("jwks".to_owned(), row)));
    let in_file = values.rows::<Row>("token_issuers").into_iter().enumerate();
    rows.extend(in_file.map(|(number, row)| (format!("token_issuers[{number}]"), row)));
    // One of the two without the other is a fault already.
    let named = values.optional("token_issuer").or(values.optional("jwks")).is_some();
    if rows.is_empty() && !named {
        values.fault(
            "token_issuer",
            "is needed, with jwks: without an issuer of tokens nobody can be believed",
        );
    }
    let mut issuers: Vec<(String, TokenIssuer)> = Vec::new();
    for (key, row) in rows {
        match checked(row, trust_domain) {
            Ok(Some(issuer)) if issuers.iter().any(|(_, other)| other.issuer == issuer.issuer) => {
                values.fault(&key, format!("the issuer {:?} is configured twice", issuer.issuer));
            }
            Ok(issuer) => issuers.extend(issuer.map(|issuer| (key, issuer))),
            Err(what) => values.fault(&key, what),
        }
    }
    issuers
}

fn of_flags(values: &mut Values) -> Option<Row> {
    let (issuer, jwks) = match (values.optional("token_issuer"), values.optional("jwks")) {
        (Some(issuer), Some(jwks)) => (issuer, jwks),
        (Some(_), None) => {
            values.fault("jwks", "is needed with token_issuer");
            return None;
        }
        (None, Some(_)) => {
            values.fault("token_issuer", "is needed with jwks");
            return None;
        }
        (None, None) => return None,
    };
    let api_server = values.list("api_server_audience");
    Some(Row {
        issuer,
        jwks,
        jwks_ca: values.optional("jwks_ca").map(PathBuf::from),
        audiences: Some(values.list("audience")),
        api_server_audiences: (!api_server.is_empty()).then_some(api_server),
        trust_domain: None,
        namespaces: None,
    })
}

/// Nothing only where the trust domain to fall back on is itself a fault.
fn checked(row: Row, fallback: Option<&TrustDomain>) -> Result<Option<TokenIssuer>, String> {
    let jwks = key_source(&row.jwks, row.jwks_ca)?;
    let audiences = row.audiences.unwrap_or_else(|| vec!["istio-ca".to_owned()]);
    if audiences.is_empty() || row.issuer.is_empty() {
        return Err("an issuer needs a name and at least one audience".to_owned());
    }
    // kube-apiserver's own audience is its issuer unless it is told otherwise.
    let api_server_audiences = match row.api_server_audiences {
        Some(given) => given,
        None if audiences.contains(&row.issuer) => Vec::new(),
        None => vec![row.issuer.clone()],
    };
    if let Some(both) = audiences.iter().find(|audience| api_server_audiences.contains(audience)) {
        return Err(format!("the audience {both:?} is ours and the API server's: one token would open both"));
    }
    let own = row.trust_domain.map(|text| domain(&text)).transpose()?;
    let trust_domain = own.or_else(|| fallback.cloned());
    Ok(trust_domain.map(|trust_domain| TokenIssuer {
        issuer: row.issuer,
        jwks,
        audiences,
        api_server_audiences,
        trust_domain,
        namespaces: row.namespaces,
    }))
}

fn key_source(text: &str, ca_file: Option<PathBuf>) -> Result<KeySource, String> {
    if !text.contains("://") {
        return match ca_file {
            Some(_) => Err("jwks_ca is only for an https URL, and jwks is a file".to_owned()),
            None => Ok(KeySource::File(PathBuf::from(text))),
        };
    }
    // A fault is printed and logged: what may have a password in it is not repeated.
    let shown = if text.contains('@') { "a text with an @".to_owned() } else { format!("{text:?}") };
    let url = url::Url::parse(text).map_err(|error| format!("{shown} is not a URL: {error}"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a URL with a user name or password is not taken: public keys need none".to_owned());
    }
    let loopback = match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    };
    match url.scheme() {
        "https" => Ok(KeySource::Url { url, ca_file }),
        "http" if loopback => Ok(KeySource::Url { url, ca_file }),
        _ => Err(format!("{shown}: keys come over https only (http from loopback)")),
    }
}
