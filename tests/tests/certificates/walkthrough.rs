//! Istio's walkthrough as people type it: the Makefile's targets and variables, word for word, in a shell.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use signet_certs::chain::Certificate;
use signet_certs::key::KeyKind;
use signet_tests::programs::program;

const MAKEFILE: &str = "Makefile.selfsigned.mk";
const CACERTS: [&str; 4] = ["ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem"];

/// A folder `certs` with the Makefile and nothing else, in a git repository with our `.gitignore`.
struct Walk {
    folder: TempDir,
    path: String,
}

impl Walk {
    fn new() -> Self {
        let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("certs")).unwrap();
        fs::copy(ours.join("certs").join(MAKEFILE), folder.path().join("certs").join(MAKEFILE)).unwrap();
        fs::copy(ours.join(".gitignore"), folder.path().join(".gitignore")).unwrap();
        let programs = program("certs").parent().unwrap().display().to_string();
        let path = format!("{programs}:{}", std::env::var("PATH").unwrap());
        let walk = Self { folder, path };
        walk.done("git init --quiet .");
        walk
    }

    /// Where the Makefile is, and the commands write unless they say otherwise.
    fn certs(&self) -> PathBuf {
        self.folder.path().join("certs")
    }

    /// What a person types, from the repository's top; no variable of ours is in the environment.
    fn shell(&self, line: &str) -> Output {
        let mut shell = Command::new("sh");
        shell.current_dir(self.folder.path()).env_clear().env("PATH", &self.path).args(["-c", line]);
        shell.output().unwrap()
    }

    #[track_caller]
    fn done(&self, line: &str) -> String {
        let Output { status, stdout, stderr } = self.shell(line);
        assert!(status.success(), "{line}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).unwrap()
    }

    /// Standard error of a line that must fail.
    #[track_caller]
    fn refused(&self, line: &str) -> String {
        let Output { status, stdout, stderr } = self.shell(line);
        assert!(!status.success(), "{line}: {}", String::from_utf8_lossy(&stdout));
        String::from_utf8(stderr).unwrap()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.certs().join(name)).unwrap()
    }

    fn certificate(&self, name: &str) -> Certificate {
        Certificate::from_pem(self.read(name).as_bytes()).unwrap()
    }

    fn kind(&self, certificate: &str) -> KeyKind {
        KeyKind::of_spki(&self.certificate(certificate).facts().spki).unwrap()
    }

    fn mode(&self, name: &str) -> u32 {
        self.certs().join(name).metadata().unwrap().permissions().mode() & 0o777
    }

    /// Names in a folder beneath `certs`, without the Makefile.
    fn entries(&self, folder: &str) -> Vec<String> {
        let read = fs::read_dir(self.certs().join(folder)).unwrap();
        let mut names: Vec<_> = read.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name != MAKEFILE);
        names.sort();
        names
    }

    /// `openssl x509 -noout` of a file with these options.
    #[track_caller]
    fn x509(&self, file: &str, options: &str) -> String {
        self.done(&format!("openssl x509 -noout {options} -in certs/{file}"))
    }
}

#[test]
fn the_walkthrough_s_commands_work_word_for_word() {
    let walk = Walk::new();
    walk.done("cd certs; make -f Makefile.selfsigned.mk root-ca");
    assert_eq!(walk.entries("."), [".selfsigned-made", "root-cert.pem", "root-key.pem"]);
    walk.done("cd certs\nmake -f Makefile.selfsigned.mk cluster1-cacerts");
    assert_eq!(walk.entries("cluster1"), CACERTS, "and nothing else");
    for key in ["root-key.pem", "cluster1/ca-key.pem"] {
        assert_eq!(walk.mode(key), 0o600, "{key}");
        assert!(walk.done(&format!("openssl pkey -check -noout -in certs/{key}")).contains("Key is valid"));
    }
    walk.done("cd certs; openssl verify -x509_strict -CAfile root-cert.pem cluster1/ca-cert.pem");
    assert_eq!(walk.read("cluster1/root-cert.pem"), walk.read("root-cert.pem"));
    let chain = walk.read("cluster1/ca-cert.pem") + &walk.read("root-cert.pem");
    assert_eq!(walk.read("cluster1/cert-chain.pem"), chain);

    assert_eq!(walk.x509("root-cert.pem", "-subject"), "subject=O = Istio, CN = Root CA\n");
    let intermediate = walk.x509("cluster1/ca-cert.pem", "-subject -issuer");
    let named = "subject=O = Istio, L = cluster1, CN = Intermediate CA\nissuer=O = Istio, CN = Root CA\n";
    assert_eq!(intermediate, named);
    let extensions = walk.x509("cluster1/ca-cert.pem", "-ext basicConstraints,subjectAltName");
    assert!(extensions.contains("CA:TRUE, pathlen:0\n"), "{extensions}");
    assert!(
        extensions.contains("Subject Alternative Name: \n    DNS:istiod.istio-system.svc\n"),
        "{extensions}"
    );
    for certificate in ["root-cert.pem", "cluster1/ca-cert.pem"] {
        assert_eq!(walk.kind(certificate), KeyKind::P256);
        let days =
            walk.done(&format!("openssl x509 -noout -checkend $((3649 * 86400)) -in certs/{certificate}"));
        assert_eq!(days, "Certificate will not expire\n");
        walk.refused(&format!("openssl x509 -noout -checkend $((3651 * 86400)) -in certs/{certificate}"));
    }
}

#[test]
fn git_does_not_see_what_the_ceremony_makes() {
    let walk = Walk::new();
    walk.done("cd certs; make -f Makefile.selfsigned.mk root-ca cluster1-cacerts foo-certs");
    let seen = walk.done("git status --porcelain --untracked-files=all");
    assert_eq!(seen, "?? .gitignore\n?? certs/Makefile.selfsigned.mk\n");
    let made = walk.read(".selfsigned-made");
    assert_eq!(made.lines().count(), 10, "{made}");
    let ignored = walk.done("cd certs; xargs git check-ignore <.selfsigned-made");
    assert_eq!(ignored.lines().count(), 10, "{ignored}");
}

#[test]
fn a_size_asks_for_rsa_and_the_other_variables_are_heard() {
    let walk = Walk::new();
    let sizes = "ROOTCA_KEYSZ=4096 INTERMEDIATE_KEYSZ=2048";
    let names = "ROOTCA_ORG='Acme, \"Inc.\"' ROOTCA_CN=\"It's a \\`root\\`\" INTERMEDIATE_ORG='$$HOME' INTERMEDIATE_CN=b";
    let more = "ROOTCA_DAYS=20 INTERMEDIATE_DAYS=10 INTERMEDIATE_SAN_DNS=istiod-canary.istio-system.svc";
    walk.done(&format!("cd certs; make -f Makefile.selfsigned.mk eu-1-cacerts {sizes} {names} {more}"));
    assert_eq!(walk.kind("root-cert.pem"), KeyKind::Rsa(4096));
    assert_eq!(walk.kind("eu-1/ca-cert.pem"), KeyKind::Rsa(2048));
    walk.done("cd certs; openssl verify -x509_strict -CAfile root-cert.pem eu-1/ca-cert.pem");
    let root = walk.x509("root-cert.pem", "-subject -nameopt oneline,-esc_msb,-space_eq");
    assert_eq!(root, "subject=O=\"Acme, \\\"Inc.\\\"\", CN=It's a `root`\n");
    assert!(walk.x509("eu-1/ca-cert.pem", "-subject").starts_with("subject=O = $HOME, L = eu-1, CN = b\n"));
    assert_eq!(walk.certificate("eu-1/ca-cert.pem").facts().dns, ["istiod-canary.istio-system.svc"]);
    for (file, days) in [("root-cert.pem", 20), ("eu-1/ca-cert.pem", 10)] {
        let validity = walk.certificate(file).facts().validity;
        let life = validity.not_after.duration_since(validity.not_before).unwrap().as_secs();
        assert_eq!(life / 86_400, days, "{file}");
    }
    // Variables from the environment, as exported in a profile; no DNS name where none is wanted.
    walk.done("cd certs; export INTERMEDIATE_KEYSZ=3072 INTERMEDIATE_SAN_DNS= ; make -f Makefile.selfsigned.mk b-cacerts");
    assert_eq!(walk.kind("b/ca-cert.pem"), KeyKind::Rsa(3072));
    assert!(walk.certificate("b/ca-cert.pem").facts().dns.is_empty());
}

#[test]
fn a_bad_value_is_refused_by_its_name_and_makes_nothing() {
    let walk = Walk::new();
    for (variable, message) in [
        ("ROOTCA_KEYSZ=1024", "ROOTCA_KEYSZ: expected 2048, 3072 or 4096 for an RSA key"),
        ("ROOTCA_KEYSZ='2048 4096'", "found '2048 4096'"),
        ("ROOTCA_DAYS=1y", "ROOTCA_DAYS: expected a number of days, found '1y'"),
        ("ROOTCA_ORG=", "--organization"),
        ("CERTS=nowhere", "the program 'nowhere' is not there"),
    ] {
        let error = walk.refused(&format!("cd certs; make -f Makefile.selfsigned.mk c-cacerts {variable}"));
        assert!(error.contains(message), "{error}");
        assert!(walk.entries(".").is_empty(), "{variable}: {:?}", walk.entries("."));
    }
    walk.done("cd certs; make -f Makefile.selfsigned.mk root-ca");
    for (target, variable, message) in [
        ("c-cacerts", "INTERMEDIATE_KEYSZ=rsa", "INTERMEDIATE_KEYSZ: expected 2048, 3072 or 4096"),
        ("c-cacerts", "INTERMEDIATE_DAYS=", "INTERMEDIATE_DAYS: expected a number of days, found ''"),
        ("c-cacerts", "INTERMEDIATE_SAN_DNS='a b'", "expected a DNS name"),
        ("c-certs", "WORKLOAD_DAYS=91", "must be at most 90d"),
        ("c-certs", "SERVICE_ACCOUNT=a/b", "only letters, digits"),
    ] {
        let error = walk.refused(&format!("cd certs; make -f Makefile.selfsigned.mk {target} {variable}"));
        assert!(error.contains(message), "{error}");
        assert!(!walk.certs().join("c").exists(), "{variable}");
    }
}

#[test]
fn a_second_run_keeps_every_key_whatever_is_newer_than_what() {
    let walk = Walk::new();
    let make = "cd certs; make -f Makefile.selfsigned.mk";
    walk.done(&format!("{make} cluster1-cacerts foo-certs"));
    let keys = ["root-key.pem", "cluster1/ca-key.pem", "foo/key.pem"];
    let before = keys.map(|key| walk.read(key));
    walk.done("touch -d 2038-01-01 certs/root-cert.pem certs/root-key.pem");
    let said = walk.done(&format!("{make} root-ca cluster1-cacerts foo-certs"));
    for kept in
        ["root-cert.pem is there already: kept", "cluster1 has its four files", "foo has its four files"]
    {
        assert!(said.contains(kept), "{said}");
    }
    // The root's key is in its safe: nothing needs it, and no other is made in its place.
    fs::rename(walk.certs().join("root-key.pem"), walk.folder.path().join("safe.pem")).unwrap();
    walk.done(&format!("{make} root-ca cluster1-cacerts foo-certs"));
    let error = walk.refused(&format!("{make} cluster2-cacerts"));
    assert!(error.contains("expected the root's key in ."), "{error}");
    fs::rename(walk.folder.path().join("safe.pem"), walk.certs().join("root-key.pem")).unwrap();
    assert_eq!(keys.map(|key| walk.read(key)), before);

    // Half of the files: refused, and the half stays.
    fs::remove_file(walk.certs().join("cluster1/ca-cert.pem")).unwrap();
    let error = walk.refused(&format!("{make} cluster1-cacerts"));
    assert!(error.contains("cluster1/ca-key.pem is there already"), "{error}");
    fs::remove_file(walk.certs().join("root-cert.pem")).unwrap();
    let error = walk.refused(&format!("{make} root-ca"));
    assert!(error.contains("root-key.pem is there already"), "{error}");
    assert_eq!(keys.map(|key| walk.read(key)), before);
}

#[test]
fn a_cluster_under_another_root_is_kept_and_said_to_be() {
    let walk = Walk::new();
    let make = "cd certs; make -f Makefile.selfsigned.mk";
    walk.done(&format!("{make} cluster1-cacerts; rm root-*.pem; make -f Makefile.selfsigned.mk root-ca"));
    let said = walk.done(&format!("{make} cluster1-cacerts"));
    assert!(said.contains("note: the root in cluster1 is not the one in this folder"), "{said}");
}

#[test]
fn a_machine_s_certificate_verifies_and_has_its_namespace_and_account() {
    let walk = Walk::new();
    let variables = "SERVICE_ACCOUNT=vm WORKLOAD_DAYS=2 TRUST_DOMAIN=td.example WORKLOAD_CN=Workload";
    let said = walk.done(&format!("cd certs; make -f Makefile.selfsigned.mk foo-certs {variables}"));
    assert!(said.contains("note: WORKLOAD_CN is not used"), "{said}");
    let names = ["key.pem", "root-cert.pem", "workload-cert-chain.pem", "workload-cert.pem"];
    assert_eq!(walk.entries("foo"), names);
    assert_eq!(walk.mode("foo/key.pem"), 0o600);
    let verify =
        "openssl verify -x509_strict -purpose sslclient -CAfile root-cert.pem foo/workload-cert-chain.pem";
    walk.done(&format!("cd certs; {verify}"));
    let facts = walk.certificate("foo/workload-cert.pem").facts().clone();
    assert_eq!(facts.uris, ["spiffe://td.example/ns/foo/sa/vm"]);
    let life = facts.validity.not_after.duration_since(facts.validity.not_before).unwrap().as_secs();
    assert_eq!(life, 2 * 86_400 + 120);
    let key = walk.done("openssl pkey -pubout -in certs/foo/key.pem");
    assert_eq!(walk.x509("foo/workload-cert.pem", "-pubkey"), key);
}

#[test]
fn parallel_makes_in_another_folder_with_odd_names_agree_on_one_root() {
    let walk = Walk::new();
    let odd = walk.folder.path().join("it's a $HOME");
    fs::create_dir_all(odd.join("work")).unwrap();
    fs::rename(walk.certs(), odd.join("certs")).unwrap();
    // Not in PATH: found where a build leaves it, seen from the Makefile.
    fs::create_dir_all(odd.join("target/fast")).unwrap();
    symlink(program("certs"), odd.join("target/fast/certs")).unwrap();
    let mut make = Command::new("make");
    make.current_dir(odd.join("work")).env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin");
    make.args(["-j8", "-f"]).arg(odd.join("certs").join(MAKEFILE));
    let clusters = ["a", "b", "c", "d", "my cluster's $x"];
    make.args(clusters.map(|name| format!("{name}-cacerts"))).args(["a-certs", "root-ca"]);
    let Output { status, stderr, .. } = make.output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    let root = fs::read(odd.join("work/root-cert.pem")).unwrap();
    for cluster in clusters {
        let folder = odd.join("work").join(cluster);
        assert_eq!(fs::read(folder.join("root-cert.pem")).unwrap(), root, "{cluster}");
        let signer = Certificate::from_pem(&fs::read(folder.join("ca-cert.pem")).unwrap()).unwrap();
        assert!(signer.is_signed_by(&Certificate::from_pem(&root).unwrap()), "{cluster}");
    }
}

#[test]
fn clean_removes_what_was_made_and_nothing_else() {
    let walk = Walk::new();
    let make = "cd certs; make -f Makefile.selfsigned.mk";
    walk.done(&format!("{make} cluster1-cacerts foo-certs"));
    fs::create_dir(walk.certs().join("mine")).unwrap();
    for mine in ["cluster1/notes.txt", "mine/ca-key.pem", "other-key.pem"] {
        fs::write(walk.certs().join(mine), "mine").unwrap();
    }
    fs::write(walk.certs().join(".selfsigned-made"), walk.read(".selfsigned-made") + "other-key.pem\n")
        .unwrap();
    let said = walk.done(&format!("{make} clean"));
    assert_eq!(said.lines().filter(|line| line.starts_with("removed ")).count(), 10, "{said}");
    assert_eq!(walk.entries("."), ["cluster1", "mine", "other-key.pem"]);
    assert_eq!(
        (walk.entries("cluster1"), walk.entries("mine")),
        (vec!["notes.txt".into()], vec![CACERTS[1].into()])
    );
    assert_eq!(walk.done(&format!("{make} clean")), "nothing was made here\n");
}

#[test]
fn help_names_every_target_and_variable() {
    let walk = Walk::new();
    let help = walk.done("cd certs; make -f Makefile.selfsigned.mk help");
    assert_eq!(walk.done("make -f certs/Makefile.selfsigned.mk"), help, "and it is what make alone does");
    let makefile = walk.read(MAKEFILE);
    let variables: Vec<_> =
        makefile.lines().filter_map(|line| line.strip_prefix("export ")?.split_once(" ?=")).collect();
    assert_eq!(variables.len(), 14);
    for (name, _) in variables {
        assert!(help.contains(name), "{name}");
    }
    for target in ["root-ca", "NAME-cacerts", "NAMESPACE-certs", "clean", "help"] {
        assert!(help.contains(&format!("\n  {target} ")), "{target} in {help}");
    }
    assert!(walk.entries(".").is_empty());
}
