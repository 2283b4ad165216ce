//! Grammars run in processes of their own: whatever happens to those, the server and all other answers go on.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use serde_json::{Value, json};

use crate::server::{PATIENCE, Server, chat, events, read_some};

const CHAT: &str = "/v1/chat/completions";

fn with(mut body: Value, change: &Value) -> Value {
    body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    body
}

/// An answer under a grammar; each number is another grammar.
fn structured(number: u32) -> Value {
    with(chat("JSON, please"), &json!({"guided_regex": format!("x{number}[a-f]{{2,5}}")}))
}

/// An answer that follows a grammar for thousands of tokens.
fn long_structured() -> Value {
    let text = json!({"type": "string", "minLength": 20000, "maxLength": 30000});
    let schema = json!({"type": "object", "properties": {"text": text}, "required": ["text"]});
    with(chat("Write."), &json!({"guided_json": schema, "max_tokens": 8000, "temperature": 1, "stream": true}))
}

/// An answer of many tokens that follows none.
fn long_free() -> Value {
    with(chat("Tell me a story."), &json!({"max_tokens": 1000, "ignore_eos": true, "stream": true}))
}

/// A process's parent and state; `None` when it is gone.
fn stat(pid: u32) -> Option<(u32, char)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit(')').next()?.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((fields.next()?.parse().ok()?, state))
}

/// The living processes that a process started.
fn children(parent: u32) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| stat(*pid).is_some_and(|(of, state)| of == parent && state != 'Z')).collect()
}

fn num_threads(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

fn helper(server: &Server) -> u32 {
    let helpers = children(server.pid());
    assert_eq!(helpers.len(), 1);
    helpers[0]
}

fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|(_, state)| state != 'Z')
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Does something to the only child, or to the helper, while an answer follows a grammar and another none.
async fn in_the_midst(server: &Server, harm: impl FnOnce(u32, u32)) {
    let before = server.ask(CHAT, chat("What is 2 plus 2?")).await;
    let hurt = server.post(CHAT, &long_structured()).send().await.unwrap();
    let free = server.post(CHAT, &long_free()).send().await.unwrap();
    assert_eq!((hurt.status().as_u16(), free.status().as_u16()), (200, 200));
    let helper = helper(server);
    let child = *children(helper).last().unwrap();
    harm(helper, child);
    let began = Instant::now();
    let (hurt, free) = tokio::join!(events(hurt), events(free));
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    assert!(hurt.last().unwrap()["error"]["message"].is_string(), "{}", hurt.last().unwrap());
    assert_eq!(free.last().unwrap()["choices"][0]["finish_reason"], "length");
    eventually("the child is gone", || !is_alive(child)).await;
    let after = server.ask(CHAT, chat("What is 2 plus 2?")).await;
    assert_eq!(before["choices"], after["choices"]);
    // The same grammar and another one: both are compiled anew.
    let again = server.post(CHAT, &long_structured()).send().await.unwrap();
    assert!(read_some(again, 3000).await >= 3000);
    server.ask(CHAT, structured(1)).await;
}

#[tokio::test]
async fn a_child_that_dies_takes_its_own_answer_only() {
    let server = Server::start(&[]);
    in_the_midst(&server, |_, child| signal(child, Signal::KILL)).await;
}

#[tokio::test]
async fn a_child_that_hangs_ends_within_its_bound() {
    let server = Server::start(&[]);
    in_the_midst(&server, |_, child| signal(child, Signal::STOP)).await;
}

#[tokio::test]
async fn a_helper_that_dies_is_started_again() {
    let server = Server::start(&[]);
    let mut first = 0;
    in_the_midst(&server, |helper, _| {
        first = helper;
        signal(helper, Signal::KILL);
    })
    .await;
    assert_ne!(helper(&server), first);
}

#[tokio::test]
async fn a_helper_that_hangs_is_replaced() {
    let server = Server::start(&[]);
    server.ask(CHAT, structured(1)).await;
    let first = helper(&server);
    signal(first, Signal::STOP);
    // What is known needs no helper.
    server.ask(CHAT, structured(1)).await;
    let began = Instant::now();
    server.ask(CHAT, structured(2)).await;
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert_ne!(helper(&server), first);
    assert!(!is_alive(first));
}

#[tokio::test]
async fn a_child_beyond_its_memory_dies_alone() {
    let server = Server::start(&[]);
    in_the_midst(&server, |_, child| {
        let pid = Pid::from_raw(child as i32);
        let own = prlimit(pid, Resource::As, Rlimit { current: Some(1 << 40), maximum: None }).unwrap();
        assert!(own.current.is_some_and(|bytes| bytes < 2 << 30), "{own:?}");
        // Not a byte more than it has: the next piece of memory that it wants is one too many.
        prlimit(pid, Resource::As, Rlimit { current: Some(1), maximum: None }).unwrap();
    })
    .await;
}

/// Stops the helper's next child while it compiles.
fn stop_next_child(helper: u32) -> tokio::task::JoinHandle<u32> {
    let known = children(helper);
    tokio::task::spawn_blocking(move || {
        loop {
            let mut new = children(helper).into_iter().filter(|child| !known.contains(child));
            // With its second thread it starts on the grammar.
            if let Some(child) = new.find(|child| num_threads(*child) == 2) {
                std::thread::sleep(Duration::from_millis(5));
                signal(child, Signal::STOP);
                return child;
            }
        }
    })
}

/// A grammar that takes long enough to be stopped in the midst.
fn slow_to_compile() -> Value {
    let parts: Vec<String> = (900..1900).map(|n| format!("(((x{{1,{n}}}){{1,1000}}){{1,1000}}) ")).collect();
    with(chat("x"), &json!({"guided_grammar": format!("start: {} x\nx: \"a\"", parts.concat())}))
}

/// A compilation that hangs ends after its time, or with the client that wanted it. One that did not compute does not
/// speak against its grammar.
#[tokio::test]
async fn a_compilation_that_hangs_is_ended() {
    let server = Server::start(&[]);
    server.ask(CHAT, structured(1)).await;
    let helper = helper(&server);
    let body = slow_to_compile();

    let (child, response) = tokio::join!(stop_next_child(helper), server.post(CHAT, &body).send());
    let response = response.unwrap();
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
    eventually("the child is gone", || !is_alive(child.as_ref().copied().unwrap())).await;

    let stopping = stop_next_child(helper);
    let abandoned = tokio::spawn(server.post(CHAT, &body).send());
    let child = stopping.await.unwrap();
    let began = Instant::now();
    abandoned.abort();
    eventually("the child is gone", || !is_alive(child)).await;
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
    server.ask(CHAT, structured(1)).await;
}

/// A helper that ends with a compilation in it is no fault of the grammar's, which is compiled again.
#[tokio::test]
async fn a_compilation_survives_its_helper() {
    let server = Server::start(&[]);
    server.ask(CHAT, structured(1)).await;
    let first = helper(&server);
    let body = with(slow_to_compile(), &json!({"max_tokens": 1}));
    let killed = async {
        stop_next_child(first).await.unwrap();
        signal(first, Signal::KILL);
    };
    let ((), hurt) = tokio::join!(killed, server.post(CHAT, &body).send());
    assert_ne!(helper(&server), first);
    let unhurt = server.post(CHAT, &body).send().await.unwrap();
    let hurt = hurt.unwrap();
    assert_eq!(hurt.status(), unhurt.status());
    let (hurt, unhurt) = (hurt.json::<Value>().await.unwrap(), unhurt.json::<Value>().await.unwrap());
    assert_eq!(hurt["error"], unhurt["error"]);
}

/// The inputs that once ended the server, where the wall in front of the library lets them through and where not.
#[tokio::test]
async fn what_overflows_the_stack_is_refused() {
    let server = Server::start(&[]);
    let free = server.post(CHAT, &long_free()).send().await.unwrap();
    let low: Value = serde_json::from_str(r#"{"type": "integer", "minimum": -1e30, "maximum": -1e25}"#).unwrap();
    let one = json!({"type": "integer", "minimum": i64::MIN, "maximum": i64::MIN});
    for schema in [low, one] {
        let object = json!({"type": "object", "properties": {"x": schema}, "required": ["x"]});
        for change in [
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "t", "schema": object}}}),
            json!({"tools": [{"type": "function", "function": {"name": "f", "parameters": object}}]}),
            json!({"guided_grammar": format!("start: %json {schema}")}),
        ] {
            let response = server.post(CHAT, &with(chat("x"), &change)).send().await.unwrap();
            let status = response.status().as_u16();
            assert!(status == 200 || status == 400, "{status}: {change}");
        }
    }
    assert_eq!(events(free).await.last().unwrap()["choices"][0]["finish_reason"], "length");
    server.ask(CHAT, structured(1)).await;
}

#[tokio::test]
async fn grammars_that_are_known_or_refused_are_not_compiled_again() {
    let server = Server::start(&[]);
    server.ask(CHAT, structured(1)).await;
    let helper = helper(&server);
    let first = children(helper);
    server.ask(CHAT, structured(1)).await;
    assert_eq!((children(helper), first.len()), (first, 1));
    for _ in 0..2 {
        let response = server.post(CHAT, &with(chat("x"), &json!({"guided_regex": "a("}))).send().await.unwrap();
        assert_eq!(response.status(), 400);
    }
    // Many grammars, one after the other: few of them stay.
    for number in 0..40 {
        server.ask(CHAT, structured(number)).await;
    }
    eventually("some are forgotten", || children(helper).len() <= 16).await;
    server.ask(CHAT, structured(1)).await;
}

/// With room for 16 grammars only, those that are in use are not given up for others.
#[tokio::test]
async fn too_many_grammars_at_once_are_refused() {
    let server = Server::start(&["--max-num-seqs", "1"]);
    let mut held = Vec::new();
    for number in 0..16 {
        let body =
            with(structured(number), &json!({"guided_regex": format!("x{number}[a-f]{{9000}}"), "max_tokens": 8000}));
        held.push(tokio::spawn(server.post(CHAT, &body).send()));
    }
    server.ask("/tokenize", json!({"prompt": "x"})).await;
    eventually("all are compiled", || children(server.pid()).first().is_some_and(|pid| children(*pid).len() == 16))
        .await;
    let response = server.post(CHAT, &structured(99)).send().await.unwrap();
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
    held.iter().for_each(tokio::task::JoinHandle::abort);
    let served = async { while server.post(CHAT, &structured(99)).send().await.unwrap().status() != 200 {} };
    tokio::time::timeout(PATIENCE, served).await.unwrap();
}

#[tokio::test]
async fn nothing_is_left_when_the_server_ends() {
    for name in ["TERM", "KILL"] {
        let mut server = Server::start(&[]);
        server.ask(CHAT, structured(1)).await;
        let helper = helper(&server);
        let child = children(helper)[0];
        assert!(children(child).is_empty());
        server.signal(name);
        server.wait().await;
        eventually("the helper and its children are gone", || !is_alive(helper) && !is_alive(child)).await;
    }
}

/// A signal to the whole group, or to all processes of a service: answers in flight still end as they should.
#[tokio::test]
async fn answers_in_flight_keep_their_grammar_while_the_server_drains() {
    let mut server = Server::start(&[]);
    let body = with(structured(1), &json!({"guided_regex": "x[a-f]{900}y", "max_tokens": 2000, "stream": true}));
    let response = server.post(CHAT, &body).send().await.unwrap();
    let helper = helper(&server);
    for pid in [helper, children(helper)[0]] {
        signal(pid, Signal::TERM);
        signal(pid, Signal::INT);
    }
    server.signal("TERM");
    let events = events(response).await;
    assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "stop");
    assert_eq!(server.wait().await.code(), Some(0));
}
