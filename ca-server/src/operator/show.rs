//! Tables for people, from the same JSON that programs get.

use std::io::{self, Write};

use serde_json::Value;

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Label and value, one a line.
fn facts(out: &mut dyn Write, rows: &[(&str, String)]) -> io::Result<()> {
    let width = rows.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
    rows.iter().try_for_each(|(label, value)| writeln!(out, "{label:width$}  {value}"))
}

/// Columns as wide as their widest cell, two spaces apart.
fn table(out: &mut dyn Write, header: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([header[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let header = header.iter().map(|cell| (*cell).to_owned()).collect();
    for row in [&header].into_iter().chain(rows) {
        let line: String = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}  ")).collect();
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

pub(super) fn status(status: &Value, out: &mut dyn Write) -> io::Result<()> {
    let ready = match status["not_ready_because"].as_str() {
        None => "yes".to_owned(),
        Some(cause) => format!("NO: {cause}"),
    };
    let (issuer, trust, log) = (&status["issuer"], &status["trust"], &status["log"]);
    let mut rows = vec![
        ("ready", ready),
        (
            "version",
            format!(
                "{}, pid {}, since {}",
                text(&status["version"]),
                status["pid"],
                text(&status["started"])
            ),
        ),
        ("clock", steadiness(&status["clock"])),
        ("trust domain", text(&status["trust_domain"])),
        (
            "listening",
            format!("{} (issuing), {} (monitoring)", text(&status["listen"]), text(&status["monitoring"])),
        ),
        (
            "issuer",
            format!(
                "{} {} ({})",
                text(&issuer["id"]),
                text(&issuer["certificate"]["subject"]),
                text(&issuer["key"])
            ),
        ),
        ("issuing by", issuing(&issuer["issuing_intermediate"])),
    ];
    let wished = status["wish"]["reasons"].as_array().into_iter().flatten();
    rows.extend(wished.map(|reason| {
        let why = format!("{}: {}", text(&reason["code"]), text(&reason["text"]));
        ("REFUSED", format!("{}: {why}", text(&status["wish"]["folder"])))
    }));
    rows.extend(status["expiry"].as_array().into_iter().flatten().map(|one| ("ends", ending(one))));
    rows.extend([
        (
            "trust",
            format!(
                "epoch {}, sequence {}, digest {}",
                trust["epoch"],
                trust["sequence"],
                text(&trust["digest"])
            ),
        ),
        (
            "log",
            format!(
                "{} records, {} under a checkpoint, {}",
                log["records"],
                log["checkpoint_size"],
                text(&log["origin"])
            ),
        ),
    ]);
    if log["poisoned"] == Value::Bool(true) {
        rows.push(("", "the log takes nothing until a restart: its disk failed".to_owned()));
    }
    for issuer in status["token_issuers"].as_array().into_iter().flatten() {
        let keys =
            format!("{}: {} keys from {}", text(&issuer["issuer"]), issuer["keys"], text(&issuer["source"]));
        let error = issuer["last_error"].as_str().map(|error| format!("; {error}")).unwrap_or_default();
        rows.push(("tokens of", keys + &error));
    }
    rows.extend([
        (
            "issued",
            format!(
                "{} since the start, {} in flight, {} waiting",
                status["issued"], status["in_flight"], status["waiting"]
            ),
        ),
        ("consumers", format!("{} known, {} watching", status["consumers"], status["trust_watches"])),
        ("blocked", text(&status["blocks"])),
    ]);
    facts(out, &rows)
}

pub(super) fn clock(answer: &Value, out: &mut dyn Write) -> io::Result<()> {
    if let Some(by) = answer["accepted"].as_str() {
        writeln!(out, "a step of {by} is accepted")?;
    }
    let mut rows = vec![("clock", steadiness(&answer["clock"])), ("says", text(&answer["clock"]["wall"]))];
    if answer["clock"]["steady"] == Value::Bool(false) {
        rows.push(("should say", text(&answer["clock"]["expected"])));
    }
    facts(out, &rows)
}

fn steadiness(clock: &Value) -> String {
    match clock["steady"].as_bool() {
        Some(true) => "believed".to_owned(),
        _ => {
            let by = clock["step_seconds"].as_f64().unwrap_or_default();
            let waiting = clock["waiting"].as_str().unwrap_or("it is accepted with the next look");
            format!("NOT BELIEVED, stepped by {by:+.1} s: {waiting}")
        }
    }
}

fn issuing(intermediate: &Value) -> String {
    match intermediate["absent"].as_str() {
        Some(absent) => format!("the issuer itself; an issuing intermediate is {absent}"),
        None => text(&intermediate["subject"]),
    }
}

fn ending(one: &Value) -> String {
    let percent = (one["share_left"].as_f64().unwrap_or_default() * 100.0).round();
    let warning = match one["level"].as_str() {
        Some("quarter") => "  SOON",
        Some("tenth") => "  VERY SOON",
        Some("ended") => "  ENDED",
        _ => "",
    };
    format!(
        "{} {} ({}, {percent} % of its life left){warning}",
        text(&one["not_after"]),
        text(&one["kind"]),
        text(&one["subject"])
    )
}

/// The rows; a wish that is not granted stands last, with its reasons beneath the table.
pub(super) fn authorities(listed: &Value, out: &mut dyn Write) -> io::Result<()> {
    let listed = listed.as_array().map(Vec::as_slice).unwrap_or_default();
    let rows: Vec<Vec<String>> = listed
        .iter()
        .map(|row| {
            let since = if row["state"] == "refused" { &row["since"] } else { &row["active_since"] };
            let from = if row["state"] == "refused" { &Value::from("cacerts") } else { &row["source"] };
            let [id, state, subject, key, not_after] =
                ["id", "state", "subject", "key", "not_after"].map(|key| text(&row[key]));
            vec![id, state, text(from), subject, key, not_after, text(since)]
        })
        .collect();
    table(out, &["ID", "STATE", "FROM", "SUBJECT", "KEY", "NOT AFTER", "SINCE"], &rows)?;
    for wish in listed.iter().filter(|row| row["state"] == "refused") {
        refusal(wish, out)?;
    }
    Ok(())
}

fn refusal(wish: &Value, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "\n{} asks for what is not taken:", text(&wish["folder"]))?;
    for reason in wish["reasons"].as_array().into_iter().flatten() {
        writeln!(out, "  {}: {}", text(&reason["code"]), text(&reason["text"]))?;
    }
    Ok(())
}

pub(super) fn authority(row: &Value, out: &mut dyn Write) -> io::Result<()> {
    let roots: Vec<String> = row["roots"].as_array().into_iter().flatten().map(text).collect();
    facts(
        out,
        &[
            ("id", text(&row["id"])),
            ("state", format!("{} since {}", text(&row["state"]), text(&row["active_since"]))),
            ("from", text(&row["source"])),
            ("subject", text(&row["subject"])),
            ("serial", text(&row["serial"])),
            ("key", text(&row["key"])),
            ("valid", format!("{} to {}", text(&row["not_before"]), text(&row["not_after"]))),
            ("roots", roots.join("; ")),
        ],
    )?;
    write!(out, "\n{}", text(&row["chain"]))
}

pub(super) fn verified(report: &Value, out: &mut dyn Write) -> io::Result<()> {
    let mut rows = vec![
        (
            "verified",
            format!(
                "{} records: {} certificates, {} acts, in {} segments",
                report["records"], report["certificates"], report["acts"], report["segments"]
            ),
        ),
        ("log id", text(&report["log_id"])),
        ("root hash", text(&report["root"])),
        (
            "checkpoint",
            format!("of {} records, signed {}", report["checkpoint_size"], text(&report["checkpoint_time"])),
        ),
        ("not signed yet", format!("{} records", report["records_after_checkpoint"])),
        ("times", format!("{} to {}", text(&report["first_time"]), text(&report["last_time"]))),
    ];
    if let Some(size) = report["since_size"].as_u64() {
        rows.push(("continues", format!("the earlier checkpoint of {size} records")));
    }
    match report["unfinished_bytes"].as_u64() {
        None | Some(0) => {}
        Some(bytes) => {
            rows.push(("unfinished", format!("{bytes} bytes of a batch that nobody was answered for")));
        }
    }
    facts(out, &rows)
}

pub(super) fn proof(answer: &Value, out: &mut dyn Write) -> io::Result<()> {
    let (proof, record) = (&answer["proof"], &answer["record"]);
    facts(
        out,
        &[
            ("proven", format!("record {} of {}", proof["index"], proof["tree_size"])),
            ("serial", text(&record["serial"])),
            ("identity", text(&record["identity"])),
            ("recorded", text(&record["time"])),
            ("log key", text(&answer["vkey"])),
        ],
    )?;
    write!(out, "\n{}", text(&proof["checkpoint"]))
}

/// The table of records, which is written as it comes.
#[derive(Default)]
pub(super) struct Records {
    began: bool,
}

impl Records {
    pub(super) fn row(&mut self, record: &Value, out: &mut dyn Write) -> io::Result<()> {
        let mut line = |cells: [&str; 6]| {
            let [index, time, kind, serial, not_after, rest] = cells;
            writeln!(out, "{index:<9} {time:<27} {kind:<9} {serial:<32} {not_after:<20} {rest}")
        };
        if !self.began {
            self.began = true;
            line(["INDEX", "TIME", "KIND", "SERIAL NUMBER", "NOT AFTER", "IDENTITY"])?;
        }
        let (index, time) = (record["index"].to_string(), text(&record["time"]));
        if record["kind"] == "act" {
            let what = format!(
                "{} {} by {}: {}",
                text(&record["act"]),
                text(&record["subject"]),
                text(&record["actor"]),
                text(&record["reason"])
            );
            return line([&index, &time, "act", "-", "-", &what]);
        }
        let names = record["dns_names"].as_array().into_iter().flatten().map(text).collect::<Vec<_>>();
        let identity = if names.is_empty() { text(&record["identity"]) } else { names.join(",") };
        line([
            &index,
            &time,
            &text(&record["profile"]),
            &text(&record["serial"]),
            &text(&record["not_after"]),
            &identity,
        ])
    }
}

/// What a block leaves.
fn left(block: &Value) -> String {
    let left = &block["left"];
    match left["certificates"].as_u64() {
        None => "not counted yet: block list".to_owned(),
        Some(0) => "none".to_owned(),
        Some(count) => format!("{count}, the last ends {}", text(&left["last_ends"])),
    }
}

pub(super) fn blocked(block: &Value, out: &mut dyn Write) -> io::Result<()> {
    let since = match block["already"] == Value::Bool(true) {
        true => format!(
            "{} already, by {}: {}",
            text(&block["since"]),
            text(&block["by"]),
            text(&block["reason"])
        ),
        false => text(&block["since"]),
    };
    facts(
        out,
        &[
            ("blocked", format!("{} {}", text(&block["kind"]), text(&block["value"]))),
            ("block", text(&block["id"])),
            ("since", since),
            ("certificates left", left(block)),
        ],
    )
}

pub(super) fn block_ended(block: &Value, out: &mut dyn Write) -> io::Result<()> {
    facts(
        out,
        &[
            ("no longer blocked", format!("{} {}", text(&block["kind"]), text(&block["value"]))),
            ("block", text(&block["id"])),
            (
                "since",
                format!("{}, by {}: {}", text(&block["since"]), text(&block["by"]), text(&block["reason"])),
            ),
        ],
    )
}

pub(super) fn blocks(listed: &Value, out: &mut dyn Write) -> io::Result<()> {
    let rows: Vec<Vec<String>> = listed
        .as_array()
        .into_iter()
        .flatten()
        .map(|block| {
            let mut row: Vec<String> =
                ["id", "kind", "value", "since", "by"].iter().map(|key| text(&block[*key])).collect();
            let left = &block["left"];
            row.extend([text(&left["certificates"]), text(&left["last_ends"]), text(&block["reason"])]);
            row
        })
        .collect();
    table(out, &["ID", "KIND", "VALUE", "SINCE", "BY", "LEFT", "LAST ENDS", "REASON"], &rows)
}

pub(super) fn backup(backup: &Value, out: &mut dyn Write) -> io::Result<()> {
    let files = backup["files"].as_array();
    let bytes: u64 = files.into_iter().flatten().filter_map(|file| file["bytes"].as_u64()).sum();
    let log = &backup["log"];
    let mut rows = vec![
        ("backup", text(&backup["folder"])),
        ("made at", text(&backup["made_at"])),
        (
            "log",
            format!("{} records of {}, root {}", log["records"], text(&log["origin"]), text(&log["root"])),
        ),
        ("files", format!("{}, {bytes} bytes", files.map_or(0, Vec::len))),
    ];
    for key in backup["keys"].as_array().into_iter().flatten() {
        let sealed = if key["sealed"] == Value::Bool(true) { "sealed" } else { "PLAIN: keep it secret" };
        rows.push(("key", format!("{} ({sealed})", text(&key["name"]))));
    }
    facts(out, &rows)
}

pub(super) fn restored(restored: &Value, out: &mut dyn Write) -> io::Result<()> {
    let backed_up = &restored["backed_up"];
    facts(
        out,
        &[
            ("restored", text(&restored["folder"])),
            ("backup of", text(&restored["made_at"])),
            ("log", format!("{} records of {}", restored["records"], text(&restored["origin"]))),
            ("trust", format!("a new epoch, {}", restored["epoch"])),
        ],
    )?;
    writeln!(
        out,
        "Records made after the backup are gone, and checkpoints exported after it do not fit this log. The\n\
         server that the backup is of must not run again. The backup ends, at {}, with this checkpoint:\n",
        text(&backed_up["time"])
    )?;
    out.write_all(backed_up["checkpoint"].as_str().unwrap_or_default().as_bytes())
}
