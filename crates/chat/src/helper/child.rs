//! A child of the helper: compiles one grammar, then serves masks to any number of sessions. It may die at any time.

use std::collections::HashMap;
use std::io::{self, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use cpu_time::ProcessTime;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, getpid, getppid, getrlimit, set_parent_process_death_signal, setrlimit,
};

use super::wire::{self, Kind, ROOT, Record};
use crate::grammar_compiler::contradictory;
use crate::matcher::{DUE, LocalMatcher};
use crate::{GrammarCompiler, GrammarError};

/// Compiling recurses as deep as a grammar's rules are chained. Pages that are not used cost nothing; too deep a
/// recursion takes them all before it ends.
const STACK_BYTES: usize = 256 << 20;
/// What a child may take beyond the helper's own memory, its stack included.
const MEMORY_BYTES: u64 = 768 << 20;
/// Where the system does not tell the helper's own: more than that ever is.
const UNKNOWN_BYTES: u64 = 2 << 30;
/// Seconds of computing for one mask: the server has the child killed long before.
const CPU_SECONDS: u64 = 10;
const OOM_SCORE: &str = "800";

/// Serves one grammar, then ends the process.
pub(super) fn run(compiler: &GrammarCompiler, socket: UnixStream, helper: Pid) -> ! {
    let served = limit(helper).and_then(|()| {
        // The helper's end of its socket must close with the helper.
        rustix::stdio::dup2_stdin(&socket)?;
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("grammar".to_owned()).stack_size(STACK_BYTES);
            let served = thread.spawn_scoped(scope, || serve(compiler, &socket))?;
            served.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
        })
    });
    std::process::exit(i32::from(served.is_err()))
}

/// Bounds what this process may take.
fn limit(helper: Pid) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid() != Some(helper) {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    // Where it may not be raised, nothing else changes.
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    let own = pages.map_or(UNKNOWN_BYTES, |pages| pages * rustix::param::page_size() as u64);
    lower(Resource::As, own + MEMORY_BYTES)
}

/// Sets what a resource may be at most from now on; never above what the process was given.
fn lower(resource: Resource, limit: u64) -> io::Result<()> {
    let maximum = getrlimit(resource).maximum;
    let current = maximum.map_or(limit, |maximum| maximum.min(limit));
    Ok(setrlimit(resource, Rlimit { current: Some(current), maximum })?)
}

/// Gives the next piece of work its time.
fn renew_cpu_limit() -> io::Result<()> {
    lower(Resource::Cpu, ProcessTime::now().as_duration().as_secs() + CPU_SECONDS)
}

fn serve(compiler: &GrammarCompiler, mut socket: &UnixStream) -> io::Result<()> {
    let mut requests = BufReader::new(socket);
    let hello = Record::new(Kind::Hello, u64::from(getpid().as_raw_nonzero().get().unsigned_abs()), 0);
    socket.write_all(&hello.to_bytes())?;
    let source = wire::read(&mut requests)?;
    let source = String::from_utf8(wire::read_payload(&mut requests, source.first)?);
    let source = source.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    renew_cpu_limit()?;
    let compiled =
        catch_unwind(AssertUnwindSafe(|| compiler.compile_here(&source))).unwrap_or_else(|_| Err(contradictory()));
    drop(source);
    match compiled {
        Ok(root) => {
            socket.write_all(&Record::new(Kind::Compiled, 0, 0).to_bytes())?;
            answer(root, requests, socket)
        }
        Err(GrammarError(text)) => {
            let header = Record::new(Kind::Refused, text.len() as u64, 0).to_bytes();
            socket.write_all(&[&header, text.as_bytes()].concat())
        }
    }
}

/// Follows the sessions until the server is gone.
fn answer(root: LocalMatcher, mut requests: BufReader<&UnixStream>, mut socket: &UnixStream) -> io::Result<()> {
    let mut sessions = HashMap::from([(ROOT, root)]);
    let mut last_sign = Instant::now();
    loop {
        let was_idle = requests.buffer().is_empty();
        let Record { kind, first, second } = match wire::read(&mut requests) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            request => request?,
        };
        if was_idle {
            // Time in which there was nothing to do is no silence.
            last_sign = Instant::now();
        }
        match kind {
            Kind::Fork => {
                let copy = sessions.get(&first).and_then(|session| quietly(|| session.clone()));
                sessions.extend(copy.map(|copy| (second, copy)));
            }
            Kind::Accept => step(&mut sessions, first, |session| session.accept(second as u32)),
            Kind::Rollback => step(&mut sessions, first, |session| session.rollback(second as usize)),
            Kind::Close => drop(sessions.remove(&first)),
            Kind::Mask => {
                renew_cpu_limit()?;
                let mask = sessions.get_mut(&first).and_then(|session| quietly(|| session.mask()).flatten());
                let words = mask.unwrap_or_default();
                let header = Record::new(Kind::Masked, second, words.len() as u64 * 4).to_bytes();
                let bytes: Vec<u8> = header.into_iter().chain(words.into_iter().flat_map(u32::to_le_bytes)).collect();
                socket.write_all(&bytes)?;
                last_sign = Instant::now();
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
        // Much work, in pieces that end, is no endless loop.
        if last_sign.elapsed() > DUE {
            socket.write_all(&Record::new(Kind::Working, 0, 0).to_bytes())?;
            last_sign = Instant::now();
        }
    }
}

/// Moves a session on; one that panics is over.
fn step(sessions: &mut HashMap<u64, LocalMatcher>, number: u64, work: impl FnOnce(&mut LocalMatcher)) {
    let moved = sessions.get_mut(&number).map(|session| quietly(|| work(session)));
    if moved == Some(None) {
        sessions.remove(&number);
    }
}

fn quietly<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::Arc;

    use super::*;
    use crate::Tokenizer;

    #[test]
    fn a_child_without_work_says_nothing_of_it() {
        let json = moesaic_demo_model::FILES.iter().find(|(name, _)| *name == "tokenizer.json").unwrap().1;
        let tokenizer = Tokenizer::from_files(json, None, 1536).unwrap();
        let root = GrammarCompiler::new(Arc::new(tokenizer), &[1]).unwrap().compile_here("start: \"a\"").unwrap();
        let (mut server, child) = UnixStream::pair().unwrap();
        let answering = std::thread::spawn(move || answer(root, BufReader::new(&child), &child));
        for number in 1..=10 {
            std::thread::sleep(2 * DUE);
            server.write_all(&Record::new(Kind::Fork, ROOT, number).to_bytes()).unwrap();
        }
        server.shutdown(std::net::Shutdown::Write).unwrap();
        answering.join().unwrap().unwrap();
        let mut said = Vec::new();
        server.read_to_end(&mut said).unwrap();
        // On a busy machine some copies take long.
        assert!(said.len() < 10 * wire::RECORD, "{}", said.len());
    }
}
