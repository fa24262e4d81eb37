//! What a folder of CA files means: Istio's four files or a TLS secret's three, judged as a whole before
//! anything is signed.
//!
//! [`Folder`] is the input, [`Finding`] what is said of it; see [`Cacerts::read`] for the rules. `kinds` lists
//! everything that can be said; `files` reads, `path` finds the way to a root, `member` judges each CA on it.

mod crl;
mod details;
mod files;
mod finding;
mod folder;
mod key_file;
mod kinds;
mod member;
mod path;
mod roots;

use std::time::{Duration, SystemTime};

use crate::ca::Ca;
use crate::chain::Certificate;
use crate::clock::rfc3339;
use crate::crl::Crls;
use crate::key::KeyKind;
use crate::validity::Validity;

use files::{CACERTS, Layout, TLS_SECRET};
use finding::{Findings, Placed};
use path::Path;

pub use finding::{Fault, Finding, Named, Note};
pub use folder::{
    CA_CERT, CA_CRL, CA_KEY, CERT_CHAIN, Content, Folder, MAX_FILE, NAMES, ROOT_CERT, TLS_CA, TLS_CERT,
    TLS_KEY,
};

/// The stable names of everything that can be said of a folder, such as `NOT_A_CA`.
pub fn finding_codes() -> impl Iterator<Item = &'static str> {
    kinds::ALL.iter().map(|kind| kind.code)
}

/// Which of the forms that Istio knows a folder has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `ca-cert.pem`, `ca-key.pem`, `cert-chain.pem`, `root-cert.pem`, and perhaps `ca-crl.pem`.
    Cacerts,
    /// `tls.crt`, `tls.key`, `ca.crt`, as in a secret of the type kubernetes.io/tls.
    TlsSecret,
}

/// A plugged-in CA that can sign now, and everything that its leaves are answered with.
#[derive(Debug)]
pub struct Cacerts {
    /// Who signs.
    pub ca: Ca,
    /// From the signing certificate upwards, without roots; empty where the signer is a root.
    pub intermediates: Vec<Certificate>,
    /// The root that the chain ends in.
    pub anchor: Certificate,
    /// All roots, each once, in their order.
    pub roots: Vec<Certificate>,
    /// CRLs of the chain's CAs, PEM as given.
    pub crl: Option<Vec<u8>>,
    /// Which files it came from.
    pub form: Form,
    /// What was put right, or is worth knowing.
    pub notes: Vec<Note>,
}

impl Cacerts {
    /// From parts that belong together, without a judgement.
    pub fn of(ca: Ca, intermediates: Vec<Certificate>, anchor: Certificate, roots: Vec<Certificate>) -> Self {
        Self { ca, intermediates, anchor, roots, crl: None, form: Form::Cacerts, notes: Vec::new() }
    }

    /// Reads and judges a folder at `now`: all files of a form are there; every certificate parses; the key
    /// can sign and fits the signer; the chain has the signer, and leads from it by signatures to a root;
    /// every CA on the way may sign certificates, in a way that no peer refuses, and is valid now; roots
    /// are self-signed CAs; CRLs, where there are any, cover the path. All faults at once.
    pub fn read(folder: &Folder, now: SystemTime) -> Result<Self, Vec<Fault>> {
        let Judged { cacerts, faults, .. } = Judged::of(folder, now);
        cacerts.ok_or(faults)
    }

    /// Whether one more CA may stand between the signer and its leaves, by every path length above them and
    /// by how long a chain peers take.
    pub fn has_room_below(&self) -> bool {
        let path = self.intermediates.iter().chain([&self.anchor]);
        let allows = |(at, member): (usize, &Certificate)| {
            member.facts().path_length.is_none_or(|length| length as usize > at)
        };
        self.intermediates.len() < path::MAX_INTERMEDIATES && path.enumerate().all(allows)
    }

    /// Whether the CA signs with a P-256 intermediate of its own under this one, unless it is told not to: the key
    /// is RSA, which is slow, there is room, and no CRL, of which peers want one for each CA of a chain.
    pub fn is_better_with_issuing_intermediate(&self) -> bool {
        matches!(self.ca.key.kind(), KeyKind::Rsa(_)) && self.crl.is_none() && self.has_room_below()
    }

    /// The CRLs in a form to pass on; none where there is no file of them.
    pub fn crls(&self) -> Crls {
        // Whatever was loaded was judged, and a CRL that does not read is a fault.
        self.crl.as_deref().and_then(|text| Crls::from_pem(text).ok()).unwrap_or_default()
    }

    fn says_the_same(&self, other: &Self) -> bool {
        self.ca.certificate == other.ca.certificate
            && self.intermediates == other.intermediates
            && self.roots == other.roots
    }

    /// The validity of every certificate above a leaf.
    pub fn validities(&self) -> impl Iterator<Item = Validity> {
        self.intermediates.iter().chain([&self.anchor]).map(|member| member.facts().validity)
    }
}

/// A folder's judgement as a whole, for whoever shows it.
#[derive(Debug)]
pub struct Judged {
    /// What loads; nothing where there are faults.
    pub cacerts: Option<Cacerts>,
    /// Why it does not load.
    pub faults: Vec<Fault>,
    /// What was put right or is worth knowing, also where there are faults.
    pub notes: Vec<Note>,
    /// The CAs of the path with their places.
    path: Vec<Placed>,
}

impl Judged {
    /// Judges a folder at `now` by the rules of [`Cacerts::read`].
    pub fn of(folder: &Folder, now: SystemTime) -> Self {
        let first = CACERTS.names().iter().any(|name| folder.contains(name));
        if !folder.contains(TLS_CERT) {
            let lone = [TLS_KEY, TLS_CA].into_iter().filter(|name| folder.contains(name));
            if !first && lone.clone().next().is_some() {
                return judge(folder, &TLS_SECRET, now);
            }
            let mut judged = judge(folder, &CACERTS, now);
            judged.notes_too(lone.map(|name| {
                let todo = "remove it, or complete the form of tls.crt and remove the other";
                kinds::NOT_READ.of(name, "is not read, since there is no tls.crt", todo)
            }));
            return judged;
        }
        let judged = judge(folder, &TLS_SECRET, now);
        if first { judged.beside(&judge(folder, &CACERTS, now)) } else { judged }
    }

    /// As long as both forms say the same, it does not matter which of them is read.
    fn beside(mut self, other: &Self) -> Self {
        let what = match (&self.cacerts, &other.cacerts) {
            (Some(tls), Some(cacerts)) if tls.says_the_same(cacerts) => {
                let todo = "keep one form and remove the files of the other";
                let what =
                    "stands beside ca-cert.pem; both forms say the same, and tls.crt is read, as Istio does";
                self.notes_too([kinds::BOTH_FORMS.of(TLS_CERT, what, todo)]);
                return self;
            }
            (_, Some(_)) => "stands beside ca-cert.pem, and they are two different CAs",
            (_, None) => "stands beside the other form (ca-cert.pem and so on), which does not load",
        };
        let todo = "keep the form that is meant and remove the files of the other: tls.crt, tls.key and \
            ca.crt, or ca-cert.pem, ca-key.pem, cert-chain.pem and root-cert.pem";
        let mut faults = vec![kinds::BOTH_FORMS.of(TLS_CERT, what, todo)];
        faults.append(&mut self.faults);
        let notes = self.cacerts.map(|cacerts| cacerts.notes).unwrap_or(self.notes);
        Self { cacerts: None, faults, notes, path: self.path }
    }

    /// A note where some CA of the path ends before two leaves of this lifetime could follow each other.
    pub fn ends_soon(&self, leaf: Duration, now: SystemTime) -> Option<Note> {
        let end = |placed: &Placed| placed.certificate.facts().validity.not_after;
        let first = self.path.iter().min_by_key(|placed| end(placed))?;
        if end(first) >= now + leaf * 2 || end(first) < now {
            return None;
        }
        let what = format!("ends at {}, sooner than twice the lifetime of a leaf", rfc3339(end(first)));
        let todo = "make its successor now and load it before leaves get too short";
        Some(kinds::ENDS_FIRST.on(first, what, todo))
    }

    fn notes_too(&mut self, notes: impl IntoIterator<Item = Note>) {
        for note in notes {
            if let Some(cacerts) = &mut self.cacerts {
                cacerts.notes.push(note.clone());
            }
            self.notes.push(note);
        }
    }
}

fn judge(folder: &Folder, layout: &Layout, now: SystemTime) -> Judged {
    let mut findings = Findings::default();
    let parsed = files::parse(folder, layout, &mut findings);
    let roots = parsed.roots.map(roots::unique);
    if let Some(roots) = &roots {
        roots::check(roots, &mut findings);
    }
    let signer = parsed
        .signers
        .and_then(|signers| key_file::signer(&signers, parsed.key.as_ref(), layout.key, &mut findings));
    let path = match (&signer, parsed.chain, &roots) {
        (Some(signer), Some(chain), Some(roots)) => {
            path::find(signer, chain, roots, layout, now, &mut findings)
        }
        _ => None,
    };
    if let (Some(roots), Some(path)) = (&roots, &path) {
        roots::note_others(roots, &path.anchor, now, &mut findings);
        if let Some(crl) = parsed.crl {
            let all: Vec<_> = path.intermediates.iter().chain([&path.anchor]).collect();
            crl::check(crl, &all, now, &mut findings);
        }
    }
    let Findings { faults, notes } = findings;
    let members = path.iter().flat_map(|path| path.intermediates.iter().chain([&path.anchor]));
    let members = members.cloned().collect();
    let cacerts = match (signer, parsed.key, path, roots) {
        (Some(signer), Some(key), Some(Path { intermediates, anchor }), Some(roots)) if faults.is_empty() => {
            let ca = Ca { certificate: signer.certificate, key };
            let bare = |placed: Vec<Placed>| placed.into_iter().map(|one| one.certificate).collect();
            let (intermediates, roots) = (bare(intermediates), bare(roots));
            let crl = parsed.crl.map(<[u8]>::to_vec);
            let anchor = anchor.certificate;
            Some(Cacerts { ca, intermediates, anchor, roots, crl, form: layout.form, notes: notes.clone() })
        }
        _ => None,
    };
    Judged { cacerts, faults, notes, path: members }
}

#[cfg(test)]
mod tests;
