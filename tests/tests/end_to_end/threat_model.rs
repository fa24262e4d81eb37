//! SECURITY.md against the source: each test and each file that the threat model names is there, and each threat
//! says which test shows what stops it, or that none does.

use std::fs;
use std::path::{Path, PathBuf};

/// Where our sources are. The fuzz targets are in `tests`.
const CRATES: [&str; 5] = ["ca-server", "certs", "csr-client", "service", "tests"];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn security() -> String {
    fs::read_to_string(repository().join("SECURITY.md")).unwrap()
}

/// All `.rs` files, by their paths from the repository's root.
fn sources() -> Vec<String> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                walk(&entry.path(), found);
            } else if entry.path().extension().is_some_and(|end| end == "rs") {
                found.push(entry.path());
            }
        }
    }
    let mut found = Vec::new();
    for part in CRATES.iter().flat_map(|name| [format!("{name}/src"), format!("{name}/tests")]) {
        let folder = repository().join(part);
        if folder.is_dir() {
            walk(&folder, &mut found);
        }
    }
    let from_root = |path: PathBuf| path.strip_prefix(repository()).unwrap().to_str().unwrap().to_owned();
    found.into_iter().map(from_root).collect()
}

/// What stands between single backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// What a quotation names: the end of a file's path, and a test in it.
fn named(quoted: &str) -> Option<(&str, Option<&str>)> {
    match quoted.split_once(".rs: ") {
        Some((file, test)) => Some((&quoted[..file.len() + 3], Some(test))),
        None => quoted.ends_with(".rs").then_some((quoted, None)),
    }
}

/// Whether a function of this name in this source is a test.
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<_> = source.lines().map(str::trim).collect();
    let function = format!("fn {name}(");
    let is_attribute = |line: &str| line.starts_with("#[") || line.starts_with("//");
    let marks_a_test = |line: &str| line.starts_with("#[test]") || line.starts_with("#[tokio::test");
    let of_a_test = |at: usize| {
        lines[..at].iter().rev().take_while(|line| is_attribute(line)).any(|line| marks_a_test(line))
    };
    let begins =
        |line: &str| ["", "async "].iter().any(|kind| line.starts_with(&format!("{kind}{function}")));
    (0..lines.len()).any(|at| begins(lines[at]) && of_a_test(at))
}

/// The faults of a text: each name that is not of exactly one file, or of no test in it.
fn faults(text: &str, sources: &[String]) -> Vec<String> {
    let mut faults = Vec::new();
    for (end, test) in quoted(text).into_iter().filter_map(named).filter(|(file, _)| *file != "file.rs") {
        let of_it = |path: &&String| format!("/{path}").ends_with(&format!("/{end}"));
        let files: Vec<_> = sources.iter().filter(of_it).collect();
        let [file] = files[..] else {
            faults.push(format!("{end}: one file was expected, found {files:?}"));
            continue;
        };
        let Some(test) = test else { continue };
        if !has_test(&fs::read_to_string(repository().join(file)).unwrap(), test) {
            faults.push(format!("{file} has no test {test}"));
        }
    }
    faults
}

#[test]
fn what_the_threat_model_names_exists() {
    let (text, sources) = (security(), sources());
    let tests = quoted(&text).into_iter().filter_map(named).filter(|(_, test)| test.is_some()).count();
    assert!(tests > 100, "only {tests} tests are found in SECURITY.md");
    assert_eq!(faults(&text, &sources), Vec::<String>::new(), "SECURITY.md names what is not there");
    // What would be found: a test that was renamed, one in another file, a file that went or is not the only one.
    for (wrong, what) in [
        ("`end_to_end/tls.rs: no_session_is_resumed`", "has no test no_session_is_resumed"),
        ("`end_to_end/blocks.rs: no_session_is_ever_resumed`", "has no test no_session_is_ever_resumed"),
        ("`end_to_end/threat_model.rs: has_test`", "has no test has_test"),
        ("`end_to_end/ssl.rs`", "found []"),
        ("`blocks.rs`", "one file was expected"),
    ] {
        let found = faults(wrong, &sources);
        assert!(found.len() == 1 && found[0].contains(what), "{wrong}: {found:?}");
    }
}

#[test]
fn each_threat_says_which_test_shows_what_stops_it_or_that_none_does() {
    let text = security();
    let (_, part) = text.split_once("\n## Where an attacker may stand\n").unwrap();
    let (part, _) = part.split_once("\n## ").unwrap();
    let threats: Vec<_> = part.split("\n- **").skip(1).collect();
    assert!(threats.len() > 30, "only {} threats are found", threats.len());
    for threat in threats {
        let threat = threat.split("\n#").next().unwrap();
        let shown = quoted(threat).into_iter().filter_map(named).any(|(_, test)| test.is_some());
        assert!(
            shown || threat.to_lowercase().contains("no test"),
            "neither a test nor \"no test\": {threat}"
        );
    }
}
