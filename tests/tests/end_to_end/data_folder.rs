//! Data folders that cannot be used: the server says why and does not start.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use signet_tests::harness::caller::Caller;
use signet_tests::harness::site::Site;

#[tokio::test]
async fn a_folder_that_cannot_be_made_or_written_is_refused() {
    let site = Site::default();
    fs::write(site.path("file"), "").unwrap();
    // Not even root makes folders in /proc.
    for (folder, text) in [
        ("/proc/signet", "data folder /proc/signet"),
        ("file/data", "data folder file/data"),
        ("/proc", "cannot write"),
    ] {
        let (code, said) = site.ca_ends("run", &[("data", folder)]).await;
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(text), "{said}");
    }
}

#[tokio::test]
async fn a_second_server_in_one_folder_is_refused_and_the_first_goes_on() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    let (code, said) = site.ca_ends("run", &[("admin-socket", "second.sock")]).await;
    assert_eq!(code, 1, "{said}");
    let holder = format!("in use by another server (pid {})", ca.process.id());
    assert!(said.contains(&holder), "{said}");
    let (code, said) = site.ca_ends("run", &[("data", "other"), ("admin-socket", "data/admin.sock")]).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("data/admin.sock") && said.contains("another server"), "{said}");
    let (code, said) = site.ca_ends("run", &[("data", "third"), ("listen", &ca.listen.to_string())]).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains(&ca.listen.to_string()), "{said}");
    Caller::to(&site, &ca).await.ask(site.ask()).await.unwrap();
}

#[tokio::test]
async fn a_log_without_its_key_is_refused_and_not_begun_anew() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    Caller::to(&site, &ca).await.ask(site.ask()).await.unwrap();
    ca.process.terminated().await;
    let key = site.path("data/log-key.pem");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let aside = site.path("aside.pem");
    fs::rename(&key, &aside).unwrap();
    let (code, said) = site.ca_ends("run", &[]).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("log-key.pem"), "{said}");
    assert!(!key.exists(), "a new key would make a log that no old checkpoint fits");
    fs::rename(&aside, &key).unwrap();
    let ca = site.ca(&[]).await;
    assert_eq!(ca.records(&["--profile", "workload"]).len(), 1);
}

#[tokio::test]
async fn a_folder_of_a_later_program_is_left_alone() {
    let site = Site::default();
    site.ca(&[]).await.process.terminated().await;
    fs::write(site.path("data/VERSION"), "2\n").unwrap();
    let (code, said) = site.ca_ends("run", &[]).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("layout version \"2\""), "{said}");
}
