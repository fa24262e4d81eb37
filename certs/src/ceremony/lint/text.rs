//! A folder's judgement for people: what is wrong first, then what is worth knowing, then what follows.

use signet_certs::cacerts::Finding;

use super::answer::Answer;
use super::speed::Speed;
use super::{Change, Lint, Outcome};

/// Lines are at most this wide, where words allow.
const WIDTH: usize = 100;

/// The whole text.
pub(super) fn of(lint: &Lint) -> String {
    let mut out = String::new();
    let verdict = match (lint.loads, lint.faults.len()) {
        (true, _) => "the CA would load this folder".to_owned(),
        (false, 1) => "the CA would not load this folder: 1 fault".to_owned(),
        (false, faults) => format!("the CA would not load this folder: {faults} faults"),
    };
    out.push_str(&format!("{}: {verdict}\n", lint.folder));
    if !lint.faults.is_empty() || !lint.notes.is_empty() {
        out.push_str("commands below are meant to be typed in that folder\n");
    }
    for (word, findings) in [("FAULT", &lint.faults), ("note", &lint.notes)] {
        findings.iter().for_each(|finding| out.push_str(&of_finding(word, finding)));
    }
    out.push_str(&lint.answer.as_ref().map(of_answer).unwrap_or_default());
    out.push_str(&lint.change.as_ref().map(of_change).unwrap_or_default());
    out.push_str(&lint.speed.as_ref().map(of_speed).unwrap_or_default());
    out
}

fn of_finding(word: &str, finding: &Finding) -> String {
    let mut out = format!("\n{word} {} in {}\n", finding.code, finding.file);
    out.push_str(&row("what", &finding.what));
    if let Some(named) = &finding.certificate {
        let where_ =
            format!("{}, line {}: {}, serial {}", named.file, named.line, named.subject, named.serial);
        out.push_str(&row("certificate", &where_));
    }
    out.push_str(&row("why", finding.why));
    out.push_str(&row("do", &finding.todo));
    out
}

fn of_answer(answer: &Answer) -> String {
    let mut out = "\nEach answer to a certificate request\n".to_owned();
    for (at, element) in answer.elements.iter().enumerate() {
        for (number, held) in element.certificates.iter().enumerate() {
            let place = if number == 0 { format!("element {}", at + 1) } else { String::new() };
            out.push_str(&row(
                &place,
                &format!("{}: {}, serial {}", element.kind, held.subject, held.serial),
            ));
        }
    }
    for client in &answer.clients {
        out.push_str(&format!("{}\n", client.name));
        client.takes.iter().for_each(|takes| out.push_str(&row("", takes)));
    }
    out
}

fn of_change(change: &Change) -> String {
    let verdict = match change.verdict {
        Outcome::Same => "nothing changes",
        Outcome::Safe => "safe at once",
        Outcome::NeedsRotation => {
            "needs a rotation: the CA refuses it as it is, and goes on with what it has. It takes another \
                signer under the old root, and more roots beside the old one; this version cannot take a root \
                away or sign under another while it runs, whatever every proxy has"
        }
        Outcome::Refused => "refused",
        Outcome::Unknown => "cannot be said",
    };
    let mut out = format!("\nAgainst {}\n", change.against);
    out.push_str(&row("verdict", verdict));
    change.reasons.iter().for_each(|reason| out.push_str(&row(reason.code, &reason.text)));
    out
}

fn of_speed(speed: &Speed) -> String {
    let mut out = "\nSpeed\n".to_owned();
    let measured = format!("{} signatures a second on one core here", speed.signatures_per_second);
    out.push_str(&row(&speed.key, &measured));
    speed.advice.iter().for_each(|advice| out.push_str(&row("", advice)));
    out
}

/// A name and a text that is broken at words.
fn row(name: &str, text: &str) -> String {
    let mut out = String::new();
    let mut line = format!("  {name:<12}");
    for (words, word) in text.split(' ').enumerate() {
        if words > 0 && line.chars().count() + 1 + word.chars().count() > WIDTH {
            out.push_str(line.trim_end());
            out.push('\n');
            line = format!("  {:<12}", "");
        }
        line.push(' ');
        line.push_str(word);
    }
    out.push_str(line.trim_end());
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::row;

    #[test]
    fn long_texts_break_at_words_and_lose_none() {
        let text = "word ".repeat(60);
        let shown = row("what", text.trim());
        assert!(shown.lines().all(|line| line.len() <= 100), "{shown}");
        assert_eq!(shown.matches("word").count(), 60);
        assert_eq!(row("a", "b"), "  a            b\n");
    }
}
