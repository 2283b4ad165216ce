//! The step loop and the thread it runs on.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;

use moesaic_scheduler::{
    FinishReason, Request, Scheduler, SchedulerConfig, SchedulerOutput, SequenceEvent, SequenceId,
};
use tokio::sync::{Semaphore, mpsc as tokio_mpsc};

use crate::handle::{Command, Submission};
use crate::mask_worker::MaskWorker;
use crate::{
    EngineHandle, EngineOutput, EngineStats, Executor, ExecutorError, SequenceMask, StepStats, StreamEnd,
    TokenConstraint,
};

/// Settings of the engine.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Bounds of the scheduler.
    pub scheduler: SchedulerConfig,
    /// Most sequences admitted at once, running and waiting together.
    pub max_num_admitted: usize,
}

/// Owner of the engine thread; dropping it stops and joins the thread.
#[derive(Debug)]
pub struct Engine {
    handle: EngineHandle,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Starts the thread. `on_step` is called on it after every step and must be quick.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(
        config: EngineConfig,
        executor: Box<dyn Executor>,
        on_step: impl FnMut(StepStats) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (commands, receiver) = mpsc::channel();
        let stats = Arc::new(EngineStats::default());
        let handle = EngineHandle {
            commands,
            places: Arc::new(Semaphore::new(config.max_num_admitted)),
            num_places: config.max_num_admitted,
            next_id: Arc::new(AtomicU64::new(0)),
            stats: Arc::clone(&stats),
        };
        let mut core = Core {
            scheduler: Scheduler::new(config.scheduler),
            executor,
            masks: MaskWorker::start()?,
            commands: receiver,
            sequences: HashMap::new(),
            stats,
            on_step: Box::new(on_step),
        };
        let thread = std::thread::Builder::new().name("engine".to_owned()).spawn(move || {
            // Whatever the bug, no client may wait for ever: all streams end with an error.
            if catch_unwind(AssertUnwindSafe(|| core.run())).is_err() {
                tracing::error!("the engine thread panicked; every request in flight ends with an error");
                core.end_all(&StreamEnd::Failed("the engine panicked".to_owned()));
                core.stats.dead.store(true, Ordering::Release);
            }
        })?;
        Ok(Self { handle, thread: Some(thread) })
    }

    /// A way to the engine.
    pub fn handle(&self) -> EngineHandle {
        self.handle.clone()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.handle.shutdown();
        if let Some(thread) = self.thread.take() {
            // Panics were caught on the thread.
            let _ = thread.join();
        }
    }
}

/// What the engine knows of a sequence beyond the scheduler.
struct Client {
    choice: u32,
    outputs: tokio_mpsc::UnboundedSender<EngineOutput>,
    constraint: Option<Box<dyn TokenConstraint>>,
    first_scheduled: Option<Instant>,
    /// Prompt positions reported; a preemption computes some again.
    num_prompt_logprobs: usize,
}

impl Client {
    fn send(&self, mut output: EngineOutput) {
        output.choice = self.choice;
        output.first_scheduled = self.first_scheduled;
        // A closed channel: the client is gone and its abort is on the way.
        let _ = self.outputs.send(output);
    }

    fn end(&self, end: StreamEnd) {
        self.send(EngineOutput {
            choice: self.choice,
            tokens: Vec::new(),
            prompt_logprobs: Vec::new(),
            num_cached_tokens: 0,
            first_scheduled: None,
            end: Some(end),
        });
    }
}

struct Core {
    scheduler: Scheduler,
    executor: Box<dyn Executor>,
    masks: MaskWorker,
    commands: mpsc::Receiver<Command>,
    sequences: HashMap<SequenceId, Client>,
    stats: Arc<EngineStats>,
    on_step: Box<dyn FnMut(StepStats) + Send>,
}

impl Core {
    fn run(&mut self) {
        loop {
            if !self.scheduler.has_work() {
                self.scheduler.check_integrity();
                self.publish();
                match self.commands.recv() {
                    Ok(command) => {
                        // Work that arrives after a pause has not been stalled before.
                        self.stats.mark_progress();
                        if self.handle(command) {
                            return;
                        }
                    }
                    Err(mpsc::RecvError) => return,
                }
            }
            while let Ok(command) = self.commands.try_recv() {
                if self.handle(command) {
                    return;
                }
            }
            self.publish();
            if self.scheduler.has_work() {
                self.step();
            }
        }
    }

    /// Carries out a command. True when the engine is to stop.
    fn handle(&mut self, command: Command) -> bool {
        match command {
            Command::Submit(submission) => self.submit(submission),
            Command::Abort(ids) => {
                for id in ids {
                    self.scheduler.abort(id);
                    self.sequences.remove(&id);
                }
            }
            Command::Shutdown => {
                // Requests that came in behind this command end the same way.
                while let Ok(command) = self.commands.try_recv() {
                    if let Command::Submit(submission) = command {
                        self.submit(submission);
                    }
                }
                self.end_all(&StreamEnd::Shutdown);
                return true;
            }
        }
        false
    }

    fn submit(&mut self, submission: Submission) {
        let Submission { ids, request, outputs } = submission;
        for (index, (id, choice)) in ids.into_iter().zip(request.choices).enumerate() {
            let client = Client {
                choice: index as u32,
                outputs: outputs.clone(),
                constraint: request.constraint.as_ref().map(|constraint| constraint.fork()),
                first_scheduled: None,
                num_prompt_logprobs: 0,
            };
            let added = self.scheduler.add(Request {
                id,
                prompt_token_ids: request.prompts[choice.prompt].clone(),
                sampling: choice.sampling,
                priority: request.priority,
                cache_salt: request.cache_salt,
            });
            match added {
                Ok(()) => drop(self.sequences.insert(id, client)),
                Err(error) => client.end(StreamEnd::Failed(error.to_string())),
            }
        }
    }

    fn step(&mut self) {
        let started = Instant::now();
        let plan = self.scheduler.schedule();
        for new in &plan.new_sequences {
            if let Some(client) = self.sequences.get_mut(&new.id) {
                client.first_scheduled.get_or_insert(started);
            }
        }
        match self.execute(&plan) {
            Ok(output) => {
                for event in self.scheduler.update(&plan, output) {
                    self.deliver(event);
                }
            }
            Err(error) => self.fail_step(&plan, &error),
        }
        self.stats.mark_progress();
        (self.on_step)(StepStats {
            num_tokens: plan.num_tokens(),
            num_sequences: plan.sequences.len(),
            duration: started.elapsed(),
        });
    }

    fn execute(&mut self, plan: &SchedulerOutput) -> Result<moesaic_scheduler::ModelRunnerOutput, ExecutorError> {
        let sampled = plan.sequences.iter().filter(|scheduled| scheduled.samples);
        let constrained: Vec<_> = sampled
            .filter_map(|scheduled| Some((scheduled.id, self.sequences.get_mut(&scheduled.id)?.constraint.take()?)))
            .collect();
        if constrained.is_empty() {
            let step = self.executor.launch(plan)?;
            return self.executor.collect(step, &[]);
        }
        self.masks.begin(constrained);
        let launched = self.executor.launch(plan);
        let mut masks = Vec::new();
        for (id, constraint, mask) in self.masks.finish() {
            self.sequences.get_mut(&id).expect("it was there a moment ago").constraint = Some(constraint);
            masks.extend(mask.map(|mask| SequenceMask { id, mask }));
        }
        self.executor.collect(launched?, &masks)
    }

    fn deliver(&mut self, event: SequenceEvent) {
        let Some(client) = self.sequences.get_mut(&event.id) else {
            return;
        };
        if let Some(constraint) = &mut client.constraint {
            for token in &event.tokens {
                constraint.accept(token.id);
            }
        }
        let mut prompt_logprobs = event.prompt_logprobs;
        let num_known = (client.num_prompt_logprobs + 1).saturating_sub(event.prompt_logprobs_start);
        prompt_logprobs.drain(..num_known.min(prompt_logprobs.len()));
        client.num_prompt_logprobs += prompt_logprobs.len();
        if event.tokens.is_empty() && prompt_logprobs.is_empty() && event.finish_reason.is_none() {
            return;
        }
        let end = event.finish_reason.map(|reason| match reason {
            FinishReason::Failed(message) => StreamEnd::Failed(message),
            reason => StreamEnd::Finished(reason),
        });
        let ended = end.is_some();
        client.send(EngineOutput {
            choice: client.choice,
            tokens: event.tokens,
            prompt_logprobs,
            num_cached_tokens: event.num_cached_tokens,
            first_scheduled: None,
            end,
        });
        if ended {
            self.sequences.remove(&event.id);
        }
    }

    /// A step failed as a whole: its sequences end, the others go on.
    fn fail_step(&mut self, plan: &SchedulerOutput, error: &ExecutorError) {
        tracing::error!(%error, step = plan.step, "a step failed; its requests end with an error");
        for scheduled in &plan.sequences {
            self.scheduler.abort(scheduled.id);
            if let Some(client) = self.sequences.remove(&scheduled.id) {
                client.end(StreamEnd::Failed(error.to_string()));
            }
        }
    }

    fn end_all(&mut self, end: &StreamEnd) {
        for (_, client) in self.sequences.drain() {
            client.end(end.clone());
        }
    }

    fn publish(&self) {
        let (usage, counters) = (self.scheduler.kv_usage(), self.scheduler.counters());
        let stats = &self.stats;
        stats.num_running.store(self.scheduler.num_running(), Ordering::Relaxed);
        stats.num_waiting.store(self.scheduler.num_waiting(), Ordering::Relaxed);
        stats.used_blocks.store(usage.used_blocks, Ordering::Relaxed);
        stats.num_preemptions.store(counters.num_preemptions, Ordering::Relaxed);
        stats.prefix_cache_queries.store(counters.prefix_cache_queries, Ordering::Relaxed);
        stats.prefix_cache_hits.store(counters.prefix_cache_hits, Ordering::Relaxed);
        stats.num_draft_tokens.store(counters.num_draft_tokens, Ordering::Relaxed);
        stats.num_accepted_tokens.store(counters.num_accepted_tokens, Ordering::Relaxed);
    }
}
