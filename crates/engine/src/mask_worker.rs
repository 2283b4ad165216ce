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
