//! Chains in every state of order: what is put right with a note, and what is refused.

use super::*;
use crate::validity::Validity;

fn copy(ca: &Ca) -> Ca {
    let key = PrivateKey::from_pem(ca.key.to_pkcs8_pem().as_bytes()).unwrap();
    Ca { certificate: ca.certificate.clone(), key }
}

/// An intermediate that may have others below it.
fn middle(above: &Ca, name: &str, path_length: u8) -> Ca {
    let key = PrivateKey::generate_p256().unwrap();
    above.intermediate(ca_name("Signet", None, name), path_length, life(8), key).unwrap()
}

/// The same CA by its name and key, certified by another.
fn cross(below: &Ca, above: &Ca) -> Ca {
    above.intermediate(below.certificate.facts().subject.clone(), 3, life(8), copy(below).key).unwrap()
}

fn codes(folder: &Folder) -> (Vec<&'static str>, Vec<&'static str>) {
    let Judged { faults, notes, .. } = Judged::of(folder, now());
    let codes = |list: &[Finding]| list.iter().map(|finding| finding.code).collect();
    (codes(&faults), codes(&notes))
}

fn chain(folder: &Folder) -> Vec<Certificate> {
    Cacerts::read(folder, now()).unwrap().intermediates
}

fn certificates(list: &[&Ca]) -> Vec<Certificate> {
    list.iter().map(|ca| ca.certificate.clone()).collect()
}

#[test]
fn every_order_of_three_is_put_right_to_the_only_one() {
    let top = root("Root CA");
    let upper = middle(&top, "Upper", 2);
    let lower = middle(&upper, "Lower", 1);
    let signer = intermediate(&lower);
    let all = [&signer, &lower, &upper];
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let folder = folder(&signer, &order.map(|at| all[at]), &[&top]);
        assert_eq!(chain(&folder), certificates(&all), "{order:?}");
        let notes = if order == [0, 1, 2] { vec![] } else { vec!["CHAIN_REORDERED"] };
        assert_eq!(codes(&folder), (vec![], notes), "{order:?}");
    }
}

#[test]
fn what_stands_twice_or_does_not_belong_is_left_out() {
    let (top, other) = (root("Root CA"), root("Other root"));
    let (signer, stranger) = (intermediate(&top), middle(&other, "Stranger", 0));
    for (given, notes) in [
        (vec![&signer, &signer, &top, &top], vec!["CHAIN_DUPLICATE", "CHAIN_DUPLICATE"]),
        (vec![&signer, &stranger], vec!["CHAIN_STRANGER"]),
        (vec![&stranger, &signer, &top], vec!["CHAIN_STRANGER"]),
        (vec![&signer, &other], vec!["CHAIN_ROOT_UNTRUSTED"]),
        (vec![&top, &signer], vec!["CHAIN_REORDERED"]),
    ] {
        let folder = folder(&signer, &given, &[&top]);
        assert_eq!(codes(&folder), (vec![], notes));
        assert_eq!(chain(&folder), from_ref(&signer.certificate));
    }
}

#[test]
fn case_28_a_chain_that_reaches_no_root_says_where_it_ends() {
    let (top, other) = (root("Root CA"), root("Other root"));
    let lower = middle(&top, "Lower", 1);
    let signer = intermediate(&lower);
    let missing = folder(&signer, &[&signer], &[&top]);
    one_fault(&missing, CA_CERT, "is signed by (O=Signet, CN=Lower), which is not in root-cert.pem nor");
    let foreign = folder(&signer, &[&signer, &lower], &[&other]);
    one_fault(&foreign, CERT_CHAIN, "is signed by (O=Signet, CN=Root CA), which is not in root-cert.pem");
    // The root stands in the chain and is not trusted: said of both.
    let untrusted = folder(&signer, &[&signer, &lower, &top], &[&other]);
    assert_eq!(codes(&untrusted), (vec!["CHAIN_BROKEN"], vec!["CHAIN_ROOT_UNTRUSTED"]));
    let namesake = folder(&signer, &[&signer, &lower], &[&root("Root CA")]);
    assert_eq!(codes(&namesake).0, ["CHAIN_KEY_MISMATCH"]);
    let without = folder(&signer, &[&lower, &top], &[&top]);
    assert_eq!(codes(&without).0, ["SIGNER_NOT_IN_CHAIN"]);
}

#[test]
fn a_name_in_another_string_type_is_another_name() {
    let utf8 = root("Root CA");
    let subject = utf8.certificate.facts().subject.iter();
    let printable = subject.map(|byte| if *byte == 0x0c { 0x13 } else { *byte }).collect();
    let again = Ca::root(printable, life(10), copy(&utf8).key).unwrap();
    let signer = intermediate(&utf8);
    assert_eq!(codes(&folder(&signer, &[&signer], &[&again])).0, ["CHAIN_NAME_ENCODING"]);
}

#[test]
fn cross_signed_roots_and_intermediates_load_and_are_anchored_nearest() {
    let (old, new) = (root("Old root"), root("New root"));
    let signer = intermediate(&new);
    let bridge = cross(&new, &old);
    // For peers that hold the old root alone.
    let only_old = folder(&signer, &[&signer, &bridge], &[&old]);
    let loaded = Cacerts::read(&only_old, now()).unwrap();
    assert_eq!((loaded.anchor, loaded.notes), (old.certificate.clone(), vec![]));
    let both = folder(&signer, &[&signer, &bridge], &[&old, &new]);
    let loaded = Cacerts::read(&both, now()).unwrap();
    assert_eq!(loaded.anchor, new.certificate);
    assert_eq!(loaded.intermediates, certificates(&[&signer, &bridge]));
    one_note(&loaded, "CHAIN_CROSS_SIGNED", "it leads to (O=Signet, CN=New root");
    // Two certificates of one intermediate: order as given where it is one, refused where it is not.
    let one = middle(&new, "Issuing", 1);
    let two = cross(&one, &old);
    let signer = intermediate(&one);
    let good = folder(&signer, &[&signer, &two, &one], &[&old, &new]);
    assert_eq!(chain(&good), certificates(&[&signer, &two, &one]));
    let bad = folder(&signer, &[&two, &signer, &one], &[&old, &new]);
    assert_eq!(codes(&bad).0, ["CHAIN_AMBIGUOUS"]);
}

#[test]
fn a_root_that_signs_may_have_its_bridge_to_another() {
    let (old, new) = (root("Old root"), root("New root"));
    let bridge = cross(&new, &old);
    let folder = folder(&new, &[&new, &bridge], &[&new, &old]);
    let loaded = Cacerts::read(&folder, now()).unwrap();
    assert_eq!((loaded.anchor, loaded.intermediates), (new.certificate, vec![bridge.certificate]));
}

#[test]
fn two_roots_that_certify_each_other_do_not_send_it_round_in_circles() {
    let (a, b) = (root("A"), root("B"));
    let (ab, ba) = (cross(&a, &b), cross(&b, &a));
    let signer = intermediate(&a);
    let lost = folder(&signer, &[&signer, &ab, &ba], &[&root("C")]);
    assert_eq!(codes(&lost).0, ["CHAIN_BROKEN"]);
    let found = folder(&signer, &[&signer, &ab, &ba], &[&a]);
    assert_eq!(Cacerts::read(&found, now()).unwrap().anchor, a.certificate);
}

#[test]
fn a_chain_that_is_too_long_is_refused() {
    let top = root("Root CA");
    let mut chain = vec![middle(&top, "1", 9)];
    for at in 2..=7_u8 {
        let next = middle(&chain[0], &at.to_string(), 9 - at);
        chain.insert(0, next);
    }
    let long: Vec<_> = chain.iter().collect();
    assert_eq!(codes(&folder(&chain[0], &long, &[&top])).0, ["CHAIN_TOO_LONG"]);
    assert_eq!(codes(&folder(&chain[1], &long[1..], &[&top])), (vec![], vec![]));
    let strangers: Vec<_> = (0..40).map(|at| middle(&top, &format!("s{at}"), 0)).collect();
    let all: Vec<_> = long[1..].iter().copied().chain(&strangers).collect();
    assert_eq!(codes(&folder(&chain[1], &all, &[&top])).0, ["CHAIN_TOO_LONG"]);
}

#[test]
fn room_below_the_signer_is_every_path_length_s_to_give() {
    let top = root("Root CA");
    let upper = middle(&top, "Upper", 1);
    for (signer, chain, room) in [
        (&top, vec![], true),
        (&upper, vec![], true),
        (&middle(&top, "Last", 0), vec![], false),
        // Its own path length would do; the one above allows one CA, which it is itself.
        (&middle(&upper, "Lower", 5), vec![&upper], false),
    ] {
        let chain = [vec![signer], chain].concat();
        let loaded = Cacerts::read(&folder(signer, &chain, &[&top]), now()).unwrap();
        assert_eq!(loaded.has_room_below(), room, "{:?}", signer.certificate);
    }
}

#[test]
fn extra_roots_are_kept_and_what_is_odd_about_them_is_said() {
    let top = root("Root CA");
    let signer = intermediate(&top);
    let lived = |name: &str, not_before, not_after| {
        let key = PrivateKey::generate_p256().unwrap();
        Ca::root(ca_name("Signet", None, name), Validity { not_before, not_after }, key).unwrap()
    };
    let old = lived("Old", now() - YEAR * 2, now() - YEAR);
    let next = lived("Next", now() + YEAR, now() + YEAR * 2);
    let folder = folder(&signer, &[&signer, &top], &[&old, &top, &next, &top, &old]);
    assert_eq!(codes(&folder), (vec![], vec!["ROOT_ENDED", "ROOT_NOT_YET"]));
    let loaded = Cacerts::read(&folder, now()).unwrap();
    assert_eq!(loaded.roots, certificates(&[&old, &top, &next]));
    assert_eq!(loaded.anchor, top.certificate);
}

#[test]
fn a_thousand_roots_load_at_once() {
    let top = root("Root CA");
    let signer = intermediate(&top);
    let mut roots: Vec<_> = (0..1000).map(|at| root(&format!("Root {at}"))).collect();
    roots.push(top);
    let all: Vec<_> = roots.iter().collect();
    let folder = folder(&signer, &[&signer], &all);
    assert!(file(&folder, ROOT_CERT).len() as u64 <= MAX_FILE);
    let begun = std::time::Instant::now();
    let loaded = Cacerts::read(&folder, now()).unwrap();
    assert_eq!(loaded.roots.len(), 1001);
    one_note(&loaded, "ROOTS_MANY", "holds 1001 roots");
    // It takes about a tenth of this; squares of a thousand would not fit.
    assert!(begun.elapsed().as_secs() < 2, "{:?}", begun.elapsed());
}

#[test]
fn incomplete_folders_name_what_is_missing() {
    let made = good();
    let names = [CA_CERT, CA_KEY, CERT_CHAIN, ROOT_CERT];
    for name in names {
        let mut folder = Folder::new();
        for other in names.into_iter().filter(|other| *other != name) {
            folder.insert(other, Ok(file(&made.files(), other).into()));
        }
        let Judged { faults, .. } = Judged::of(&folder, now());
        let [fault] = faults.as_slice() else { panic!("{faults:?}") };
        assert_eq!((fault.code, fault.file), ("INCOMPLETE", name));
        assert!(fault.what.starts_with("is missing, while there is "), "{fault:?}");
    }
    let none = Judged::of(&Folder::new(), now()).faults;
    assert_eq!(none.len(), 4);
    assert!(none.iter().all(|fault| fault.what == "is missing, as are the other CA files"), "{none:?}");
    let mut unread = made.files();
    unread.insert(ROOT_CERT, Err("permission denied".into()));
    assert_eq!(codes(&unread).0, ["UNREADABLE"]);
    one_fault(&unread, ROOT_CERT, "cannot be read: permission denied");
}
