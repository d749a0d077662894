//! The message: from a flag, a file or standard input.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::args::{AgentArgs, PROGRAM};
use crate::failure::Failure;

/// Longest message file, in bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// The text to send, or messages 5, 9 and 10 of sessions.md §2.3.
pub(crate) fn read(args: &AgentArgs) -> Result<String, Failure> {
    let text = match (&args.message, &args.message_file) {
        (Some(_), Some(_)) => return Err(Failure::new("Use either --message or --message-file, not both.")),
        (_, Some(path)) if path.trim().is_empty() => return Err(Failure::new("--message-file must not be empty.")),
        (None, Some(path)) => file(path)?,
        (text, None) => text.clone().unwrap_or_default(),
    };
    if text.trim().is_empty() {
        return Err(Failure::new(format!(
            "Missing message. Use {PROGRAM} agent --message \"...\" --agent <id> or {PROGRAM} agent --message-file \
             <path> --agent <id>."
        )));
    }
    if is_compact_command(&text) {
        return Err(Failure::new(
            "Slash commands cannot be executed via --message from the CLI. Compaction is not available yet.",
        ));
    }
    Ok(text)
}

fn file(path: &str) -> Result<String, Failure> {
    let bytes = if path == "-" {
        limited(io::stdin().lock(), path)?
    } else {
        let at = Path::new(path);
        if at.is_dir() {
            return Err(Failure::new(format!("Message file is a directory: {path}")));
        }
        let file = File::open(at).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Failure::new(format!("Message file not found: {path}")),
            _ => Failure::new(format!("Message file cannot be read: {path}: {error}")),
        })?;
        limited(file, path)?
    };
    let text =
        String::from_utf8(bytes).map_err(|_| Failure::new(format!("Message file must be valid UTF-8: {path}")))?;
    let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
    if text.trim().is_empty() {
        return Err(Failure::new(format!("Message file is empty: {path}")));
    }
    Ok(text)
}

fn limited(source: impl Read, path: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    source
        .take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::new(format!("Message file cannot be read: {path}: {error}")))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Failure::new(format!("Message file is too large: {path}. At most 4 MiB are allowed.")));
    }
    Ok(bytes)
}

/// `^/compact(\s|:|$)`
fn is_compact_command(text: &str) -> bool {
    text.trim_start()
        .strip_prefix("/compact")
        .is_some_and(|rest| rest.chars().next().is_none_or(|c| c == ':' || c.is_whitespace()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(message: Option<&str>, file: Option<&str>) -> Result<String, String> {
        let args = AgentArgs {
            message: message.map(str::to_owned),
            message_file: file.map(str::to_owned),
            ..AgentArgs::default()
        };
        read(&args).map_err(|failure| failure.message)
    }

    #[test]
    fn a_message_is_sent_as_it_was_written() {
        assert_eq!(of(Some("  hi \n"), None), Ok("  hi \n".to_owned()));
        assert_eq!(of(Some("/compactor"), None), Ok("/compactor".to_owned()));
        assert_eq!(of(Some("say /compact"), None), Ok("say /compact".to_owned()));
    }

    #[test]
    fn compaction_is_not_a_message() {
        for text in ["/compact", "/compact now", "/compact: x", " /compact\n"] {
            assert!(of(Some(text), None).unwrap_err().starts_with("Slash commands cannot"), "{text:?}");
        }
    }

    #[test]
    fn a_message_file_is_text_without_its_byte_order_mark() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let put = |name: &str, bytes: &[u8]| std::fs::write(path(name), bytes).unwrap();
        put("good", "\u{feff}Grüße\n".as_bytes());
        put("blank", " \n".as_bytes());
        put("binary", b"\xff\xfe");
        put("large", &vec![b'a'; 4 * 1024 * 1024 + 1]);
        put("full", &vec![b'a'; 4 * 1024 * 1024]);
        assert_eq!(of(None, Some(&path("good"))), Ok("Grüße\n".to_owned()));
        assert_eq!(of(None, Some(&path("full"))).unwrap().len(), 4 * 1024 * 1024);
        let said = |name: &str| of(None, Some(&path(name))).unwrap_err();
        assert_eq!(said("blank"), format!("Message file is empty: {}", path("blank")));
        assert_eq!(said("binary"), format!("Message file must be valid UTF-8: {}", path("binary")));
        assert_eq!(said("missing"), format!("Message file not found: {}", path("missing")));
        assert_eq!(said("."), format!("Message file is a directory: {}", path(".")));
        assert!(said("large").starts_with("Message file is too large"));
        assert_eq!(of(None, Some(" ")), Err("--message-file must not be empty.".to_owned()));
        assert_eq!(
            of(Some("a"), Some(&path("good"))),
            Err("Use either --message or --message-file, not both.".to_owned())
        );
    }
}
