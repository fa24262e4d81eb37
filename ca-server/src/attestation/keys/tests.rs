//! Keys that change: by file, by URL, on demand, and not at all.
#![allow(clippy::unwrap_used)]

use std::fs;

use futures::future::join_all;

use super::*;
use crate::attestation::tests::server::KeyServer;
use crate::attestation::tests::signer::Signer;
use crate::attestation::tests::write_keys;

fn at_url(server: &KeyServer) -> Arc<Keys> {
    let source = KeySource::Url { url: server.url.clone(), ca_file: None };
    Arc::new(Keys::new("issuer", source).unwrap())
}

impl Keys {
    /// As if the last demand were long ago.
    fn forget_demand(&self) {
        self.progress().last_demand = Instant::now().checked_sub(PAUSE);
    }

    /// One load, waited for.
    async fn reload(self: &Arc<Self>) {
        let running = self.join_or_start(&mut self.progress());
        ended(running).await;
    }

    /// Whether the key is found; an error's text if that cannot be told.
    async fn knows(self: &Arc<Self>, id: &str) -> Result<bool, String> {
        match self.with(Some(id)).await {
            Ok(set) => Ok(set.find(Some(id)).is_some()),
            Err(error) => {
                assert!(error.unavailable().is_some() && error.reason().code() == "TOKEN_KEYS_UNAVAILABLE");
                Err(error.to_string())
            }
        }
    }
}

#[tokio::test]
async fn a_changed_file_is_read_again_on_demand_and_not_before_the_pause_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jwks.json");
    let (old, new) = (Signer::p256().jwk("old"), Signer::p256().jwk("new"));
    write_keys(&file, std::slice::from_ref(&old));
    let keys = Arc::new(Keys::new("issuer", KeySource::File(file.clone())).unwrap());
    assert_eq!(keys.knows("old").await, Ok(true));
    assert_eq!(keys.knows("new").await, Ok(false));

    write_keys(&file, &[old, new.clone()]);
    assert_eq!(keys.knows("new").await, Ok(false), "a demand was met a moment ago");
    keys.forget_demand();
    assert_eq!(keys.knows("new").await, Ok(true));

    write_keys(&file, &[new]);
    assert_eq!(keys.knows("old").await, Ok(true), "nothing has asked for another key");
    keys.reload().await;
    assert_eq!((keys.knows("old").await, keys.knows("new").await), (Ok(false), Ok(true)));
}

#[tokio::test]
async fn a_bad_file_takes_no_key_away() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jwks.json");
    let good = [Signer::p256().jwk("k")];
    write_keys(&file, &good);
    let keys = Arc::new(Keys::new("issuer", KeySource::File(file.clone())).unwrap());
    let faults: [(&dyn Fn(), &str); 3] = [
        (&|| fs::write(&file, r#"{"keys":["#).unwrap(), "parsing key set"),
        (&|| write_keys(&file, &[]), "no key that can be used"),
        (&|| fs::remove_file(&file).unwrap(), "No such file"),
    ];
    for (fault, said) in faults {
        fault();
        keys.reload().await;
        let status = keys.status();
        assert_eq!((status.keys, status.source), (1, file.display().to_string()));
        assert!(status.last_success.is_some());
        assert!(
            status.last_error.as_ref().is_some_and(|error| error.contains(said)),
            "{:?}",
            status.last_error
        );
        assert_eq!(keys.knows("k").await, Ok(true));
        let unknown = keys.knows("new").await.unwrap_err();
        assert!(unknown.contains(said), "whether the key exists cannot be told: {unknown}");
        keys.forget_demand();
    }
    // The very text that was good before is good again.
    write_keys(&file, &good);
    keys.reload().await;
    assert_eq!((keys.status().last_error, keys.status().keys), (None, 1));
    assert_eq!(keys.knows("new").await, Ok(false));
}

#[tokio::test]
async fn many_unknown_keys_cause_one_fetch() {
    let server = KeyServer::start(None).await;
    server.serve_keys(&[Signer::p256().jwk("k")]);
    let keys = at_url(&server);
    keys.reload().await;
    assert_eq!(server.asked(), 1);

    let names: Vec<String> = (0..200).map(|n| format!("made-up-{n}")).collect();
    let all = async || join_all(names.iter().map(|name| keys.knows(name))).await;
    assert!(all().await.iter().all(|known| *known == Ok(false)));
    assert_eq!(server.asked(), 2);
    assert!(all().await.iter().all(|known| *known == Ok(false)));
    assert_eq!(server.asked(), 2, "within the pause");
    keys.forget_demand();
    assert!(all().await.iter().all(|known| *known == Ok(false)));
    assert_eq!(server.asked(), 3);
}

#[tokio::test]
async fn a_url_s_keys_are_fetched_for_the_first_token_and_again_when_they_rotate() {
    let server = KeyServer::start(None).await;
    let (old, new) = (Signer::p256().jwk("old"), Signer::p256().jwk("new"));
    server.serve_keys(std::slice::from_ref(&old));
    let keys = at_url(&server);
    let status = keys.status();
    assert_eq!((status.keys, status.last_success, server.asked()), (0, None, 0));
    // Everybody who waits gets the answer of the one fetch.
    assert!(join_all((0..50).map(|_| keys.knows("old"))).await.iter().all(|known| *known == Ok(true)));
    assert_eq!((keys.status().keys, server.asked()), (1, 1));

    server.serve_keys(&[old, new]);
    keys.forget_demand();
    assert!(join_all((0..50).map(|_| keys.knows("new"))).await.iter().all(|known| *known == Ok(true)));
    assert_eq!((keys.status().keys, server.asked()), (2, 2));
}

#[tokio::test]
async fn a_url_that_fails_is_unavailable_at_first_and_takes_no_key_away_later() {
    let server = KeyServer::start(None).await;
    let keys = at_url(&server);
    server.serve("503 Service Unavailable", b"");
    assert!(keys.knows("k").await.unwrap_err().contains("expected status 200, found 503"));
    assert_eq!(keys.status().keys, 0);

    server.serve_keys(&[Signer::p256().jwk("k")]);
    assert!(keys.knows("k").await.is_err(), "within the pause");
    keys.forget_demand();
    assert_eq!(keys.knows("k").await, Ok(true));

    for (status, body) in [
        ("500 Internal Server Error", &b"{}"[..]),
        ("302 Found\r\nlocation: /elsewhere", b""),
        ("204 No Content", b""),
        ("200 OK", b"<html>"),
        ("200 OK", br#"{"keys":[]}"#),
        ("200 OK", &vec![b' '; MAX_BYTES + 1]),
    ] {
        server.serve(status, body);
        keys.reload().await;
        assert!(keys.status().last_error.is_some(), "{status}");
        assert_eq!((keys.knows("k").await, keys.status().keys), (Ok(true), 1), "{status}");
    }
}

#[tokio::test]
async fn nobody_waits_long_for_a_silent_server() {
    let server = KeyServer::start(None).await;
    let keys = at_url(&server);
    let begin = std::time::Instant::now();
    assert!(keys.knows("k").await.unwrap_err().ends_with("no answer yet"));
    let waited = begin.elapsed();
    assert!(waited >= PATIENCE && waited < PATIENCE * 2, "{waited:?}");
    // The load goes on for those who come later, and ends by itself.
    keys.reload().await;
    assert_eq!(server.asked(), 1);
    assert!(keys.status().last_error.unwrap().ends_with("no whole answer within 5 s"));
}

#[tokio::test]
async fn the_loop_loads_at_once_and_goes_on_by_itself() {
    let server = KeyServer::start(None).await;
    server.serve_keys(&[Signer::p256().jwk("k")]);
    let keys = at_url(&server);
    let forever = tokio::spawn({
        let keys = Arc::clone(&keys);
        async move { keys.refresh_forever().await }
    });
    while keys.status().keys == 0 {
        tokio::task::yield_now().await;
    }
    assert!(!forever.is_finished());
    forever.abort();
}
