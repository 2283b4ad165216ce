//! Small scanners over text that arrives in pieces.

/// Knows whether a JSON text is inside a string. Follows bytes, never looks back.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct JsonString {
    inside: bool,
    escaped: bool,
}

impl JsonString {
    pub fn follow(&mut self, text: &str) {
        for byte in text.bytes() {
            self.step(byte);
        }
    }

    pub fn step(&mut self, byte: u8) {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' if self.inside => self.escaped = true,
            b'"' => self.inside = !self.inside,
            _ => {}
        }
    }

    pub fn is_inside(self) -> bool {
        self.inside
    }
}

/// Bytes of the longest end of `text` that `word` begins with, short of the whole word.
pub(super) fn partial_match(text: &str, word: &str) -> usize {
    let longest = word.len().saturating_sub(1).min(text.len());
    (1..=longest)
        .rev()
        .find(|length| text.is_char_boundary(text.len() - length) && word.starts_with(&text[text.len() - length..]))
        .unwrap_or(0)
}

/// Takes everything out of `held` that cannot be the beginning of `word`.
pub(super) fn take_certain(held: &mut String, word: &str) -> String {
    let keep = partial_match(held, word);
    let rest = held.split_off(held.len() - keep);
    std::mem::replace(held, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_matches() {
        assert_eq!(partial_match("abc<｜D", "<｜DSML｜"), "<｜D".len());
        assert_eq!(partial_match("abc", "<x"), 0);
        assert_eq!(partial_match("\n``", "\n```"), 3);
        assert_eq!(partial_match("\n```", "\n```"), 0, "a whole word is for the caller to find");
    }
}
