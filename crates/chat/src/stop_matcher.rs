//! Finds stop strings in a text that arrives in pieces.

/// A stop string was reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopMatch {
    /// Which.
    pub stop: String,
}

/// Holds text back only as long as it could be the start of a stop string. The first stop string
/// to be complete wins (the longest, if several end at once), however the text is cut into pieces.
#[derive(Debug)]
pub struct StopMatcher {
    stops: Vec<String>,
    include_stop: bool,
    held: String,
}

impl StopMatcher {
    /// `include_stop`: leave the stop string in the text. Empty stop strings are not allowed.
    pub fn new(stops: Vec<String>, include_stop: bool) -> Self {
        assert!(stops.iter().all(|stop| !stop.is_empty()), "validated at the edge");
        Self { stops, include_stop, held: String::new() }
    }

    /// Takes a piece and appends what is certain to `text`. After a match nothing may follow.
    pub fn push(&mut self, piece: &str, text: &mut String) -> Option<StopMatch> {
        self.held.push_str(piece);
        if let Some((start, stop)) = self.find() {
            let end = if self.include_stop { start + stop.len() } else { start };
            text.push_str(&self.held[..end]);
            let stop = stop.to_owned();
            self.held.clear();
            return Some(StopMatch { stop });
        }
        let certain = self.held.len() - self.possible_start();
        text.extend(self.held.drain(..certain));
        None
    }

    /// Ends the text: what was held back was no stop string.
    pub fn finish(&mut self, text: &mut String) {
        text.push_str(&self.held);
        self.held.clear();
    }

    fn find(&self) -> Option<(usize, &str)> {
        let found = self.stops.iter().filter_map(|stop| self.held.find(stop).map(|start| (start, stop.as_str())));
        found.min_by_key(|(start, stop)| (start + stop.len(), *start))
    }

    /// Length of the longest end of the held text that a stop string could start with.
    fn possible_start(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(1) - 1;
        let first = self.held.len().saturating_sub(longest);
        (first..self.held.len())
            .filter(|start| self.held.is_char_boundary(*start))
            .find(|start| self.stops.iter().any(|stop| stop.starts_with(&self.held[*start..])))
            .map_or(0, |start| self.held.len() - start)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(stops: &[&str], include_stop: bool, pieces: &[&str]) -> (String, Option<String>) {
        let stops = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let (mut matcher, mut text) = (StopMatcher::new(stops, include_stop), String::new());
        for piece in pieces {
            if let Some(found) = matcher.push(piece, &mut text) {
                return (text, Some(found.stop));
            }
        }
        matcher.finish(&mut text);
        (text, None)
    }

    #[test]
    fn examples() {
        let check = |stops: &[&str], pieces: &[&str], text: &str, stop: Option<&str>| {
            assert_eq!(run(stops, false, pieces), (text.to_owned(), stop.map(str::to_owned)));
        };
        check(&[], &["a", "b"], "ab", None);
        check(&["END"], &["one E", "N", "D two"], "one ", Some("END"));
        check(&["END"], &["one E", "N", "E"], "one ENE", None);
        check(&["\n\n", "\n"], &["a\n\nb"], "a", Some("\n"));
        check(&["bcd", "c"], &["abcd"], "ab", Some("c"));
        check(&["é!"], &["caf", "é", "!"], "caf", Some("é!"));
        assert_eq!(run(&["END"], true, &["one EN", "D two"]), ("one END".to_owned(), Some("END".to_owned())));
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same(
            text in "[ab\u{e9}]{0,30}",
            stops in prop::collection::vec("[ab\u{e9}]{1,4}", 0..4),
            include in any::<bool>(),
            sizes in prop::collection::vec(1_usize..5, 1..10),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let characters: Vec<char> = text.chars().collect();
            let one_by_one: Vec<String> = characters.iter().map(char::to_string).collect();
            let expected = run(&stops, include, &one_by_one.iter().map(String::as_str).collect::<Vec<_>>());
            let (mut pieces, mut start, mut sizes) = (Vec::new(), 0, sizes.into_iter().cycle());
            while start < characters.len() {
                let end = (start + sizes.next().unwrap()).min(characters.len());
                pieces.push(characters[start..end].iter().collect::<String>());
                start = end;
            }
            prop_assert_eq!(run(&stops, include, &pieces.iter().map(String::as_str).collect::<Vec<_>>()), expected);
        }
    }
}
