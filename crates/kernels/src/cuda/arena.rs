//! Places in one piece of memory. The same requests in the same order get the same places.

use std::collections::BTreeMap;

/// Every place starts at a multiple of this, in bytes: what kernels' widest accesses and copies like.
pub(super) const ALIGNMENT: usize = 256;

/// First fit over a list of gaps.
#[derive(Debug)]
pub(super) struct Arena {
    size: usize,
    /// Start to end of what is taken.
    taken: BTreeMap<usize, usize>,
    peak: usize,
}

impl Arena {
    pub fn new(size: usize) -> Self {
        Self { size, taken: BTreeMap::new(), peak: 0 }
    }

    /// The first gap that is large enough; `None` when there is none.
    pub fn allocate(&mut self, bytes: usize) -> Option<usize> {
        let bytes = bytes.max(1).next_multiple_of(ALIGNMENT);
        let mut start = 0;
        for (&taken_start, &taken_end) in &self.taken {
            if taken_start - start >= bytes {
                break;
            }
            start = taken_end;
        }
        let end = start.checked_add(bytes).filter(|end| *end <= self.size)?;
        self.taken.insert(start, end);
        self.peak = self.peak.max(end);
        Some(start)
    }

    /// Gives a place back.
    pub fn release(&mut self, start: usize) {
        let end = self.taken.remove(&start);
        assert!(end.is_some(), "a place is given back once");
    }

    /// The most bytes that were ever needed at once, gaps included.
    pub fn peak(&self) -> usize {
        self.peak
    }

    pub fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_do_not_overlap_and_are_used_again() {
        let mut arena = Arena::new(4 * ALIGNMENT);
        let places: Vec<_> = (0..4).map(|_| arena.allocate(ALIGNMENT - 1).expect("there is room")).collect();
        assert_eq!(places, [0, 256, 512, 768]);
        assert_eq!(arena.allocate(1), None);
        arena.release(256);
        arena.release(512);
        assert_eq!(arena.allocate(ALIGNMENT + 1), Some(256), "neighbouring gaps are one");
        assert!(!arena.is_empty());
        assert_eq!(arena.peak(), 4 * ALIGNMENT);
    }

    #[test]
    fn a_planned_peak_is_enough_for_the_same_requests() {
        let sizes = [1000, 5, 70_000, 256, 3];
        let run = |arena: &mut Arena| {
            let mut places = Vec::new();
            for (index, size) in sizes.iter().cycle().take(40).enumerate() {
                places.push(arena.allocate(*size).expect("it was planned"));
                if index % 3 == 2 {
                    arena.release(places.remove(index % places.len()));
                }
            }
            places
        };
        let mut planned = Arena::new(usize::MAX);
        let places = run(&mut planned);
        assert_eq!(run(&mut Arena::new(planned.peak())), places);
    }
}
