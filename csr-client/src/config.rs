//! What the agent is told: flags, environment and an optional TOML file, checked as a whole.
//!
//! Values are found by `settings` (one table for all names) and become typed here, once. Every fault is
//! collected with its key and its place, so that one start shows all that must be mended.

mod duration;
mod settings;

use clap::{Arg, ArgMatches};
use settings::{Source, Values};
use signet_certs::spiffe_id::{SpiffeId, TrustDomain};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The shortest lifetime that may be asked for; below it the agent would only renew.
const MIN_TTL: Duration = Duration::from_secs(2);
/// Longest path of a Unix socket (`sun_path` less its final zero).
const MAX_SOCKET_PATH: usize = 107;

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// How to reach the CA.
    pub ca: Ca,
    /// The token's file.
    pub token: PathBuf,
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

/// How to log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// JSON lines instead of text.
    pub json: bool,
    /// What is let through.
    pub level: tracing::Level,
}

/// What the configuration is for: `run` needs somewhere to serve, `fetch` does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The agent itself.
    Run,
    /// One certificate.
    Fetch,
}

/// One thing to mend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    key: String,
    place: String,
    what: String,
}

impl Fault {
    fn new(key: &str, place: &str, what: String) -> Self {
        Self { key: key.to_owned(), place: place.to_owned(), what }
    }
}

/// All that must be mended, in no particular order; Display has one line for each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Faults(Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration has {} fault(s):", self.0.len())?;
        for fault in &self.0 {
            write!(f, "\n  {} ({}): {}", fault.key, fault.place, fault.what)?;
        }
        Ok(())
    }
}

/// The flags, each with its environment variable, file key and default in its help.
pub fn arguments() -> impl Iterator<Item = Arg> {
    settings::arguments()
}

/// Reads and checks everything; `environment` answers for a variable's name.
pub fn load(
    flags: &ArgMatches,
    environment: impl Fn(&str) -> Option<String>,
    purpose: Purpose,
) -> Result<Config, Faults> {
    let mut faults = Vec::new();
    let values = settings::collect(flags, environment, &mut faults);
    let config = Check { values, faults: &mut faults }.config(purpose);
    match config {
        Some(config) if faults.is_empty() => Ok(config),
        _ => Err(Faults(faults)),
    }
}

/// Turns text into types; what cannot be turned becomes a fault and `None`.
struct Check<'a> {
    values: Values,
    faults: &'a mut Vec<Fault>,
}

impl Check<'_> {
    fn config(&mut self, purpose: Purpose) -> Option<Config> {
        // Everything is read before the first `?`, so that no fault hides another.
        let ca = self.ca();
        let token = self.required("token").map(PathBuf::from);
        let spiffe_id = self.spiffe_id();
        let ttl = self.parsed("ttl", |text| match duration::parse(text)? {
            ttl if ttl < MIN_TTL => Err("must be 2s or more".into()),
            ttl => Ok(ttl),
        });
        let ratio = self.parsed("renew_ratio", share);
        let jitter = self.parsed("renew_jitter", share);
        let include_roots_in_chain = self.parsed("include_roots_in_chain", |text| {
            text.parse().map_err(|_| format!("must be true or false, not {text:?}"))
        });
        let sds_socket = self.socket();
        let output_certs = self.optional("output_certs").map(PathBuf::from);
        let monitoring = self.parsed("monitoring", |text| {
            text.parse().map_err(|_| format!("{text:?} is not an address such as 127.0.0.1:15020"))
        });
        let asked = self.values.find("monitoring").is_some_and(|found| found.source != Source::Default);
        let json = self.parsed("log_format", |text| match text {
            "text" => Ok(false),
            "json" => Ok(true),
            _ => Err(format!("must be text or json, not {text:?}")),
        });
        let level = self.parsed("log_level", |text| {
            text.parse().map_err(|_| format!("must be error, warn, info, debug or trace, not {text:?}"))
        });
        if purpose == Purpose::Run && self.values.find("sds_socket").is_none() && output_certs.is_none() {
            self.fault("sds_socket", "is needed, or output_certs: there is nowhere to serve to".into());
        }
        let state = self.optional("state").map(PathBuf::from).or_else(|| {
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
            spiffe_id: spiffe_id?,
            ttl: ttl?,
            renewal: Renewal { ratio: ratio?, jitter: jitter? },
            sds_socket,
            output_certs,
            include_roots_in_chain: include_roots_in_chain?,
            state,
            monitoring: Monitoring { address: monitoring?, asked },
            log: Log { json: json?, level: level? },
        })
    }

    fn ca(&mut self) -> Option<Ca> {
        let address = self.parsed("ca", |text| {
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
        let name = self.values.find("ca_name").cloned().map(|found| {
            let valid = rustls_pki_types::ServerName::try_from(found.text.as_str()).is_ok();
            if !valid {
                self.fault("ca_name", format!("{:?} is neither a DNS name nor an IP address", found.text));
            }
            found.text
        });
        let root = self.required("ca_root").map(|text| match text.as_str() {
            "SYSTEM" => CaRoot::System,
            path => CaRoot::File(PathBuf::from(path)),
        });
        let cluster_id = self.parsed("cluster_id", |text| {
            let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
            printable.then(|| text.to_owned()).ok_or_else(|| "must be printable ASCII without spaces".into())
        });
        let timeout = self.parsed("timeout", duration::parse);
        let (url, host) = address?;
        Some(Ca { url, name: name.unwrap_or(host), root: root?, cluster_id: cluster_id?, timeout: timeout? })
    }

    fn spiffe_id(&mut self) -> Option<SpiffeId> {
        let trust_domain =
            self.parsed("trust_domain", |text| TrustDomain::parse(text).map_err(|error| error.to_string()));
        // Each name is tried beside a good one, so that a fault has its own key.
        let named =
            |text: &str, id: &dyn Fn(&str) -> Result<SpiffeId, String>| id(text).map(|_| text.to_owned());
        let domain = trust_domain.clone().or_else(|| TrustDomain::parse("x").ok())?;
        let namespace = self.parsed("namespace", |text| {
            named(text, &|ns| SpiffeId::workload(&domain, ns, "x").map_err(|error| error.to_string()))
        });
        let service_account = self.parsed("service_account", |text| {
            named(text, &|sa| SpiffeId::workload(&domain, "x", sa).map_err(|error| error.to_string()))
        });
        let id = SpiffeId::workload(&trust_domain?, &namespace?, &service_account?);
        id.map_err(|error| self.fault("service_account", error.to_string())).ok()
    }

    fn socket(&mut self) -> Option<PathBuf> {
        let path = self.optional("sds_socket")?;
        if path.len() > MAX_SOCKET_PATH {
            self.fault(
                "sds_socket",
                format!("is longer than the {MAX_SOCKET_PATH} bytes of a socket's path"),
            );
            return None;
        }
        Some(PathBuf::from(path))
    }

    fn parsed<T>(&mut self, key: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = self.required(key)?;
        parse(&text).map_err(|what| self.fault(key, what)).ok()
    }

    fn required(&mut self, key: &str) -> Option<String> {
        let text = self.optional(key);
        if text.is_none() {
            self.fault(key, "is needed".into());
        }
        text
    }

    fn optional(&self, key: &str) -> Option<String> {
        self.values.find(key).map(|found| found.text.clone()).filter(|text| !text.is_empty())
    }

    fn fault(&mut self, key: &str, what: String) {
        let place = match self.values.find(key).map(|found| &found.source) {
            Some(Source::Flag) | None => format!("--{}", key.replace('_', "-")),
            Some(Source::Environment(name)) => (*name).to_owned(),
            Some(Source::File(path)) => path.clone(),
            Some(Source::Default) => "default".to_owned(),
        };
        self.faults.push(Fault::new(key, &place, what));
    }
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
        assert!(!config.monitoring.asked);
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
        assert!(text.starts_with("the configuration has 11 fault(s)"), "{text}");
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
}
