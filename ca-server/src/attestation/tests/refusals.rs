//! Each reason alone: a good token with one thing changed.

use ring::hmac;

use super::*;

/// The reason for refusing the good draft with one change.
async fn reason(world: &World, change: impl FnOnce(&mut Draft)) -> &'static str {
    match world.changed(change).await {
        Err(error) => error.reason().code(),
        Ok(caller) => panic!("accepted: {caller:?}"),
    }
}

#[tokio::test]
async fn case_2_a_missing_token_is_refused() {
    let world = World::new(Signer::p256());
    let evidence =
        Evidence { token: None, instance: Some("own".to_owned()), cluster: None, certificates: None };
    let error = world.attestation.attest(&evidence, now()).await.unwrap_err();
    assert_eq!((error.reason().code(), error.unavailable()), ("TOKEN_MISSING", None));
}

#[tokio::test]
async fn what_is_not_a_jws_is_malformed() {
    let world = World::new(Signer::p256());
    let good = world.draft().sign(&world.signer);
    let parts: Vec<&str> = good.split('.').collect();
    let (header, payload, signature) = (parts[0], parts[1], parts[2]);
    let object = base64url("{}");
    for bad in [
        "".to_owned(),
        "..".to_owned(),
        header.to_owned(),
        format!("{header}.{payload}"),
        format!("{good}.{signature}"),
        format!("{good}="),
        format!(" {good}"),
        format!("{good}\n"),
        format!("{object}.{payload}.{signature}"),
        format!("{}.{payload}.{signature}", base64url("[\"ES256\",\"k1\"]")),
        format!("{header}.{}.{signature}", base64url("[]")),
        format!("{header}.{}.{signature}", base64url("not json")),
        format!("{header}.{}.{signature}", base64url(format!(r#"{{"iss":"{ISSUER}"}} {{}}"#))),
        format!("{header}.{}.{signature}", base64url(format!(r#"{{"iss":"{ISSUER}","iss":"x"}}"#))),
    ] {
        assert_eq!(world.attest(&bad).await.unwrap_err().reason().code(), "TOKEN_MALFORMED", "{bad}");
    }
    // The same standards for what is signed.
    for bad in ["exp", "nbf", "iat", "aud", "sub", "jti", "kubernetes.io"] {
        let text = world.draft().claims.to_string();
        let twice = format!(r#"{},"{bad}":null}}"#, text.strip_suffix('}').unwrap());
        let input = format!("{header}.{}", base64url(twice));
        let token = sign_input(&input, &world.signer, Algorithm::Es256);
        assert_eq!(world.attest(&token).await.unwrap_err().reason().code(), "TOKEN_MALFORMED", "{bad}");
    }
    let malformed: [Change<'_>; 6] = [
        &|draft| draft.claims["exp"] = json!(null),
        &|draft| draft.claims["exp"] = json!("1800003600"),
        &|draft| draft.claims["exp"] = json!(1e300),
        &|draft| draft.claims["aud"] = json!({ "istio-ca": true }),
        &|draft| draft.claims["kubernetes.io"] = json!(["shop", { "name": "reviews" }, null, null]),
        &|draft| draft.header["crit"] = json!(null),
    ];
    for change in malformed {
        assert_eq!(reason(&world, change).await, "TOKEN_MALFORMED");
    }
}

#[tokio::test]
async fn a_token_of_16_kib_is_read_and_a_longer_one_is_not() {
    let world = World::new(Signer::p256());
    let padded = |padding: usize| {
        let mut draft = world.draft();
        draft.claims["x"] = json!("x".repeat(padding));
        draft.sign(&world.signer)
    };
    // Base64 makes 4 characters of 3.
    let room = (token::MAX_TOKEN - padded(0).len()) * 3 / 4;
    assert!(padded(room).len() <= token::MAX_TOKEN);
    world.attest(&padded(room)).await.unwrap();
    let error = world.attest(&padded(room + 4)).await.unwrap_err();
    assert_eq!(error.reason().code(), "TOKEN_TOO_LARGE");
    assert_eq!(error.expected(), [("maximum_bytes", "16384".to_owned())]);
}

#[tokio::test]
async fn algorithms_that_are_not_on_the_list_are_refused() {
    let world = World::new(Signer::p256());
    for name in ["none", "None", "", "HS256", "PS256", "ES512", "ES256K", "es256", "RS1"] {
        let error = world.changed(|draft| draft.header["alg"] = json!(name)).await.unwrap_err();
        assert_eq!(error.reason().code(), "TOKEN_ALGORITHM", "{name}");
        assert_eq!(error.expected().len(), 6);
        let unsigned =
            { Draft { header: json!({ "alg": name, "kid": "k1" }), ..world.draft() } }.input() + ".";
        assert_eq!(world.attest(&unsigned).await.unwrap_err().reason().code(), "TOKEN_ALGORITHM", "{name}");
    }
}

#[tokio::test]
async fn a_public_key_is_no_password() {
    let world = World::new(Signer::rsa().clone());
    let mut draft = world.draft();
    draft.header["alg"] = json!("HS256");
    let der = world.signer.spki();
    let pem = signet_certs::pem::encode("PUBLIC KEY", der);
    for secret in [der, pem.as_bytes(), pem.trim_end().as_bytes()] {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), draft.input().as_bytes());
        let token = format!("{}.{}", draft.input(), base64url(tag));
        assert_eq!(world.attest(&token).await.unwrap_err().reason().code(), "TOKEN_ALGORITHM");
        // The same tag under a name that is on the list.
        let token = format!("{}.{}", world.draft().input(), base64url(tag));
        assert_eq!(world.attest(&token).await.unwrap_err().reason().code(), "TOKEN_SIGNATURE");
    }
}

#[tokio::test]
async fn a_key_is_used_for_its_own_algorithm_only() {
    let worlds = [Signer::rsa().clone(), Signer::p256(), Signer::p384(), Signer::ed25519()].map(World::new);
    for world in worlds {
        for (name, algorithm) in ALGORITHMS {
            let fits = match world.signer.algorithm() {
                Algorithm::Rs256 => name.starts_with("RS"),
                own => own == algorithm,
            };
            let error = world.changed(|draft| draft.header["alg"] = json!(name)).await;
            match error.map_err(|error| error.reason().code()) {
                Ok(_) => assert_eq!(algorithm, world.signer.algorithm()),
                // RS384 in the header over a signature of RS256: the right key, the wrong signature.
                Err(reason) => {
                    assert_eq!(reason, if fits { "TOKEN_SIGNATURE" } else { "TOKEN_ALGORITHM" }, "{name}");
                }
            }
        }
    }
}

#[tokio::test]
async fn case_9_issuer_key_signature_and_time() {
    let world = World::new(Signer::p256());
    let reason = async |change: Change<'_>| reason(&world, change).await;
    for bad in [json!(null), json!("https://other.example.org"), json!(""), json!(format!("{ISSUER}/"))] {
        assert_eq!(reason(&|draft| draft.claims["iss"] = bad.clone()).await, "TOKEN_ISSUER");
    }
    assert_eq!(reason(&|draft| draft.header["kid"] = json!("k2")).await, "TOKEN_KEY_UNKNOWN");
    assert_eq!(reason(&|draft| draft.claims["exp"] = json!(NOW - 60)).await, "TOKEN_EXPIRED");
    assert_eq!(reason(&|draft| draft.claims["exp"] = json!(-1)).await, "TOKEN_EXPIRED");
    assert_eq!(reason(&|draft| draft.claims["nbf"] = json!(NOW + 60)).await, "TOKEN_NOT_YET_VALID");
    assert_eq!(reason(&|draft| draft.claims["iat"] = json!(NOW + 60)).await, "TOKEN_NOT_YET_VALID");

    // Another's signature; claims changed under the signature; a signature with its end cut off.
    let good = world.draft().sign(&world.signer);
    let (input, signature) = good.rsplit_once('.').unwrap();
    let mut richer = world.draft();
    richer.claims["sub"] = json!("system:serviceaccount:bank:vault");
    for bad in [
        world.draft().sign(&Signer::p256()),
        format!("{}.{signature}", richer.input()),
        format!("{input}.{}", &signature[..64]),
        format!("{input}."),
    ] {
        assert_eq!(world.attest(&bad).await.unwrap_err().reason().code(), "TOKEN_SIGNATURE", "{bad}");
    }
}

#[tokio::test]
async fn without_a_kid_there_must_be_one_key() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jwks.json");
    let signer = Signer::p256();
    write_keys(&file, &[signer.jwk("k1"), Signer::p256().jwk("k2")]);
    let attestation = Attestation::new(vec![issuer(ISSUER, KeySource::File(file))]).unwrap();
    let mut draft = draft(Algorithm::Es256, "k1");
    draft.header["kid"] = json!(null);
    let error = attestation.attest(&evidence(&draft.sign(&signer)), now()).await.unwrap_err();
    assert_eq!(error.reason().code(), "TOKEN_KEY_UNKNOWN");
}

#[tokio::test]
async fn case_5_audiences() {
    let world = World::new(Signer::p256());
    let refusal = async |aud: Value| {
        let error = world.changed(|draft| draft.claims["aud"] = aud).await.unwrap_err();
        let ours = ["istio-ca", "signet"].map(|audience| ("audience", audience.to_owned()));
        assert_eq!(error.expected(), ours, "{error}");
        error.reason().code()
    };
    for aud in [json!(null), json!([]), json!(""), json!("vault"), json!(["vault"]), json!("istio-ca,signet")]
    {
        assert_eq!(refusal(aud).await, "TOKEN_AUDIENCE");
    }
    for aud in [json!(ISSUER), json!([ISSUER]), json!(["istio-ca", ISSUER])] {
        assert_eq!(refusal(aud).await, "TOKEN_API_SERVER_AUDIENCE");
    }
}

#[tokio::test]
async fn case_3_subjects_that_are_no_service_account() {
    let world = World::new(Signer::p256());
    let (long, longer) = ("a".repeat(64), "a".repeat(254));
    let account = |namespace: &str, name: &str| json!(format!("system:serviceaccount:{namespace}:{name}"));
    let mut bad = vec![
        json!(null),
        json!(""),
        json!("bar:foo"),
        json!("system:serviceaccount"),
        json!("system:serviceaccount:shop"),
        json!("system:serviceaccounts:shop:reviews"),
        json!("System:serviceaccount:shop:reviews"),
        json!("system:node:shop:reviews"),
        json!("xsystem:serviceaccount:shop:reviews"),
        account("shop", "reviews:admin"),
        account("shop.x", "reviews"),
        account(&long, "reviews"),
        account("shop", &longer),
    ];
    for odd in [
        "", ".", "..", "a..b", "a.", ".a", "-a", "a-", "a.-b", "A", "a_b", "a b", "a/b", "a,b", "a%2fb", "ä",
        "a\0", "a\n",
    ] {
        bad.push(account(odd, "reviews"));
        bad.push(account("shop", odd));
    }
    for sub in bad {
        assert_eq!(reason(&world, |draft| draft.claims["sub"] = sub.clone()).await, "TOKEN_SUBJECT", "{sub}");
    }
}

#[tokio::test]
async fn claims_that_disagree_with_the_subject_or_are_ill_formed() {
    let world = World::new(Signer::p256());
    assert_eq!(reason(&world, |draft| draft.claims["kubernetes.io"] = json!(null)).await, "TOKEN_CLAIMS");
    let (name, long, uid) = ("reviews-1", "a".repeat(254), "u".repeat(65));
    for (member, bad) in [
        ("namespace", json!(null)),
        ("namespace", json!("bank")),
        ("serviceaccount", json!(null)),
        ("serviceaccount", json!({})),
        ("serviceaccount", json!({ "name": "vault" })),
        ("pod", json!({})),
        ("pod", json!({ "uid": UID })),
        ("pod", json!({ "name": name })),
        ("pod", json!({ "name": name, "uid": "" })),
        ("pod", json!({ "name": name, "uid": "a b" })),
        ("pod", json!({ "name": name, "uid": uid })),
        ("pod", json!({ "name": "Reviews", "uid": UID })),
        ("pod", json!({ "name": long, "uid": UID })),
        ("node", json!({ "uid": UID })),
        ("node", json!({ "name": "a\nb" })),
        ("node", json!({ "name": "node-1", "uid": "\u{1b}[2J" })),
    ] {
        let change = |draft: &mut Draft| draft.claims["kubernetes.io"][member] = bad.clone();
        assert_eq!(reason(&world, change).await, "TOKEN_CLAIMS", "{member}: {bad}");
    }
}

#[tokio::test]
async fn a_namespace_that_the_issuer_may_not_vouch_for() {
    let world = World::new(Signer::p256());
    let change = |draft: &mut Draft| {
        draft.claims["sub"] = json!("system:serviceaccount:kube-system:reviews");
        draft.claims["kubernetes.io"]["namespace"] = json!("kube-system");
    };
    let error = world.changed(change).await.unwrap_err();
    assert_eq!(error.reason().code(), "TOKEN_NAMESPACE");
    assert_eq!(error.expected(), [], "which namespaces would do is our rule");
}

#[tokio::test]
async fn refusals_say_what_was_found_cut_and_escaped_and_never_the_token() {
    let world = World::new(Signer::p256());
    let odd = format!("\n\u{1b}[31m{}", "x".repeat(300));
    let changes: [Change<'_>; 12] = [
        &|draft| draft.header["alg"] = json!(odd),
        &|draft| draft.header["kid"] = json!(odd),
        &|draft| draft.header["crit"] = json!([]),
        &|draft| draft.claims["iss"] = json!(odd),
        &|draft| draft.claims["exp"] = json!(odd),
        &|draft| draft.claims["exp"] = json!(1),
        &|draft| draft.claims["nbf"] = json!(NOW * 2),
        &|draft| draft.claims["aud"] = json!(odd),
        &|draft| draft.claims["aud"] = json!([ISSUER, odd]),
        &|draft| draft.claims["sub"] = json!(odd),
        &|draft| draft.claims["kubernetes.io"]["namespace"] = json!(odd),
        &|draft| draft.claims["kubernetes.io"]["pod"]["name"] = json!(odd),
    ];
    for change in changes {
        let mut draft = world.draft();
        change(&mut draft);
        let token = draft.sign(&world.signer);
        let evidence = evidence(&token);
        let error = world.attestation.attest(&evidence, now()).await.unwrap_err();
        let said = format!("{error} {evidence:?} {:?}", error.expected());
        assert!(said.len() < 900, "{said}");
        assert!(said.chars().all(|character| !character.is_control()), "{said:?}");
        for text in [said, format!("{error:?}"), format!("{:?}", world.attestation)] {
            for part in token.split('.') {
                assert!(!text.contains(part), "{text}");
            }
        }
    }
    let error = world.changed(|draft| draft.claims["iss"] = json!("evil")).await.unwrap_err();
    assert_eq!(error.to_string(), format!("expected one of the issuers [{ISSUER:?}], found evil"));
    assert_eq!(error.expected(), [("issuer", ISSUER.to_owned())]);
}
