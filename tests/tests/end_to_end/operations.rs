//! What `deploy/` gives to operators, held against the real programs: metrics, alert rules, runbook, dashboard, units.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use signet_tests::harness::caller::Caller;
use signet_tests::harness::http::get;
use signet_tests::harness::site::Site;
use signet_tests::programs::{program, tool};

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(deploy(name)).unwrap_or_else(|error| panic!("deploy/{name}: {error}"))
}

/// Each series that a program answers, without a histogram's endings: its labels, each with the values seen.
type Series = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

fn series(text: &str) -> Series {
    let histograms: Vec<_> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" histogram")).collect();
    let mut all = Series::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, labels) = match line.split_once('{') {
            Some((name, rest)) => (name, rest.split_once('}').unwrap().0),
            None => (line.split(' ').next().unwrap(), ""),
        };
        let base =
            histograms.iter().find(|base| name.strip_prefix(**base).is_some_and(|end| end.starts_with('_')));
        let known = all.entry(base.map_or(name, |base| base).to_owned()).or_default();
        for (label, value) in pairs(labels, "=") {
            known.entry(label).or_default().insert(value);
        }
    }
    all
}

/// `a="b",c="d"` as pairs; no value here has a comma or a quote in it.
fn pairs(labels: &str, between: &str) -> Vec<(String, String)> {
    let split = |pair: &str| {
        let (label, value) = pair.split_once(between).unwrap_or_else(|| panic!("no {between} in {pair}"));
        (label.trim().to_owned(), value.trim().trim_matches('"').to_owned())
    };
    labels.split(',').filter(|pair| !pair.trim().is_empty()).map(split).collect()
}

/// What a CA and its agent answer when both have done their work.
async fn exported() -> Series {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    Caller::to(&site, &ca).await.ask(site.ask()).await.unwrap();
    let agent = site.agent(ca.listen, "sleep", &[]).await;
    agent.certificate().await;
    let scrape = |address| {
        let (code, text) = get(address, "/metrics");
        assert_eq!(code, 200, "{text}");
        series(&text)
    };
    let mut all = scrape(ca.monitoring);
    all.extend(scrape(agent.monitoring));
    all
}

/// The rows of METRICS.md: the series, and its labels each with the text of its bounds.
fn documented() -> BTreeMap<String, String> {
    let text = read("METRICS.md");
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let name = cells.next()?.trim_end_matches('`').to_owned();
        Some((name, cells.next()?.to_owned()))
    };
    // An empty cell leaves a single bar between the others.
    text.replace(" | | ", " |  | ").lines().filter_map(row).collect()
}

/// The labels that a cell of METRICS.md names: those in code that bounds stand behind, or a comma.
fn labels(cell: &str) -> BTreeSet<String> {
    let before_bounds = cell.split("; ").filter_map(|part| Some(part.split_once(": ")?.0));
    let names =
        before_bounds.flat_map(|names| names.split(", ")).map(|name| name.trim_matches('`').to_owned());
    names.collect()
}

#[tokio::test]
async fn every_series_is_documented_with_its_labels_and_every_documented_one_exists() {
    let (exported, documented) = (exported().await, documented());
    let names = |keys: Vec<&String>| keys.into_iter().cloned().collect::<BTreeSet<_>>();
    assert_eq!(
        names(documented.keys().collect()),
        names(exported.keys().collect()),
        "METRICS.md and /metrics"
    );
    for (name, found) in &exported {
        assert_eq!(labels(&documented[name]), names(found.keys().collect()), "labels of {name}");
    }
}

/// Label, operator, value.
type Matcher = (String, String, String);

/// Names of ours in an expression, each with the matchers behind it.
fn used(expression: &str) -> Vec<(String, Vec<Matcher>)> {
    let part = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(at) = rest.find(|character: char| character.is_ascii_alphabetic()) {
        rest = &rest[at..];
        let end = rest.find(|character| !part(character)).unwrap_or(rest.len());
        let (name, behind) = rest.split_at(end);
        rest = behind;
        if !["signet_", "citadel_", "istio_agent_"].iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let mut matchers = Vec::new();
        if let Some(inside) = behind.strip_prefix('{').and_then(|inside| inside.split_once('}')) {
            rest = inside.1;
            for pair in inside.0.split(',') {
                let operator = ["=~", "!~", "!=", "="].into_iter().find(|operator| pair.contains(operator));
                let operator = operator.unwrap_or_else(|| panic!("no operator in {pair}"));
                let (label, value) = pair.split_once(operator).unwrap();
                matchers.push((label.to_owned(), operator.to_owned(), value.trim_matches('"').to_owned()));
            }
        }
        found.push((name.to_owned(), matchers));
    }
    found
}

/// Every series, label and label value in `expression` is one that the programs know.
fn judge(what: &str, expression: &str, exported: &Series) -> usize {
    let documented = documented();
    let used = used(expression);
    for (name, matchers) in &used {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let base = base.filter(|base| exported.contains_key(*base)).unwrap_or(name);
        let labels = exported.get(base).unwrap_or_else(|| panic!("{what}: no program exports {name}"));
        for (label, operator, value) in matchers.iter().filter(|(label, ..)| label != "instance") {
            let known = labels.get(label).unwrap_or_else(|| panic!("{what}: {name} has no label {label}"));
            let regular = operator.ends_with('~');
            for one in value.split('|').filter(|_| regular).chain((!regular).then_some(value.as_str())) {
                let seen = match one.strip_suffix(".*") {
                    Some(prefix) => known.iter().any(|value| value.starts_with(prefix)),
                    None => known.contains(one) || documented[base].contains(&format!("`{one}`")),
                };
                assert!(seen, "{what}: {name} never has {label}={one}");
            }
        }
    }
    used.len()
}

/// A rule: its name and its lines.
fn alerts() -> Vec<(String, String)> {
    let text = read("alerts/signet.yaml");
    let blocks = text.split("- alert: ").skip(1);
    blocks.map(|block| (block.lines().next().unwrap().to_owned(), block.to_owned())).collect()
}

fn expression(block: &str) -> &str {
    let begin = block.find("expr: ").unwrap();
    let end = block.find("labels:").unwrap();
    block[begin..end].split("for: ").next().unwrap()
}

#[tokio::test]
async fn alert_rules_and_the_dashboard_use_what_the_programs_export() {
    let exported = exported().await;
    for (name, block) in alerts() {
        assert!(judge(&name, expression(&block), &exported) > 0, "{name} looks at nothing");
    }
    for (title, expression) in panels() {
        assert!(judge(&title, &expression, &exported) > 0, "{title} shows nothing");
    }
    // Whatever an operator should see is on the dashboard, but for what is only there for Istio's own.
    let shown: BTreeSet<_> = panels()
        .iter()
        .flat_map(|(_, text)| used(text))
        .map(|(name, _)| name.replace("_bucket", ""))
        .collect();
    let elsewhere = ["citadel_server_", "istio_agent_", "signet_trust_epoch", "_timestamp_seconds"];
    let kept = |name: &&String| !elsewhere.iter().any(|part| name.contains(part));
    let missing: Vec<_> = exported.keys().filter(kept).filter(|name| !shown.contains(*name)).collect();
    assert!(missing.is_empty(), "not on the dashboard: {missing:?}");
}

/// The dashboard's panels: title and each expression.
fn panels() -> Vec<(String, String)> {
    let board: Value = serde_json::from_str(&read("dashboards/signet.json")).unwrap();
    let panels = board["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "panels share an id");
    let each = |panel: &Value| {
        let title = panel["title"].as_str().unwrap().to_owned();
        let targets = panel["targets"].as_array().unwrap().clone();
        targets.into_iter().map(move |target| (title.clone(), target["expr"].as_str().unwrap().to_owned()))
    };
    panels.iter().flat_map(each).collect()
}

#[test]
fn every_alert_says_how_grave_it_is_and_has_a_section_in_the_runbook() {
    let runbook = read("alerts/RUNBOOK.md");
    let sections: Vec<_> = runbook.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let alerts = alerts();
    assert_eq!(alerts.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), sections);
    for (name, block) in alerts {
        for part in ["severity: ", "summary: ", "description: "] {
            assert_eq!(block.matches(part).count(), 1, "{name}: {part}");
        }
        assert!(block.contains("severity: critical") || block.contains("severity: warning"), "{name}");
        let anchor = format!("runbook_url: deploy/alerts/RUNBOOK.md#{}\n", name.to_lowercase());
        assert!(block.contains(&anchor), "{name}: {anchor}");
    }
}

fn promtool(arguments: &[&str], file: &Path) {
    let output = Command::new(tool("promtool", "bin/promtool")).args(arguments).arg(file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("SUCCESS"), "promtool {arguments:?}: {said}");
}

#[test]
fn prometheus_reads_the_rules_and_each_alert_fires_for_what_it_is_there_for() {
    promtool(&["check", "rules", "--lint-fatal"], &deploy("alerts/signet.yaml"));
    promtool(&["test", "rules"], &deploy("alerts/signet.test.yaml"));
    let tested = read("alerts/signet.test.yaml");
    for (name, _) in alerts() {
        assert!(tested.contains(&format!("alertname=\"{name}\"")), "{name} is never seen to fire");
    }
}

#[test]
fn prometheus_reads_the_dashboard_s_expressions() {
    let folder = tempfile::tempdir().unwrap();
    let rule = |(number, (_, expression)): (usize, (String, String))| {
        let expression = expression.replace("$__rate_interval", "5m").replace("$instance", ".*");
        format!("      - record: panel:{number}\n        expr: {}\n", Value::from(expression))
    };
    let rules: String = panels().into_iter().enumerate().map(rule).collect();
    let file = folder.path().join("rules.yaml");
    fs::write(&file, format!("groups:\n  - name: dashboard\n    rules:\n{rules}")).unwrap();
    promtool(&["check", "rules"], &file);
}

/// Which keys a systemd of before version 254 does not know, and says so.
const NEWER_KEYS: [&str; 2] = ["RestartSteps", "RestartMaxDelaySec"];
/// As `systemd-analyze security` counts, from 0 (nothing allowed) to 10; times ten.
const EXPOSURE: &str = "25";

fn systemd_analyze(arguments: &[&str], unit: &Path) -> (bool, String) {
    let output = Command::new("systemd-analyze").args(arguments).arg(unit).output();
    let output = output.expect("systemd-analyze checks the units; it is in the package systemd");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said.into_owned())
}

#[test]
fn the_units_are_read_by_systemd_are_hardened_and_name_flags_that_exist() {
    for name in ["ca-server", "csr-client"] {
        let unit = read(&format!("systemd/{name}.service"));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(format!("{name}.service"));
        let here = program(name);
        fs::write(&file, unit.replace(&format!("/usr/local/bin/{name}"), here.to_str().unwrap())).unwrap();

        let (good, said) = systemd_analyze(&["verify", "--man=no"], &file);
        let new = |line: &&str| NEWER_KEYS.iter().any(|key| line.contains(&format!("Unknown key '{key}'")));
        let about = said.lines().filter(|line| line.contains(&format!("{name}.service")));
        assert!(good && about.clone().all(|line| new(&line)), "{said}");
        let judge = ["security", "--offline=true", "--no-pager", "--threshold", EXPOSURE];
        let (good, said) = systemd_analyze(&judge, &file);
        assert!(good, "{said}");

        let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
        let help = Command::new(&here).args(["run", "--help"]).output().unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        let words: Vec<_> = start.split(' ').collect();
        assert_eq!(words[1], "run");
        for flag in words.iter().filter(|word| word.starts_with("--")) {
            assert!(help.contains(&format!("{flag} <")), "{name} run has no {flag}");
        }
    }
    // The agent closes its state folder to others, who must reach its certificates.
    let agent = read("systemd/csr-client.service");
    let folder =
        |flag: &str| Path::new(agent.split_whitespace().skip_while(|word| *word != flag).nth(1).unwrap());
    let (state, certs) = (folder("--state"), folder("--output-certs"));
    assert!(!certs.starts_with(state), "{certs:?} is closed with {state:?}");
    // The folder that systemd makes is the one that the program takes where nothing else is said.
    assert!(read("systemd/ca-server.service").contains("\nStateDirectory=signet\n"));
    assert!(read("config/full.toml").contains("\ndata = \"/var/lib/signet\"\n"));
    let seconds = |text: String, key: &str| -> u64 {
        let value = text.lines().find_map(|line| line.strip_prefix(key)).unwrap().to_owned();
        value.trim_matches(['"', 's']).parse().unwrap()
    };
    let stop = seconds(read("systemd/ca-server.service"), "TimeoutStopSec=");
    assert!(stop > seconds(read("config/full.toml"), "drain = "), "systemd must not kill what drains");
}
