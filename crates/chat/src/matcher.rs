//! A grammar that follows one answer.

use std::time::Duration;

use cpu_time::ThreadTime;
use llguidance::Matcher;

use crate::helper::Session;

/// A grammar's due for one token, and how much it may take beyond it in all: others wait for it. One that takes more
/// ends, as if it had run into a dead end.
pub(crate) const DUE: Duration = Duration::from_millis(20);
pub(crate) const MAX_DELAY: Duration = Duration::from_millis(500);

/// A compiled grammar at some place of an answer; a clone goes on from there by itself.
#[derive(Debug, Clone)]
pub struct CompiledGrammar(pub(crate) Place);

/// Where the grammar library runs.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// In this process: for tests and measurements.
    Here(Box<LocalMatcher>),
    /// In a process of its own, which may die of it.
    Helper(Session),
}

impl CompiledGrammar {
    /// Starts on the next mask, where that is done elsewhere.
    pub(crate) fn ask(&mut self) {
        if let Place::Helper(session) = &mut self.0 {
            session.ask();
        }
    }

    /// Tokens allowed next, one bit per id; `None` in a dead end or beyond a bound.
    pub(crate) fn mask(&mut self) -> Option<Vec<u32>> {
        match &mut self.0 {
            Place::Here(matcher) => matcher.mask(),
            Place::Helper(session) => session.mask(),
        }
    }

    /// Moves on by one token. What the grammar does not allow leads into a dead end.
    pub(crate) fn accept(&mut self, token_id: u32) {
        match &mut self.0 {
            Place::Here(matcher) => matcher.accept(token_id),
            Place::Helper(session) => session.accept(token_id),
        }
    }

    /// Takes back the last `count` tokens.
    pub(crate) fn rollback(&mut self, count: usize) {
        match &mut self.0 {
            Place::Here(matcher) => matcher.rollback(count),
            Place::Helper(session) => session.rollback(count),
        }
    }
}

/// A matcher in this process.
pub(crate) struct LocalMatcher {
    matcher: Matcher,
    /// Tokens since the grammar stopped: it has not seen them.
    num_unseen: usize,
    /// Time of computing that it took beyond its due. Not of waiting: a busy machine must not end an answer.
    delay: Duration,
}

impl LocalMatcher {
    pub fn new(matcher: Matcher) -> Self {
        Self { matcher, num_unseen: 0, delay: Duration::ZERO }
    }

    pub fn mask(&mut self) -> Option<Vec<u32>> {
        let began = ThreadTime::now();
        let mask = self.matcher.compute_mask_or_eos().map(|mask| mask.as_slice().to_vec());
        self.delay += began.elapsed().saturating_sub(DUE);
        mask.ok().filter(|_| self.delay < MAX_DELAY)
    }

    pub fn accept(&mut self, token_id: u32) {
        let began = ThreadTime::now();
        // A refusal leaves the matcher in its error state: there is no further mask.
        let seen = self.num_unseen == 0 && !self.matcher.is_stopped() && self.matcher.consume_token(token_id).is_ok();
        self.num_unseen += usize::from(!seen);
        self.delay += began.elapsed().saturating_sub(DUE);
    }

    pub fn rollback(&mut self, count: usize) {
        let unseen = self.num_unseen.min(count);
        self.num_unseen -= unseen;
        if count > unseen {
            // A failure shows in the next mask.
            let _ = self.matcher.rollback(count - unseen);
        }
    }
}

impl Clone for LocalMatcher {
    fn clone(&self) -> Self {
        // Plain clones of matchers share a lock.
        Self { matcher: self.matcher.deep_clone(), ..*self }
    }
}

impl std::fmt::Debug for LocalMatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LocalMatcher")
    }
}
