//! Debug output shows no key and no token. Whoever adds a type that holds one adds it here.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use crate::evidence::Token;
use crate::identity::Served;
use crate::testing::{HOUR, Pki, validity};

#[tokio::test]
async fn debug_shows_no_key_and_no_token() {
    let svid = Arc::new(Pki::new().svid(validity(HOUR)));
    let served = Served { svid: Some(svid.clone()), trust: None };
    let shown = format!("{svid:?} {served:?} {served:#?}");
    for line in svid.key_pem().lines().filter(|line| line.len() > 16) {
        assert!(!shown.contains(line), "{shown}");
    }
    assert!(!shown.contains("PRIVATE KEY"), "{shown}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJzbGVlcCJ9.c2lnbmF0dXJl").unwrap();
    let token = Token::read(&path).await.unwrap();
    assert!(!format!("{token:?} {token:#?} {:?}", token.header()).contains("eyJ"));
}
