//! Work that takes long or much memory (reading bodies, rendering, tokenising), off the async threads, in lanes by size:
//! what is small never waits for what is large, and in the lane of the large clients take turns.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use tokio::sync::{Semaphore, oneshot};

use crate::auth::ClientKey;
use crate::error::ApiError;

/// Work on at most so many bytes is done at once.
pub const SMALL_WORK: usize = 32 << 10;
/// Work on more bytes than this is large.
const LARGE_WORK: usize = 512 << 10;
/// Turns of what is neither small nor large.
const NUM_MEDIUM: usize = 4;
/// Turns of what is large.
const NUM_LARGE: usize = 2;
/// How much later than all else the system gives time to what is large.
const NICE: i32 = 10;

tokio::task_local! {
    /// Whose request a task answers.
    static CLIENT: ClientKey;
}

/// Answers a request in its client's name.
pub async fn in_name_of<T>(client: ClientKey, answer: impl Future<Output = T>) -> T {
    CLIENT.scope(client, answer).await
}

type Job = Box<dyn FnOnce() + Send>;

/// The lanes.
#[derive(Debug)]
pub struct Lanes {
    medium: Arc<Semaphore>,
    large: Arc<Queue>,
}

impl Lanes {
    /// With threads for the lane of the large, which end with the process.
    ///
    /// # Panics
    /// When the system gives no threads.
    pub fn start() -> Self {
        let large = Arc::new(Queue::default());
        for _ in 0..NUM_LARGE {
            let queue = Arc::clone(&large);
            let thread = std::thread::Builder::new().name("large work".to_owned());
            thread.spawn(move || queue.work()).expect("the system has threads");
        }
        Self { medium: Arc::new(Semaphore::new(NUM_MEDIUM)), large }
    }

    /// Does work on so many bytes in its lane. Large work whose caller has gone before its turn is not done.
    ///
    /// # Errors
    /// When the work panicked.
    pub async fn work<T: Send + 'static>(
        &self,
        num_bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        if num_bytes <= SMALL_WORK {
            let done = tokio::task::spawn_blocking(work).await;
            return done.map_err(|error| ApiError::internal(&format!("work: {error}")));
        }
        if num_bytes <= LARGE_WORK {
            return self.medium(work).await;
        }
        let (sender, done) = oneshot::channel();
        let job = move || {
            if !sender.is_closed() {
                // The caller may have gone meanwhile.
                let _ = sender.send(work());
            }
        };
        self.large.add(CLIENT.try_with(|client| *client).unwrap_or_default(), Box::new(job));
        done.await.map_err(|_| ApiError::internal("large work panicked"))
    }

    /// Does work of unknown size.
    ///
    /// # Errors
    /// When the work panicked.
    pub async fn medium<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
        let turn = Arc::clone(&self.medium).acquire_owned().await.expect("never closed");
        // The turn lasts as long as the work, even when the client is gone before it is done.
        let task = move || {
            let done = work();
            drop(turn);
            done
        };
        tokio::task::spawn_blocking(task).await.map_err(|error| ApiError::internal(&format!("work: {error}")))
    }
}

/// Jobs of clients who take turns.
#[derive(Default)]
struct Queue {
    clients: Mutex<VecDeque<(ClientKey, VecDeque<Job>)>>,
    more: Condvar,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Queue")
    }
}

impl Queue {
    fn add(&self, client: ClientKey, job: Job) {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        match clients.iter_mut().find(|(known, _)| *known == client) {
            Some((_, jobs)) => jobs.push_back(job),
            None => clients.push_back((client, VecDeque::from([job]))),
        }
        drop(clients);
        self.more.notify_one();
    }

    /// The next client's oldest job.
    fn take(clients: &mut VecDeque<(ClientKey, VecDeque<Job>)>) -> Option<Job> {
        let (client, mut jobs) = clients.pop_front()?;
        let job = jobs.pop_front();
        if !jobs.is_empty() {
            clients.push_back((client, jobs));
        }
        job
    }

    /// Does jobs for ever.
    fn work(&self) {
        // Where the system does not allow it, large work is as urgent as all else.
        let _ = rustix::process::setpriority_process(None, NICE);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let Some(job) = Self::take(&mut clients) else {
                clients = self.more.wait(clients).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(clients);
            // Its caller sees that nothing comes.
            drop(std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)));
            clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LARGE: usize = LARGE_WORK + 1;

    #[test]
    fn clients_take_turns() {
        let queue = Queue::default();
        let (sender, said) = mpsc::channel();
        for (client, what) in [(1, "a1"), (1, "a2"), (1, "a3"), (2, "b1"), (3, "c1"), (2, "b2")] {
            let sender = sender.clone();
            queue.add(ClientKey(Some([client; 32])), Box::new(move || sender.send(what).unwrap()));
        }
        let mut clients = queue.clients.lock().unwrap();
        while let Some(job) = Queue::take(&mut clients) {
            job();
        }
        assert_eq!(said.try_iter().collect::<Vec<_>>(), ["a1", "b1", "c1", "a2", "b2", "a3"]);
    }

    #[tokio::test]
    async fn small_work_does_not_wait_for_large_and_what_is_left_is_not_done() {
        let lanes = Arc::new(Lanes::start());
        let (open, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let busy: Vec<_> = (0..NUM_LARGE)
            .map(|_| {
                let (lanes, gate) = (Arc::clone(&lanes), Arc::clone(&gate));
                tokio::spawn(async move { lanes.work(LARGE, move || gate.lock().unwrap().recv().is_ok()).await })
            })
            .collect();
        let (sender, said) = mpsc::channel();
        let left = {
            let (lanes, sender) = (Arc::clone(&lanes), sender.clone());
            tokio::spawn(async move { lanes.work(LARGE, move || sender.send("left")).await })
        };
        tokio::task::yield_now().await;
        left.abort();
        assert!(left.await.is_err());
        for bytes in [1, SMALL_WORK, SMALL_WORK + 1, LARGE_WORK] {
            assert_eq!(lanes.work(bytes, move || bytes).await.unwrap(), bytes);
        }
        for _ in &busy {
            open.send(()).unwrap();
        }
        for busy in busy {
            assert!(busy.await.unwrap().unwrap());
        }
        assert!(lanes.work(LARGE, || panic!("scripted")).await.is_err());
        assert_eq!(lanes.work(LARGE, || 7).await.unwrap(), 7, "the lane goes on after a panic");
        assert!(said.try_recv().is_err(), "nobody waited for it");
    }
}
