//! What the server is told: every setting once, checked as a whole before anything starts.
//!
//! Text becomes types here and nowhere else. All faults are reported together, each with its key and the
//! place it came from; `deploy/config/full.toml` lists every key. Who issues tokens is in [`issuers`].

mod files;
mod issuers;

use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgMatches};
use signet_certs::duration;
use signet_certs::spiffe_id::TrustDomain;
use signet_service::logging::Log;
use signet_service::settings::{Faults, Setting, Settings, Values, setting};

use self::files::Named;
use crate::attestation::TokenIssuer;
use crate::authority::issuing::Mode;
use crate::sealing;

/// Longest path of a Unix socket (`sun_path` less its final zero).
const MAX_SOCKET_PATH: usize = 107;

#[rustfmt::skip] // a table: one row a line
const SINGLE: &[Setting] = &[
    setting("trust_domain", "TRUST_DOMAIN", Some("cluster.local"), "TD", "Trust domain of every SPIFFE ID"),
    setting("cluster_id", "CLUSTER_ID", Some("Kubernetes"), "ID", "Name of this cluster, for the log"),
    setting("cacerts", "ROOT_CA_DIR", Some("./etc/cacerts"), "DIR", "Folder with ca-cert.pem ca-key.pem cert-chain.pem root-cert.pem, or tls.crt tls.key ca.crt; without any of them a self-signed CA is made in the data folder"),
    setting("issuing_intermediate", "SIGNET_ISSUING_INTERMEDIATE", Some("auto"), "auto|off", "A P-256 CA in memory under an RSA one whose path length allows it"),
    setting("data", "SIGNET_DATA", Some("/var/lib/signet"), "DIR", "Folder for the issuance log and the state"),
    setting("key_encryption_key_file", "SIGNET_KEY_ENCRYPTION_KEY_FILE", None, "FILE", "Seal the keys in the data folder with this key: 32 bytes as hex, base64 or raw"),
    setting("listen", "SIGNET_LISTEN", Some("0.0.0.0:15012"), "ADDR", "Issuing port (TLS)"),
    setting("monitoring", "SIGNET_MONITORING", Some("0.0.0.0:15014"), "ADDR", "Metrics and health (HTTP)"),
    setting("admin_socket", "SIGNET_ADMIN_SOCKET", None, "PATH", "Unix socket for operators [default: admin.sock in the data folder]"),
    setting("admin_group", "SIGNET_ADMIN_GROUP", None, "GID", "Group that may use the admin socket beside root and our own user"),
    setting("jwks", "SIGNET_JWKS", None, "FILE|URL", "Keys of the token issuer: a file or an https URL"),
    setting("jwks_ca", "SIGNET_JWKS_CA", None, "FILE", "Roots for an https URL [default: the system's]"),
    setting("token_issuer", "TOKEN_ISSUER", None, "ISS", "Who issues the service-account tokens (claim iss)"),
    setting("audience", "TOKEN_AUDIENCES", Some("istio-ca"), "AUD", "Audiences that a token may have, with commas"),
    setting("api_server_audience", "SIGNET_API_SERVER_AUDIENCES", None, "AUD", "Audiences of the API server, whose tokens are refused [default: the issuer]"),
    setting("default_ttl", "DEFAULT_WORKLOAD_CERT_TTL", Some("24h"), "D", "Lifetime where none is asked for"),
    setting("max_ttl", "MAX_WORKLOAD_CERT_TTL", Some("2160h"), "D", "Longest lifetime that may be asked for"),
    setting("renewal_by_certificate", "SIGNET_RENEWAL_BY_CERTIFICATE", Some("off"), "on|off", "Let a caller without a token renew with a certificate of ours that it has"),
    setting("max_age_since_token", "SIGNET_MAX_AGE_SINCE_TOKEN", Some("24h"), "D", "How long after the last token a certificate may be renewed so"),
    setting("serving_names", "ISTIOD_CUSTOM_HOST", None, "NAMES", "More names and addresses of the issuing port, with commas"),
    setting("serving_ttl", "SIGNET_SERVING_TTL", Some("24h"), "D", "Lifetime of the issuing port's own certificate"),
    setting("namespace", "POD_NAMESPACE", Some("istio-system"), "NS", "Our namespace, for the names of the issuing port"),
    setting("revision", "REVISION", None, "REV", "Our revision, for one more name of the issuing port"),
    setting("connections", "SIGNET_CONNECTIONS", Some("20000"), "N", "Connections at once"),
    setting("connections_per_address", "SIGNET_CONNECTIONS_PER_ADDRESS", Some("5000"), "N", "Connections at once from one address"),
    setting("handshakes", "SIGNET_HANDSHAKES", Some("1024"), "N", "TLS handshakes at once; beyond it the oldest of the busiest address makes room"),
    setting("handshake_timeout", "SIGNET_HANDSHAKE_TIMEOUT", Some("5s"), "D", "Time limit of one handshake"),
    setting("in_flight", "SIGNET_IN_FLIGHT", Some("8192"), "N", "Requests at once, waiting ones included"),
    setting("in_flight_per_address", "SIGNET_IN_FLIGHT_PER_ADDRESS", Some("4096"), "N", "Requests at once from one address"),
    setting("failures_per_address", "SIGNET_FAILURES_PER_ADDRESS", Some("100"), "N", "Failed attestations a second from one address, ten times that at once; beyond it its tokens are not looked at"),
    setting("queue", "SIGNET_QUEUE", Some("2048"), "N", "Requests that may wait for their turn to be signed; never more than a second's worth"),
    setting("park", "SIGNET_PARK", Some("500ms"), "D", "How long a refusal for want of room is held back from agents that cannot read when to come again"),
    setting("deadline", "SIGNET_DEADLINE", Some("5s"), "D", "Longest time a request may take"),
    setting("watches", "SIGNET_WATCHES", Some("10000"), "N", "Trust watches at once"),
    setting("watches_per_address", "SIGNET_WATCHES_PER_ADDRESS", Some("2500"), "N", "Trust watches at once from one address"),
    setting("clock_settle", "SIGNET_CLOCK_SETTLE", Some("2m"), "D", "How long a wall clock that was stepped must stand where it is before it is believed again"),
    setting("drain", "SIGNET_DRAIN", Some("10s"), "D", "How long to wait for requests in flight at the end"),
    setting("log_format", "SIGNET_LOG_FORMAT", Some("text"), "FORMAT", "text or json"),
    setting("log_level", "SIGNET_LOG_LEVEL", Some("info"), "LEVEL", "error, warn, info, debug or trace"),
];

const SETTINGS: Settings = Settings { single: SINGLE, tables: &["token_issuers"] };

/// A checked configuration.
#[derive(Debug)]
pub struct Config {
    /// Of the CA itself and of issuers that name none.
    pub trust_domain: TrustDomain,
    /// This cluster.
    pub cluster_id: String,
    /// The plugged-in CA.
    pub cacerts: PathBuf,
    /// Whether there may be an issuing intermediate under it.
    pub issuing_intermediate: Mode,
    /// The data folder.
    pub data: PathBuf,
    /// The key that seals the keys in it.
    pub key_encryption_key_file: Option<PathBuf>,
    /// The issuing port.
    pub listen: SocketAddr,
    /// Metrics and health.
    pub monitoring: SocketAddr,
    /// The operators' socket.
    pub admin_socket: PathBuf,
    /// Group id that may use it.
    pub admin_group: Option<u32>,
    /// Whose tokens are believed.
    pub token_issuers: Vec<TokenIssuer>,
    /// Of workload certificates.
    pub lifetimes: Lifetimes,
    /// How long after the last token a certificate may be renewed without one; nothing where that is off.
    pub renewal_by_certificate: Option<Duration>,
    /// Of the issuing port.
    pub serving: Serving,
    /// What is taken at once.
    pub limits: Limits,
    /// Time that a wall clock that was stepped must stand where it is before it is believed.
    pub clock_settle: Duration,
    /// Time for requests in flight at the end.
    pub drain: Duration,
    /// How to log.
    pub log: Log,
}

/// Lifetimes of workload certificates.
#[derive(Debug, Clone, Copy)]
pub struct Lifetimes {
    /// Where none is asked for.
    pub default: Duration,
    /// The most that may be asked for.
    pub maximum: Duration,
}

/// The issuing port's own certificate.
#[derive(Debug, Clone)]
pub struct Serving {
    /// DNS names.
    pub dns: Vec<String>,
    /// Addresses.
    pub ip: Vec<IpAddr>,
    /// Its lifetime.
    pub lifetime: Duration,
}

/// What is taken at once; everything beyond is refused, so that memory is bounded by these.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections.
    pub connections: usize,
    /// Of one address.
    pub connections_per_address: usize,
    /// Handshakes.
    pub handshakes: usize,
    /// Time of one.
    pub handshake_timeout: Duration,
    /// Requests, waiting ones included.
    pub in_flight: usize,
    /// Of one address.
    pub in_flight_per_address: usize,
    /// Failed attestations of one address, a second.
    pub failures_per_address: u32,
    /// Requests that wait for their turn.
    pub queue: usize,
    /// How long a refusal is held back from those who cannot read its hint.
    pub park: Duration,
    /// Time of one request.
    pub deadline: Duration,
    /// Trust watches.
    pub watches: usize,
    /// Of one address.
    pub watches_per_address: usize,
}

/// The flags, each with its environment variable, file key and default in its help.
pub fn arguments() -> Vec<Arg> {
    SETTINGS.arguments()
}

/// A configuration that cannot be used.
#[derive(Debug)]
pub struct Refused {
    /// All that must be mended.
    pub faults: Faults,
    /// Whether the settings themselves are in order and only files that they name are not.
    pub only_files: bool,
}

/// Reads and checks everything, the files that it names too; `environment` answers for a variable's name.
/// Nothing is written.
///
/// With `starts`, CA files that cannot be used are no fault where the server would start without them, with the
/// CA that was active before.
pub fn load(
    flags: &ArgMatches,
    environment: impl Fn(&str) -> Option<String>,
    starts: bool,
) -> Result<Config, Refused> {
    let mut values = SETTINGS.collect(flags, environment);
    let mut only_files = false;
    let config = check(&mut values, |named, values| {
        only_files = values.is_clean();
        files::examine(named, starts, values);
    });
    values.finish(config).map_err(|faults| Refused { faults, only_files })
}

/// Reads and checks the settings, without a look at the files that they name.
pub(crate) fn load_settings(
    flags: &ArgMatches,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Config, Faults> {
    let mut values = SETTINGS.collect(flags, environment);
    let config = check(&mut values, |_, _| ());
    values.finish(config)
}

fn check(values: &mut Values, files: impl FnOnce(&Named<'_>, &mut Values)) -> Option<Config> {
    // Everything is read before the first `?`, so that no fault hides another.
    let trust_domain = values.parsed("trust_domain", domain);
    let cluster_id = values.parsed("cluster_id", |text| match text.len() {
        1..=128 if text.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(text.to_owned()),
        _ => Err("must be 1 to 128 printable ASCII characters".to_owned()),
    });
    let cacerts = values.required("cacerts").map(PathBuf::from);
    let issuing_intermediate = values.parsed("issuing_intermediate", |text| match text {
        "auto" => Ok(Mode::Auto),
        "off" => Ok(Mode::Off),
        _ => Err(format!("must be auto or off, not {text:?}")),
    });
    let data = values.required("data").map(PathBuf::from);
    let mut key_encryption_key_file = values.optional("key_encryption_key_file").map(PathBuf::from);
    if key_encryption_key_file.as_ref().is_some_and(|path| sealing::is_key(path.as_os_str().as_bytes())) {
        values.fault(
            "key_encryption_key_file",
            "is the key itself, which nobody should see here: name its file",
        );
        key_encryption_key_file = None;
    }
    if let (Some(data), Some(key)) = (&data, &key_encryption_key_file)
        && key.starts_with(data)
    {
        values.fault("key_encryption_key_file", "is in the data folder, whose thief would have it too");
    }
    let listen = values.parsed("listen", address);
    let monitoring = values.parsed("monitoring", address);
    if listen.is_some() && listen == monitoring && listen.is_some_and(|address| address.port() != 0) {
        values.fault("monitoring", "is the same address as listen");
    }
    let given = values.optional("admin_socket").map(PathBuf::from);
    let admin_socket = given.or_else(|| data.as_ref().map(|data| data.join("admin.sock")));
    let hidden = admin_socket.as_ref().zip(data.as_ref()).is_some_and(|(path, data)| path.starts_with(data));
    if values.is_set("admin_group") && hidden {
        values.fault(
            "admin_group",
            "needs an admin_socket outside of the data folder, which only we may enter",
        );
    }
    if admin_socket.as_ref().is_some_and(|path| path.as_os_str().len() > MAX_SOCKET_PATH) {
        values
            .fault("admin_socket", format!("is longer than the {MAX_SOCKET_PATH} bytes of a socket's path"));
    }
    let admin_group = values.parsed_if_set("admin_group", |text| {
        text.parse().map_err(|_| format!("{text:?} is not a group id (a number)"))
    });
    let token_issuers = issuers::read(values, trust_domain.as_ref());
    let lifetimes = lifetimes(values);
    let renewal = values.parsed("renewal_by_certificate", |text| match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("must be on or off, not {text:?}")),
    });
    let max_age = values.parsed("max_age_since_token", whole_seconds);
    let serving = serving(values);
    let limits = limits(values);
    let clock_settle = values.parsed("clock_settle", duration::parse);
    let drain = values.parsed("drain", duration::parse);
    let log = Log::of(values);
    let named = Named {
        cacerts: cacerts.as_deref(),
        data: data.as_deref(),
        key_encryption_key_file: key_encryption_key_file.as_deref(),
        serving: serving.as_ref(),
        trust_domain: trust_domain.as_ref(),
        token_issuers: &token_issuers,
    };
    files(&named, values);
    Some(Config {
        trust_domain: trust_domain?,
        cluster_id: cluster_id?,
        cacerts: cacerts?,
        issuing_intermediate: issuing_intermediate?,
        data: data?,
        key_encryption_key_file,
        listen: listen?,
        monitoring: monitoring?,
        admin_socket: admin_socket?,
        admin_group,
        token_issuers: token_issuers.into_iter().map(|(_, issuer)| issuer).collect(),
        lifetimes: lifetimes?,
        renewal_by_certificate: Some(max_age?).filter(|_| renewal == Some(true)),
        serving: serving?,
        limits: limits?,
        clock_settle: clock_settle?,
        drain: drain?,
        log: log?,
    })
}

fn lifetimes(values: &mut Values) -> Option<Lifetimes> {
    let default = values.parsed("default_ttl", whole_seconds);
    let maximum = values.parsed("max_ttl", whole_seconds);
    let lifetimes = Lifetimes { default: default?, maximum: maximum? };
    if lifetimes.default > lifetimes.maximum {
        values.fault("default_ttl", "is longer than max_ttl");
    }
    Some(lifetimes)
}

/// What configuration names, the names that istiod gives itself, and this machine's own.
fn serving(values: &mut Values) -> Option<Serving> {
    let lifetime = values.parsed("serving_ttl", whole_seconds);
    let namespace = values.parsed("namespace", host_name);
    let revision = values.parsed_if_set("revision", host_name);
    let (mut dns, mut ip): (Vec<String>, Vec<IpAddr>) = (Vec::new(), Vec::new());
    for name in values.list("serving_names") {
        match (name.parse(), host_name(&name)) {
            (Ok(address), _) => ip.push(address),
            (_, Ok(name)) => dns.push(name),
            (_, Err(what)) => values.fault("serving_names", what),
        }
    }
    let namespace = namespace?;
    let services = ["istiod", "istiod-remote", "istio-pilot"].map(str::to_owned);
    let revised = revision.map(|revision| format!("istiod-{revision}"));
    dns.extend(services.into_iter().chain(revised).map(|service| format!("{service}.{namespace}.svc")));
    dns.extend(["istiod.istio-system.svc", "localhost"].map(str::to_owned));
    ip.extend([IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])]);
    Some(Serving { dns: once_each(dns), ip: once_each(ip), lifetime: lifetime? })
}

fn limits(values: &mut Values) -> Option<Limits> {
    let mut count = |key| -> Option<usize> {
        values.parsed(key, |text| match text.parse() {
            Ok(count) if (1..=10_000_000).contains(&count) => Ok(count),
            _ => Err(format!("must be a number from 1 to 10000000, not {text:?}")),
        })
    };
    let connections = count("connections");
    let connections_per_address = count("connections_per_address");
    let handshakes = count("handshakes");
    let in_flight = count("in_flight");
    let in_flight_per_address = count("in_flight_per_address");
    let failures_per_address = count("failures_per_address");
    let queue = count("queue");
    let watches = count("watches");
    let watches_per_address = count("watches_per_address");
    let park = values.parsed("park", duration::parse);
    let handshake_timeout = values.parsed("handshake_timeout", duration::parse);
    let deadline = values.parsed("deadline", duration::parse);
    Some(Limits {
        connections: connections?,
        connections_per_address: connections_per_address?,
        handshakes: handshakes?,
        handshake_timeout: handshake_timeout?,
        in_flight: in_flight?,
        in_flight_per_address: in_flight_per_address?,
        failures_per_address: failures_per_address? as u32,
        queue: queue?,
        park: park?,
        deadline: deadline?,
        watches: watches?,
        watches_per_address: watches_per_address?,
    })
}

fn once_each<T: PartialEq>(all: Vec<T>) -> Vec<T> {
    let mut once = Vec::with_capacity(all.len());
    for one in all {
        if !once.contains(&one) {
            once.push(one);
        }
    }
    once
}

fn domain(text: &str) -> Result<TrustDomain, String> {
    TrustDomain::parse(text).map_err(|error| error.to_string())
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is not an address such as 127.0.0.1:15012"))
}

fn whole_seconds(text: &str) -> Result<Duration, String> {
    match duration::parse(text)? {
        lifetime if lifetime.subsec_nanos() != 0 => Err("must be whole seconds".to_owned()),
        lifetime => Ok(lifetime),
    }
}

fn host_name(text: &str) -> Result<String, String> {
    match rustls_pki_types::DnsName::try_from(text) {
        Ok(_) => Ok(text.to_ascii_lowercase()),
        Err(_) => Err(format!("{text:?} is not a DNS name")),
    }
}

#[cfg(test)]
mod tests;
