//! How a program is told what to do: a flag wins over the environment, that over a TOML file, that over
//! the default.
//!
//! A program states each setting once, in a table of [`Setting`]s; `--help`, the environment, the file and
//! the refusal of unknown keys all follow from it. [`Values`] then turns text into types, and gathers
//! every fault with its key and its place, so that one start shows all that must be mended.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use clap::{Arg, ArgAction, ArgMatches};
use serde::de::DeserializeOwned;

/// One row of a program's table.
#[derive(Debug)]
pub struct Setting {
    key: &'static str,
    env: &'static str,
    default: Option<&'static str>,
    value: &'static str,
    help: &'static str,
}

/// A setting: its key in the file (the flag is the same with dashes), its environment variable, its
/// default, the name of its value in help (empty for a switch), and its help.
pub const fn setting(
    key: &'static str,
    env: &'static str,
    default: Option<&'static str>,
    value: &'static str,
    help: &'static str,
) -> Setting {
    Setting { key, env, default, value, help }
}

/// A program's table, and the keys that hold tables of the file and so have neither flag nor variable.
#[derive(Debug)]
pub struct Settings {
    /// One value each.
    pub single: &'static [Setting],
    /// Keys whose value is a table or a list of tables.
    pub tables: &'static [&'static str],
}

/// Where a value was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// On the command line.
    Flag,
    /// In this variable.
    Environment(&'static str),
    /// In this file.
    File(String),
    /// Nowhere; it is the default.
    Default,
}

/// One thing to mend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    key: String,
    place: String,
    what: String,
}

/// All that must be mended, in the order in which it was found; Display has one line for each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Faults(Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => write!(f, "the configuration has a fault:")?,
            many => write!(f, "the configuration has {many} faults:")?,
        }
        // A key and what a value is quoted as come from a file, and each fault is one line.
        let line = |fault: &Fault| escaped(&format!("{} ({}): {}", fault.key, fault.place, fault.what));
        self.0.iter().try_for_each(|fault| write!(f, "\n  {}", line(fault)))
    }
}

/// With control characters escaped.
fn escaped(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

impl Settings {
    /// The flags, with `--config` first.
    pub fn arguments(&self) -> Vec<Arg> {
        let config = Arg::new("config")
            .long("config")
            .value_name("F")
            .help("TOML file; a flag wins over the environment, that over the file, that over the default");
        let mut arguments = vec![config];
        arguments.extend(self.single.iter().map(argument));
        arguments
    }

    /// Looks every setting up; `environment` answers for a variable's name. An empty variable counts as
    /// not set, as in Istio's programs.
    pub fn collect(&self, flags: &ArgMatches, environment: impl Fn(&str) -> Option<String>) -> Values {
        let mut values = Values::default();
        let path = flags.get_one::<String>("config").cloned();
        let mut file = path.as_ref().map(|path| values.read_file(self, Path::new(path))).unwrap_or_default();
        values.file = path;
        for setting in self.single {
            let from_file = file.remove(setting.key);
            let flag = match setting.value {
                "" => flags.get_flag(setting.key).then(|| "true".to_owned()),
                _ => flags.get_one::<String>(setting.key).cloned(),
            };
            let variable = || environment(setting.env).filter(|text| !text.is_empty());
            let found = if let Some(text) = flag {
                Some((text, Source::Flag))
            } else if let Some(text) = variable() {
                Some((text, Source::Environment(setting.env)))
            } else if let Some(text) = from_file {
                Some((text, Source::File(values.file.clone().unwrap_or_default())))
            } else {
                setting.default.map(|text| (text.to_owned(), Source::Default))
            };
            if let Some(found) = found {
                values.found.insert(setting.key, found);
            }
        }
        values
    }
}

fn argument(setting: &Setting) -> Arg {
    let default = setting.default.map(|value| format!(" [default: {value}]")).unwrap_or_default();
    let help = format!("{} [env: {}] [file: {}]{default}", setting.help, setting.env, setting.key);
    let argument = Arg::new(setting.key).long(setting.key.replace('_', "-")).help(help);
    match setting.value {
        "" => argument.action(ArgAction::SetTrue),
        value => argument.value_name(value),
    }
}

/// What was found for each key, and what is wrong so far.
#[derive(Debug, Default)]
pub struct Values {
    found: BTreeMap<&'static str, (String, Source)>,
    tables: toml::Table,
    file: Option<String>,
    faults: Vec<Fault>,
}

impl Values {
    /// The value as `parse` reads it; a fault, and nothing, where it is missing or cannot be read.
    pub fn parsed<T>(&mut self, key: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = self.required(key)?;
        parse(&text).map_err(|what| self.fault(key, what)).ok()
    }

    /// [`Self::parsed`] for a value that may be absent.
    pub fn parsed_if_set<T>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.optional(key)?;
        self.parsed(key, parse)
    }

    /// The value; a fault where it is missing or empty.
    pub fn required(&mut self, key: &str) -> Option<String> {
        let text = self.optional(key);
        if text.is_none() {
            self.fault(key, "is needed");
        }
        text
    }

    /// The value, unless it is missing or empty.
    pub fn optional(&self, key: &str) -> Option<String> {
        self.found.get(key).map(|(text, _)| text.clone()).filter(|text| !text.is_empty())
    }

    /// The parts of a value that is a list, written with commas or as a TOML array.
    pub fn list(&self, key: &str) -> Vec<String> {
        let text = self.optional(key).unwrap_or_default();
        text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
    }

    /// Whether somebody set it, rather than leaving it at its default.
    pub fn is_set(&self, key: &str) -> bool {
        self.found.get(key).is_some_and(|(_, source)| *source != Source::Default)
    }

    /// The rows of a list of tables in the file; each that cannot be read is a fault.
    pub fn rows<T: DeserializeOwned>(&mut self, key: &str) -> Vec<T> {
        let rows = match self.tables.remove(key) {
            None => Vec::new(),
            Some(toml::Value::Array(rows)) => rows,
            Some(other) => vec![other],
        };
        let mut read = Vec::new();
        for (number, row) in rows.into_iter().enumerate() {
            match row.try_into() {
                Ok(row) => read.push(row),
                Err(error) => {
                    let what = error.message().to_owned();
                    self.fault(&format!("{key}[{number}]"), what);
                }
            }
        }
        read
    }

    /// Whether nothing is to be mended so far.
    pub fn is_clean(&self) -> bool {
        self.faults.is_empty()
    }

    /// Notes something to mend.
    pub fn fault(&mut self, key: &str, what: impl Into<String>) {
        let place = match self.found.get(key).map(|(_, source)| source) {
            Some(Source::Environment(name)) => (*name).to_owned(),
            Some(Source::File(path)) => path.clone(),
            Some(Source::Default) => "default".to_owned(),
            None if key.contains(['[', '.']) => self.file.clone().unwrap_or_default(),
            Some(Source::Flag) | None => format!("--{}", key.replace('_', "-")),
        };
        self.faults.push(Fault { key: key.to_owned(), place, what: what.into() });
    }

    /// The checked whole, or every fault. A value that could not be read has left a fault.
    pub fn finish<T>(self, config: Option<T>) -> Result<T, Faults> {
        match config {
            Some(config) if self.faults.is_empty() => Ok(config),
            _ => Err(Faults(self.faults)),
        }
    }

    /// The single values of a file by key; unknown keys are faults, tables are kept for [`Self::rows`].
    fn read_file(&mut self, settings: &Settings, path: &Path) -> BTreeMap<String, String> {
        let place = path.display().to_string();
        let mut add = |key: &str, what: String| {
            self.faults.push(Fault { key: key.to_owned(), place: place.clone(), what });
        };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                add("config", format!("cannot be read: {error}"));
                return BTreeMap::new();
            }
        };
        let table: toml::Table = match toml::from_str(&text) {
            Ok(table) => table,
            Err(error) => {
                let line = error.span().map_or(1, |span| text[..span.start].lines().count().max(1));
                add("config", format!("is not TOML: line {line}: {}", error.message()));
                return BTreeMap::new();
            }
        };
        let mut single = BTreeMap::new();
        for (key, value) in table {
            if settings.tables.contains(&key.as_str()) {
                self.tables.insert(key, value);
            } else if !settings.single.iter().any(|setting| setting.key == key) {
                add(&key, "is not a known key".to_owned());
            } else if let Some(text) = one_value(value) {
                single.insert(key, text);
            } else {
                add(&key, "must be one value or a list of texts".to_owned());
            }
        }
        single
    }
}

fn one_value(value: toml::Value) -> Option<String> {
    Some(match value {
        toml::Value::String(text) => text,
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::Float(number) => number.to_string(),
        toml::Value::Boolean(truth) => truth.to_string(),
        toml::Value::Array(items) => {
            let texts: Option<Vec<_>> = items.iter().map(|item| item.as_str()).collect();
            texts?.join(",")
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::Command;
    use serde::Deserialize;

    const SETTINGS: Settings = Settings {
        single: &[
            setting("ttl", "TEST_TTL", Some("24h"), "D", "Lifetime"),
            setting("hosts", "TEST_HOSTS", None, "NAMES", "Names"),
            setting("loud", "TEST_LOUD", Some("false"), "", "A switch"),
        ],
        tables: &["rows"],
    };

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Row {
        name: String,
    }

    fn collect(file: Option<&str>, flags: &[&str], environment: &[(&str, &str)]) -> Values {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.toml");
        let mut all = vec!["test".to_owned()];
        if let Some(text) = file {
            std::fs::write(&path, text).unwrap();
            all.push(format!("--config={}", path.display()));
        }
        all.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let matches = Command::new("test").args(SETTINGS.arguments()).try_get_matches_from(all).unwrap();
        SETTINGS.collect(&matches, |name| {
            environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn flag_over_environment_over_file_over_default() {
        let file = Some("ttl = \"1h\"");
        let ttl = |values: Values| values.optional("ttl").unwrap();
        assert_eq!(ttl(collect(None, &[], &[])), "24h");
        assert_eq!(ttl(collect(file, &[], &[])), "1h");
        assert_eq!(ttl(collect(file, &[], &[("TEST_TTL", "2h")])), "2h");
        assert_eq!(ttl(collect(file, &[], &[("TEST_TTL", "")])), "1h");
        assert_eq!(ttl(collect(file, &["--ttl=3h"], &[("TEST_TTL", "2h")])), "3h");
        assert!(!collect(None, &[], &[]).is_set("ttl") && collect(file, &[], &[]).is_set("ttl"));
        assert_eq!(collect(None, &["--loud"], &[]).optional("loud").unwrap(), "true");
    }

    #[test]
    fn lists_are_written_with_commas_or_as_arrays() {
        let array = collect(Some("hosts = [\"a\", \"b\"]"), &[], &[]);
        assert_eq!(array.list("hosts"), ["a", "b"]);
        assert_eq!(collect(None, &["--hosts=a, b,"], &[]).list("hosts"), ["a", "b"]);
        assert!(collect(None, &[], &[]).list("hosts").is_empty());
    }

    #[test]
    fn tables_become_rows_and_their_faults_have_numbers() {
        let mut values = collect(Some("[[rows]]\nname = \"x\"\n[[rows]]\nnome = \"y\"\n"), &[], &[]);
        assert_eq!(values.rows::<Row>("rows"), [Row { name: "x".into() }]);
        let text = values.finish(Some(())).unwrap_err().to_string();
        assert!(text.contains("rows[1]") && text.contains("f.toml") && text.contains("nome"), "{text}");
    }

    #[test]
    fn all_faults_come_at_once_each_with_key_and_place() {
        let mut values = collect(Some("tll = \"1h\"\nhosts = 3\nttl = [1]"), &["--hosts=h"], &[]);
        values.parsed("hosts", |_| Err::<(), _>("is bad".to_owned()));
        values.required("nothing");
        let text = values.finish(Some(())).unwrap_err().to_string();
        assert!(text.starts_with("the configuration has 4 faults:"), "{text}");
        for expected in [
            "tll (",
            "is not a known key",
            "ttl (",
            "hosts (--hosts): is bad",
            "nothing (--nothing): is needed",
        ] {
            assert!(text.contains(expected), "{expected:?} is not in {text}");
        }
    }

    #[test]
    fn a_key_with_a_line_break_is_one_line() {
        let values = collect(Some("\"a\\nb\\u001b[2J\" = 1"), &[], &[]);
        let text = values.finish(Some(())).unwrap_err().to_string();
        assert!(text.lines().count() == 2 && text.contains(r"a\nb\u{1b}[2J ("), "{text}");
    }

    #[test]
    fn a_file_that_is_absent_or_no_toml_is_a_fault() {
        let text =
            collect(Some("ttl = \"1h\"\nhosts = = 1"), &[], &[]).finish(Some(())).unwrap_err().to_string();
        assert!(text.contains("is not TOML: line 2"), "{text}");
        let flags = ["--config=/nowhere/f.toml"];
        let text = collect(None, &flags, &[]).finish(Some(())).unwrap_err().to_string();
        assert!(text.contains("config (/nowhere/f.toml): cannot be read"), "{text}");
    }
}
