//! The same start as lines for a shell.

use super::clients::Start;

/// Lines that a POSIX shell runs as `launch` would; the variables are the client's alone.
pub(super) fn script(start: &Start) -> String {
    let mut lines = Vec::new();
    if let Some(file) = &start.file {
        let (path, text) = (file.path.to_string_lossy(), quote(file.text.trim_end()));
        if let Some(folder) = file.path.parent() {
            lines.push(format!("mkdir -p {}", quote(&folder.to_string_lossy())));
        }
        lines.push(format!("printf '%s\\n' {text} > {}", quote(&path)));
    }
    lines.extend(start.env.iter().map(|(name, value)| format!("{name}={} \\", quote(value))));
    let words = std::iter::once(start.program.to_owned()).chain(start.args.iter().map(|argument| quote(argument)));
    lines.push(words.collect::<Vec<_>>().join(" "));
    lines.join("\n") + "\n"
}

/// One word of a shell, whatever is in it.
fn quote(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+,=".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

    use super::*;

    #[test]
    fn a_shell_reads_what_was_meant() {
        for text in ["", "plain/a:1", "two words", "it's", "$HOME `id` \"x\" \\ !! *?", "a\nb", "~", "é", "#", "'"] {
            let output = std::process::Command::new("sh").args(["-c", &format!("printf %s {}", quote(text))]).output();
            assert_eq!(String::from_utf8(output.unwrap().stdout).unwrap(), text);
        }
        assert_eq!(quote("http://127.0.0.1:8000/v1"), "http://127.0.0.1:8000/v1");
    }
}
