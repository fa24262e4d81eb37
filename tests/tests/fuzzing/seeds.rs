//! Where the corpora began: real inputs of every kind, good ones and such as are refused for one reason. Keys
//! are made for it and serve nothing else. They differ each time, so every target stands fresh ones in each run;
//! with `SIGNET_SEED_CORPORA=1` they replace those in `fuzz/corpus`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use signet_tests::harness::openssl::{csr, key, openssl};
use tempfile::TempDir;

mod answers;
mod authorities;
mod logs;
mod tokens;

/// A folder in which `openssl` has made one key of each kind, by the name of its file.
struct Bench {
    folder: TempDir,
}

/// Keys that are certified, and such as are not, by the arguments of `openssl genpkey`.
const KINDS: [(&str, &[&str]); 9] = [
    ("rsa-2048", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]),
    ("rsa-4096", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:4096"]),
    ("p-256", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]),
    ("p-384", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"]),
    ("ed25519", &["-algorithm", "ED25519"]),
    ("rsa-1024", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"]),
    ("rsa-pss", &["-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048"]),
    ("p-521", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"]),
    (
        "explicit",
        &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-pkeyopt", "ec_param_enc:explicit"],
    ),
];

impl Bench {
    fn new() -> Bench {
        let bench = Bench { folder: tempfile::tempdir().unwrap() };
        KINDS.iter().for_each(|(name, kind)| key(bench.path(), name, kind));
        bench
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path().join(name), content).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path().join(name)).unwrap()
    }

    fn openssl(&self, arguments: &str) -> String {
        openssl(self.path(), &arguments.split_whitespace().collect::<Vec<_>>())
    }
}

/// Where they are written.
static CORPORA: OnceLock<PathBuf> = OnceLock::new();

/// Writes a file of a corpus.
fn seed(target: &str, name: &str, content: impl AsRef<[u8]>) {
    let folder = CORPORA.get().unwrap().join(target);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(name), content).unwrap();
}

#[test]
fn every_target_stands_fresh_seeds() {
    let folder = tempfile::tempdir().unwrap();
    let kept = std::env::var_os("SIGNET_SEED_CORPORA").is_some();
    CORPORA.set(if kept { super::corpus() } else { folder.path().to_owned() }).unwrap();
    let bench = Bench::new();
    requests(&bench);
    files(&bench);
    names();
    configurations();
    authorities::folders(&bench);
    let keys = tokens::tokens(&bench);
    if kept {
        fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/fuzzing/keys.json"), keys).unwrap();
    }
    tokens::key_sets();
    answers::answers();
    answers::streams();
    answers::messages(&bench);
    logs::logs();
    for (target, _) in signet_tests::fuzzing::TARGETS {
        super::replay(CORPORA.get().unwrap(), target);
    }
}

fn requests(bench: &Bench) {
    let section = "subjectAltName=URI:spiffe://cluster.local/ns/default/sa/reviews,DNS:a.example,IP:10.0.0.1,\
        email:a@b.example,RID:1.2.3.4,dirName:dn,otherName:1.3.6.1.4.1.311.20.2.3;UTF8:upn";
    bench.write(
        "req.cnf",
        format!(
            "[req]\ndistinguished_name=dn\nattributes=attributes\nprompt=no\n[dn]\nC=DE\nO=Org\nCN=name\n\
            [attributes]\nchallengePassword=secret\n[names]\n{section}\n\
            [ca]\nbasicConstraints=critical,CA:TRUE,pathlen:3\nkeyUsage=keyCertSign\nextendedKeyUsage=serverAuth\n"
        ),
    );
    for (name, _) in KINDS {
        seed("csr", name, csr(bench.path(), name, &[]));
    }
    let with = |name: &str, key: &str, arguments: &[&str]| {
        seed("csr", name, csr(bench.path(), key, arguments));
    };
    with("p-256-with-sha-384", "p-256", &["-sha384"]);
    with("p-384-with-sha-256", "p-384", &["-sha256"]);
    with("rsa-with-sha-512", "rsa-2048", &["-sha512"]);
    with("rsa-with-sha-1", "rsa-2048", &["-sha1"]);
    with("rsa-with-pss", "rsa-2048", &["-sigopt", "rsa_padding_mode:pss"]);
    with("every-kind-of-name", "p-256", &["-config", "req.cnf", "-reqexts", "names"]);
    with("asks-to-be-a-ca", "p-256", &["-config", "req.cnf", "-reqexts", "ca"]);
    with("der", "p-384", &["-outform", "DER"]);
    let text = csr(bench.path(), "p-256", &[]);
    seed("csr", "two", text.repeat(2));
    seed("csr", "text-behind", format!("{text}more"));
    seed("csr", "cut", &text[..text.len() / 2]);
    seed("csr", "crlf", text.replace('\n', "\r\n"));
    // To be signed by the target.
    let key = signet_tests::fuzzing::pki::key(signet_tests::fuzzing::pki::WORKLOAD);
    bench.write("workload", key.to_pkcs8_pem().as_bytes());
    for (name, section) in [("names", Some("names")), ("ca", Some("ca")), ("plain", None)] {
        let extensions = section.map(|section| vec!["-reqexts", section]).unwrap_or_default();
        let config = &["-config", "req.cnf", "-outform", "DER", "-out", "req.der"];
        csr(bench.path(), "workload", &[config, &extensions[..]].concat());
        seed("csr", &format!("to-sign-{name}"), [b"i", signed_part(&bench.read("req.der"))].concat());
    }
}

/// The first value within a DER sequence.
fn signed_part(der: &[u8]) -> &[u8] {
    let header = |der: &[u8]| match der[1] {
        short @ 0..0x80 => (2, usize::from(short)),
        long => {
            let octets = usize::from(long & 0x7f);
            (
                2 + octets,
                der[2..2 + octets].iter().fold(0, |length, octet| (length << 8) | usize::from(*octet)),
            )
        }
    };
    let inner = &der[header(der).0..];
    let (begin, length) = header(inner);
    &inner[..begin + length]
}

fn files(bench: &Bench) {
    for (name, _) in KINDS {
        seed("files", name, bench.read(name));
    }
    let made = |name: &str, command: &str| {
        bench.openssl(&format!("{command} -out made"));
        seed("files", name, bench.read("made"));
    };
    made("pkcs-1", "rsa -in rsa-2048 -traditional");
    made("pkcs-1-encrypted", "rsa -in rsa-2048 -traditional -aes256 -passout pass:x");
    made("sec-1", "ec -in p-256");
    made("sec-1-compressed", "ec -in p-384 -conv_form compressed");
    made("sec-1-without-its-public-part", "ec -in p-256 -no_public");
    made("parameters-beside", "ecparam -name prime256v1 -genkey");
    made("encrypted", "pkcs8 -in p-256 -topk8 -v2 aes256 -passout pass:x");
    made("pkcs-8-in-der", "pkcs8 -in p-256 -topk8 -nocrypt -outform DER");
    made("pkcs-8-of-rsa-in-der", "pkcs8 -in rsa-2048 -topk8 -nocrypt -outform DER");
    made("public", "pkey -in p-256 -pubout");
    made("certificate", "req -x509 -key p-256 -subj /O=x/CN=y -days 3650");
    made(
        "certificate-in-der",
        "req -x509 -key ed25519 -subj /CN=y -days 3650 -outform DER -addext \
        subjectAltName=DNS:a.example,URI:spiffe://td/x,IP:::1 -addext nameConstraints=permitted;DNS:example",
    );
    made("request-in-der", "req -new -key p-384 -subj /CN=y -outform DER");
    seed(
        "files",
        "a-bundle",
        [bench.read("p-256"), b"Bag Attributes\n".to_vec(), bench.read("made")].concat(),
    );
    seed("files", "text", "Not a key\n-----BEGIN NOTHING-----\nAAAA\n-----END NOTHING-----\n");
}

fn names() {
    for (name, text) in [
        ("id", "spiffe://cluster.local/ns/default/sa/reviews"),
        ("id-of-a-domain", "spiffe://example.com"),
        ("id-with-dots", "spiffe://example.com/a/../b"),
        ("id-with-percent", "spiffe://td/a%20b"),
        ("id-with-port", "spiffe://td:80/a"),
        ("workload", "cluster.local\nistio-system\nistio-ingress"),
        ("workload-with-slash", "td\na/b\nc"),
        ("hours", "24h"),
        ("sum", "1h30m15s250ms"),
        ("days", " 3650d "),
        ("too-long", "99999999999999999999h"),
        ("sum-too-long", "5124095576030431h18446744073709551615ms"),
        ("serial", "0xAB:cd:00:11"),
        ("serial-of-zeros", "0000"),
        ("pem", "x\n-----BEGIN A-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END A-----\r\n"),
        ("pem-unfinished", "-----BEGIN A-----\nAAAA\n-----END B-----\n"),
    ] {
        seed("names", name, text);
    }
}

fn configurations() {
    let of = |name: &str| fs::read(super::corpus().join("../../deploy/config").join(name)).unwrap();
    seed("configuration", "every-key-of-the-ca", of("full.toml"));
    seed("configuration", "every-key-of-the-agent", of("agent.toml"));
    for (name, text) in [
        ("least-of-the-ca", "token_issuer = \"i\"\njwks = \"/k\"\n"),
        (
            "least-of-the-agent",
            "namespace = \"n\"\nservice_account = \"s\"\nsds_socket = \"/s\"\nca_root = \"SYSTEM\"\n",
        ),
        ("unknown", "trust_domian = \"td\"\n"),
        ("no-toml", "listen = = 1"),
        (
            "tables",
            "[[token_issuers]]\nissuer = \"i\"\njwks = \"https://ca.example/k\"\naudiences = [\"a\", \"b\"]\n\
            namespaces = [\"n\"]\ntrust_domain = \"other\"\njwks_ca = \"/ca\"\n[[token_issuers]]\nissuer = 3\n",
        ),
        (
            "urls",
            "[[token_issuers]]\nissuer = \"i\"\njwks = \"http://[::1]:8080/k\"\n[[token_issuers]]\n\
            issuer = \"j\"\njwks = \"http://example.com/\"\n",
        ),
        (
            "values",
            "listen = \"[::]:1\"\nmonitoring = \"[::]:1\"\nserving_names = [\"a.b\", \"::1\", \"-\"]\n\
            connections = 0\nqueue = 1e9\ndefault_ttl = \"1500ms\"\nmax_ttl = 7\nadmin_group = -1\n",
        ),
        (
            "addresses",
            "ca = \"https://[::1]:15012/\"\nca_name = \"a b\"\nrenew_ratio = 1.5\nrenew_jitter = nan\n\
            cluster_id = \"a b\"\nttl = \"1s\"\n",
        ),
        ("key-with-a-line-break", "\"a\\nb\" = 1\n"),
    ] {
        seed("configuration", name, text);
    }
}
