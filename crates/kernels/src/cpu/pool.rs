//! The threads that compute: few, persistent, one job at a time.
//!
//! A step is hundreds of parallel regions of tens of microseconds. A thread that waits for the next one spins for a
//! moment before it sleeps, and the thread that starts a job takes part in it.

use std::cell::{Cell, UnsafeCell};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a thread spins for the next job before it sleeps: longer than the gaps within a step.
const SPIN: Duration = Duration::from_micros(100);
/// Rounds of spinning between looks at the clock, or between offers of the core to others.
const ROUNDS: usize = 200;

/// Multiplications of pairs that take about as long as sharing them among threads.
const MIN_PRODUCTS: usize = 1 << 18;

thread_local! {
    /// The pool that this thread's parallel loops run on.
    static CURRENT: Cell<Option<*const ComputePool>> = const { Cell::new(None) };
}

/// Compute threads, the one that calls them included.
#[derive(Debug)]
pub struct ComputePool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    job: JobCell,
    /// Number of jobs begun.
    num_jobs: AtomicUsize,
    /// Threads that have not finished the job.
    num_running: AtomicUsize,
    num_asleep: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
    has_panicked: AtomicBool,
    stops: AtomicBool,
}

/// The job, for as long as [`ComputePool::run`] waits for it.
#[derive(Debug, Default)]
struct JobCell(UnsafeCell<Option<&'static (dyn Fn() + Sync)>>);

// SAFETY: written only while no thread runs a job, read only while one is running; the counters order the two.
#[expect(unsafe_code, reason = "threads share a job that outlives it")]
unsafe impl Sync for JobCell {}
// SAFETY: as above; what it points to may be called from any thread.
#[expect(unsafe_code, reason = "threads share a job that outlives it")]
unsafe impl Send for JobCell {}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, ()> {
        self.sleep.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a job after the first `seen`. Gives their number, or `None` at the end.
    fn next(&self, seen: usize) -> Option<usize> {
        let started = Instant::now();
        loop {
            for _ in 0..ROUNDS {
                let num_jobs = self.num_jobs.load(Ordering::Acquire);
                if num_jobs != seen {
                    return (!self.stops.load(Ordering::Acquire)).then_some(num_jobs);
                }
                std::hint::spin_loop();
            }
            if started.elapsed() > SPIN {
                break;
            }
            // Whoever else wants the core, such as a thread that sends tokens, goes first.
            std::thread::yield_now();
        }
        let mut guard = self.lock();
        self.num_asleep.fetch_add(1, Ordering::SeqCst);
        while self.num_jobs.load(Ordering::SeqCst) == seen {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.num_asleep.fetch_sub(1, Ordering::SeqCst);
        (!self.stops.load(Ordering::Acquire)).then(|| self.num_jobs.load(Ordering::Acquire))
    }

    fn begin(&self) {
        self.num_jobs.fetch_add(1, Ordering::SeqCst);
        if self.num_asleep.load(Ordering::SeqCst) > 0 {
            drop(self.lock());
            self.wake.notify_all();
        }
    }

    fn work(&self) {
        let mut seen = 0;
        while let Some(num_jobs) = self.next(seen) {
            seen = num_jobs;
            // SAFETY: `run` set the job before it began and waits for this thread before it goes on.
            #[expect(unsafe_code, reason = "threads share a job that outlives it")]
            let job = unsafe { *self.job.0.get() }.expect("a job was begun");
            if catch_unwind(AssertUnwindSafe(job)).is_err() {
                self.has_panicked.store(true, Ordering::Release);
            }
            self.num_running.fetch_sub(1, Ordering::Release);
        }
    }
}

impl ComputePool {
    /// `num_threads`: how many compute, the caller included.
    ///
    /// # Errors
    /// When the operating system gives no threads.
    pub fn new(num_threads: usize) -> std::io::Result<Self> {
        let mut pool = Self { shared: Arc::new(Shared::default()), threads: Vec::new() };
        for index in 1..num_threads {
            let shared = Arc::clone(&pool.shared);
            let thread = std::thread::Builder::new().name(format!("compute-{index}"));
            pool.threads.push(thread.spawn(move || shared.work())?);
        }
        Ok(pool)
    }

    /// Runs `work` with its parallel loops on these threads. One caller at a time: `&mut` says so.
    pub fn install<R>(&mut self, work: impl FnOnce() -> R) -> R {
        struct Restore(Option<*const ComputePool>);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(self.0);
            }
        }
        let _restore = Restore(CURRENT.replace(Some(std::ptr::from_ref(self))));
        work()
    }

    /// Runs `job` on every thread at the same time.
    fn run(&self, job: &(dyn Fn() + Sync)) {
        let shared = &self.shared;
        shared.num_running.store(self.threads.len(), Ordering::Relaxed);
        // SAFETY: only the lifetime changes. No thread keeps the job longer than this function runs: it waits below
        // for all of them, whatever panics. No thread reads the cell now, since none has a job.
        #[expect(unsafe_code, reason = "threads share a job that outlives it")]
        unsafe {
            let job = std::mem::transmute::<&(dyn Fn() + Sync), &'static (dyn Fn() + Sync)>(job);
            *shared.job.0.get() = Some(job);
        }
        shared.begin();
        // A loop within a task runs on its own thread.
        let pool = CURRENT.take();
        let own = catch_unwind(AssertUnwindSafe(job));
        CURRENT.set(pool);
        let mut rounds = 0;
        while shared.num_running.load(Ordering::Acquire) > 0 {
            rounds += 1;
            if rounds % ROUNDS == 0 {
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
        if let Err(panic) = own {
            resume_unwind(panic);
        }
        assert!(!shared.has_panicked.swap(false, Ordering::AcqRel), "a compute thread panicked");
    }
}

impl Drop for ComputePool {
    fn drop(&mut self) {
        self.shared.stops.store(true, Ordering::Release);
        self.shared.begin();
        for thread in self.threads.drain(..) {
            // Panics were reported when they happened.
            drop(thread.join());
        }
    }
}

/// Threads of the pool that is installed here.
pub(crate) fn num_threads() -> usize {
    // SAFETY: `install` keeps the pool borrowed for as long as it is current.
    #[expect(unsafe_code, reason = "a thread-local cannot hold a borrow")]
    let pool = CURRENT.get().map(|pool| unsafe { &*pool });
    pool.map_or(1, |pool| pool.threads.len() + 1)
}

/// Calls `task` for every number below `num_tasks`, on the threads of the pool that is installed here, if one is. Which
/// thread takes which task depends on chance, so tasks must not depend on each other.
pub(crate) fn parallel(num_tasks: usize, task: impl Fn(usize) + Sync) {
    let pool = CURRENT.get().filter(|_| num_tasks > 1);
    // SAFETY: `install` keeps the pool borrowed for as long as it is current.
    #[expect(unsafe_code, reason = "a thread-local cannot hold a borrow")]
    let Some(pool) = pool.map(|pool| unsafe { &*pool }).filter(|pool| !pool.threads.is_empty()) else {
        (0..num_tasks).for_each(task);
        return;
    };
    let next = AtomicUsize::new(0);
    pool.run(&|| {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= num_tasks {
                return;
            }
            task(number);
        }
    });
}

/// As [`parallel`] where there is work enough to share, in multiplications of pairs; else on this thread alone.
pub(crate) fn parallel_products(num_products: usize, num_tasks: usize, task: impl Fn(usize) + Sync) {
    if num_products < MIN_PRODUCTS {
        (0..num_tasks).for_each(task);
    } else {
        parallel(num_tasks, task);
    }
}

/// Calls `work` for equal parts of a slice, with the index of each part's first element, on the threads of the pool that
/// is installed here, if one is.
pub fn parallel_chunks<T: Send>(values: &mut [T], size: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    let (num_chunks, len) = (values.len().div_ceil(size.max(1)), values.len());
    let values = Split::new(values);
    parallel(num_chunks, |chunk| {
        let start = chunk * size;
        // SAFETY: every chunk is taken by one task.
        #[expect(unsafe_code, reason = "tasks write disjoint parts")]
        work(start, unsafe { values.part(start, size.min(len - start)) });
    });
}

/// A slice that several tasks write, each a part of its own.
pub(crate) struct Split<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: it gives out parts only by an unsafe function whose callers see that they do not overlap.
#[expect(unsafe_code, reason = "tasks write disjoint parts")]
unsafe impl<T: Send> Sync for Split<'_, T> {}

impl<'a, T> Split<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// A part of the slice.
    ///
    /// # Safety
    /// Parts that are held at the same time must not overlap.
    #[expect(unsafe_code, clippy::mut_from_ref, reason = "tasks write disjoint parts")]
    pub(crate) unsafe fn part(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "a part lies within the slice");
        // SAFETY: within the slice, as asserted; disjoint, as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_on_any_number_of_threads() {
        for num_threads in 1..5 {
            let mut pool = ComputePool::new(num_threads).unwrap();
            for round in 0..500 {
                let mut counts = vec![0; round % 37];
                pool.install(|| {
                    parallel_chunks(&mut counts, 3, |start, part| {
                        for (index, count) in part.iter_mut().enumerate() {
                            *count += start + index;
                            // A loop within a task.
                            parallel(2, |_| ());
                        }
                    });
                });
                assert_eq!(counts, (0..counts.len()).collect::<Vec<_>>());
                if round % 100 == 0 {
                    std::thread::sleep(2 * SPIN);
                }
            }
        }
        parallel(3, |_| ());
    }

    #[test]
    fn a_panic_in_a_task_is_one_of_the_caller_and_the_pool_goes_on() {
        let mut pool = ComputePool::new(3).unwrap();
        for _ in 0..20 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.install(|| parallel(50, |task| assert!(task != 17, "as told")));
            }));
            assert!(result.is_err());
            let done = AtomicUsize::new(0);
            pool.install(|| {
                parallel(50, |_| {
                    done.fetch_add(1, Ordering::Relaxed);
                });
            });
            assert_eq!(done.into_inner(), 50);
        }
    }
}
