//! How the program writes things for people: fingerprints, lists, spans of time, commands to type.

use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

/// Upper-case hex with colons, as OpenSSL prints fingerprints and key identifiers.
pub(crate) fn colons(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

/// One item per line, indented.
pub(crate) fn lines(items: &[impl Display]) -> String {
    items.iter().map(|item| format!("  {item}")).collect::<Vec<_>>().join("\n")
}

/// A span in its two largest units, such as `3649d 23h` or `42s`.
pub(crate) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// A path as a shell takes it.
pub(crate) fn shell(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+,@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (61, "1m 1s"), (7_260, "2h 1m"), (86_399, "23h 59m"), (90_000, "1d 1h")]
        {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn paths_survive_a_shell() {
        assert_eq!(shell(Path::new("a/root-1")), "a/root-1");
        assert_eq!(shell(Path::new("my root")), "'my root'");
        assert_eq!(shell(Path::new("it's")), r"'it'\''s'");
    }

    #[test]
    fn bytes_read_as_openssl_prints_them() {
        assert_eq!(colons(&[0x0a, 0xff]), "0A:FF");
    }
}
