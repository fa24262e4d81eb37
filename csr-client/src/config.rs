//! What the agent is told: flags, environment and an optional TOML file, checked as a whole.
//!
//! One table below has all names; values become typed here, once. Every fault is
//! collected with its key and its place, so that one start shows all that must be mended.

use clap::{Arg, ArgMatches};
use signet_certs::duration;
use signet_certs::spiffe_id::{SpiffeId, TrustDomain};
use signet_service::logging::Log;
use signet_service::settings::{Faults, Setting, Settings, Values, setting};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The shortest lifetime that may be asked for; below it the agent would only renew.
const MIN_TTL: Duration = Duration::from_secs(2);
/// Longest path of a Unix socket (`sun_path` less its final zero).
const MAX_SOCKET_PATH: usize = 107;

#[rustfmt::skip] // a table: one row a line
const SINGLE: &[Setting] = &[
    setting("ca", "CA_ADDR", Some("istiod.istio-system.svc:15012"), "ADDR", "The CA: host:port or https://host:port"),
    setting("ca_name", "ISTIOD_SAN", None, "NAME", "Name to verify in the CA's certificate where it is not the host of --ca"),
    setting("ca_root", "CA_ROOT_CA", Some("./var/run/secrets/istio/root-cert.pem"), "FILE", "Roots for the first contact with the CA (PEM), or SYSTEM"),
    setting("token", "SIGNET_TOKEN", Some("./var/run/secrets/tokens/istio-token"), "FILE", "Service-account token, read at each attempt"),
    setting("renew_with_certificate", "SIGNET_RENEW_WITH_CERTIFICATE", Some("off"), "on|off", "Show the CA the certificate that is held, where the token is gone or refused"),
    setting("trust_domain", "TRUST_DOMAIN", Some("cluster.local"), "TD", "Trust domain of our SPIFFE ID"),
    setting("namespace", "POD_NAMESPACE", None, "NS", "Namespace of our SPIFFE ID"),
    setting("service_account", "SERVICE_ACCOUNT", None, "SA", "Service account of our SPIFFE ID"),
    setting("cluster_id", "ISTIO_META_CLUSTER_ID", Some("Kubernetes"), "ID", "Cluster whose API server made the token"),
    setting("ttl", "SECRET_TTL", Some("24h"), "D", "Lifetime to ask for"),
    setting("timeout", "SIGNET_TIMEOUT", Some("5s"), "D", "Limit of one attempt, from connecting to the answer"),
    setting("renew_ratio", "SECRET_GRACE_PERIOD_RATIO", Some("0.5"), "R", "Renew when this share of the lifetime is left"),
    setting("renew_jitter", "SECRET_GRACE_PERIOD_RATIO_JITTER", Some("0.01"), "R", "Drawn once per certificate, added to or taken from the ratio"),
    setting("sds_socket", "SIGNET_SDS_SOCKET", None, "PATH", "Unix socket on which Envoys find their secrets"),
    setting("output_certs", "OUTPUT_CERTS", None, "DIR", "Folder for key.pem, cert-chain.pem and root-cert.pem"),
    setting("include_roots_in_chain", "SIGNET_INCLUDE_ROOTS_IN_CHAIN", Some("false"), "", "End the served chain with the roots, as Istio's agent does"),
    setting("state", "SIGNET_STATE", None, "DIR", "The agent's own folder [default: beside the socket or in the output folder]"),
    setting("monitoring", "SIGNET_MONITORING", Some("127.0.0.1:15020"), "ADDR", "Metrics and readiness over HTTP"),
    setting("log_format", "SIGNET_LOG_FORMAT", Some("text"), "FORMAT", "text or json"),
    setting("log_level", "SIGNET_LOG_LEVEL", Some("info"), "LEVEL", "error, warn, info, debug or trace"),
];

/// Whether this is a token where a file's name should be.
fn is_token(text: &str) -> bool {
    text.starts_with("ey") && text.matches('.').count() == 2 && !text.contains('/')
}

const SETTINGS: Settings = Settings { single: SINGLE, tables: &[] };

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// How to reach the CA.
    pub ca: Ca,
    /// The token's file.
    pub token: PathBuf,
    /// Whether the certificate that is held may take the place of a token that is gone or refused.
    pub renew_with_certificate: bool,
    /// Who we are.
    pub spiffe_id: SpiffeId,
    /// Lifetime to ask for.
    pub ttl: Duration,
    /// When to renew.
    pub renewal: Renewal,
    /// Where Envoys find their secrets.
    pub sds_socket: Option<PathBuf>,
    /// Where the files go.
    pub output_certs: Option<PathBuf>,
    /// Whether the served chain ends with the roots.
    pub include_roots_in_chain: bool,
    /// The agent's own folder; `None` only if there is neither socket nor output folder.
    pub state: Option<PathBuf>,
    /// Where metrics and readiness are served.
    pub monitoring: Monitoring,
    /// How to log.
    pub log: Log,
}

/// How to reach the CA.
#[derive(Debug, Clone)]
pub struct Ca {
    /// `https://host:port`.
    pub url: String,
    /// The name (or IP address) that its certificate must have.
    pub name: String,
    /// Whom to trust at the first contact.
    pub root: CaRoot,
    /// Sent along with the token.
    pub cluster_id: String,
    /// Limit of one attempt.
    pub timeout: Duration,
}

/// Roots for the first contact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaRoot {
    /// The operating system's.
    System,
    /// A PEM file.
    File(PathBuf),
}

/// When to renew.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Renewal {
    /// Share of the lifetime that is left when renewal is due, in 0..=1.
    pub ratio: f64,
    /// Largest amount added to or taken from the ratio, in 0..=1.
    pub jitter: f64,
}

/// The monitoring address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Monitoring {
    /// Where to listen.
    pub address: SocketAddr,
    /// Whether somebody asked for this address; if not, one that is taken is no reason to fail.
    pub asked: bool,
}

/// What the configuration is for: `run` needs somewhere to serve, `fetch` does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The agent itself.
    Run,
    /// One certificate.
    Fetch,
}

/// The flags, each with its environment variable, file key and default in its help.
pub fn arguments() -> Vec<Arg> {
    SETTINGS.arguments()
}

/// Reads and checks everything; `environment` answers for a variable's name.
pub fn load(
    flags: &ArgMatches,
    environment: impl Fn(&str) -> Option<String>,
    purpose: Purpose,
) -> Result<Config, Faults> {
    let mut values = SETTINGS.collect(flags, environment);
    let config = check(&mut values, purpose);
    values.finish(config)
}

fn check(values: &mut Values, purpose: Purpose) -> Option<Config> {
    // Everything is read before the first `?`, so that no fault hides another.
    let ca = ca(values);
    let token = values.parsed("token", |text| match text {
        text if is_token(text) => {
            Err("is the token itself, which nobody should see here: name its file".to_owned())
        }
        path => Ok(PathBuf::from(path)),
    });
    let renew_with_certificate = values.parsed("renew_with_certificate", |text| match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("must be on or off, not {text:?}")),
    });
    let spiffe_id = spiffe_id(values);
    let ttl = values.parsed("ttl", |text| match duration::parse(text)? {
        ttl if ttl < MIN_TTL => Err("must be 2s or more".into()),
        ttl => Ok(ttl),
    });
    let ratio = values.parsed("renew_ratio", share);
    let jitter = values.parsed("renew_jitter", share);
    let include_roots_in_chain = values.parsed("include_roots_in_chain", |text| {
        text.parse().map_err(|_| format!("must be true or false, not {text:?}"))
    });
    let sds_socket = socket(values);
    let output_certs = values.optional("output_certs").map(PathBuf::from);
    let monitoring = values.parsed("monitoring", |text| {
        text.parse().map_err(|_| format!("{text:?} is not an address such as 127.0.0.1:15020"))
    });
    let asked = values.is_set("monitoring");
    let log = Log::of(values);
    if purpose == Purpose::Run && values.optional("sds_socket").is_none() && output_certs.is_none() {
        values.fault("sds_socket", "is needed, or output_certs: there is nowhere to serve to");
    }
    let state = values.optional("state").map(PathBuf::from).or_else(|| {
        let beside = sds_socket.as_ref().map(|socket| {
            let mut name = socket.clone().into_os_string();
            name.push(".state");
            PathBuf::from(name)
        });
        beside.or_else(|| Some(output_certs.as_ref()?.join(".csr-client")))
    });
    Some(Config {
        ca: ca?,
        token: token?,
        renew_with_certificate: renew_with_certificate?,
        spiffe_id: spiffe_id?,
        ttl: ttl?,
        renewal: Renewal { ratio: ratio?, jitter: jitter? },
        sds_socket,
        output_certs,
        include_roots_in_chain: include_roots_in_chain?,
        state,
        monitoring: Monitoring { address: monitoring?, asked },
        log: log?,
    })
}

fn ca(values: &mut Values) -> Option<Ca> {
    let address = values.parsed("ca", |text| {
        let authority = match text.split_once("://") {
            None => text,
            Some(("https", rest)) => rest.trim_end_matches('/'),
            Some((scheme, _)) => return Err(format!("must be host:port or https://…, not {scheme}://")),
        };
        let (host, port) = authority
            .rsplit_once(':')
            .ok_or_else(|| format!("{text:?} lacks a port: host:port is needed"))?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let valid = rustls_pki_types::ServerName::try_from(host).is_ok();
        match port.parse::<u16>() {
            Ok(1..) if valid => Ok((format!("https://{authority}"), host.to_owned())),
            _ => Err(format!("{text:?} is not host:port")),
        }
    });
    let name = values.parsed_if_set("ca_name", |text| match rustls_pki_types::ServerName::try_from(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(format!("{text:?} is neither a DNS name nor an IP address")),
    });
    let root = values.required("ca_root").map(|text| match text.as_str() {
        "SYSTEM" => CaRoot::System,
        path => CaRoot::File(PathBuf::from(path)),
    });
    let cluster_id = values.parsed("cluster_id", |text| {
        let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
        printable.then(|| text.to_owned()).ok_or_else(|| "must be printable ASCII without spaces".into())
    });
    let timeout = values.parsed("timeout", duration::parse);
    let (url, host) = address?;
    Some(Ca { url, name: name.unwrap_or(host), root: root?, cluster_id: cluster_id?, timeout: timeout? })
}

fn spiffe_id(values: &mut Values) -> Option<SpiffeId> {
    let trust_domain =
        values.parsed("trust_domain", |text| TrustDomain::parse(text).map_err(|error| error.to_string()));
    // Each name is tried beside a good one, so that a fault has its own key.
    let named = |text: &str, id: &dyn Fn(&str) -> Result<SpiffeId, String>| id(text).map(|_| text.to_owned());
    let domain = trust_domain.clone().or_else(|| TrustDomain::parse("x").ok())?;
    let namespace = values.parsed("namespace", |text| {
        named(text, &|ns| SpiffeId::workload(&domain, ns, "x").map_err(|error| error.to_string()))
    });
    let service_account = values.parsed("service_account", |text| {
        named(text, &|sa| SpiffeId::workload(&domain, "x", sa).map_err(|error| error.to_string()))
    });
    let id = SpiffeId::workload(&trust_domain?, &namespace?, &service_account?);
    id.map_err(|error| values.fault("service_account", error.to_string())).ok()
}

fn socket(values: &mut Values) -> Option<PathBuf> {
    let path = values.optional("sds_socket")?;
    if path.len() > MAX_SOCKET_PATH {
        values.fault("sds_socket", format!("is longer than the {MAX_SOCKET_PATH} bytes of a socket's path"));
        return None;
    }
    Some(PathBuf::from(path))
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err(format!("must be a number from 0 to 1, not {text:?}")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::Command;

    fn load_from(flags: &[&str], environment: &[(&str, &str)]) -> Result<Config, Faults> {
        let all = ["run"].iter().chain(flags);
        let matches = Command::new("run").args(arguments()).try_get_matches_from(all).unwrap();
        let variable = |name: &str| {
            environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        load(&matches, variable, Purpose::Run)
    }

    const NEEDED: &[&str] = &["--namespace=default", "--service-account=reviews", "--sds-socket=/run/s"];

    #[test]
    fn the_needed_flags_are_enough() {
        let config = load_from(NEEDED, &[]).unwrap();
        assert_eq!(config.spiffe_id.as_str(), "spiffe://cluster.local/ns/default/sa/reviews");
        assert_eq!(config.ca.url, "https://istiod.istio-system.svc:15012");
        assert_eq!(config.ca.name, "istiod.istio-system.svc");
        assert_eq!(config.ttl, Duration::from_secs(86_400));
        assert_eq!(config.state.unwrap(), PathBuf::from("/run/s.state"));
        assert!(!config.monitoring.asked && !config.renew_with_certificate);
        let on = |value: &str| {
            let flag = format!("--renew-with-certificate={value}");
            load_from(&[NEEDED, &[flag.as_str()]].concat(), &[])
        };
        assert!(on("on").unwrap().renew_with_certificate);
        assert!(on("true").unwrap_err().to_string().contains("must be on or off"));
    }

    #[test]
    fn flag_over_environment_over_file_over_default() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agent.toml");
        let flag = format!("--config={}", file.display());
        std::fs::write(&file, "ttl = \"1h\"\nrenew_ratio = 0.25\n").unwrap();
        let with = |more: &[&str], environment: &[(&str, &str)]| {
            let flags: Vec<&str> = NEEDED.iter().chain([&flag.as_str()]).chain(more).copied().collect();
            load_from(&flags, environment).unwrap()
        };
        assert_eq!(with(&[], &[]).ttl, Duration::from_secs(3600));
        assert_eq!(with(&[], &[]).renewal.ratio, 0.25);
        assert_eq!(with(&[], &[("SECRET_TTL", "2h")]).ttl, Duration::from_secs(7200));
        assert_eq!(with(&[], &[("SECRET_TTL", "")]).ttl, Duration::from_secs(3600));
        assert_eq!(with(&["--ttl=3h"], &[("SECRET_TTL", "2h")]).ttl, Duration::from_secs(10_800));
        assert!(with(&["--monitoring=127.0.0.1:0"], &[]).monitoring.asked);
    }

    #[test]
    fn the_sample_has_every_key_and_loads() {
        let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/config/agent.toml");
        let flag = format!("--config={sample}");
        load_from(&[&flag], &[]).unwrap();
        let text = std::fs::read_to_string(sample).unwrap();
        for setting in arguments() {
            let key = setting.get_id().as_str();
            let stands =
                text.lines().any(|line| line.trim_start_matches("# ").starts_with(&format!("{key} = ")));
            assert!(key == "config" || stands, "{key} is not in agent.toml");
        }
    }

    #[test]
    fn all_faults_come_at_once_each_with_key_and_place() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agent.toml");
        std::fs::write(&file, "ttl = \"soon\"\nttll = \"1h\"\nlog_level = \"loud\"\n[ca]\nx = 1\n").unwrap();
        let flag = format!("--config={}", file.display());
        let flags = [
            flag.as_str(),
            "--ca-name=not a name",
            "--namespace=a/b",
            "--renew-ratio=2",
            "--monitoring=here",
        ];
        let text =
            load_from(&flags, &[("CA_ROOT_CA", "x"), ("TRUST_DOMAIN", "UPPER")]).unwrap_err().to_string();
        let place = file.display().to_string();
        for expected in [
            format!("ttl ({place}): \"soon\" is not a duration"),
            format!("ttll ({place}): is not a known key"),
            format!("ca ({place}): must be one value"),
            format!("log_level ({place}): must be error"),
            "ca_name (--ca-name): \"not a name\" is neither".into(),
            "namespace (--namespace): path: only".into(),
            "trust_domain (TRUST_DOMAIN): trust domain: only".into(),
            "service_account (--service-account): is needed".into(),
            "renew_ratio (--renew-ratio): must be a number".into(),
            "monitoring (--monitoring): \"here\" is not".into(),
            "sds_socket (--sds-socket): is needed, or output_certs".into(),
        ] {
            assert!(text.contains(&expected), "{expected:?} is not in\n{text}");
        }
        assert!(text.starts_with("the configuration has 11 faults"), "{text}");
    }

    #[test]
    fn addresses_of_the_ca() {
        let ca = |address: &str| {
            let flag = format!("--ca={address}");
            let flags: Vec<&str> = NEEDED.iter().chain([&flag.as_str()]).copied().collect();
            load_from(&flags, &[]).map(|config| (config.ca.url, config.ca.name))
        };
        let good = |url: &str, name: &str| Ok((url.to_owned(), name.to_owned()));
        assert_eq!(ca("127.0.0.1:15012"), good("https://127.0.0.1:15012", "127.0.0.1"));
        assert_eq!(ca("https://ca.example:15012/"), good("https://ca.example:15012", "ca.example"));
        assert_eq!(ca("[::1]:15012"), good("https://[::1]:15012", "::1"));
        for bad in ["http://ca:15012", "ca", "ca:", "ca:0", ":15012", "ca:70000", "a b:1"] {
            assert!(ca(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn unreadable_and_malformed_files_are_faults() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agent.toml");
        let flag = format!("--config={}", file.display());
        let flags: Vec<&str> = NEEDED.iter().chain([&flag.as_str()]).copied().collect();
        assert!(load_from(&flags, &[]).unwrap_err().to_string().contains("cannot be read"));
        std::fs::write(&file, "ttl = ").unwrap();
        assert!(load_from(&flags, &[]).unwrap_err().to_string().contains("is not TOML"));
    }

    #[test]
    fn the_state_folder_follows_the_socket_or_the_output_folder() {
        let base = ["--namespace=n", "--service-account=s"];
        let state = |more: &[&str]| {
            let flags: Vec<&str> = base.iter().chain(more).copied().collect();
            load_from(&flags, &[]).unwrap().state.unwrap()
        };
        assert_eq!(state(&["--output-certs=/out"]), PathBuf::from("/out/.csr-client"));
        assert_eq!(state(&["--output-certs=/out", "--sds-socket=/run/s"]), PathBuf::from("/run/s.state"));
        assert_eq!(state(&["--output-certs=/out", "--state=/st"]), PathBuf::from("/st"));
        let long = format!("--sds-socket=/{}", "s".repeat(MAX_SOCKET_PATH));
        let flags: Vec<&str> = base.iter().copied().chain([long.as_str()]).collect();
        assert!(load_from(&flags, &[]).unwrap_err().to_string().contains("107 bytes"));
    }

    #[test]
    fn a_token_in_its_file_s_place_is_refused_and_not_repeated() {
        let text =
            load_from(&["--token=eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"], &[]).unwrap_err();
        let text = text.to_string();
        assert!(text.contains("is the token itself") && !text.contains("eyJ"), "{text}");
    }
}
