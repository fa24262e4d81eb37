//! Backups with the real programs: a server is backed up while it issues, lost, and put back elsewhere.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::Value;
use signet_tests::harness::ca::{Ca, Changes, done, failed, records};
use signet_tests::harness::caller::Caller;
use signet_tests::harness::site::Site;

/// A CA that issued this many certificates.
async fn issued(site: &Site, changes: Changes<'_>, count: usize) -> Ca {
    let ca = site.ca(changes).await;
    issue(site, &ca, count).await;
    ca
}

async fn issue(site: &Site, ca: &Ca, count: usize) -> Vec<String> {
    let caller = Caller::to(site, ca).await;
    let mut serials = Vec::new();
    for _ in 0..count {
        serials.push(caller.ask(site.ask()).await.unwrap().serial());
    }
    serials
}

fn kek(site: &Site, name: &str, mode: u32) {
    fs::write(site.path(name), "07".repeat(32)).unwrap();
    fs::set_permissions(site.path(name), fs::Permissions::from_mode(mode)).unwrap();
}

fn is_sealed(path: &Path) -> bool {
    fs::read_to_string(path).unwrap().contains("BEGIN SIGNET SEALED KEY")
}

#[tokio::test]
async fn a_lost_server_comes_back_with_its_log_its_keys_and_a_later_epoch() {
    let site = Site::default();
    let mut ca = issued(&site, &[], 3).await;
    let since = site.path("checkpoint");
    fs::write(&since, done(ca.operator(&["log", "checkpoint"]))).unwrap();
    let before = ca.json(&["status"]);
    let backup = site.path("backup");
    let taken = ca.json(&["backup", backup.to_str().unwrap()]);
    let line = ca.process.message("sent a backup").await;
    assert_eq!(line.json["records"], taken["log"]["records"]);
    assert_eq!(
        (&taken["keys"][0]["name"], &taken["keys"][0]["sealed"]),
        (&"log-key.pem".into(), &false.into())
    );
    // Whoever takes the keys along is in the log, and in the backup's own.
    let acts = records(site.operator(&["log", "list", "-o", "json", "--kind", "act", "--data", "backup"]));
    let act = acts.last().unwrap();
    let actor = format!("uid:{}", rustix::process::getuid().as_raw());
    assert_eq!((&act["act"], &act["actor"]), (&"backup".into(), &actor.into()));
    done(site.operator(&["log", "verify", "--data", "backup", "--since", "checkpoint"]));
    let lost = issue(&site, &ca, 2).await;
    // Where a backup is there is no room for another, or for a server.
    let (code, text) = failed(&ca.operator(&["backup", backup.to_str().unwrap()]));
    assert!(code == 2 && text.contains("not empty"), "{text}");
    let (code, text) = site.ca_ends("run", &[("data", "backup"), ("admin-socket", "x.sock")]).await;
    assert!(code == 1 && text.contains("ca-server restore"), "{text}");

    ca.process.kill();
    fs::remove_dir_all(site.path("data")).unwrap();
    let restored = done(site.operator(&["restore", "backup", "--data", "data", "-o", "json"]));
    let restored: Value = serde_json::from_str(&restored).unwrap();
    assert_eq!(restored["records"], taken["log"]["records"]);
    let (code, text) = failed(&site.operator(&["restore", "backup", "--data", "data"]));
    assert!(code == 2 && text.contains("not empty"), "{text}");

    let ca = site.ca(&[]).await;
    let after = ca.json(&["status"]);
    assert!(after["trust"]["epoch"].as_u64() > before["trust"]["epoch"].as_u64(), "{before} {after}");
    assert_eq!((&after["trust"]["epoch"], &after["trust"]["sequence"]), (&restored["epoch"], &1.into()));
    assert_eq!(after["log"]["origin"], before["log"]["origin"]);
    assert_eq!(ca.json(&["authority", "list"]).as_array().unwrap().len(), 1);
    let answer = Caller::to(&site, &ca).await.ask(site.ask()).await.unwrap();
    assert_eq!(
        answer.headers.get("x-signet-trust-epoch").unwrap().to_str().unwrap(),
        restored["epoch"].to_string()
    );
    let report = ca.json(&["log", "verify", "--since", since.to_str().unwrap()]);
    assert_eq!(report["since_size"], 5);
    let recorded = ca.records(&[]);
    assert!(recorded.iter().any(|record| record["act"] == "restored"));
    assert!(recorded.iter().all(|record| lost.iter().all(|serial| record["serial"] != *serial)));
    let shown = done(site.operator(&["restore", "backup", "--data", "again"]));
    assert!(shown.contains("are gone") && shown.contains("must not run again"), "{shown}");
    assert!(shown.contains(after["log"]["origin"].as_str().unwrap()), "the checkpoint: {shown}");
}

#[tokio::test]
async fn keys_are_sealed_with_a_key_from_elsewhere_and_stay_so_in_a_backup() {
    let site = Site::default();
    issued(&site, &[], 1).await.process.terminated().await;
    let key = site.path("data/log-key.pem");
    assert!(!is_sealed(&key));
    kek(&site, "kek", 0o640);
    for verb in ["check", "run"] {
        let (code, text) = site.ca_ends(verb, &[("key-encryption-key-file", "kek")]).await;
        assert!(code == 1 && text.contains("mode 0640"), "{verb}: {text}");
    }
    kek(&site, "kek", 0o600);
    let sealed: Changes<'_> = &[("key-encryption-key-file", "kek")];
    let ca = site.ca(sealed).await;
    ca.process.message("sealed a key that was stored plain").await;
    assert!(is_sealed(&key));
    let secret = "07".repeat(32);
    assert!(ca.process.log().iter().all(|line| !line.text.contains(&secret)));
    done(ca.operator(&["backup", site.path("backup").to_str().unwrap()]));
    ca.process.terminated().await;
    // Reading a stopped server's log needs no key; running does.
    done(site.operator(&["log", "verify", "--data", "data"]));
    done(site.operator(&["backup", "stopped", "--data", "data"]));
    let (code, text) = site.ca_ends("run", &[]).await;
    assert!(code == 1 && text.contains("none is configured"), "{text}");
    for backup in ["backup", "stopped"] {
        assert!(is_sealed(&site.path(backup).join("log-key.pem")));
        let (code, text) = failed(&site.operator(&["restore", backup, "--data", "new"]));
        assert!(code == 2 && text.contains("key_encryption_key_file"), "{text}");
        assert!(!site.path("new").exists());
        let data = format!("restored {backup}");
        let flags = ["restore", backup, "--data", &data, "--key-encryption-key-file", "kek"];
        done(site.operator(&flags));
        let ca = site.ca(&[("key-encryption-key-file", "kek"), ("data", &data)]).await;
        issue(&site, &ca, 1).await;
    }
}

#[tokio::test]
async fn a_backup_on_a_full_disk_fails_and_the_server_goes_on() {
    let site = Site::default();
    let ca = issued(&site, &[], 20).await;
    let backup = site.path("backup");
    let backup = backup.to_str().unwrap();
    // A file of more than a few blocks is an error to write, as on a full disk.
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; ulimit -f 4; exec \"$@\"", "sh"]);
    command.arg(signet_tests::programs::program("ca-server")).args(["backup", backup]);
    command.env("SIGNET_ADMIN_SOCKET", &ca.admin);
    let (code, text) = failed(&command.output().unwrap());
    assert!(code == 2 && text.contains("cannot write") && text.contains("backup/"), "{text}");
    assert!(!Path::new(backup).exists(), "nothing is left");
    issue(&site, &ca, 1).await;
    done(ca.operator(&["backup", backup]));
    let path = site.path("backup/log/hashes");
    let mut bytes = fs::read(&path).unwrap();
    bytes[9] ^= 1;
    fs::write(&path, bytes).unwrap();
    let (code, text) = failed(&site.operator(&["restore", "backup", "--data", "new"]));
    assert!(code == 1 && text.contains("SHA-256"), "{text}");
}

#[tokio::test]
async fn a_server_that_cannot_record_gives_no_backup_until_it_is_stopped() {
    let site = Site::default();
    let mut command = Command::new("sh");
    // A process that ignores SIGXFSZ gets an error of a write beyond its limit, as of a full disk.
    let server = site.ca_command("run", &[]);
    command.current_dir(site.folder()).env_clear().args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]);
    command.arg(server.get_program()).args(server.get_args());
    let ca = site.ca_of(command).await;
    issue(&site, &ca, 1).await;
    let pid = Pid::from_raw(ca.process.id() as i32);
    prlimit(pid, Resource::Fsize, Rlimit { current: Some(0), maximum: None }).unwrap();
    let backup = site.path("backup");
    let (code, text) = failed(&ca.operator(&["backup", backup.to_str().unwrap()]));
    assert!(code == 1 && text.contains("cannot record") && text.contains("--data"), "{text}");
    assert!(!backup.exists());
    drop(ca);
    done(site.operator(&["backup", "backup", "--data", "data"]));
    done(site.operator(&["restore", "backup", "--data", "new"]));
}
