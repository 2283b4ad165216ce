//! Places for sequences: bounded in all, and for each client.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Places, and who has how many.
#[derive(Debug)]
pub struct Places {
    num: usize,
    num_per_client: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_client: HashMap<u64, usize>,
}

/// Places reserved for a client's choices; each is given back when its choice has ended.
#[derive(Debug)]
pub struct Admission {
    places: Arc<Places>,
    client: u64,
    num: usize,
}

impl Places {
    /// So many, and so many for a client.
    pub fn new(num: usize, num_per_client: usize) -> Self {
        Self { num, num_per_client: num_per_client.min(num), taken: Mutex::default() }
    }

    /// Places that one client may have.
    pub fn num_per_client(&self) -> usize {
        self.num_per_client
    }

    /// Places that are taken.
    pub fn num_taken(&self) -> usize {
        self.taken().all
    }

    /// Takes places, all or none. The bound that was met, if there are none.
    pub fn take(self: &Arc<Self>, client: u64, num: usize) -> Result<Admission, usize> {
        let mut taken = self.taken();
        let own = taken.by_client.get(&client).copied().unwrap_or(0);
        if num > self.num - taken.all {
            return Err(self.num);
        }
        if own + num > self.num_per_client {
            return Err(self.num_per_client);
        }
        taken.all += num;
        taken.by_client.insert(client, own + num);
        Ok(Admission { places: Arc::clone(self), client, num })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admission {
    /// One of the places, to be given back on its own.
    pub(crate) fn take_one(&mut self) -> Option<Self> {
        self.num = self.num.checked_sub(1)?;
        Some(Self { places: Arc::clone(&self.places), client: self.client, num: 1 })
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if self.num == 0 {
            return;
        }
        let mut taken = self.places.taken();
        taken.all -= self.num;
        let own = taken.by_client.get_mut(&self.client).map_or(0, |own| {
            *own -= self.num;
            *own
        });
        if own == 0 {
            taken.by_client.remove(&self.client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_in_all_and_by_client() {
        let places = Arc::new(Places::new(8, 6));
        let mut first = places.take(1, 4).unwrap();
        assert_eq!(places.take(1, 3).unwrap_err(), 6);
        let second = places.take(2, 4).unwrap();
        assert_eq!((places.take(3, 1).unwrap_err(), places.num_taken()), (8, 8));
        let one = first.take_one().unwrap();
        drop(one);
        assert_eq!(places.num_taken(), 7);
        drop(first);
        drop(second);
        assert_eq!((places.num_taken(), places.taken().by_client.len()), (0, 0));
        let mut last = places.take(1, 1).unwrap();
        assert!(last.take_one().is_some() && last.take_one().is_none());
        assert_eq!(places.num_taken(), 0);
    }
}
