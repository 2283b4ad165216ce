//! Small changes to known inputs.

/// Pieces that readers of JSON, TOML, templates and headers may stumble over.
const PIECES: &[&str] = &[
    "null",
    "true",
    "-1",
    "0",
    "1e400",
    "-0.0",
    "18446744073709551616",
    "9223372036854775807",
    "4294967296",
    "0.1",
    "[]",
    "{}",
    "\"\"",
    "[[[[[[[[",
    "{\"a\":",
    "\\u0000",
    "\\ud800",
    "\u{fffd}",
    "𝄞",
    "\0",
    "\n",
    "\"",
    ",",
    ":",
    "}",
    "]",
    "\\",
    "{{",
    "}}",
    "{%",
    "%}",
    "<think>",
    "</think>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "é",
    "\u{202e}",
];
const MAX_LEN: usize = 1 << 16;

/// Makes mutations; the same number gives the same.
pub struct Mutator(u64);

impl Mutator {
    /// Starts somewhere.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self, end: usize) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end.max(1)
    }

    /// One of the seeds, changed in one to eight places.
    pub fn mutate(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input = seeds[self.next(seeds.len())].clone();
        for _ in 0..=self.next(8) {
            self.change(&mut input, seeds);
            input.truncate(MAX_LEN);
        }
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let at = self.next(input.len() + 1);
        let end = at + self.next((input.len() - at).min(64) + 1);
        match self.next(8) {
            0 if at < input.len() => input[at] ^= 1 << self.next(8),
            1 if at < input.len() => input[at] = self.next(256) as u8,
            2 => drop(input.drain(at..end)),
            3 => {
                let part = input[at..end].to_vec();
                input.splice(at..at, part.repeat(1 + self.next(4)));
            }
            4 => {
                let other = &seeds[self.next(seeds.len())];
                let from = self.next(other.len() + 1);
                let to = from + self.next((other.len() - from).min(256) + 1);
                input.splice(at..end, other[from..to].iter().copied());
            }
            // A number or a word becomes something else.
            5 => {
                let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._".contains(byte);
                let start = input[..at].iter().rposition(|byte| !is_word(byte)).map_or(0, |index| index + 1);
                let end = at + input[at..].iter().position(|byte| !is_word(byte)).unwrap_or(input.len() - at);
                input.splice(start..end, PIECES[self.next(PIECES.len())].bytes());
            }
            _ => drop(input.splice(at..at, PIECES[self.next(PIECES.len())].bytes())),
        }
    }
}
