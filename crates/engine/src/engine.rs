//! The step loop and the thread it runs on.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;

use moesaic_scheduler::{
    FailureCause, FinishReason, Request, Scheduler, SchedulerConfig, SchedulerOutput, SequenceEvent, SequenceId,
};

use crate::handle::{Command, Submission};
use crate::mask_worker::MaskWorker;
use crate::outputs::OutputSender;
use crate::places::{Admission, Places};
use crate::{
    EngineHandle, EngineOutput, EngineStats, Executor, ExecutorError, SequenceMask, StepHandle, StepStats, StreamEnd,
    TokenConstraint,
};

/// Settings of the engine.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Bounds of the scheduler.
    pub scheduler: SchedulerConfig,
    /// Most sequences admitted at once, running and waiting together.
    pub max_num_admitted: usize,
    /// Of these, those that one client may have.
    pub max_num_admitted_per_client: usize,
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
            places: Arc::new(Places::new(config.max_num_admitted, config.max_num_admitted_per_client)),
            next_id: Arc::new(AtomicU64::new(0)),
            stats: Arc::clone(&stats),
        };
        let mut core = Core {
            scheduler: Scheduler::new(config.scheduler),
            executor,
            masks: MaskWorker::start()?,
            commands: receiver,
            sequences: HashMap::new(),
            sampling: None,
            last_end: Instant::now(),
            stats,
            on_step: Box::new(on_step),
        };
        let thread = std::thread::Builder::new().name("engine".to_owned()).spawn(move || {
            // Whatever the bug, no client may wait for ever: all streams end with an error.
            if catch_unwind(AssertUnwindSafe(|| core.run())).is_err() {
                tracing::error!("the engine thread panicked; every request in flight ends with an error");
                core.end_all(&StreamEnd::Failed(FailureCause::Stopped("the engine panicked".to_owned())));
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
    outputs: OutputSender,
    /// Given back with the end.
    _place: Option<Admission>,
    constraint: Option<Box<dyn TokenConstraint>>,
    first_scheduled: Option<Instant>,
    /// Prompt positions reported; a preemption computes some again.
    num_prompt_logprobs: usize,
}

impl Client {
    fn send(&self, mut output: EngineOutput) {
        output.choice = self.choice;
        output.first_scheduled = self.first_scheduled;
        self.outputs.send(output);
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

/// A step whose tokens are being chosen.
struct Sampling {
    plan: SchedulerOutput,
    step: StepHandle,
    planned: Instant,
}

struct Core {
    scheduler: Scheduler,
    executor: Box<dyn Executor>,
    masks: MaskWorker,
    commands: mpsc::Receiver<Command>,
    sequences: HashMap<SequenceId, Client>,
    sampling: Option<Sampling>,
    /// When the last step ended.
    last_end: Instant,
    stats: Arc<EngineStats>,
    on_step: Box<dyn FnMut(StepStats) + Send>,
}

impl Core {
    fn run(&mut self) {
        loop {
            if !self.scheduler.has_work() {
                // All of its sequences were given up.
                self.finish_step();
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
                self.finish_step();
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
        let Submission { ids, request, outputs, mut admission } = submission;
        for (index, (id, choice)) in ids.into_iter().zip(request.choices).enumerate() {
            let client = Client {
                choice: index as u32,
                outputs: outputs.clone(),
                _place: admission.take_one(),
                constraint: request.constraint.as_ref().map(|constraint| constraint.fork()),
                first_scheduled: None,
                num_prompt_logprobs: 0,
            };
            let added = self.scheduler.add(Request {
                id,
                prompt_token_ids: request.prompts[choice.prompt].clone(),
                sampling: choice.sampling,
                priority: request.priority,
                client: request.client,
                cache_salt: request.cache_salt,
            });
            match added {
                Ok(()) => drop(self.sequences.insert(id, client)),
                Err(error) => client.end(StreamEnd::Failed(FailureCause::Refused(error.to_string()))),
            }
        }
    }

    /// Launches a step, ends the one before it and starts the choosing of this one's tokens. Where the executor does not
    /// overlap steps, this one is ended, too.
    fn step(&mut self) {
        let planned = Instant::now();
        let plan = self.scheduler.schedule();
        if plan.sequences.is_empty() {
            return self.finish_step();
        }
        for new in &plan.new_sequences {
            if let Some(client) = self.sequences.get_mut(&new.id) {
                client.first_scheduled.get_or_insert(planned);
            }
        }
        // Masks follow from the tokens of the step before.
        let mut masks_begun = self.sampling.is_none() && self.begin_masks(&plan);
        let launched = self.executor.launch(&plan);
        if self.sampling.is_some() {
            self.finish_step();
            masks_begun = self.begin_masks(&plan);
        }
        let masks = if masks_begun { self.finish_masks() } else { Vec::new() };
        let sampled = launched.and_then(|step| self.executor.sample(step, &masks).map(|()| step));
        match sampled {
            Ok(step) => self.sampling = Some(Sampling { plan, step, planned }),
            Err(error) => {
                self.fail_step(&plan, &error);
                self.end_step(&plan, planned);
            }
        }
        if !self.executor.overlaps() {
            self.finish_step();
        }
    }

    /// Starts on the masks of a step, where any of its sequences is constrained.
    fn begin_masks(&mut self, plan: &SchedulerOutput) -> bool {
        let sampled = plan.sequences.iter().filter(|scheduled| scheduled.samples);
        let constrained: Vec<_> = sampled
            .filter_map(|scheduled| Some((scheduled.id, self.sequences.get_mut(&scheduled.id)?.constraint.take()?)))
            .collect();
        let any = !constrained.is_empty();
        if any {
            self.masks.begin(constrained);
        }
        any
    }

    fn finish_masks(&mut self) -> Vec<SequenceMask> {
        let mut masks = Vec::new();
        for (id, constraint, mask) in self.masks.finish() {
            self.sequences.get_mut(&id).expect("it was there a moment ago").constraint = Some(constraint);
            masks.extend(mask.map(|mask| SequenceMask { id, mask }));
        }
        masks
    }

    /// Ends the step whose tokens are being chosen, if there is one.
    fn finish_step(&mut self) {
        let Some(Sampling { plan, step, planned }) = self.sampling.take() else {
            return;
        };
        match self.executor.collect(step) {
            Ok(output) => {
                for event in self.scheduler.update(&plan, output) {
                    self.deliver(event);
                }
            }
            Err(error) => self.fail_step(&plan, &error),
        }
        self.end_step(&plan, planned);
    }

    fn end_step(&mut self, plan: &SchedulerOutput, planned: Instant) {
        let now = Instant::now();
        self.stats.mark_progress();
        (self.on_step)(StepStats {
            num_tokens: plan.num_tokens(),
            num_sequences: plan.sequences.len(),
            // What passed while the step before was computed is that step's.
            duration: now - planned.max(self.last_end),
        });
        self.last_end = now;
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
            FinishReason::Failed(cause) => StreamEnd::Failed(cause),
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
        } else if client.outputs.is_full() {
            client.end(StreamEnd::Unread);
            self.scheduler.abort(event.id);
            self.sequences.remove(&event.id);
        }
    }

    /// A step failed as a whole: its sequences end, the others go on.
    fn fail_step(&mut self, plan: &SchedulerOutput, error: &ExecutorError) {
        tracing::error!(%error, step = plan.step, "a step failed; its requests end with an error");
        for scheduled in &plan.sequences {
            self.scheduler.abort(scheduled.id);
            if let Some(client) = self.sequences.remove(&scheduled.id) {
                client.end(StreamEnd::Failed(FailureCause::Step(error.to_string())));
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
