//! Turns of clients: start-time fair queueing, a sequence counting one.

use std::collections::HashMap;

/// Clients that are remembered before those are forgotten that are owed nothing.
const MAX_CLIENTS: usize = 1024;

/// Whose turn is when. A client of whom nothing waits gets the present turn, each further sequence of a client one later;
/// so the sequences of a client that has many do not come before those of one that has few.
#[derive(Debug, Default)]
pub struct Turns {
    /// The turn of the sequence that was admitted last.
    now: u64,
    /// Each client's next turn, if it is not now.
    next: HashMap<u64, u64>,
}

impl Turns {
    /// The turn of a client's next sequence.
    pub fn take(&mut self, client: u64) -> u64 {
        let turn = self.next.get(&client).map_or(self.now, |next| self.now.max(*next));
        if self.next.len() >= MAX_CLIENTS {
            let now = self.now;
            self.next.retain(|_, next| *next > now);
        }
        self.next.insert(client, turn + 1);
        turn
    }

    /// Notes that a sequence of this turn is admitted.
    pub fn admit(&mut self, turn: u64) {
        self.now = self.now.max(turn);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_not_behind_many() {
        let mut turns = Turns::default();
        assert_eq!((0..5).map(|_| turns.take(1)).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        turns.admit(0);
        turns.admit(1);
        assert_eq!((turns.take(2), turns.take(2), turns.take(3)), (1, 2, 1));
        turns.admit(7);
        assert_eq!((turns.take(1), turns.take(2)), (7, 7), "what was not used is not saved up");
        for client in 10..10_000 {
            turns.take(client);
            turns.admit(client);
        }
        assert!(turns.next.len() <= MAX_CLIENTS);
    }
}
