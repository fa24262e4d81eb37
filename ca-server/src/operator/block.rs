//! `block …`

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use serde_json::json;

use super::client::{self, Client};
use super::{OperatorError, Target, print, show};
use crate::blocks;

/// `block …`
#[derive(Debug, Subcommand)]
pub enum BlockVerb {
    /// Refuse somebody every certificate and renewal, from the next request on
    #[command(
        after_help = "A block takes nothing back: certificates issued before it are good until they end. \
        The answer says how many those are, and when the last of them ends."
    )]
    Add {
        /// Whom.
        #[command(flatten)]
        whom: Whom,
        /// Why; it is recorded in the log, with who asked
        #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
        reason: String,
    },
    /// List who is blocked, and what certificates each block left
    List,
    /// End a block
    End {
        /// Its id
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        id: String,
        /// Why; it is recorded in the log, with who asked
        #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
        reason: String,
    },
}

/// Whom a block is for: exactly one of these.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Whom {
    /// A SPIFFE ID: all of its pods, and whatever else proves to be it
    #[arg(long, value_name = "SPIFFE-ID")]
    identity: Option<String>,
    /// A pod by its uid, as its tokens name it. The id that an agent without a pod gives itself proves nothing,
    /// and is not meant
    #[arg(long, value_name = "UID")]
    pod: Option<String>,
    /// A node by its name or its uid, as the tokens of its pods name it. A name also blocks the next machine
    /// that gets it
    #[arg(long, value_name = "NAME|UID")]
    node: Option<String>,
    /// A certificate by its serial number: neither it nor any other certificate of its chain of renewals renews
    /// by certificate. Its holder still gets new ones with a token: block the identity or the pod for that
    #[arg(long, value_name = "HEX")]
    serial: Option<String>,
    /// A CA key by its id: no certificate that it signed, or that a CA under it signed, renews by certificate.
    /// Callers with tokens are not concerned, and go on getting certificates from whichever CA is active
    #[arg(long, value_name = "HEX")]
    issuer_key: Option<String>,
}

impl Whom {
    fn named(self) -> Option<(&'static str, String)> {
        let Whom { identity, pod, node, serial, issuer_key } = self;
        let all = [
            ("identity", identity),
            ("pod", pod),
            ("node", node),
            ("serial", serial),
            ("issuer-key", issuer_key),
        ];
        all.into_iter().find_map(|(kind, value)| Some((kind, value?)))
    }
}

/// `block …`
pub async fn block(target: &Target, verb: BlockVerb) -> Result<(), OperatorError> {
    let client = Client::new(&target.admin_socket);
    match verb {
        BlockVerb::Add { whom, reason } => {
            let Some((kind, value)) = whom.named() else {
                return Err(OperatorError::Flag("whom to block is missing".to_owned()));
            };
            // Judged here, so that a mistyped flag is not an answer of the server.
            blocks::Target::parse(kind, &value).map_err(OperatorError::Flag)?;
            let wanted = json!({ "kind": kind, "value": value, "reason": reason });
            print(target.output, &client.post("/v1/blocks", &wanted).await?, show::blocked)
        }
        BlockVerb::List => print(target.output, &client.get("/v1/blocks").await?, show::blocks),
        BlockVerb::End { id, reason } => {
            let path = format!("/v1/blocks/{}/end", client::escaped(&id));
            let ended = client.post(&path, &json!({ "reason": reason })).await?;
            print(target.output, &ended, show::block_ended)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::Command;
    use clap::error::ErrorKind;

    #[test]
    fn exactly_one_is_blocked_and_never_without_a_reason() {
        let parse = |words: &[&str]| {
            BlockVerb::augment_subcommands(Command::new("block")).try_get_matches_from(words)
        };
        let refused = |words: &[&str]| parse(words).unwrap_err().kind();
        let reason = ["--reason", "stolen"];
        assert!(parse(&[&["block", "add", "--pod", "uid"], &reason[..]].concat()).is_ok());
        let none = [&["block", "add"], &reason[..]].concat();
        assert_eq!(refused(&none), ErrorKind::MissingRequiredArgument);
        let two = [&["block", "add", "--pod", "uid", "--node", "name"], &reason[..]].concat();
        assert_eq!(refused(&two), ErrorKind::ArgumentConflict);
        assert_eq!(refused(&["block", "add", "--pod", "uid"]), ErrorKind::MissingRequiredArgument);
        assert_eq!(refused(&["block", "add", "--pod", "uid", "--reason", ""]), ErrorKind::InvalidValue);
        assert_eq!(refused(&["block", "end", "7"]), ErrorKind::MissingRequiredArgument);
    }
}
