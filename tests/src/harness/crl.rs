//! CRLs by the `openssl` program, as the owner of a CA makes them.

use super::openssl::openssl;
use super::site::Site;

const CONFIGURATION: &str = "[ca]\ndefault_ca=c\n[c]\ndatabase=crl.index\ncrlnumber=crl.number\n\
    default_md=sha256\ndefault_crl_days=1\nunique_subject=no\n";

impl Site {
    /// A CRL, good for a day, of the CA with the files `FOLDER/ca-cert.pem` and `FOLDER/ca-key.pem`; it revokes
    /// the certificates in these files.
    pub fn crl(&self, folder: &str, revoked: &[&str]) -> String {
        self.crl_of(folder, revoked, &[])
    }

    /// An empty one whose next update was due long ago.
    pub fn ended_crl(&self, folder: &str) -> String {
        let dates = ["-crl_lastupdate", "20240101000000Z", "-crl_nextupdate", "20240201000000Z"];
        self.crl_of(folder, &[], &dates)
    }

    fn crl_of(&self, folder: &str, revoked: &[&str], dates: &[&str]) -> String {
        for (file, text) in [("crl.cnf", CONFIGURATION), ("crl.index", ""), ("crl.number", "01\n")] {
            std::fs::write(self.path(file), text).unwrap();
        }
        let (certificate, key) = (format!("{folder}/ca-cert.pem"), format!("{folder}/ca-key.pem"));
        let ca = ["ca", "-config", "crl.cnf", "-cert", &certificate, "-keyfile", &key];
        for file in revoked {
            openssl(self.folder(), &[&ca[..], &["-revoke", file]].concat());
        }
        openssl(self.folder(), &[&ca[..], &["-gencrl"], dates].concat())
    }
}
