//! Key files as `openssl` writes them: every form that loads, and every key that cannot be used, each named
//! with what to do; where that is a command, the command mends it.

use std::time::SystemTime;

use signet_certs::cacerts::{CA_KEY, Cacerts, Fault};

use super::openssl::{Bench, CA_EXTENSIONS, ED25519, P256, P384, RSA_2048, RSA_3072, RSA_4096, request};

/// A folder whose signer has a key of this kind, in `ca-key.pem` as `genpkey` writes it.
fn bench(kind: &[&str]) -> Bench {
    let bench = Bench::new();
    bench.issuer(P256, CA_EXTENSIONS);
    bench.key("ca-key.pem", kind);
    bench.certify("ca.pem", "ca-key.pem", &request("CN = Issuing CA\n"), CA_EXTENSIONS);
    bench
}

fn load(bench: &Bench) -> Result<Cacerts, Vec<Fault>> {
    Cacerts::read(&bench.cacerts(), SystemTime::now())
}

/// Rewrites `ca-key.pem` by `openssl` with these arguments, of which KEY and NEW stand for the files.
fn rewrite(bench: &Bench, arguments: &[&str]) {
    let arguments: Vec<_> = arguments
        .iter()
        .map(|argument| match *argument {
            "KEY" => "ca-key.pem",
            "NEW" => "new.pem",
            other => other,
        })
        .collect();
    bench.openssl(&arguments);
    bench.write("ca-key.pem", bench.read("new.pem"));
}

/// The one fault of the key file, by this name and with these words.
#[track_caller]
fn fault(bench: &Bench, code: &str, what: &str, todo: &str) -> Fault {
    let faults = load(bench).err().unwrap_or_default();
    let of_key: Vec<_> = faults.iter().filter(|fault| fault.file == CA_KEY).collect();
    let [fault] = of_key.as_slice() else { panic!("expected one fault of the key, found {faults:?}") };
    assert!(fault.code == code && fault.what.contains(what) && fault.todo.contains(todo), "{fault:?}");
    assert!(!fault.why.is_empty());
    (*fault).clone()
}

/// Runs the command that a fault names, as it stands, and loads again.
#[track_caller]
fn mended(bench: &Bench, fault: &Fault) {
    let command = &fault.todo[..fault.todo.find(" NEW.pem").unwrap()];
    bench.write("NEW.pem", "");
    let arguments: Vec<_> = command.split(' ').skip(1).chain(["NEW.pem"]).collect();
    bench.openssl(&arguments);
    bench.write("ca-key.pem", bench.read("NEW.pem"));
    assert_eq!(load(bench).map(|cacerts| cacerts.notes), Ok(vec![]));
}

#[test]
fn every_kind_loads_in_every_form() {
    for kind in [P256, P384] {
        let bench = bench(kind);
        load(&bench).unwrap();
        let curve = if kind == P256 { "prime256v1" } else { "secp384r1" };
        rewrite(&bench, &["ec", "-in", "KEY", "-out", "NEW"]);
        assert!(bench.read("ca-key.pem").starts_with(b"-----BEGIN EC PRIVATE KEY"));
        load(&bench).unwrap();
        let parameters = bench.openssl(&["ecparam", "-name", curve]);
        let sec1 = bench.read("ca-key.pem");
        bench.write("ca-key.pem", [&parameters[..], b"# the key of the mesh\r\n", &sec1, b"\n\n"].concat());
        assert!(String::from_utf8_lossy(&parameters).contains("EC PARAMETERS"));
        load(&bench).unwrap();
    }
    for kind in [RSA_2048, RSA_3072, RSA_4096] {
        let bench = bench(kind);
        load(&bench).unwrap();
        rewrite(&bench, &["rsa", "-in", "KEY", "-traditional", "-out", "NEW"]);
        assert!(bench.read("ca-key.pem").starts_with(b"-----BEGIN RSA PRIVATE KEY"));
        load(&bench).unwrap();
        let with_text = bench.openssl(&["pkey", "-in", "ca-key.pem", "-text"]);
        bench.write("ca-key.pem", with_text);
        load(&bench).unwrap();
    }
    let bench = bench(ED25519);
    load(&bench).unwrap();
    // A certificate beside its key, as many tools export both.
    bench.write("ca-key.pem", [bench.read("ca.pem"), bench.read("ca-key.pem")].concat());
    load(&bench).unwrap();
}

#[test]
fn curves_and_algorithms_that_peers_do_not_know_are_named() {
    for (curve, name) in
        [("P-521", "P-521"), ("secp256k1", "secp256k1"), ("brainpoolP256r1", "brainpoolP256r1")]
    {
        let option = format!("ec_paramgen_curve:{curve}");
        let bench = bench(&["-algorithm", "EC", "-pkeyopt", &option]);
        fault(&bench, "KEY_KIND", &format!("found an EC key on {name}"), "openssl genpkey -algorithm EC");
        rewrite(&bench, &["ec", "-in", "KEY", "-out", "NEW"]);
        fault(&bench, "KEY_KIND", name, "make a new key");
    }
    let bench = bench(&["-algorithm", "ED448"]);
    fault(&bench, "KEY_KIND", "found an Ed448 key", "make a new key");
}

#[test]
fn rsa_keys_out_of_bounds_are_named() {
    let small = bench(&["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"]);
    fault(&small, "KEY_SIZE", "2048 to 4096 bits, found 1024", "make a new key");
    let three =
        bench(&["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-pkeyopt", "rsa_keygen_pubexp:3"]);
    fault(&three, "KEY_EXPONENT", "an odd RSA exponent of at least 65537", "make a new key");
    let large = bench(&["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:4104"]);
    fault(&large, "KEY_SIZE", "found 4104", "make a new key");
    let pss = bench(&["-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048"]);
    fault(&pss, "KEY_PSS", "RSASSA-PSS", "openssl genpkey -algorithm RSA ");
    rewrite(&pss, &["rsa", "-in", "KEY", "-traditional", "-out", "NEW"]);
    fault(&pss, "KEY_PSS", "RSASSA-PSS", "plain RSA key");
}

#[test]
fn an_encrypted_key_is_named_in_both_forms() {
    let pkcs8 = bench(P256);
    rewrite(&pkcs8, &["pkcs8", "-topk8", "-in", "KEY", "-passout", "pass:secret", "-out", "NEW"]);
    assert!(pkcs8.read("ca-key.pem").starts_with(b"-----BEGIN ENCRYPTED PRIVATE KEY"));
    let old = bench(RSA_2048);
    rewrite(
        &old,
        &["rsa", "-in", "KEY", "-aes256", "-traditional", "-passout", "pass:secret", "-out", "NEW"],
    );
    assert!(String::from_utf8_lossy(&old.read("ca-key.pem")).contains("Proc-Type: 4,ENCRYPTED"));
    for bench in [pkcs8, old] {
        let command = "openssl pkey -in ca-key.pem -out NEW.pem";
        fault(&bench, "KEY_ENCRYPTED", "the private key is encrypted", command);
        // The command asks for the password; here it is told.
        rewrite(&bench, &["pkey", "-in", "KEY", "-passin", "pass:secret", "-out", "NEW"]);
        load(&bench).unwrap();
    }
}

#[test]
fn an_ec_key_without_its_public_part_is_named_and_the_command_mends_it() {
    for form in [
        &["ec", "-in", "KEY", "-no_public", "-out", "NEW"][..],
        &["ec", "-in", "KEY", "-conv_form", "compressed", "-out", "NEW"],
    ] {
        for wrapped in [false, true] {
            let bench = bench(P256);
            rewrite(&bench, form);
            if wrapped {
                rewrite(&bench, &["pkcs8", "-topk8", "-nocrypt", "-in", "KEY", "-out", "NEW"]);
            }
            let found =
                fault(&bench, "KEY_NO_PUBLIC_PART", "with its public part", "openssl ec -in ca-key.pem");
            mended(&bench, &found);
        }
    }
}

#[test]
fn explicit_parameters_are_named_and_the_command_mends_the_key() {
    let bench = bench(P256);
    rewrite(&bench, &["ec", "-in", "KEY", "-param_enc", "explicit", "-out", "NEW"]);
    let found = fault(&bench, "KEY_PARAMETERS", "explicit curve parameters", "-param_enc named_curve");
    mended(&bench, &found);
    rewrite(&bench, &["pkey", "-in", "KEY", "-ec_param_enc", "explicit", "-out", "NEW"]);
    let found = fault(&bench, "KEY_PARAMETERS", "explicit curve parameters", "-param_enc named_curve");
    mended(&bench, &found);
}

#[test]
fn what_is_no_key_or_more_than_one_is_named() {
    let bench = bench(P256);
    let good = bench.read("ca-key.pem");
    let put = |content: &[u8]| bench.write("ca-key.pem", content);
    put(b"");
    fault(&bench, "KEY_MISSING", "found no PEM block", "-----BEGIN PRIVATE KEY-----");
    put(&bench.read("ca.pem"));
    fault(&bench, "KEY_MISSING", "found CERTIFICATE", "put the private key");
    put(&bench.openssl(&["pkey", "-in", "issuer-key.pem", "-pubout"]));
    fault(&bench, "KEY_MISSING", "found PUBLIC KEY", "put the private key");
    put(&[good.clone(), bench.read("issuer-key.pem")].concat());
    fault(&bench, "KEY_SEVERAL", "at the lines 1, 6", "leave the one key");
    put(&bench.read("issuer-key.pem"));
    fault(&bench, "KEY_OF_ANOTHER", "a P-256 key that is not its own", "openssl pkey -in ca-key.pem -pubout");
}

#[test]
fn case_28_a_damaged_key_is_named() {
    for kind in [P256, RSA_2048, ED25519] {
        let bench = bench(kind);
        let text = String::from_utf8(bench.read("ca-key.pem")).unwrap();
        let cut = text.rsplit_once("-----END").unwrap().0;
        bench.write("ca-key.pem", cut);
        fault(
            &bench,
            "KEY_DAMAGED",
            "line 1: the block PRIVATE KEY has no matching END",
            "copy ca-key.pem anew",
        );
        bench.write("ca-key.pem", text.replacen('M', "*", 1));
        fault(&bench, "KEY_DAMAGED", "not base64", "openssl pkey -in ca-key.pem -noout -check");
        let lines: Vec<_> = text.lines().collect();
        bench.write("ca-key.pem", [&lines[..1], &lines[lines.len() - 1..]].concat().join("\n"));
        fault(&bench, "KEY_DAMAGED", "it is not PKCS#8", "copy ca-key.pem anew");
    }
    // A secret that was changed does not fit its public part any more.
    let bench = bench(P256);
    let mut der = signet_certs::pem::blocks(&bench.read("ca-key.pem")).unwrap().remove(0).der;
    der[40] ^= 1;
    bench.write("ca-key.pem", signet_certs::pem::encode("PRIVATE KEY", &der));
    fault(&bench, "KEY_DAMAGED", "cannot be used", "copy ca-key.pem anew");
}
