//! Bytes of tokens to text, piece by piece.

/// Joins tokens' bytes into UTF-8. The start of a character waits (at most 3 bytes) for its rest
/// and becomes U+FFFD only once it cannot be completed.
#[derive(Debug, Default)]
pub struct Detokenizer {
    incomplete: Vec<u8>,
}

impl Detokenizer {
    /// Appends what is now complete to `text`.
    pub fn push(&mut self, bytes: &[u8], text: &mut String) {
        self.incomplete.extend_from_slice(bytes);
        let mut rest = self.incomplete.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).expect("checked just now"));
                    rest = after;
                    match error.error_len() {
                        Some(length) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            rest = &rest[length..];
                        }
                        None => break,
                    }
                }
            }
        }
        self.incomplete = rest.to_vec();
    }

    /// Ends the text: an incomplete character becomes U+FFFD.
    pub fn finish(&mut self, text: &mut String) {
        if !self.incomplete.is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
            self.incomplete.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_chunking_gives_the_lossy_text(
            pieces in prop::collection::vec(prop_oneof![
                prop::collection::vec(any::<u8>(), 0..5),
                any::<String>().prop_map(String::into_bytes),
            ], 0..12),
            sizes in prop::collection::vec(1_usize..6, 1..20),
        ) {
            let bytes = pieces.concat();
            let (mut detokenizer, mut text) = (Detokenizer::default(), String::new());
            let (mut start, mut sizes) = (0, sizes.into_iter().cycle());
            while start < bytes.len() {
                let end = (start + sizes.next().unwrap()).min(bytes.len());
                detokenizer.push(&bytes[start..end], &mut text);
                prop_assert!(detokenizer.incomplete.len() <= 3);
                start = end;
            }
            detokenizer.finish(&mut text);
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}
