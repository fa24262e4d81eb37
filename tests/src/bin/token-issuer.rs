//! `token-issuer`: makes a key set and mints tokens shaped like projected service-account tokens, for
//! machines without Kubernetes, the demo and tests.
//!
//! Only the command line stands here; [`signet_tests::token_issuer`] does the work.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Args, Parser, Subcommand, ValueEnum};
use signet_certs::duration;
use signet_tests::token_issuer::{Algorithm, Object, Subject, TokenIssuer, write_token};

/// Mints tokens shaped like Kubernetes' projected service-account tokens, without Kubernetes.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes a signing key: writes issuer-key.pem and jwks.json, over nothing that is there.
    Keys {
        /// The folder to write to.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// What the tokens will be signed with.
        #[arg(long, value_enum, default_value = "rs256")]
        algorithm: AlgorithmName,
    },
    /// Mints one token and prints it.
    Mint(Box<Mint>),
}

#[derive(Clone, Copy, ValueEnum)]
enum AlgorithmName {
    /// RSA of 2048 bits, as kube-apiserver has it.
    Rs256,
    /// P-256.
    Es256,
}

#[derive(Args)]
struct Mint {
    /// The folder that `token-issuer keys` wrote.
    #[arg(long, value_name = "DIR")]
    keys: PathBuf,
    /// The claim `iss`.
    #[arg(long, value_name = "ISS")]
    issuer: String,
    /// The claim `aud`.
    #[arg(long, value_name = "AUD", default_value = "istio-ca")]
    audience: String,
    /// The namespace of the service account.
    #[arg(long, value_name = "NS")]
    namespace: String,
    /// The service account.
    #[arg(long, value_name = "SA")]
    service_account: String,
    /// The pod that the token is bound to.
    #[arg(long, value_name = "NAME")]
    pod_name: Option<String>,
    /// The pod's uid; made from its name if absent.
    #[arg(long, value_name = "UUID", requires = "pod_name")]
    pod_uid: Option<String>,
    /// The node that the pod runs on.
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// The node's uid; made from its name if absent.
    #[arg(long, value_name = "UUID", requires = "node_name")]
    node_uid: Option<String>,
    /// How long the token is good.
    #[arg(long, value_name = "DURATION", default_value = "12h", value_parser = duration::parse)]
    expires_in: Duration,
    /// Writes the token into this file, replacing it whole, instead of printing it.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut line = format!("token-issuer: {error}");
            let mut source = error.source();
            while let Some(cause) = source {
                line += &format!(": {cause}");
                source = cause.source();
            }
            eprintln!("{line}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Box<dyn Error>> {
    match command {
        Command::Keys { out, algorithm } => {
            let algorithm = match algorithm {
                AlgorithmName::Rs256 => Algorithm::Rs256,
                AlgorithmName::Es256 => Algorithm::Es256,
            };
            TokenIssuer::generate(algorithm)?.save(&out)?;
        }
        Command::Mint(mint) => {
            let keys = TokenIssuer::load(&mint.keys)?;
            let mut subject = Subject::new(&mint.namespace, &mint.service_account);
            subject.pod = object(mint.pod_name, mint.pod_uid);
            subject.node = object(mint.node_name, mint.node_uid);
            let now = SystemTime::now();
            let draft = keys.draft(&mint.issuer, &mint.audience, &subject, now);
            let token = keys.sign(&draft.expiring(now + mint.expires_in))?;
            match mint.out {
                Some(file) => write_token(&file, &token)?,
                None => println!("{token}"),
            }
        }
    }
    Ok(())
}

fn object(name: Option<String>, uid: Option<String>) -> Option<Object> {
    let named = Object::named(&name?);
    Some(Object { uid: uid.unwrap_or(named.uid), name: named.name })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_then_mint_writes_a_token_into_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let (keys, token) = (folder.path().join("keys"), folder.path().join("token"));
        let (keys, token) = (keys.to_str().unwrap(), token.to_str().unwrap());
        let command = |line: &str| {
            let line = line.replace("KEYS", keys).replace("TOKEN", token);
            run(Cli::try_parse_from(line.split(' ')).unwrap().command)
        };
        command("token-issuer keys --out KEYS --algorithm es256").unwrap();
        assert!(command("token-issuer keys --out KEYS").is_err(), "nothing is written over");
        command(
            "token-issuer mint --keys KEYS --issuer https://issuer --namespace default --service-account sleep \
             --pod-name sleep-0 --pod-uid 7 --expires-in 90s --out TOKEN",
        )
        .unwrap();
        let token = std::fs::read_to_string(token).unwrap();
        let claims = token.split('.').nth(1).unwrap();
        let claims: serde_json::Value =
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
        assert_eq!(claims["aud"], json!(["istio-ca"]));
        assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 90);
        assert_eq!(claims["kubernetes.io"]["pod"], json!({ "name": "sleep-0", "uid": "7" }));
        assert_eq!(claims["kubernetes.io"]["node"], json!(null));
    }
}
