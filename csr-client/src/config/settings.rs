//! Every setting, once: its name in a file and as a flag, its environment variable, its default.
//!
//! `--help`, reading the environment, reading a TOML file and refusing unknown keys all follow from this
//! one table. A value is text until `config.rs` checks it; here it is only found and its source kept, so
//! that a fault can name the place to mend.

use super::Fault;
use clap::{Arg, ArgAction, ArgMatches};
use std::collections::BTreeMap;
use std::path::Path;

/// One row of the table.
struct Setting {
    /// Key in the file; the flag is the same with dashes.
    key: &'static str,
    env: &'static str,
    default: Option<&'static str>,
    /// Name of the value in help; empty for a flag that takes none.
    value: &'static str,
    help: &'static str,
}

const SETTINGS: &[Setting] = &[
    row(
        "ca",
        "CA_ADDR",
        Some("istiod.istio-system.svc:15012"),
        "ADDR",
        "The CA: host:port or https://host:port",
    ),
    row(
        "ca_name",
        "ISTIOD_SAN",
        None,
        "NAME",
        "Name to verify in the CA's certificate where it is not the host of --ca",
    ),
    row(
        "ca_root",
        "CA_ROOT_CA",
        Some("./var/run/secrets/istio/root-cert.pem"),
        "FILE",
        "Roots for the first contact with the CA (PEM), or SYSTEM",
    ),
    row(
        "token",
        "SIGNET_TOKEN",
        Some("./var/run/secrets/tokens/istio-token"),
        "FILE",
        "Service-account token, read at each attempt",
    ),
    row("trust_domain", "TRUST_DOMAIN", Some("cluster.local"), "TD", "Trust domain of our SPIFFE ID"),
    row("namespace", "POD_NAMESPACE", None, "NS", "Namespace of our SPIFFE ID"),
    row("service_account", "SERVICE_ACCOUNT", None, "SA", "Service account of our SPIFFE ID"),
    row(
        "cluster_id",
        "ISTIO_META_CLUSTER_ID",
        Some("Kubernetes"),
        "ID",
        "Cluster whose API server made the token",
    ),
    row("ttl", "SECRET_TTL", Some("24h"), "D", "Lifetime to ask for"),
    row("timeout", "SIGNET_TIMEOUT", Some("5s"), "D", "Limit of one attempt, from connecting to the answer"),
    row(
        "renew_ratio",
        "SECRET_GRACE_PERIOD_RATIO",
        Some("0.5"),
        "R",
        "Renew when this share of the lifetime is left",
    ),
    row(
        "renew_jitter",
        "SECRET_GRACE_PERIOD_RATIO_JITTER",
        Some("0.01"),
        "R",
        "Drawn once per certificate, added to or taken from the ratio",
    ),
    row("sds_socket", "SIGNET_SDS_SOCKET", None, "PATH", "Unix socket on which Envoys find their secrets"),
    row("output_certs", "OUTPUT_CERTS", None, "DIR", "Folder for key.pem, cert-chain.pem and root-cert.pem"),
    row(
        "include_roots_in_chain",
        "SIGNET_INCLUDE_ROOTS_IN_CHAIN",
        Some("false"),
        "",
        "End the served chain with the roots, as Istio's agent does",
    ),
    row(
        "state",
        "SIGNET_STATE",
        None,
        "DIR",
        "The agent's own folder [default: beside the socket or in the output folder]",
    ),
    row(
        "monitoring",
        "SIGNET_MONITORING",
        Some("127.0.0.1:15020"),
        "ADDR",
        "Metrics and readiness over HTTP",
    ),
    row("log_format", "SIGNET_LOG_FORMAT", Some("text"), "FORMAT", "text or json"),
    row("log_level", "SIGNET_LOG_LEVEL", Some("info"), "LEVEL", "error, warn, info, debug or trace"),
];

const fn row(
    key: &'static str,
    env: &'static str,
    default: Option<&'static str>,
    value: &'static str,
    help: &'static str,
) -> Setting {
    Setting { key, env, default, value, help }
}

/// Where a value was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    Flag,
    Environment(&'static str),
    File(String),
    Default,
}

/// A value as text, with its source.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) text: String,
    pub(super) source: Source,
}

/// What was found for each key.
#[derive(Debug, Default)]
pub(super) struct Values(BTreeMap<&'static str, Found>);

impl Values {
    pub(super) fn find(&self, key: &str) -> Option<&Found> {
        self.0.get(key)
    }
}

/// The flags of the table, for clap.
pub(super) fn arguments() -> impl Iterator<Item = Arg> {
    let config = Arg::new("config")
        .long("config")
        .value_name("F")
        .help("TOML file; a flag wins over the environment, that over the file, that over the default");
    std::iter::once(config).chain(SETTINGS.iter().map(|setting| {
        let default = setting.default.map(|value| format!(" [default: {value}]")).unwrap_or_default();
        let help = format!("{} [env: {}] [file: {}]{default}", setting.help, setting.env, setting.key);
        let arg = Arg::new(setting.key).long(setting.key.replace('_', "-")).help(help);
        if setting.value.is_empty() { arg.action(ArgAction::SetTrue) } else { arg.value_name(setting.value) }
    }))
}

/// Looks every setting up in flags, environment, file and defaults, in this order. Faults of the file are
/// added to `faults`; an empty environment variable counts as not set, as in Istio's agent.
pub(super) fn collect(
    flags: &ArgMatches,
    environment: impl Fn(&str) -> Option<String>,
    faults: &mut Vec<Fault>,
) -> Values {
    let path = flags.get_one::<String>("config");
    let file = path.map(|path| read_file(Path::new(path), faults)).unwrap_or_default();
    let mut values = BTreeMap::new();
    for setting in SETTINGS {
        let flag = if setting.value.is_empty() {
            flags.get_flag(setting.key).then(|| "true".to_owned())
        } else {
            flags.get_one::<String>(setting.key).cloned()
        };
        let found = flag
            .map(|text| Found { text, source: Source::Flag })
            .or_else(|| {
                let text = environment(setting.env).filter(|text| !text.is_empty())?;
                Some(Found { text, source: Source::Environment(setting.env) })
            })
            .or_else(|| {
                let text = file.get(setting.key)?.clone();
                Some(Found { text, source: Source::File(path?.clone()) })
            })
            .or_else(|| Some(Found { text: setting.default?.to_owned(), source: Source::Default }));
        if let Some(found) = found {
            values.insert(setting.key, found);
        }
    }
    Values(values)
}

/// The scalar values of a file by key. Unknown keys and tables are faults.
fn read_file(path: &Path, faults: &mut Vec<Fault>) -> BTreeMap<String, String> {
    let place = path.display().to_string();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            faults.push(Fault::new("config", &place, format!("cannot be read: {error}")));
            return BTreeMap::new();
        }
    };
    let table: toml::Table = match toml::from_str(&text) {
        Ok(table) => table,
        Err(error) => {
            faults.push(Fault::new("config", &place, format!("is not TOML: {}", error.message())));
            return BTreeMap::new();
        }
    };
    let mut values = BTreeMap::new();
    for (key, value) in table {
        if !SETTINGS.iter().any(|setting| setting.key == key) {
            faults.push(Fault::new(&key, &place, "is not a known key".into()));
            continue;
        }
        let text = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Float(number) => number.to_string(),
            toml::Value::Boolean(truth) => truth.to_string(),
            _ => {
                faults.push(Fault::new(&key, &place, "must be one value".into()));
                continue;
            }
        };
        values.insert(key, text);
    }
    values
}
