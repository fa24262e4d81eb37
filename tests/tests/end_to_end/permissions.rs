//! Who may open what the programs write, whatever umask they are started with, and what becomes of files that
//! were open before.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use signet_tests::harness::ca::done;
use signet_tests::harness::caller::Caller;
use signet_tests::harness::process::Process;
use signet_tests::harness::site::Site;
use signet_tests::programs::program;

/// The same command under another umask.
fn under(umask: &str, command: &Command) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(format!("umask {umask}; exec \"$0\" \"$@\""));
    shell.arg(command.get_program()).args(command.get_args()).env_clear();
    if let Some(folder) = command.get_current_dir() {
        shell.current_dir(folder);
    }
    shell
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .permissions()
        .mode()
        & 0o777
}

/// Nobody but its owner may open anything in it.
fn is_closed(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        assert_eq!(mode(&path) & 0o077, 0, "{} has {:o}", path.display(), mode(&path));
        if entry.file_type().unwrap().is_dir() {
            is_closed(&path);
        }
    }
}

#[tokio::test]
async fn under_any_umask_keys_are_ours_alone_and_certificates_are_as_open_as_it_says() {
    for (umask, readable) in [("000", 0o644), ("077", 0o600)] {
        let site = Site::default();
        let run = |name: &str, arguments: &[&str]| {
            let mut command = Command::new(program(name));
            command.current_dir(site.folder()).args(arguments);
            done(under(umask, &command).output().unwrap());
        };
        run("certs", &["root-ca", "--out", "r"]);
        run("certs", &["intermediate", "--root", "r", "--name", "cluster1", "--out", "i"]);
        for key in ["r/ca-key.pem", "i/ca-key.pem"] {
            assert_eq!(mode(&site.path(key)), 0o600, "{key} under {umask}");
        }
        assert_eq!(mode(&site.path("i/ca-cert.pem")), readable);

        let ca = site.ca_of(under(umask, &site.ca_command("run", &[]))).await;
        Caller::to(&site, &ca).await.ask(site.ask()).await.unwrap();
        assert_eq!(mode(&site.path("data")), 0o700);
        is_closed(&site.path("data"));
        let backup = site.path("backup");
        let mut taken = Command::new(program("ca-server"));
        taken.args(["backup", backup.to_str().unwrap(), "--admin-socket", ca.admin.to_str().unwrap()]);
        done(under(umask, &taken).output().unwrap());
        assert_eq!(mode(&backup), 0o700);
        is_closed(&backup);

        let sds = [("sds-socket", "sleep/sds.sock"), ("monitoring", "127.0.0.1:0"), ("log-format", "json")];
        let agent =
            Process::start("csr-client", under(umask, &site.agent_command("run", ca.listen, "sleep", &sds)));
        agent.message("new certificate").await;
        signet_tests::harness::eventually("the files are written", async || {
            site.path("sleep/certs/cert-chain.pem").exists().then_some(())
        })
        .await;
        assert_eq!(mode(&site.path("sleep/certs/key.pem")), 0o600);
        for file in ["sleep/certs/cert-chain.pem", "sleep/certs/root-cert.pem"] {
            assert_eq!(mode(&site.path(file)), readable, "{file} under {umask}");
        }
        assert_eq!(mode(&site.path("sleep/sds.sock")), 0o666);
        for process in [&ca.process, &agent] {
            let limits = fs::read_to_string(format!("/proc/{}/limits", process.id())).unwrap();
            let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
            assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
        }
    }
}

#[tokio::test]
async fn what_others_could_open_is_closed_and_said_at_the_start() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    let copy = fs::read_dir(site.path("data/authorities")).unwrap().next().unwrap().unwrap().path();
    ca.process.terminated().await;
    let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let (data, log_key, ca_key) = (site.path("data"), site.path("data/log-key.pem"), copy.join("ca-key.pem"));
    open(&data, 0o755);
    open(&log_key, 0o644);
    open(&ca_key, 0o640);
    open(&site.path("cacerts/ca-key.pem"), 0o644);
    let ca = site.ca(&[]).await;
    assert_eq!([mode(&data), mode(&log_key), mode(&ca_key)], [0o700, 0o600, 0o600]);
    let said: Vec<_> = ca.process.log().iter().map(|line| line.text.clone()).collect();
    for (path, what) in [
        ("data\"", "others could enter the data folder"),
        ("log-key.pem", "others could open a key"),
        ("authorities", "others could open a key"),
        ("cacerts/ca-key.pem", "anybody on this machine may read"),
    ] {
        assert!(said.iter().any(|line| line.contains(path) && line.contains(what)), "{path}: {said:#?}");
    }
    // What administrators plug in is theirs to close.
    assert_eq!(mode(&site.path("cacerts/ca-key.pem")), 0o644);
}
