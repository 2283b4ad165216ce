//! The helper: builds the tables that grammars share, then starts and ends a child per grammar. It never runs a grammar
//! itself, and it has one thread, so that it may fork.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, Signal, WaitOptions, getpid, kill_process, setrlimit, waitpid};

use super::child;
use super::sys::{self, Forked};
use super::wire::{self, Kind, Record};
use crate::{GrammarCompiler, Tokenizer};

/// While there are children, the helper looks so often for those that have ended by themselves.
const REAPING: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// The kernel, short of memory, ends the helper before the server, and children before both.
const OOM_SCORE: &str = "300";

/// Serves the program that started this one, over the socket that is its standard input, until that program is gone.
///
/// # Errors
/// When standard input is no such socket, or what comes from it makes no sense.
pub fn run_helper() -> io::Result<()> {
    sys::set_signals();
    // Where it may not be raised, nothing else changes.
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    let mut control = UnixStream::from(rustix::stdio::stdin().try_clone_to_owned()?);
    let compiler = compiler(&mut control)?;
    let mut children: Vec<(u64, Pid)> = Vec::new();
    loop {
        if is_readable(&control, !children.is_empty())? {
            let Some((order, socket)) = wire::receive_order(&control)? else { return Ok(()) };
            match (order.kind, socket) {
                (Kind::Start, Some(socket)) => {
                    let helper = getpid();
                    match sys::fork() {
                        Ok(Forked::Child) => {
                            drop(control);
                            child::run(&compiler, socket.into(), helper);
                        }
                        Ok(Forked::Parent(pid)) => children.push((order.first, pid)),
                        // The server sees the socket's end.
                        Err(_) => {}
                    }
                }
                (Kind::Kill, _) => {
                    if let Some((_, pid)) = children.iter().find(|(number, _)| *number == order.first) {
                        // It may have ended already; its number is its own until it was waited for.
                        let _ = kill_process(*pid, Signal::KILL);
                    }
                }
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
        while let Ok(Some((ended, _))) = waitpid(None, WaitOptions::NOHANG) {
            children.retain(|(_, pid)| *pid != ended);
        }
    }
}

/// Reads the tokenizer and builds the tables.
fn compiler(control: &mut UnixStream) -> io::Result<GrammarCompiler> {
    let invalid = |error: String| io::Error::new(io::ErrorKind::InvalidData, error);
    let expect =
        |record: Record, kind: Kind| if record.kind == kind { Ok(record) } else { Err(invalid(String::new())) };
    let files = expect(wire::read(control)?, Kind::Tokenizer)?;
    let json = wire::read_payload(control, files.first)?;
    let tokenizer = Tokenizer::from_files(&json, None, files.second as usize).map_err(|e| invalid(e.to_string()))?;
    drop(json);
    let mut end_tokens = Vec::new();
    loop {
        let token = expect(wire::read(control)?, Kind::EndToken)?;
        end_tokens.push(token.first as u32);
        if token.second == 0 {
            break;
        }
    }
    GrammarCompiler::new(Arc::new(tokenizer), &end_tokens).map_err(|error| invalid(error.to_string()))
}

/// Waits for an order, or for the next look at the children.
fn is_readable(control: &UnixStream, has_children: bool) -> io::Result<bool> {
    let mut sockets = [PollFd::new(control, PollFlags::IN)];
    match poll(&mut sockets, has_children.then_some(&REAPING)) {
        Ok(number) => Ok(number > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
