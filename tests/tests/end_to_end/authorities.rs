//! Where the CA's key comes from: made by itself where nothing is plugged in, and a fast one in memory under a
//! slow one that is.

use std::fs;

use signet_certs::chain::{Certificate, verify_svid};
use signet_tests::harness::ca::done;
use signet_tests::harness::caller::{Answer, Ask, Caller};
use signet_tests::harness::openssl::openssl;
use signet_tests::harness::site::Site;
use tonic::transport::{Certificate as TlsRoot, ClientTlsConfig};

/// A site whose intermediate is RSA, with room for so many CAs beneath it.
pub(crate) fn rsa_site(path_length: &str) -> Site {
    let site = Site::default();
    fs::remove_dir_all(site.path("cacerts")).unwrap();
    let intermediate = ["intermediate", "--root", "root", "--name", "cluster1", "--key", "rsa2048"];
    site.certs(&[&intermediate[..], &["--path-length", path_length, "--out", "cacerts"]].concat());
    site
}

fn certificates(answer: &Answer) -> Vec<Certificate> {
    answer.chain.iter().map(|pem| Certificate::from_pem(pem.as_bytes()).unwrap()).collect()
}

#[tokio::test]
async fn under_an_rsa_key_with_room_a_p256_intermediate_signs_and_strangers_accept_it() {
    let site = rsa_site("1");
    let ca = site.ca(&[("max-ttl", "8760h")]).await;
    let caller = Caller::to(&site, &ca).await;
    let answer = caller.ask(site.ask()).await.unwrap();
    let [leaf, issuing, plugged, root] = certificates(&answer).try_into().unwrap();
    assert!(leaf.is_signed_by(&issuing) && issuing.is_signed_by(&plugged) && plugged.is_signed_by(&root));
    verify_svid(&leaf, &[issuing.clone(), plugged.clone()], &[root], std::time::SystemTime::now()).unwrap();
    fs::write(site.path("leaf.pem"), &answer.chain[0]).unwrap();
    fs::write(site.path("above.pem"), answer.chain[1..3].concat()).unwrap();
    let strict =
        ["verify", "-x509_strict", "-CAfile", "root/root-cert.pem", "-untrusted", "above.pem", "leaf.pem"];
    openssl(site.folder(), &strict);

    // What would outlive it is signed by the key that was plugged in.
    let long = caller.ask(Ask { lifetime: 3600 * 24 * 30, ..site.ask() }).await.unwrap();
    let [leaf, signer, _] = certificates(&long).try_into().unwrap();
    assert!(signer == plugged && leaf.is_signed_by(&plugged));

    let records = ca.records(&["--profile", "issuing-intermediate"]);
    assert_eq!(
        (records.len(), records[0]["serial"].as_str()),
        (1, Some(&*issuing.facts().serial.to_string()))
    );
    let status = done(ca.operator(&["status"]));
    assert!(status.contains("issuing by") && status.contains("Issuing CA"), "{status}");
}

#[tokio::test]
async fn without_room_or_by_configuration_there_is_none_and_status_says_why() {
    for (path_length, flags, why) in [
        ("0", &[][..], "path length leaves no room"),
        ("1", &[("issuing-intermediate", "off")][..], "off by configuration"),
    ] {
        let site = rsa_site(path_length);
        let ca = site.ca(flags).await;
        let answer = Caller::to(&site, &ca).await.ask(site.ask()).await.unwrap();
        assert_eq!(answer.chain.len(), 3);
        let status = done(ca.operator(&["status"]));
        assert!(status.contains(why), "{status}");
    }
}

#[tokio::test]
async fn with_nothing_plugged_in_a_root_is_made_once_and_its_loss_is_an_error_with_the_way_back() {
    let site = Site::default();
    let checked = || done(site.ca_command("check", &[]).output().unwrap());
    assert!(checked().contains("begin with the CA in cacerts"), "{}", checked());
    fs::remove_dir_all(site.path("cacerts")).unwrap();
    assert!(
        checked().contains("nothing is plugged in at cacerts: it would make a self-signed CA"),
        "{}",
        checked()
    );
    let ca = site.ca(&[]).await;
    assert!(checked().contains("the CA that is active in data"), "{}", checked());
    let list = ca.json(&["authority", "list"]);
    assert_eq!((&list[0]["state"], &list[0]["source"]), (&"active".into(), &"self-signed".into()));
    let id = list[0]["id"].as_str().unwrap().to_owned();
    let made = "nothing is plugged in: made a self-signed CA, to be trusted from now on";
    assert_eq!(ca.process.message(made).await.json["id"], id.as_str());
    let copies: Vec<_> = fs::read_dir(site.path("data/authorities")).unwrap().collect();
    let copy = copies.into_iter().next().unwrap().unwrap().path();
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(copy.join("ca-key.pem")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);

    let root = fs::read_to_string(copy.join("root-cert.pem")).unwrap();
    let tls = || ClientTlsConfig::new().ca_certificate(TlsRoot::from_pem(&root)).domain_name("localhost");
    let caller = Caller::connect(ca.listen, tls()).await.unwrap();
    let answer = caller.ask(site.ask()).await.unwrap();
    let [leaf, trusted] = certificates(&answer).try_into().unwrap();
    assert!(leaf.is_signed_by(&trusted) && trusted.to_pem() == root);

    ca.process.terminated().await;
    let ca = site.ca(&[]).await;
    assert_eq!(ca.json(&["authority", "list"])[0]["id"], id.as_str(), "a restart makes no other");
    ca.process.terminated().await;

    fs::remove_file(copy.join("ca-key.pem")).unwrap();
    let (code, said) = site.ca_ends("run", &[]).await;
    assert_eq!(code, 1, "{said}");
    for text in [id.as_str(), "not made anew", "restore the data folder from a backup", "ca-key.pem"] {
        assert!(said.contains(text), "{text:?} is not in {said}");
    }
}

#[tokio::test]
async fn case_1_with_some_of_the_ca_files_no_server_starts_and_no_root_is_made() {
    let site = Site::default();
    fs::remove_file(site.path("cacerts/ca-key.pem")).unwrap();
    for verb in ["check", "run"] {
        let (code, said) = site.ca_ends(verb, &[]).await;
        assert!(code == 1 && said.contains("ca-key.pem"), "{said}");
    }
    assert!(!site.path("data").exists());
}
