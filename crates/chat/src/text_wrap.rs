//! Breaks a line into shorter ones as Python's `textwrap` does.

/// How lines are broken.
pub(crate) struct Wrap {
    /// The most characters in a line; at least 1.
    pub width: usize,
    /// Words longer than a line are cut.
    pub break_long_words: bool,
    /// A line may end behind a hyphen within a word.
    pub break_on_hyphens: bool,
}

/// The lines of `text`, without the blanks at their ends.
pub(crate) fn wrap(text: &str, options: &Wrap) -> Vec<String> {
    let mut chunks: Vec<Vec<char>> = chunks(text, options.break_on_hyphens);
    chunks.reverse();
    let mut lines: Vec<String> = Vec::new();
    while !chunks.is_empty() {
        if !lines.is_empty() && chunks.last().is_some_and(|chunk| is_blank(chunk)) {
            chunks.pop();
        }
        let mut line: Vec<Vec<char>> = Vec::new();
        let mut length = 0;
        while let Some(chunk) = chunks.pop_if(|chunk| length + chunk.len() <= options.width) {
            length += chunk.len();
            line.push(chunk);
        }
        if let Some(chunk) = chunks.pop_if(|chunk| chunk.len() > options.width) {
            if options.break_long_words {
                let (head, tail) = chunk.split_at(cut(&chunk, options.width - length, options.break_on_hyphens));
                chunks.push(tail.to_vec());
                line.push(head.to_vec());
            } else if line.is_empty() {
                line.push(chunk);
            } else {
                chunks.push(chunk);
            }
        }
        line.pop_if(|chunk| is_blank(chunk));
        if !line.is_empty() {
            lines.push(line.concat().into_iter().collect());
        }
    }
    lines
}

fn is_blank(chunk: &[char]) -> bool {
    chunk.iter().all(|c| c.is_whitespace())
}

/// Where a word longer than a line is cut.
fn cut(chunk: &[char], room: usize, break_on_hyphens: bool) -> usize {
    let hyphen = chunk[..room].iter().rposition(|c| *c == '-').filter(|at| *at > 0 && break_on_hyphens);
    match hyphen {
        Some(at) if chunk[..at].iter().any(|c| *c != '-') => at + 1,
        _ => room,
    }
}

/// Blanks and the parts of words that stay together.
fn chunks(text: &str, break_on_hyphens: bool) -> Vec<Vec<char>> {
    let text: Vec<char> = text.chars().collect();
    let mut chunks = Vec::new();
    for run in text.chunk_by(|a, b| a.is_whitespace() == b.is_whitespace()) {
        if break_on_hyphens && !is_blank(run) {
            split_word(run, &mut chunks);
        } else {
            chunks.push(run.to_vec());
        }
    }
    chunks
}

/// Splits behind hyphens between letters, and around dashes between words.
fn split_word(word: &[char], chunks: &mut Vec<Vec<char>>) {
    let is = |at: Option<usize>, test: fn(char) -> bool| at.and_then(|at| word.get(at)).is_some_and(|c| test(*c));
    let letter = |c: char| c.is_alphabetic() || c == '_';
    let hyphen = |c: char| c == '-';
    let inner = |c: char| c.is_alphanumeric() || "_!\"'&.,?".contains(c);
    let (mut start, mut at) = (0, 0);
    while at < word.len() {
        let dashes = word[at..].iter().take_while(|c| **c == '-').count();
        let next = at + dashes;
        if dashes > 1 && is(at.checked_sub(1), inner) && is(Some(next), |c| c.is_alphanumeric() || c == '_') {
            chunks.extend([word[start..at].to_vec(), word[at..next].to_vec()]);
            start = next;
        } else if dashes == 1 {
            let before = |back: usize| at.checked_sub(back);
            let follows =
                is(before(1), letter) && (is(before(2), letter) || (is(before(2), hyphen) && is(before(3), letter)));
            let second = if is(Some(next + 1), hyphen) { next + 2 } else { next + 1 };
            if follows && is(Some(next), letter) && is(Some(second), letter) {
                chunks.push(word[start..next].to_vec());
                start = next;
            }
        }
        at = next.max(at + 1);
    }
    chunks.push(word[start..].to_vec());
}
