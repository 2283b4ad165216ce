//! The server's end of a child: sends without ever waiting, waits for masks within bounds, and has a child killed that
//! does not answer.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::host::{ChildPlace, Helper};
use super::sys;
use super::wire::{Kind, RECORD, ROOT, Record};
use crate::matcher::{DUE, MAX_DELAY};

/// A child that says nothing for so long, while a mask is waited for, is stuck, whatever it computes.
const STUCK: Duration = Duration::from_secs(5);
/// Computing beyond what is due that a child may do for all masks of a step together: every other answer waits for it.
const MAX_STEP_DELAY: Duration = Duration::from_secs(2);
/// How often a child is looked at that has not answered when it was due.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
/// Bytes that may wait for a child; it takes hardly any memory and far more than sessions ever send.
const MAX_OUTBOX: usize = 4 << 20;
/// Longest error of a compilation.
const MAX_TEXT: usize = 64 << 10;
/// What is read at once.
const CHUNK: usize = 64 << 10;

/// What a child answers.
#[derive(Debug)]
pub(super) enum Reply {
    Hello,
    Compiled,
    Refused(String),
}

/// A child of the helper; it is killed when this is dropped.
pub(super) struct Channel {
    socket: UnixStream,
    helper: Arc<Helper>,
    number: u64,
    max_payload: usize,
    pid: AtomicI32,
    next: AtomicU64,
    _place: ChildPlace,
    traffic: Mutex<Traffic>,
}

/// What is on its way.
struct Traffic {
    outbox: Vec<u8>,
    inbox: Vec<u8>,
    replies: Vec<Reply>,
    /// Tickets of masks that are waited for, and the masks that have come.
    masks: HashMap<u64, Option<Vec<u32>>>,
    /// When the child last said something, and the computing it had done when it was first found late since.
    last_reply: Instant,
    late_since: Option<Duration>,
    /// The same for the masks of a step together, of which each is allowed its due.
    step_late_since: Option<Duration>,
    is_broken: bool,
    /// Whether it was ended because it computed for too long.
    is_too_slow: bool,
}

impl Channel {
    /// For a child that the helper is told to start.
    pub fn new(
        socket: UnixStream,
        helper: Arc<Helper>,
        number: u64,
        num_ids: usize,
        place: ChildPlace,
    ) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let traffic = Traffic {
            outbox: Vec::new(),
            inbox: Vec::new(),
            replies: Vec::new(),
            masks: HashMap::new(),
            last_reply: Instant::now(),
            late_since: None,
            step_late_since: None,
            is_broken: false,
            is_too_slow: false,
        };
        Ok(Self {
            socket,
            helper,
            number,
            max_payload: MAX_TEXT.max(num_ids.div_ceil(32) * 4),
            pid: AtomicI32::new(0),
            next: AtomicU64::new(ROOT + 1),
            _place: place,
            traffic: Mutex::new(traffic),
        })
    }

    /// Whether the child can be used no more.
    pub fn is_broken(&self) -> bool {
        let mut traffic = self.lock();
        self.exchange(&mut traffic);
        traffic.is_broken
    }

    /// Whether the child was ended because masks took too much computing, which they would again.
    pub fn is_too_slow(&self) -> bool {
        self.lock().is_too_slow
    }

    /// Ends the child, at once and for all its sessions.
    pub fn kill(&self) {
        self.lock().is_broken = true;
        // It may be gone already.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        self.helper.kill(self.number);
    }

    /// Whether the helper ended, and the child with it.
    pub fn has_lost_helper(&self) -> bool {
        self.helper.has_ended()
    }

    /// Time of computing that the child has used.
    pub fn cpu_time(&self) -> Option<Duration> {
        let pid = self.pid.load(Ordering::Relaxed);
        if pid == 0 { None } else { sys::cpu_time(pid) }
    }

    /// Sends a record and what follows it, as far as the child takes them now.
    pub fn send(&self, record: Record, payload: &[u8]) {
        let mut traffic = self.lock();
        traffic.push(record);
        traffic.outbox.extend_from_slice(payload);
        self.exchange(&mut traffic);
    }

    /// Has the child copy a session; returns the copy's number.
    fn fork(&self, of: u64, traffic: &mut Traffic) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        traffic.push(Record::new(Kind::Fork, of, number));
        number
    }

    /// Waits for what the child says next about its compilation. `None` when the time is over, the wait was `cancelled`
    /// or the child is gone.
    pub fn reply(&self, timeout: Duration, cancelled: &AtomicBool) -> Option<Reply> {
        let deadline = Instant::now() + timeout;
        loop {
            let mut traffic = self.lock();
            self.exchange(&mut traffic);
            if !traffic.replies.is_empty() {
                return Some(traffic.replies.remove(0));
            }
            if traffic.is_broken || cancelled.load(Ordering::Relaxed) || Instant::now() >= deadline {
                return None;
            }
            self.sleep(traffic);
        }
    }

    /// Waits for a mask.
    fn mask(&self, ask: Ask) -> Option<Vec<u32>> {
        loop {
            let mut traffic = self.lock();
            self.exchange(&mut traffic);
            match traffic.masks.get_mut(&ask.ticket).map(Option::take) {
                Some(None) if !traffic.is_broken => {}
                mask => {
                    traffic.masks.remove(&ask.ticket);
                    return mask.flatten().filter(|words| !words.is_empty());
                }
            }
            let silent_since = traffic.last_reply.max(ask.at);
            if silent_since.elapsed() > DUE && self.is_stuck(&mut traffic, silent_since) {
                traffic.is_broken = true;
                drop(traffic);
                tracing::warn!(child = self.pid.load(Ordering::Relaxed), "a grammar took too long and was ended");
                self.kill();
                continue;
            }
            self.sleep(traffic);
        }
    }

    /// Only time of computing counts, and long silence: a busy machine must not end an answer.
    fn is_stuck(&self, traffic: &mut Traffic, silent_since: Instant) -> bool {
        let Some(now) = self.cpu_time() else { return silent_since.elapsed() > STUCK };
        let late_since = *traffic.late_since.get_or_insert(now);
        let step_late_since = *traffic.step_late_since.get_or_insert(now);
        traffic.is_too_slow |=
            now.saturating_sub(late_since) > MAX_DELAY || now.saturating_sub(step_late_since) > MAX_STEP_DELAY;
        traffic.is_too_slow || silent_since.elapsed() > STUCK
    }

    /// Waits until the child has said or may take something, not long.
    fn sleep(&self, traffic: MutexGuard<'_, Traffic>) {
        let mut events = PollFlags::IN;
        events.set(PollFlags::OUT, !traffic.outbox.is_empty());
        drop(traffic);
        // Whatever goes wrong here shows in the next exchange.
        let _ = poll(&mut [PollFd::new(&self.socket, events)], Some(&LOOK));
    }

    fn lock(&self) -> MutexGuard<'_, Traffic> {
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends and receives what can be without waiting.
    fn exchange(&self, traffic: &mut Traffic) {
        if traffic.is_broken {
            return;
        }
        let sent = write_some(&self.socket, &mut traffic.outbox);
        let received = read_some(&self.socket, &mut traffic.inbox);
        traffic.take_replies(self.max_payload, &self.pid);
        // What it said before it went counts.
        traffic.is_broken |= sent.is_err() || received.is_err() || traffic.outbox.len() > MAX_OUTBOX;
    }
}

impl Traffic {
    fn push(&mut self, record: Record) {
        if !self.is_broken {
            self.outbox.extend_from_slice(&record.to_bytes());
        }
    }

    /// Takes whole replies from what has come.
    fn take_replies(&mut self, max_payload: usize, pid: &AtomicI32) {
        let mut taken = 0;
        while let Some(header) = self.inbox[taken..].first_chunk::<RECORD>() {
            let Some(record) = Record::from_bytes(*header) else {
                self.is_broken = true;
                return;
            };
            let length = match record.kind {
                Kind::Refused => record.first,
                Kind::Masked => record.second,
                _ => 0,
            };
            if length > max_payload as u64 {
                self.is_broken = true;
                return;
            }
            let Some(payload) = self.inbox.get(taken + RECORD..taken + RECORD + length as usize) else { break };
            match record.kind {
                Kind::Hello => {
                    pid.store(record.first as i32, Ordering::Relaxed);
                    self.replies.push(Reply::Hello);
                }
                Kind::Working => {}
                Kind::Compiled => self.replies.push(Reply::Compiled),
                Kind::Refused => self.replies.push(Reply::Refused(String::from_utf8_lossy(payload).into_owned())),
                Kind::Masked => {
                    self.step_late_since = self.step_late_since.map(|since| since + DUE);
                    // One that nobody waits for any more is dropped.
                    if let Some(mask) = self.masks.get_mut(&record.first) {
                        let words = payload.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
                        *mask = Some(words.collect());
                    }
                }
                _ => self.is_broken = true,
            }
            taken += RECORD + length as usize;
            (self.last_reply, self.late_since) = (Instant::now(), None);
        }
        self.inbox.drain(..taken);
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.helper.kill(self.number);
    }
}

/// Writes what fits.
fn write_some(mut socket: &UnixStream, outbox: &mut Vec<u8>) -> io::Result<()> {
    let mut written = 0;
    let result = loop {
        if written == outbox.len() {
            break Ok(());
        }
        match socket.write(&outbox[written..]) {
            Ok(number) => written += number,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Err(error),
        }
    };
    outbox.drain(..written);
    result
}

/// Reads what is there.
fn read_some(mut socket: &UnixStream, inbox: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let before = inbox.len();
        inbox.resize(before + CHUNK, 0);
        let read = socket.read(&mut inbox[before..]);
        inbox.truncate(before + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            // The rest, if any, is read next time.
            Ok(number) if number < CHUNK => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A mask that was asked for.
#[derive(Debug, Clone, Copy)]
struct Ask {
    ticket: u64,
    at: Instant,
}

/// One answer's place in a child's grammar; a clone goes on from there by itself.
///
/// The child knows nothing of it before its first move: requests that wait cost the child no memory, however many there
/// are. The sequences that run bound the sessions that are open.
pub(crate) struct Session {
    channel: Arc<Channel>,
    /// Its number in the child; `None` at the beginning of the grammar, which a session can be opened from at any time.
    number: Option<u64>,
    asked: Option<Ask>,
}

impl Session {
    /// A session at the beginning of the grammar.
    pub(super) fn new(channel: Arc<Channel>) -> Self {
        Self { channel, number: None, asked: None }
    }

    /// Its number in the child, which has it from now on.
    fn open(&mut self, traffic: &mut Traffic) -> u64 {
        *self.number.get_or_insert_with(|| self.channel.fork(ROOT, traffic))
    }

    /// Asks for the next mask, without waiting for it.
    pub fn ask(&mut self) {
        if self.asked.is_none() {
            let channel = Arc::clone(&self.channel);
            let ask = Ask { ticket: channel.next.fetch_add(1, Ordering::Relaxed), at: Instant::now() };
            let mut traffic = channel.lock();
            let number = self.open(&mut traffic);
            // A step's masks are asked for together: one that waits for no others is the first.
            if traffic.masks.values().all(Option::is_some) {
                traffic.step_late_since = None;
            }
            traffic.masks.insert(ask.ticket, None);
            traffic.push(Record::new(Kind::Mask, number, ask.ticket));
            channel.exchange(&mut traffic);
            self.asked = Some(ask);
        }
    }

    /// The next mask; `None` in a dead end, which the child's end is, too.
    pub fn mask(&mut self) -> Option<Vec<u32>> {
        self.ask();
        self.channel.mask(self.asked.take()?)
    }

    /// Moves on by one token.
    pub fn accept(&mut self, token_id: u32) {
        self.tell(Kind::Accept, token_id.into());
    }

    /// Takes back the last `count` tokens.
    pub fn rollback(&mut self, count: usize) {
        self.tell(Kind::Rollback, count as u64);
    }

    /// Queues what goes out with the next mask that is asked for: the engine's thread sends nothing.
    fn tell(&mut self, kind: Kind, second: u64) {
        let channel = Arc::clone(&self.channel);
        let mut traffic = channel.lock();
        if let Some(ask) = self.asked.take() {
            traffic.masks.remove(&ask.ticket);
        }
        let number = self.open(&mut traffic);
        traffic.push(Record::new(kind, number, second));
    }
}

impl Clone for Session {
    fn clone(&self) -> Self {
        let channel = Arc::clone(&self.channel);
        // One that is open may move or end before its copy does, so the child copies it now.
        let number = self.number.map(|number| channel.fork(number, &mut channel.lock()));
        Self { channel, number, asked: None }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.number.is_some() {
            self.tell(Kind::Close, 0);
            let mut traffic = self.channel.lock();
            self.channel.exchange(&mut traffic);
        }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({:?})", self.number)
    }
}

#[cfg(test)]
pub(super) mod tests;
