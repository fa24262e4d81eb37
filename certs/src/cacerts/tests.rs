#![allow(clippy::unwrap_used)]
mod chains;

use super::*;
use crate::ca::tests::{YEAR, intermediate, life, now, root};
use crate::key::PrivateKey;
use crate::name::ca_name;
use crate::profile::Profile;
use crate::template::Names;
use std::slice::from_ref;

struct Made {
    root: Ca,
    signer: Ca,
}

fn good() -> Made {
    let root = root("Root CA");
    let signer = intermediate(&root);
    Made { root, signer }
}

impl Made {
    fn files(&self) -> Folder {
        folder(&self.signer, &[&self.signer, &self.root], &[&self.root])
    }
}

/// The four files of a signer with this chain and these roots.
fn folder(signer: &Ca, chain: &[&Ca], roots: &[&Ca]) -> Folder {
    let pem = |list: &[&Ca]| list.iter().map(|ca| ca.certificate.to_pem()).collect::<String>().into_bytes();
    Folder::from([
        (CA_CERT, pem(&[signer])),
        (CA_KEY, signer.key.to_pkcs8_pem().as_bytes().to_vec()),
        (CERT_CHAIN, pem(chain)),
        (ROOT_CERT, pem(roots)),
    ])
}

/// The folder with one file changed.
fn but(mut folder: Folder, name: &'static str, content: impl AsRef<[u8]>) -> Folder {
    folder.insert(name, Ok(content.as_ref().to_vec().into()));
    folder
}

/// A file's content.
fn file(folder: &Folder, name: &str) -> Vec<u8> {
    folder.get(name).unwrap().as_ref().unwrap().to_vec()
}

fn faults(files: &Folder, now: SystemTime) -> Vec<String> {
    Cacerts::read(files, now).unwrap_err().iter().map(ToString::to_string).collect()
}

fn one_fault(files: &Folder, file: &str, text: &str) {
    let found = faults(files, now());
    assert!(found.len() == 1 && found[0].starts_with(file) && found[0].contains(text), "{found:?}");
}

#[track_caller]
fn one_note(loaded: &Cacerts, code: &str, text: &str) {
    let found = &loaded.notes;
    assert!(matches!(found.as_slice(), [note] if note.code == code && note.what.contains(text)), "{found:?}");
}

#[test]
fn istio_s_four_files_load_and_the_root_leaves_the_chain() {
    let folder = good();
    let loaded = Cacerts::read(&folder.files(), now()).unwrap();
    assert_eq!(loaded.intermediates, from_ref(&folder.signer.certificate));
    assert_eq!(loaded.roots, from_ref(&folder.root.certificate));
    assert_eq!(loaded.anchor, folder.root.certificate);
    assert_eq!(loaded.validities().count(), 2);
    let without_root = self::folder(&folder.signer, &[&folder.signer], &[&folder.root]);
    assert_eq!(Cacerts::read(&without_root, now()).unwrap().intermediates.len(), 1);
}

#[test]
fn a_root_that_signs_itself_has_no_intermediates() {
    let root = root("Root CA");
    let files = folder(&root, &[&root], &[&root, &root]);
    let loaded = Cacerts::read(&files, now()).unwrap();
    assert!(loaded.intermediates.is_empty());
    assert_eq!(loaded.roots.len(), 1, "a root given twice counts once");
    assert_eq!(loaded.anchor, root.certificate);
}

#[test]
fn three_levels_need_their_order_and_their_path_lengths() {
    let top = root("Root CA");
    let middle_key = PrivateKey::generate_p256().unwrap();
    let middle = top.intermediate(ca_name("Signet", None, "Middle"), 1, life(8), middle_key).unwrap();
    let signer = intermediate(&middle);
    let files = folder(&signer, &[&signer, &middle, &top], &[&top]);
    assert_eq!(Cacerts::read(&files, now()).unwrap().intermediates.len(), 2);
    let swapped = folder(&signer, &[&signer, &top, &middle], &[&top]);
    let loaded = Cacerts::read(&swapped, now()).unwrap();
    assert_eq!(loaded.intermediates, [signer.certificate.clone(), middle.certificate.clone()]);
    one_note(&loaded, "CHAIN_REORDERED", "is a root and stands before other certificates");
    let turned = folder(&signer, &[&middle, &signer], &[&top]);
    let loaded = Cacerts::read(&turned, now()).unwrap();
    assert_eq!(loaded.intermediates, [signer.certificate.clone(), middle.certificate.clone()]);
    one_note(&loaded, "CHAIN_REORDERED", "is in the wrong order");
    let missing = folder(&signer, &[&signer], &[&top]);
    one_fault(&missing, CA_CERT, "which is not in root-cert.pem nor further up");
    let short_key = PrivateKey::generate_p256().unwrap();
    let short = top.intermediate(ca_name("Signet", None, "Middle"), 0, life(8), short_key).unwrap();
    let below = intermediate(&short);
    let files = folder(&below, &[&below, &short], &[&top]);
    one_fault(&files, CERT_CHAIN, "path length 0, but 1 CA stands below");
}

#[test]
fn each_fault_is_named_with_its_file() {
    let made = good();
    let with = |name, content: &[u8]| but(made.files(), name, content);
    let other = good().files();
    one_fault(&with(CA_CERT, b"x"), CA_CERT, "expected a block CERTIFICATE");
    one_fault(&with(CA_KEY, &file(&other, CA_KEY)), CA_KEY, "not its own");
    one_fault(&with(CA_KEY, b""), CA_KEY, "no PEM block");
    one_fault(&with(CERT_CHAIN, b""), CERT_CHAIN, "expected a block CERTIFICATE");
    let root = file(&made.files(), ROOT_CERT);
    one_fault(&with(CERT_CHAIN, &root), CERT_CHAIN, "must begin with");
    one_fault(&with(ROOT_CERT, b""), ROOT_CERT, "expected a block CERTIFICATE");
    one_fault(&with(ROOT_CERT, &file(&other, ROOT_CERT)), CA_CERT, "did not sign it: its key is another");
    let both = [root, file(&made.files(), CA_CERT)].concat();
    let found = faults(&with(ROOT_CERT, &both), now());
    assert!(found[0].contains("is not a root"), "{found:?}");
}

#[test]
fn all_faults_are_reported_at_once() {
    let files = but(but(good().files(), CA_KEY, ""), ROOT_CERT, "");
    assert_eq!(faults(&files, now()).len(), 2);
}

#[test]
fn case_29_a_signer_that_is_no_ca_is_refused() {
    let root = root("Root CA");
    let key = PrivateKey::generate_p256().unwrap();
    let names = Names::Hosts { dns: vec!["localhost".into()], ip: vec![] };
    let template = root.template(Profile::Serving, names, key.spki().to_vec(), life(1)).unwrap();
    let bounds = crate::check::Bounds { now: now(), maximum: YEAR };
    let der = root.sign(&template, bounds).unwrap();
    let leaf = Ca { certificate: Certificate::from_der(der.to_vec()).unwrap(), key };
    let found = faults(&Made { root, signer: leaf }.files(), now());
    assert!(found.iter().any(|fault| fault.contains("is not a CA")), "{found:?}");
    assert!(found.iter().any(|fault| fault.contains("lacks keyCertSign")), "{found:?}");
}

#[test]
fn expired_and_future_members_are_refused() {
    let files = good().files();
    assert!(faults(&files, now() + YEAR * 6)[0].starts_with(CA_CERT));
    assert_eq!(faults(&files, now() + YEAR * 11).len(), 2, "signer and root");
    assert!(faults(&files, now() - YEAR)[0].contains("is not valid before"));
}
