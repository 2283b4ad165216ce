//! The server's side of the helper: starts it, has it start a child per grammar, remembers what was compiled lately.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use thiserror::Error;

use super::channel::{Channel, Reply, Session};
use super::wire::{self, Kind, Record};
use crate::matcher::{CompiledGrammar, Place};
use crate::{AnswerFormat, Dialect, GrammarError, Markers};

/// A grammar that takes longer to compile is refused.
const COMPILE_TIMEOUT: Duration = Duration::from_secs(2);
/// A request waits so long for another grammar to go.
const ROOM_TIMEOUT: Duration = Duration::from_secs(3);
/// A helper takes so long at most to start a child, and so long where it has its tables to build first.
const START_TIMEOUT: Duration = Duration::from_secs(5);
const FIRST_START_TIMEOUT: Duration = Duration::from_secs(30);
/// A compilation that was ended late is refused for ever if it computed for so long, and for now if for so long: less
/// tells that the machine was busy.
const SURELY_TOO_SLOW: Duration = COMPILE_TIMEOUT.saturating_sub(Duration::from_millis(200));
const PERHAPS_TOO_SLOW: Duration = Duration::from_secs(1);
/// How often room is looked for.
const LOOK: Duration = Duration::from_millis(20);
/// Grammars kept that no answer follows.
const MAX_KNOWN: usize = 16;
/// Refusals remembered.
const MAX_REFUSED: usize = 256;
/// Memory that a child's allocator takes at once, in KiB: more would pass by the limits of its memory.
const ARENA: (&str, &str) = ("MIMALLOC_ARENA_RESERVE", "32768");

/// How the helper is run.
#[derive(Debug, Clone)]
pub struct HelperOptions {
    /// A program that calls [`run_helper`](crate::run_helper) when `argument` is its only one.
    pub program: PathBuf,
    /// The argument.
    pub argument: &'static str,
    /// Grammars that are in use at once.
    pub max_children: usize,
}

/// What the helper makes its tables of.
#[derive(Debug, Clone)]
pub struct HelperTokenizer {
    /// `tokenizer.json`.
    pub json: Cow<'static, [u8]>,
    /// The model's embeddings.
    pub vocab_size: usize,
    /// Tokens that end an answer.
    pub eos_token_ids: Vec<u32>,
}

/// Why there is no grammar.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CompileError {
    /// It is invalid, unsupported or exceeds a bound.
    #[error("{0}")]
    Refused(#[from] GrammarError),
    /// It takes too long.
    #[error("took longer than {} s to compile: make it simpler", COMPILE_TIMEOUT.as_secs())]
    TooSlow,
    /// As many other grammars as there may be are in use, or the machine is too busy to compile it in time.
    #[error("the server is busy with other grammars")]
    Busy,
    /// There is no helper.
    #[error("the helper process for grammars does not work: {0}")]
    Unavailable(String),
}

/// Compiles grammars in processes of their own; see the module's description. Starts none before the first grammar.
pub struct GrammarHost {
    options: HelperOptions,
    tokenizer: HelperTokenizer,
    num_ids: usize,
    helper: Mutex<Option<Arc<Helper>>>,
    memory: Mutex<Memory>,
    num_children: Arc<AtomicUsize>,
    next_child: AtomicU64,
    /// Random, so that nobody can make two sources' keys meet.
    hashers: [RandomState; 2],
}

/// What was compiled lately, the latest last.
#[derive(Default)]
struct Memory {
    known: VecDeque<(u128, Arc<Channel>)>,
    refused: VecDeque<(u128, CompileError)>,
}

/// A grammar's source, not compiled yet.
pub struct GrammarSource {
    text: String,
    key: u128,
}

impl GrammarHost {
    /// For one tokenizer, which `tokenizer` describes, too.
    pub fn new(options: HelperOptions, tokenizer: HelperTokenizer, num_ids: usize) -> Self {
        Self {
            options,
            tokenizer,
            num_ids,
            helper: Mutex::new(None),
            memory: Mutex::default(),
            num_children: Arc::default(),
            next_child: AtomicU64::new(0),
            hashers: [RandomState::new(), RandomState::new()],
        }
    }

    /// The source of a format's grammar.
    ///
    /// # Errors
    /// When it is invalid, unsupported or exceeds a bound, as far as that shows without compiling it.
    pub fn source(
        &self,
        format: &AnswerFormat,
        dialect: Dialect,
        markers: &Markers,
    ) -> Result<GrammarSource, CompileError> {
        if self.tokenizer.eos_token_ids.is_empty() {
            let message = "the model has no end-of-sequence token, so constrained output cannot end";
            return Err(GrammarError(message.to_owned()).into());
        }
        let text = format.lark(dialect, markers)?;
        let [high, low] = self.hashers.each_ref().map(|hasher| u128::from(hasher.hash_one(&text)));
        Ok(GrammarSource { text, key: high << 64 | low })
    }

    /// What is remembered of a grammar, at once.
    pub fn recall(&self, source: &GrammarSource) -> Option<Result<CompiledGrammar, CompileError>> {
        let mut memory = self.memory();
        if let Some(index) = memory.known.iter().position(|(key, _)| *key == source.key)
            && let Some((key, channel)) = memory.forget(index)
            && !channel.is_broken()
        {
            let session = Session::new(Arc::clone(&channel));
            memory.known.push_back((key, channel));
            return Some(Ok(CompiledGrammar(Place::Helper(session))));
        }
        let (_, error) = memory.refused.iter().find(|(key, _)| *key == source.key)?;
        Some(Err(error.clone()))
    }

    /// Compiles a grammar, or recalls it. Blocks for some seconds at most, and ends soon when `cancelled` is set; the
    /// compilation ends with it.
    ///
    /// # Errors
    /// When it is refused, takes too long, or no process can be had for it.
    pub fn compile(&self, source: &GrammarSource, cancelled: &AtomicBool) -> Result<CompiledGrammar, CompileError> {
        // Others may have compiled it since.
        if let Some(recalled) = self.recall(source) {
            return recalled;
        }
        let mut attempts = 0;
        let (channel, reply, is_late) = loop {
            let channel = Arc::new(self.start_child(cancelled)?);
            channel.send(Record::new(Kind::Source, source.text.len() as u64, 0), source.text.as_bytes());
            let began = Instant::now();
            let reply = channel.reply(COMPILE_TIMEOUT, cancelled);
            let is_late = began.elapsed() >= COMPILE_TIMEOUT;
            attempts += 1;
            // A child that ended with its helper says nothing about the grammar.
            if reply.is_some() || is_late || cancelled.load(Ordering::Relaxed) || !channel.has_lost_helper() {
                break (channel, reply, is_late);
            }
            if attempts == 2 {
                return Err(CompileError::Unavailable("it ended while it was compiling".to_owned()));
            }
        };
        // Of a process that is gone, nothing is known.
        let spent = channel.cpu_time().unwrap_or_default();
        let error = match reply {
            Some(Reply::Compiled) => {
                let session = Session::new(Arc::clone(&channel));
                self.remember(source.key, channel);
                return Ok(CompiledGrammar(Place::Helper(session)));
            }
            Some(Reply::Refused(text)) => CompileError::Refused(GrammarError(text)),
            Some(Reply::Hello) => CompileError::Unavailable("it does not keep to its protocol".to_owned()),
            // Nobody waits for it any more.
            None if cancelled.load(Ordering::Relaxed) => CompileError::Busy,
            None if is_late => too_slow(spent),
            None => {
                let message = "takes too much memory, or nests too deeply, to compile: make it simpler";
                // It need not have been the grammar that ended the process.
                return Err(GrammarError(message.to_owned()).into());
            }
        };
        channel.kill();
        if matches!(error, CompileError::Refused(_)) || error == CompileError::TooSlow && spent >= SURELY_TOO_SLOW {
            self.memory().refuse(source.key, error.clone());
        }
        Err(error)
    }

    /// Takes a place for a child.
    fn make_room(&self, cancelled: &AtomicBool) -> Result<ChildPlace, CompileError> {
        let deadline = Instant::now() + ROOM_TIMEOUT;
        loop {
            let one_more = |number| (number < self.options.max_children).then_some(number + 1);
            if self.num_children.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok() {
                return Ok(ChildPlace(Arc::clone(&self.num_children)));
            }
            if !self.memory().forget_idle() {
                if Instant::now() >= deadline || cancelled.load(Ordering::Relaxed) {
                    return Err(CompileError::Busy);
                }
                std::thread::sleep(LOOK);
            }
        }
    }

    fn remember(&self, key: u128, channel: Arc<Channel>) {
        let mut memory = self.memory();
        // Two requests may have compiled the same.
        memory.known.retain(|(known, _)| *known != key);
        memory.known.push_back((key, channel));
        while memory.known.len() > MAX_KNOWN && memory.forget_idle() {}
    }

    /// Starts a child, and the helper where there is none or it died.
    fn start_child(&self, cancelled: &AtomicBool) -> Result<Channel, CompileError> {
        let mut attempts = 0;
        loop {
            let place = self.make_room(cancelled)?;
            let unavailable = |error: io::Error| CompileError::Unavailable(error.to_string());
            let helper = self.helper().map_err(unavailable)?;
            let error = match self.start_child_of(&helper, place, cancelled) {
                Ok(channel) => return Ok(channel),
                Err(error) => error,
            };
            attempts += 1;
            // A helper that lives and has no process to give has none a moment later either.
            if attempts == 2 || cancelled.load(Ordering::Relaxed) || !helper.has_ended() {
                return Err(unavailable(error));
            }
        }
    }

    fn start_child_of(&self, helper: &Arc<Helper>, place: ChildPlace, cancelled: &AtomicBool) -> io::Result<Channel> {
        let (ours, theirs) = UnixStream::pair()?;
        let number = self.next_child.fetch_add(1, Ordering::Relaxed);
        let channel = Channel::new(ours, Arc::clone(helper), number, self.num_ids, place)?;
        let start = Record::new(Kind::Start, number, 0);
        if let Err(error) = wire::send_order(&helper.control, start, Some(theirs.as_fd())) {
            helper.end();
            return Err(error);
        }
        drop(theirs);
        let is_ready = helper.is_ready.load(Ordering::Relaxed);
        let timeout = if is_ready { START_TIMEOUT } else { FIRST_START_TIMEOUT };
        let began = Instant::now();
        if let Some(Reply::Hello) = channel.reply(timeout, cancelled) {
            helper.is_ready.store(true, Ordering::Relaxed);
            return Ok(channel);
        }
        if began.elapsed() >= timeout {
            helper.end();
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not answer"));
        }
        Err(io::Error::other("it could start no process"))
    }

    /// The helper; started where there is none that lives.
    fn helper(&self) -> io::Result<Arc<Helper>> {
        let mut helper = self.helper.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(helper) = helper.as_ref().filter(|helper| !helper.has_ended()) {
            return Ok(Arc::clone(helper));
        }
        if helper.is_some() {
            tracing::warn!("the helper process for grammars ended and is started again");
        }
        let started = Arc::new(Helper::start(&self.options, &self.tokenizer)?);
        *helper = Some(Arc::clone(&started));
        Ok(started)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for GrammarHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GrammarHost({} children)", self.num_children.load(Ordering::Relaxed))
    }
}

/// What a compilation that was ended late is told, by the computing it did.
fn too_slow(spent: Duration) -> CompileError {
    if spent < PERHAPS_TOO_SLOW { CompileError::Busy } else { CompileError::TooSlow }
}

impl Memory {
    fn refuse(&mut self, key: u128, error: CompileError) {
        self.refused.push_back((key, error));
        if self.refused.len() > MAX_REFUSED {
            self.refused.pop_front();
        }
    }

    /// Takes out a grammar. One whose child was ended for its masks is refused from now on: they would hold up all answers
    /// again.
    fn forget(&mut self, index: usize) -> Option<(u128, Arc<Channel>)> {
        let (key, channel) = self.known.remove(index)?;
        if channel.is_too_slow() {
            let message = "takes too long to follow: make it simpler";
            self.refuse(key, GrammarError(message.to_owned()).into());
        }
        Some((key, channel))
    }

    /// Forgets the grammar that was not used for the longest time, of those that no answer follows.
    fn forget_idle(&mut self) -> bool {
        let idle = self.known.iter().position(|(_, channel)| Arc::strong_count(channel) == 1);
        idle.is_some_and(|index| self.forget(index).is_some())
    }
}

/// One of the children that there may be at once.
pub(super) struct ChildPlace(Arc<AtomicUsize>);

#[cfg(test)]
impl ChildPlace {
    /// One of one.
    pub fn only() -> Self {
        Self(Arc::new(AtomicUsize::new(1)))
    }
}

impl Drop for ChildPlace {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The running helper; it ends, with its children, when this is dropped or this process ends.
pub(super) struct Helper {
    control: UnixStream,
    process: Mutex<std::process::Child>,
    is_ready: AtomicBool,
}

impl Helper {
    fn start(options: &HelperOptions, tokenizer: &HelperTokenizer) -> io::Result<Self> {
        let (control, theirs) = UnixStream::pair()?;
        let mut command = Command::new(&options.program);
        // Keys and other secrets of the environment are none of its business.
        command.env_clear().env(ARENA.0, ARENA.1);
        command.envs(std::env::var_os("LD_LIBRARY_PATH").map(|path| ("LD_LIBRARY_PATH", path)));
        // Ctrl-C in a terminal goes to the server's group of processes; masks are needed until it has ended.
        command.arg0("moesaic").arg(options.argument).process_group(0);
        command.stdin(std::os::fd::OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
        let process = Mutex::new(command.spawn()?);
        drop(command);
        let helper = Self { control, process, is_ready: AtomicBool::new(false) };
        helper.control.set_write_timeout(Some(START_TIMEOUT))?;
        let mut control = &helper.control;
        let files = Record::new(Kind::Tokenizer, tokenizer.json.len() as u64, tokenizer.vocab_size as u64);
        control.write_all(&files.to_bytes())?;
        control.write_all(&tokenizer.json)?;
        for (index, id) in tokenizer.eos_token_ids.iter().enumerate() {
            let left = tokenizer.eos_token_ids.len() - 1 - index;
            control.write_all(&Record::new(Kind::EndToken, u64::from(*id), left as u64).to_bytes())?;
        }
        Ok(helper)
    }

    /// One that has no children and starts none.
    #[cfg(test)]
    pub fn idle() -> Self {
        let (control, theirs) = UnixStream::pair().unwrap();
        // It ends with its standard input.
        let process = Command::new("cat").stdin(std::os::fd::OwnedFd::from(theirs)).spawn().unwrap();
        Self { control, process: Mutex::new(process), is_ready: AtomicBool::new(true) }
    }

    /// Ends a child.
    pub fn kill(&self, number: u64) {
        let killed = wire::send_order(&self.control, Record::new(Kind::Kill, number, 0), None);
        if killed.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            // It takes no orders any more. Its children die with it.
            self.end();
        }
    }

    fn process(&self) -> MutexGuard<'_, std::process::Child> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is gone.
    pub fn has_ended(&self) -> bool {
        !matches!(self.process().try_wait(), Ok(None))
    }

    /// Ends the helper and all its children.
    fn end(&self) {
        let mut process = self.process();
        // It may have ended already. Waiting is short after a kill, and leaves nothing behind.
        let _ = process.kill();
        let _ = process.wait();
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::super::channel::tests::broken_channel;
    use super::*;

    fn source(key: u128) -> GrammarSource {
        GrammarSource { text: String::new(), key }
    }

    #[test]
    fn a_busy_machine_is_no_slow_grammar() {
        assert_eq!(too_slow(Duration::ZERO), CompileError::Busy);
        assert_eq!(too_slow(PERHAPS_TOO_SLOW), CompileError::TooSlow);
        assert_eq!(too_slow(COMPILE_TIMEOUT), CompileError::TooSlow);
    }

    #[test]
    fn grammars_whose_masks_took_too_long_are_refused() {
        let options = HelperOptions { program: "none".into(), argument: "", max_children: 1 };
        let tokenizer = HelperTokenizer { json: Cow::Borrowed(b""), vocab_size: 32, eos_token_ids: vec![1] };
        let host = GrammarHost::new(options, tokenizer, 32);
        host.remember(1, broken_channel(true));
        host.remember(2, broken_channel(true));
        host.remember(3, broken_channel(false));
        // In use or given up.
        assert!(host.memory().forget_idle());
        for key in [1, 2, 1] {
            let error = host.recall(&source(key)).unwrap().unwrap_err();
            assert_eq!(error.to_string(), "takes too long to follow: make it simpler");
        }
        assert!(host.recall(&source(3)).is_none());
    }
}
