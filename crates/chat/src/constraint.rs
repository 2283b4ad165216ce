//! What the next token of an answer may be: a grammar after the thoughts, a budget for them, and words that
//! must not occur.

use std::sync::Arc;

use crate::{CompiledGrammar, Marker, Markers, Start};

/// The rules of one answer.
#[derive(Debug, Clone, Default)]
pub struct OutputRules {
    /// What the answer after the thoughts must look like.
    pub grammar: Option<CompiledGrammar>,
    /// Most tokens of thought.
    pub thinking_budget: Option<u32>,
    /// The only tokens allowed.
    pub allowed: Option<Arc<[u32]>>,
    /// Token sequences that must not occur.
    pub bad_words: Arc<[Vec<u32>]>,
}

/// Follows one answer and says which tokens may come next.
#[derive(Debug, Clone)]
pub struct OutputConstraint {
    rules: OutputRules,
    num_ids: usize,
    eos_token_ids: Arc<[u32]>,
    markers: Arc<Markers>,
    /// State before each accepted token, and whether it was the grammar's.
    history: Vec<(Phase, bool)>,
    phase: Phase,
    tokens: Vec<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The first token decides whether there is a thought.
    Open,
    /// Tokens thought so far.
    Thought(u32),
    /// The grammar's turn.
    Answer(u32),
}

/// One bit per token id.
type Bits = Vec<u32>;

impl OutputConstraint {
    /// `start`: where the answer starts. `num_ids`: size of the tokenizer's vocabulary.
    pub fn new(rules: OutputRules, start: Start, num_ids: usize, eos_token_ids: &[u32], markers: Arc<Markers>) -> Self {
        let phase = match start {
            Start::Thought => Phase::Thought(0),
            Start::Content => Phase::Answer(0),
            Start::Open => Phase::Open,
        };
        Self {
            rules,
            num_ids,
            eos_token_ids: eos_token_ids.into(),
            markers,
            history: Vec::new(),
            phase,
            tokens: Vec::new(),
        }
    }

    /// Starts on the next mask, where a helper computes it.
    pub fn ask(&mut self) {
        if let (Phase::Open | Phase::Answer(_), Some(grammar)) = (self.phase, &mut self.rules.grammar) {
            grammar.ask();
        }
    }

    /// Tokens allowed next, one bit per id; `None` when all are. No bit is set when the rules have run into a
    /// dead end or a bound: the answer must fail then.
    pub fn mask(&mut self) -> Option<Bits> {
        let mut mask = match self.phase {
            Phase::Thought(spent) if self.rules.thinking_budget.is_some_and(|budget| spent >= budget) => {
                // Whatever else is forbidden, the thought ends.
                let mut mask = vec![0; self.num_ids.div_ceil(32)];
                set(&mut mask, self.markers.id(Marker::ThinkClose)?);
                return Some(mask);
            }
            Phase::Thought(_) => self.thought_mask(),
            Phase::Open => self.grammar_mask().map(|mut mask| {
                if let Some(open) = self.markers.id(Marker::ThinkOpen) {
                    set(&mut mask, open);
                }
                mask
            }),
            Phase::Answer(_) => self.grammar_mask(),
        };
        if let Some(allowed) = &self.rules.allowed {
            let mut only = vec![0; self.num_ids.div_ceil(32)];
            allowed.iter().for_each(|id| set(&mut only, *id));
            if let Some(mask) = &mask {
                only.iter_mut().zip(mask).for_each(|(a, b)| *a &= b);
            }
            mask = Some(only);
        }
        for word in self.rules.bad_words.iter() {
            if let Some((last, before)) = word.split_last()
                && self.tokens.ends_with(before)
            {
                clear(mask.get_or_insert_with(|| all(self.num_ids)), *last);
            }
        }
        mask
    }

    /// Moves on by one token.
    pub fn accept(&mut self, token_id: u32) {
        let before = self.phase;
        let marker = self.markers.of(token_id);
        let mut is_grammars = false;
        self.phase = match (self.phase, marker) {
            (Phase::Open, Some(Marker::ThinkOpen)) => Phase::Thought(0),
            (Phase::Answer(spent), Some(Marker::ThinkOpen)) if self.rules.grammar.is_none() => Phase::Thought(spent),
            (Phase::Thought(spent), Some(Marker::ThinkClose)) => Phase::Answer(spent),
            (Phase::Thought(spent), _) => Phase::Thought(spent + 1),
            (Phase::Open | Phase::Answer(_), _) => {
                if let Some(grammar) = &mut self.rules.grammar {
                    grammar.accept(token_id);
                    is_grammars = true;
                }
                Phase::Answer(if let Phase::Answer(spent) = before { spent } else { 0 })
            }
        };
        self.history.push((before, is_grammars));
        if !self.rules.bad_words.is_empty() {
            self.tokens.push(token_id);
        }
    }

    /// Takes back the last `count` tokens.
    pub fn rollback(&mut self, count: usize) {
        let undone = self.history.split_off(self.history.len() - count);
        if let Some((phase, _)) = undone.first() {
            self.phase = *phase;
        }
        let num_grammars = undone.iter().filter(|(_, is_grammars)| *is_grammars).count();
        if let Some(grammar) = &mut self.rules.grammar
            && num_grammars > 0
        {
            grammar.rollback(num_grammars);
        }
        self.tokens.truncate(self.tokens.len().saturating_sub(count));
    }

    /// A copy in the same state.
    #[must_use]
    pub fn fork(&self) -> Self {
        self.clone()
    }

    fn thought_mask(&self) -> Option<Bits> {
        // An answer that must follow a grammar cannot end, nor call, before the thought does.
        self.rules.grammar.as_ref()?;
        let mut mask = all(self.num_ids);
        let calls = [Marker::CallsOpen, Marker::CallOpen].into_iter().filter_map(|marker| self.markers.id(marker));
        self.eos_token_ids.iter().copied().chain(calls).for_each(|id| clear(&mut mask, id));
        Some(mask)
    }

    fn grammar_mask(&mut self) -> Option<Bits> {
        let mask = self.rules.grammar.as_mut()?.mask();
        Some(mask.unwrap_or_else(|| vec![0; self.num_ids.div_ceil(32)]))
    }
}

fn all(num_ids: usize) -> Bits {
    let mut mask = vec![u32::MAX; num_ids.div_ceil(32)];
    if let Some(last) = mask.last_mut().filter(|_| !num_ids.is_multiple_of(32)) {
        *last = (1 << (num_ids % 32)) - 1;
    }
    mask
}

fn set(mask: &mut Bits, id: u32) {
    if let Some(word) = mask.get_mut(id as usize / 32) {
        *word |= 1 << (id % 32);
    }
}

fn clear(mask: &mut Bits, id: u32) {
    if let Some(word) = mask.get_mut(id as usize / 32) {
        *word &= !(1 << (id % 32));
    }
}
