//! What is said of a folder: faults, which keep it from loading, and notes, which do not.

use std::fmt;

use serde::Serialize;

use crate::chain::Certificate;
use crate::name;

/// Something that is wrong with a folder, or worth knowing: on what, why it matters, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// File name.
    pub file: &'static str,
    /// Its stable name, such as `NOT_A_CA`.
    pub code: &'static str,
    /// The certificate that it is about, where it is about one.
    pub certificate: Option<Named>,
    /// What was expected and what was found.
    pub what: String,
    /// Why it matters.
    pub why: &'static str,
    /// What to do, with a command where there is one.
    pub todo: String,
}

/// What keeps a folder from loading.
pub type Fault = Finding;
/// What was put right, or is worth knowing.
pub type Note = Finding;

/// A certificate as people find it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Named {
    /// Its subject, for reading.
    pub subject: String,
    /// Its serial number, hex.
    pub serial: String,
    /// The file that it stands in.
    pub file: &'static str,
    /// The line in its file that it begins on, counted from 1.
    pub line: usize,
}

impl Finding {
    /// The same, said of another file than the certificate's own.
    pub(crate) fn within(self, file: &'static str) -> Self {
        Self { file, ..self }
    }
}

/// A kind of finding: its stable name, and why it matters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) code: &'static str,
    pub(crate) why: &'static str,
}

impl Kind {
    /// A finding of this kind about a file.
    pub(crate) fn of(self, file: &'static str, what: impl Into<String>, todo: impl Into<String>) -> Finding {
        let (what, todo) = (what.into(), todo.into());
        Finding { file, code: self.code, certificate: None, what, why: self.why, todo }
    }

    /// A finding about one certificate; `what` follows its name.
    pub(crate) fn on(self, placed: &Placed, what: impl fmt::Display, todo: impl Into<String>) -> Finding {
        let named = placed.named();
        let what = format!("{} {what}", placed.called());
        Finding { certificate: Some(named), ..self.of(placed.file, what, todo) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file, self.what)
    }
}

/// What was found so far.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) faults: Vec<Fault>,
    pub(crate) notes: Vec<Note>,
}

impl Findings {
    /// The same of one file is said once, though a certificate may stand in several roles.
    pub(crate) fn fault(&mut self, fault: Fault) {
        if !self.faults.contains(&fault) {
            self.faults.push(fault);
        }
    }

    pub(crate) fn note(&mut self, note: Note) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

/// A certificate, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) certificate: Certificate,
    pub(crate) file: &'static str,
    /// Counted from 1.
    pub(crate) line: usize,
}

impl Placed {
    pub(crate) fn named(&self) -> Named {
        let facts = self.certificate.facts();
        let subject = name::display(&facts.subject);
        Named { subject, serial: facts.serial.to_string(), file: self.file, line: self.line }
    }

    /// For a sentence: `(CN=Root CA, serial 01)`.
    pub(crate) fn called(&self) -> String {
        called(&self.certificate)
    }
}

/// For a sentence: `(CN=Root CA, serial 01)`.
pub(crate) fn called(certificate: &Certificate) -> String {
    let facts = certificate.facts();
    format!("({}, serial {})", name::display(&facts.subject), facts.serial)
}
