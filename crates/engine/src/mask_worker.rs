//! Grammar masks, computed beside the forward pass.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread::JoinHandle;

use moesaic_scheduler::SequenceId;

use crate::{TokenConstraint, TokenMask};

/// Grammars may recurse; unused pages cost nothing.
const STACK_BYTES: usize = 256 << 20;

type Constraint = Box<dyn TokenConstraint>;

/// A thread that computes the masks of one step at a time. Dropping it joins the thread.
pub(crate) struct MaskWorker {
    jobs: Option<mpsc::Sender<Vec<(SequenceId, Constraint)>>>,
    results: mpsc::Receiver<Vec<(SequenceId, Constraint, Option<TokenMask>)>>,
    thread: Option<JoinHandle<()>>,
}

impl MaskWorker {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the operating system gives none.
    pub fn start() -> std::io::Result<Self> {
        let (jobs, receiver) = mpsc::channel::<Vec<(SequenceId, Constraint)>>();
        let (sender, results) = mpsc::channel();
        let work = move || {
            while let Ok(mut job) = receiver.recv() {
                for (_, constraint) in &mut job {
                    // One that panics here does so again below.
                    let _ = catch_unwind(AssertUnwindSafe(|| constraint.ask()));
                }
                let masked = job.into_iter().map(|(id, mut constraint)| {
                    // A bug in a constraint ends its own sequence only: nothing is allowed.
                    let mask = catch_unwind(AssertUnwindSafe(|| constraint.mask()));
                    (id, constraint, mask.unwrap_or_else(|_| Some(TokenMask::none(0))))
                });
                if sender.send(masked.collect()).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("masks".to_owned()).stack_size(STACK_BYTES).spawn(work)?;
        Ok(Self { jobs: Some(jobs), results, thread: Some(thread) })
    }

    /// Starts on the masks of a step.
    pub fn begin(&self, job: Vec<(SequenceId, Constraint)>) {
        self.jobs.as_ref().expect("open until dropped").send(job).expect("the thread lives as long as this");
    }

    /// Waits for them, and for the constraints.
    pub fn finish(&self) -> Vec<(SequenceId, Constraint, Option<TokenMask>)> {
        self.results.recv().expect("one result for each job")
    }
}

impl Drop for MaskWorker {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // It catches its panics.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    type Notes = Arc<Mutex<Vec<(&'static str, u64)>>>;

    /// Notes what is asked of it; one that has no log panics.
    struct Noted(u64, Option<Notes>);

    impl Noted {
        fn note(&self, what: &'static str) {
            self.1.as_ref().expect("a bug").lock().unwrap().push((what, self.0));
        }
    }

    impl TokenConstraint for Noted {
        fn ask(&mut self) {
            self.note("ask");
        }

        fn mask(&mut self) -> Option<TokenMask> {
            self.note("mask");
            None
        }

        fn accept(&mut self, _token_id: u32) {}

        fn rollback(&mut self, _count: usize) {}

        fn fork(&self) -> Constraint {
            Box::new(Self(self.0, self.1.clone()))
        }
    }

    #[test]
    fn all_masks_are_asked_for_before_one_is_waited_for() {
        let (worker, log) = (MaskWorker::start().unwrap(), Arc::default());
        let job = [(1, Some(&log)), (2, None), (3, Some(&log))];
        let job = job.map(|(id, log)| (SequenceId(id), Box::new(Noted(id, log.cloned())) as Constraint));
        worker.begin(job.into());
        let masks: Vec<_> = worker.finish().into_iter().map(|(id, _, mask)| (id.0, mask)).collect();
        assert_eq!(masks, [(1, None), (2, Some(TokenMask::none(0))), (3, None)]);
        assert_eq!(*log.lock().unwrap(), [("ask", 1), ("ask", 3), ("mask", 1), ("mask", 3)]);
    }
}
