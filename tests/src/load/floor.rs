//! The floor: the three signatures that one certificate cannot do without, on one core, with nothing
//! around them; and the same steps as the server does them, still without network and log.

use std::hint::black_box;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::FutureExt;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use secrecy::SecretString;
use signet_ca_server::attestation::{Attestation, Evidence, KeySource, TokenIssuer};
use signet_ca_server::authority::{Issuer, loader};
use signet_ca_server::policy::Grant;
use signet_ca_server::trust::Trust;
use signet_certs::bundle::{Bundles, TrustBundle};
use signet_certs::check::Bounds;
use signet_certs::csr::{self, VerifiedCsr};
use signet_certs::key::PrivateKey;
use signet_certs::spiffe_id::{SpiffeId, TrustDomain};

use super::{Failure, Stage, TOKEN_ISSUER};

/// How long each loop runs.
const TIME: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

/// Time for one certificate.
pub struct Floor {
    /// Three signature operations of the library alone.
    pub signatures: Duration,
    /// Token to signed leaf, as the server does it.
    pub steps: Duration,
}

/// Measures both on the calling thread.
pub fn measure(stage: &Stage) -> Result<Floor, Failure> {
    Ok(Floor { signatures: signatures(stage)?, steps: steps(stage)? })
}

fn signatures(stage: &Stage) -> Result<Duration, Failure> {
    let token = stage.token("floor")?;
    let (signed, signature) = token.rsplit_once('.').ok_or("a token without a signature")?;
    let signature = URL_SAFE_NO_PAD.decode(signature)?;
    let key = &stage.token_issuer().key_set()["keys"][0];
    let number = |name: &str| URL_SAFE_NO_PAD.decode(key[name].as_str().unwrap_or_default());
    let token_key = RsaPublicKeyComponents { n: number("n")?, e: number("e")? };
    let key = PrivateKey::generate_p256()?;
    let pair = ring::signature::EcdsaKeyPair::from_pkcs8(
        &ring::signature::ECDSA_P256_SHA256_ASN1_SIGNING,
        key.to_pkcs8_der(),
        &ring::rand::SystemRandom::new(),
    )
    .map_err(|_| "the key was refused")?;
    let message = [7_u8; 400];
    let proof = key.sign(&message)?;
    let public = ring::signature::KeyPair::public_key(&pair).as_ref().to_vec();
    let verifier = ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P256_SHA256_ASN1, public);
    time_of(|| {
        token_key
            .verify(&RSA_PKCS1_2048_8192_SHA256, signed.as_bytes(), &signature)
            .map_err(|_| "the token did not verify")?;
        verifier.verify(&message, &proof).map_err(|_| "the proof did not verify")?;
        black_box(key.sign(&message)?);
        Ok(())
    })
}

fn steps(stage: &Stage) -> Result<Duration, Failure> {
    let trust_domain = TrustDomain::parse("cluster.local")?;
    let attestation = Attestation::new(vec![TokenIssuer {
        issuer: TOKEN_ISSUER.to_owned(),
        jwks: KeySource::File(stage.path("jwks.json")),
        audiences: vec!["istio-ca".to_owned()],
        api_server_audiences: Vec::new(),
        trust_domain: trust_domain.clone(),
        namespaces: None,
    }])?;
    let cacerts = loader::load(&stage.path("ca"), SystemTime::now())?;
    let bundles = Bundles::of(trust_domain.clone(), TrustBundle::new(cacerts.roots.clone()));
    let trust = Trust { epoch: 1, sequence: 1, digest: bundles.digest(), bundles, crls: Default::default() };
    let issuer = Issuer::new(cacerts.into(), None, trust.into());
    let evidence = Evidence {
        token: Some(SecretString::from(stage.token("floor")?)),
        instance: None,
        cluster: None,
        certificates: None,
    };
    let key = PrivateKey::generate_p256()?;
    let request = csr::create(&key, &SpiffeId::workload(&trust_domain, "load", "floor")?)?;
    time_of(|| {
        let now = SystemTime::now();
        // Keys of a file are there from the start, so this never waits.
        let caller = attestation.attest(&evidence, now).now_or_never().ok_or("attestation waits")??;
        let csr = VerifiedCsr::from_pem(&request)?;
        let grant = Grant { identity: caller.identity, lifetime: DAY };
        let signed = issuer.sign_workload(&csr, &grant, Bounds { now, maximum: DAY })?;
        black_box(issuer.answer(&signed, &trust_domain));
        Ok(())
    })
}

fn time_of(mut work: impl FnMut() -> Result<(), Failure>) -> Result<Duration, Failure> {
    let began = Instant::now();
    let mut times = 0;
    while began.elapsed() < TIME {
        work()?;
        times += 1;
    }
    Ok(began.elapsed() / times)
}
