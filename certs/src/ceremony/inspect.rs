//! Looking into files: what each holds, and whether a `cacerts` folder would load.
//!
//! One file that cannot be read does not hide the others. What is said of a certificate, request or key
//! stands in `description`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::{Args, ValueEnum};
use serde::Serialize;
use signet_certs::cacerts::{Finding, Judged, NAMES};
use signet_certs::pem::{self, PemError};
use thiserror::Error;
use x509_parser::asn1_rs::Any;
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

use super::description::{Description, DescriptionError};
use super::read_folder::read_folder;
use super::text::{lines, shell};

/// What `inspect` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Files in PEM or DER, or folders with the four files of a cacerts secret
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// For people, or for programs
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// What was seen.
#[derive(Debug)]
pub(crate) struct Inspected {
    /// To print, in the wanted format.
    pub(crate) output: String,
    /// What could not be read, or would not load.
    pub(crate) errors: Vec<InspectError>,
}

/// Why something is not shown, or not good.
#[derive(Debug, Error)]
pub(crate) enum InspectError {
    /// No file, or not ours to read.
    #[error("read {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// Damaged PEM.
    #[error("read {} as PEM", .0.display())]
    Pem(PathBuf, #[source] PemError),
    /// One value within a file; the place is a line, or an offset where the file is DER.
    #[error("{path}, {1}", path = .0.display())]
    Value(PathBuf, String, #[source] DescriptionError),
    /// A folder without any of the four files.
    #[error("{}: expected a folder of CA files, found none of {names}", .0.display(), names = NAMES.join(", "))]
    NotCacerts(PathBuf),
    /// The faults themselves are part of the output.
    #[error("{}: the CA would not load this folder", .0.display())]
    WouldNotLoad(PathBuf),
}

#[derive(Serialize)]
#[serde(untagged)]
enum Seen {
    File(SeenFile),
    Folder { folder: String, loads: bool, faults: Vec<String>, notes: Vec<String>, files: Vec<SeenFile> },
}

#[derive(Serialize)]
struct SeenFile {
    file: String,
    holds: Vec<Description>,
}

/// Looks at everything that was named, in its order.
pub(crate) fn run(options: &Options, now: SystemTime) -> Inspected {
    let mut looker = Looker { now, errors: Vec::new() };
    let seen: Vec<_> = options
        .files
        .iter()
        .filter_map(
            |path| {
                if path.is_dir() { looker.folder(path) } else { looker.file(path).map(Seen::File) }
            },
        )
        .collect();
    let output = match options.output {
        Format::Text => seen.iter().map(text).collect(),
        Format::Json => {
            serde_json::to_string_pretty(&seen)
                .expect("only a map with other keys than strings has no JSON, and there is none")
                + "\n"
        }
    };
    Inspected { output, errors: looker.errors }
}

struct Looker {
    now: SystemTime,
    errors: Vec<InspectError>,
}

impl Looker {
    fn file(&mut self, path: &Path) -> Option<SeenFile> {
        match fs::read(path).map(Zeroizing::new) {
            Ok(content) => self.content(path, &content),
            Err(error) => {
                self.errors.push(InspectError::Read(path.to_owned(), error));
                None
            }
        }
    }

    /// Nothing where the content holds nothing that can be shown.
    fn content(&mut self, path: &Path, content: &[u8]) -> Option<SeenFile> {
        let holds = match pem::blocks(content) {
            Ok(blocks) if !blocks.is_empty() => self.blocks(path, blocks),
            Ok(_) | Err(PemError::NotText) => self.der(path, content),
            Err(error) => {
                self.errors.push(InspectError::Pem(path.to_owned(), error));
                return None;
            }
        };
        (!holds.is_empty()).then(|| SeenFile { file: path.display().to_string(), holds })
    }

    fn blocks(&mut self, path: &Path, blocks: Vec<pem::Block>) -> Vec<Description> {
        let mut holds = Vec::with_capacity(blocks.len());
        for block in blocks {
            let place = format!("line {}", block.line);
            match Description::of_block(block, self.now) {
                Ok(description) => holds.push(description),
                Err(error) => self.errors.push(InspectError::Value(path.to_owned(), place, error)),
            }
        }
        holds
    }

    /// DER values one behind the other; after the first that is none, no next one can be found.
    fn der(&mut self, path: &Path, content: &[u8]) -> Vec<Description> {
        let mut holds = Vec::new();
        let mut rest = content;
        loop {
            let described = match Any::from_der(rest) {
                Ok((behind, _)) => Description::of_der(&rest[..rest.len() - behind.len()], self.now)
                    .map(|description| (description, behind)),
                Err(_) => Err(DescriptionError::Unknown),
            };
            match described {
                Ok((description, behind)) => {
                    holds.push(description);
                    rest = behind;
                }
                Err(error) => {
                    let place = format!("byte {}", content.len() - rest.len());
                    self.errors.push(InspectError::Value(path.to_owned(), place, error));
                    return holds;
                }
            }
            if rest.is_empty() {
                return holds;
            }
        }
    }

    /// The files of a folder and what the CA would say to them.
    fn folder(&mut self, folder: &Path) -> Option<Seen> {
        let read = read_folder(folder);
        if read.is_empty() {
            self.errors.push(InspectError::NotCacerts(folder.to_owned()));
            return None;
        }
        let readable = NAMES.iter().filter_map(|name| Some((name, read.get(name)?.as_ref().ok()?)));
        let files =
            readable.filter_map(|(name, content)| self.content(&folder.join(name), content)).collect();
        let Judged { faults, notes, .. } = Judged::of(&read, self.now);
        let said = |list: &[Finding]| list.iter().map(Finding::to_string).collect::<Vec<_>>();
        let (faults, notes) = (said(&faults), said(&notes));
        if !faults.is_empty() {
            self.errors.push(InspectError::WouldNotLoad(folder.to_owned()));
        }
        let folder = folder.display().to_string();
        Some(Seen::Folder { folder, loads: faults.is_empty(), faults, notes, files })
    }
}

fn text(seen: &Seen) -> String {
    match seen {
        Seen::File(file) => file_text(file),
        Seen::Folder { folder, faults, notes, files, .. } => {
            let files: String = files.iter().map(file_text).collect();
            let list = |list: &[String]| {
                if list.is_empty() { "\n".to_owned() } else { format!(":\n{}\n", lines(list)) }
            };
            let verdict = if faults.is_empty() {
                format!("the CA would load this folder{}", list(notes))
            } else {
                format!("the CA would not load this folder{}", list(faults))
            };
            // Why, and what to do, is lint's to say.
            let more = if faults.is_empty() && notes.is_empty() {
                String::new()
            } else {
                format!("certs lint {} says why, and what to do\n", shell(Path::new(folder)))
            };
            format!("{files}{folder}: {verdict}{more}")
        }
    }
}

fn file_text(file: &SeenFile) -> String {
    let mut out = format!("{}\n", file.file);
    for description in &file.holds {
        let (kind, rows) = description.rows();
        out.push_str(&format!("  {kind}\n"));
        for (name, value) in rows {
            out.push_str(&format!("    {name:<14} {value}\n"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use signet_certs::ca::Ca;
    use signet_certs::cacerts::{CA_CERT, CA_KEY, CERT_CHAIN, ROOT_CERT};
    use signet_certs::clock::from_unix;
    use signet_certs::csr;
    use signet_certs::key::PrivateKey;
    use signet_certs::name::ca_name;
    use signet_certs::spiffe_id::SpiffeId;
    use signet_certs::validity::{BACKDATE, Validity};
    use std::slice::from_ref;
    use std::time::Duration;

    fn now() -> SystemTime {
        from_unix(1_800_000_000)
    }

    fn root() -> Ca {
        let validity =
            Validity { not_before: now() - BACKDATE, not_after: now() + Duration::from_secs(3600) };
        let key = PrivateKey::generate_p256().unwrap();
        Ca::root(ca_name("Signet", None, "Root CA"), validity, key).unwrap()
    }

    fn inspect(files: &[PathBuf], output: Format) -> Inspected {
        run(&Options { files: files.to_vec(), output }, now())
    }

    fn folder(root: &Ca) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in [CA_CERT, CERT_CHAIN, ROOT_CERT] {
            fs::write(folder.path().join(file), root.certificate.to_pem()).unwrap();
        }
        fs::write(folder.path().join(CA_KEY), root.key.to_pkcs8_pem().as_bytes()).unwrap();
        folder
    }

    #[test]
    fn pem_and_der_show_the_same_certificates_one_behind_the_other() {
        let (folder, two) = (tempfile::tempdir().unwrap(), [root().certificate, root().certificate]);
        let (pem, der) = (folder.path().join("a.pem"), folder.path().join("a.der"));
        fs::write(&pem, two.each_ref().map(|one| one.to_pem()).concat()).unwrap();
        fs::write(&der, two.each_ref().map(|one| one.der().to_vec()).concat()).unwrap();
        let [pem, der] = [pem, der].map(|path| {
            let seen = inspect(&[path], Format::Text);
            assert!(seen.errors.is_empty(), "{:?}", seen.errors);
            seen.output.split_once('\n').unwrap().1.to_owned()
        });
        assert_eq!(pem, der);
        assert_eq!(pem.matches("O=Signet, CN=Root CA").count(), 4, "{pem}");
        for part in ["P-256", "1h 0m left", "yes, without a path length", &two[1].facts().serial.to_string()]
        {
            assert!(pem.contains(part), "{part} in {pem}");
        }
    }

    #[test]
    fn a_request_shows_what_it_asks_for() {
        let folder = tempfile::tempdir().unwrap();
        let identity = SpiffeId::parse("spiffe://td/ns/n/sa/s").unwrap();
        let path = folder.path().join("a.csr");
        fs::write(&path, csr::create(&PrivateKey::generate_p256().unwrap(), &identity).unwrap()).unwrap();
        let seen = inspect(&[path], Format::Json);
        let json: serde_json::Value = serde_json::from_str(&seen.output).unwrap();
        let held = &json[0]["holds"][0];
        assert_eq!(held["type"], "csr");
        assert_eq!(held["names"], serde_json::json!(["URI:spiffe://td/ns/n/sa/s"]));
        assert_eq!((&held["key"], &held["refused"]), (&"P-256".into(), &serde_json::Value::Null));
    }

    #[test]
    fn one_bad_file_or_block_does_not_hide_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let good = root().certificate;
        let write = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, content).unwrap();
            path
        };
        let files = [
            folder.path().join("missing"),
            write("empty", b""),
            write("text", b"hello"),
            write("cut", b"-----BEGIN CERTIFICATE-----\nAAAA\n"),
            write("mixed", (pem::encode("CERTIFICATE", &[1]) + &good.to_pem()).as_bytes()),
            write("trailing", &[good.der().as_ref(), b"more"].concat()),
        ];
        let seen = inspect(&files, Format::Json);
        let errors: Vec<_> = seen.errors.iter().map(ToString::to_string).collect();
        assert_eq!(errors.len(), files.len(), "{errors:?}");
        for (error, file) in errors.iter().zip(&files) {
            assert!(error.contains(&file.display().to_string()), "{error}");
        }
        assert!(errors[4].ends_with("line 1") && errors[5].contains(", byte "), "{errors:?}");
        let json: serde_json::Value = serde_json::from_str(&seen.output).unwrap();
        assert_eq!(json.as_array().unwrap().len(), 2, "{json:#}");
    }

    #[test]
    fn a_cacerts_folder_is_judged_as_the_ca_would() {
        let root = root();
        let folder = folder(&root);
        let path = folder.path().to_owned();
        let seen = inspect(from_ref(&path), Format::Text);
        assert!(seen.errors.is_empty() && seen.output.contains(": the CA would load this folder\n"));
        assert!(seen.output.contains("(private key)") && !seen.output.contains("BEGIN"));

        let other = PrivateKey::generate_p256().unwrap();
        fs::write(path.join(CA_KEY), other.to_pkcs8_pem().as_bytes()).unwrap();
        fs::remove_file(path.join(ROOT_CERT)).unwrap();
        let text = inspect(from_ref(&path), Format::Text).output;
        assert!(
            text.ends_with(&format!("certs lint {} says why, and what to do\n", path.display())),
            "{text}"
        );
        let seen = inspect(from_ref(&path), Format::Json);
        assert!(matches!(seen.errors.as_slice(), [InspectError::WouldNotLoad(_)]), "{:?}", seen.errors);
        let json: serde_json::Value = serde_json::from_str(&seen.output).unwrap();
        let faults: Vec<_> =
            json[0]["faults"].as_array().unwrap().iter().map(|f| f.as_str().unwrap()).collect();
        assert_eq!((&json[0]["loads"], faults.len()), (&false.into(), 2), "{faults:?}");
        assert!(faults[0].starts_with(ROOT_CERT) && faults[0].contains("is missing"), "{faults:?}");
        assert!(faults[1].starts_with(CA_KEY) && faults[1].contains("not its own"), "{faults:?}");
        assert_eq!(json[0]["files"].as_array().unwrap().len(), 3);
    }

    #[test]
    fn a_folder_without_any_of_the_files_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let seen = inspect(&[folder.path().to_owned()], Format::Text);
        assert!(matches!(seen.errors.as_slice(), [InspectError::NotCacerts(_)]), "{:?}", seen.errors);
        assert_eq!(seen.output, "");
    }
}
