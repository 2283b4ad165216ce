//! As operators run it: connections that do nothing, that go, that never read; leaving, reloading, logs that cannot be
//! written.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::server::{Server, binary, run};

const PATIENCE: Duration = Duration::from_mins(1);

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.url.trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn post(body: &Value, headers: &str) -> Vec<u8> {
    let body = body.to_string();
    let length = body.len();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
    format!("{head}content-length: {length}\r\n{headers}\r\n{body}").into_bytes()
}

fn long(max_tokens: usize) -> Value {
    json!({"messages": [{"role": "user", "content": "Go on."}], "max_tokens": max_tokens, "ignore_eos": true, "stream": true})
}

/// All that comes until the server closes.
fn rest(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    match stream.read_to_end(&mut text) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{error}: {}", String::from_utf8_lossy(&text)),
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Sends bytes on a connection of their own, to its end.
fn exchange(server: &Server, bytes: &[u8]) -> String {
    let mut stream = connect(server);
    stream.write_all(bytes).unwrap();
    rest(stream)
}

fn get(server: &Server, path: &str) -> String {
    exchange(server, format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())
}

/// Waits for something to become so.
fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn process_metric(server: &Server, name: &str) -> f64 {
    let text = get(server, "/metrics");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} is not in {text}")).parse().unwrap()
}

#[test]
fn connections_that_do_nothing_are_closed() {
    let server = Server::start(&["--header-timeout-seconds", "1", "--idle-timeout-seconds", "2"]);
    let started = Instant::now();
    let mut half = connect(&server);
    half.write_all(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n").unwrap();
    let mut kept = connect(&server);
    kept.write_all(b"GET /live HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let silent = connect(&server);
    // A request that takes longer than both is none of these.
    let answer = std::thread::scope(|scope| {
        let answer = scope.spawn(|| exchange(&server, &post(&long(2500), "connection: close\r\n")));
        assert_eq!(rest(half), "");
        assert!(started.elapsed() >= Duration::from_secs(1));
        assert!(rest(kept).starts_with("HTTP/1.1 200"));
        assert_eq!(rest(silent), "");
        assert!(started.elapsed() >= Duration::from_secs(2));
        answer.join().unwrap()
    });
    assert!(answer.contains("data: [DONE]"), "{}", &answer[answer.len().saturating_sub(300)..]);
}

#[test]
fn a_client_that_left_is_seen_behind_what_it_sent() {
    let server = Server::start(&[]);
    for more in ["", "\r\n", "GET /live HTTP/1.1\r\nhost: x\r\n\r\n"] {
        let mut stream = connect(&server);
        stream.write_all(&[post(&long(60_000), ""), more.as_bytes().to_vec()].concat()).unwrap();
        wait_for("the request runs", || {
            get(&server, "/metrics").contains("num_requests_running{model_name=\"moesaic-demo\"} 1")
        });
        drop(stream);
        wait_for("it ends", || {
            get(&server, "/metrics").contains("num_requests_running{model_name=\"moesaic-demo\"} 0")
        });
    }
}

#[test]
fn streams_that_nobody_reads_give_their_places_back() {
    let server = Server::start(&[
        "--max-num-seqs",
        "2",
        "--max-queued-requests",
        "0",
        "--write-timeout-seconds",
        "2",
        "--max-model-len",
        "4096",
    ]);
    let mut body = long(3000);
    (body["logprobs"], body["top_logprobs"]) = (json!(true), json!(20));
    let streams: Vec<TcpStream> = (0..2)
        .map(|_| {
            let mut stream = connect(&server);
            stream.write_all(&post(&body, "")).unwrap();
            stream
        })
        .collect();
    let small =
        post(&json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}), "connection: close\r\n");
    let both_run = "num_requests_running{model_name=\"moesaic-demo\"} 2";
    wait_for("both are taken", || get(&server, "/metrics").contains(both_run));
    assert!(exchange(&server, &small).starts_with("HTTP/1.1 429"));
    wait_for("places come back", || exchange(&server, &small).starts_with("HTTP/1.1 200"));
    // And their connections, though they are still open at the other end.
    wait_for("nothing is left", || process_metric(&server, "moesaic_answers") == 1.0);
    assert_eq!(process_metric(&server, "moesaic_connections"), 1.0);
    drop(streams);
}

#[test]
fn connections_are_bounded_and_refused_in_words() {
    let server = Server::start(&["--max-connections", "4"]);
    let held: Vec<TcpStream> = (0..4).map(|_| connect(&server)).collect();
    let refused = get(&server, "/health");
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("server_overloaded"), "{refused}");
    assert!(refused.contains("retry-after: 1") && refused.contains("connection: close"), "{refused}");
    drop(held);
    wait_for("there is room again", || get(&server, "/health").starts_with("HTTP/1.1 200"));
    assert!(process_metric(&server, "moesaic_refused_connections_total") >= 1.0);
}

#[test]
fn heads_are_checked() {
    let server = Server::start(&[]);
    let with =
        |lines: &str| exchange(&server, format!("GET /live HTTP/1.1\r\nconnection: close\r\n{lines}\r\n").as_bytes());
    assert!(with("host: x\r\n").starts_with("HTTP/1.1 200"));
    for hosts in ["", "host: x\r\nhost: y\r\n", "host: x\r\nhost: x\r\n"] {
        let answer = with(hosts);
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("one Host header"), "{hosts:?}: {answer}");
    }
    for (bytes, status) in [(60_000, "200"), (70_000, "431")] {
        let answer = with(&format!("host: x\r\nx-long: {}\r\n", "a".repeat(bytes)));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{bytes}: {answer}");
        assert!(status == "200" || answer.contains("\"code\":\"request_too_large\""), "{answer}");
    }
    assert!(with(&format!("host: x\r\nx-long: {}\r\n", "a".repeat(300_000))).starts_with("HTTP/1.1 431"));
}

/// Told to go, it says so at once, takes what still comes for a while, finishes it, and tells connections to close.
#[test]
fn leaving_loses_nothing() {
    let mut server = Server::start(&["--drain-delay-seconds", "2"]);
    let mut kept = connect(&server);
    let alive = b"GET /live HTTP/1.1\r\nhost: x\r\n\r\n";
    kept.write_all(alive).unwrap();
    let mut head = [0; 1024];
    let length = kept.read(&mut head).unwrap();
    assert!(!String::from_utf8_lossy(&head[..length]).contains("connection: close"));
    server.signal("TERM");
    wait_for("it says no", || get(&server, "/ready").starts_with("HTTP/1.1 503"));
    assert!(get(&server, "/health").contains("server_shutting_down"));
    let answer = exchange(&server, &post(&long(20), ""));
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
    assert!(answer.contains("data: [DONE]"), "{answer}");
    kept.write_all(alive).unwrap();
    let last = rest(kept);
    assert!(last.starts_with("HTTP/1.1 200") && last.contains("connection: close"), "{last}");
    let mut late = connect(&server);
    late.write_all(&post(&long(3000), "")).unwrap();
    assert!(rest(late).contains("data: [DONE]"), "what began in time ends");
    let status = tokio::runtime::Runtime::new().unwrap().block_on(server.wait());
    assert!(status.success(), "{status}");
}

#[test]
fn a_second_signal_ends_the_wait() {
    let mut server = Server::start(&["--drain-delay-seconds", "60", "--shutdown-grace-seconds", "60"]);
    let mut stream = connect(&server);
    stream.write_all(&post(&long(60_000), "")).unwrap();
    stream.read_exact(&mut [0; 16]).unwrap();
    server.signal("TERM");
    wait_for("it leaves", || get(&server, "/ready").starts_with("HTTP/1.1 503"));
    let told = Instant::now();
    server.signal("TERM");
    assert!(rest(stream).contains("server_shutting_down"), "the stream says why");
    let status = tokio::runtime::Runtime::new().unwrap().block_on(server.wait());
    assert!(status.success() && told.elapsed() < Duration::from_secs(10), "{status} after {:?}", told.elapsed());
}

#[test]
fn keys_are_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    std::fs::write(&file, "# of the team\none # Ann\n").unwrap();
    let server = Server::start(&["--api-key-file", file.to_str().unwrap(), "--api-key", "always"]);
    let opens = |key: &str| {
        let request =
            format!("GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {key}\r\n\r\n");
        exchange(&server, request.as_bytes()).starts_with("HTTP/1.1 200")
    };
    assert!(opens("one") && opens("always") && !opens("two") && !opens("# of the team"));
    std::fs::write(&file, "two\n").unwrap();
    server.signal("HUP");
    wait_for("the new key counts", || opens("two"));
    assert!(!opens("one") && opens("always"));
    // An empty file opens nothing to nobody.
    std::fs::write(&file, "# none\n").unwrap();
    server.signal("HUP");
    std::thread::sleep(Duration::from_millis(300));
    assert!(opens("two") && !opens("one") && !get(&server, "/v1/models").starts_with("HTTP/1.1 200"));
    // As mounted secrets change: another file in its place, and no signal.
    let next = folder.path().join("next");
    std::fs::write(&next, "three\n").unwrap();
    std::fs::rename(&next, &file).unwrap();
    wait_for("the file's key counts", || opens("three"));
    assert!(!opens("two"));
}

/// A server whose log goes to `log`, when it answers.
fn start_logging_to(log: Stdio, args: &[&str]) -> (std::process::Child, SocketAddr) {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let child =
        Command::new(binary()).args(["serve", "--port", &free.to_string()]).args(args).stderr(log).spawn().unwrap();
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), free);
    wait_for("it is ready", || health(address).is_some_and(|answer| answer.starts_with("HTTP/1.1 200")));
    (child, address)
}

fn health(address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(4))).unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

#[test]
fn logs_that_cannot_be_written_harm_nothing() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let (reader, stuck) = std::io::pipe().unwrap();
    let (gone, broken) = std::io::pipe().unwrap();
    drop(gone);
    for (log, what) in [(Stdio::from(full), "full"), (Stdio::from(broken), "broken"), (Stdio::from(stuck), "stuck")] {
        let (mut child, address) = start_logging_to(log, &["--log-level", "debug"]);
        // More lines than a pipe holds, and than wait to be written.
        let many = if what == "stuck" { 9500 } else { 100 };
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        for _ in 0..many {
            stream.write_all(b"GET /live HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
            assert!(stream.read(&mut [0; 1024]).unwrap() > 0, "{what}");
        }
        assert!(health(address).is_some_and(|answer| answer.starts_with("HTTP/1.1 200")), "{what}");
        let told = Instant::now();
        let status = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
        assert!(status.success());
        let status = child.wait().unwrap();
        assert!(status.success() && told.elapsed() < Duration::from_secs(10), "{what}: {status}");
    }
    drop(reader);
}

#[test]
fn variables_that_are_no_settings() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("moesaic.toml");
    std::fs::write(&file, "port = 0\nlog_level = \"info\"\n").unwrap();
    let mut command = Command::new(binary());
    command.arg("serve").env("MOESAIC_CONFIG", &file).env("MOESAIC_PORT", "tcp://10.0.0.1:8000");
    command.env("MOESAIC_SERVICE_HOST", "10.0.0.1").env("MOESAIC_MAX_NUM_SEQ", "4");
    let server = Server::start_command(&mut command);
    let said = |text: &str| server.log.iter().any(|line| line.contains(text));
    assert!(said("MOESAIC_PORT is passed over") && said("MOESAIC_MAX_NUM_SEQ is no setting"), "{:?}", server.log);
    assert!(!said("SERVICE_HOST") && !server.ready_line.contains(":8000"), "{:?}", server.log);

    // `moesaic health` looks where the server is told to be.
    let port = server.url.rsplit(':').next().unwrap();
    std::fs::write(&file, format!("port = {port}\nhost = \"0.0.0.0\"\n")).unwrap();
    let (code, _, error) = run(&["health", "--config", file.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{error}");
    let (code, _, error) = run(&["health", "--config", file.to_str().unwrap(), "--port", "1"]);
    assert!(code == Some(1) && error.contains("127.0.0.1:1"), "{error}");
}

#[test]
fn every_request_has_a_line_without_its_words() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let log = std::fs::File::create(&path).unwrap();
    let (mut child, address) = start_logging_to(log.into(), &["--log", "json", "--api-key", "sesame"]);
    let send = |bytes: Vec<u8>| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&bytes).unwrap();
        rest(stream)
    };
    let ask = |headers: &str| {
        let body = json!({"messages": [{"role": "user", "content": "Tell me of Zanzibar, of its towns and spices, its ships and its sultans, and of all that a traveller may see there."}], "max_tokens": 5, "ignore_eos": true});
        send(post(&body, &format!("connection: close\r\n{headers}")))
    };
    for _ in 0..2 {
        assert!(ask("authorization: Bearer sesame\r\nx-request-id: first-1\r\n").starts_with("HTTP/1.1 200"));
    }
    assert!(ask("authorization: Bearer other\r\nx-request-id: second-2\r\n").starts_with("HTTP/1.1 401"));
    let mut gone = TcpStream::connect(address).unwrap();
    gone.write_all(&post(&long(60_000), "authorization: Bearer sesame\r\nx-request-id: third-3\r\n")).unwrap();
    gone.read_exact(&mut [0; 16]).unwrap();
    drop(gone);
    let path_length = "/v1/models/".len() + 5000;
    let long_path = format!("GET /v1/models/{} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "a".repeat(5000));
    assert!(send(long_path.into_bytes()).starts_with("HTTP/1.1 401"));
    let lines = || -> Vec<Value> {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["message"] == "answered").collect()
    };
    wait_for("all are logged", || lines().len() >= 5);
    let mut lines = lines();
    assert_eq!(lines.len(), 5, "probes are not told of: {lines:?}");
    // Whose client has gone may be told of before or after it.
    let long = lines.iter().position(|line| line["method"] == "GET").unwrap();
    let told = lines.remove(long)["path"].as_str().unwrap().len();
    assert!(told < path_length / 10, "{told}");
    for (line, id, status, reason) in [
        (&lines[1], "first-1", 200, json!("length")),
        (&lines[2], "second-2", 401, Value::Null),
        (&lines[3], "third-3", 200, json!("abort")),
    ] {
        assert_eq!((&line["request_id"], &line["status"]), (&json!(id), &json!(status)), "{line}");
        assert_eq!((&line["finish_reason"], &line["path"]), (&reason, &json!("/v1/chat/completions")), "{line}");
        assert!(line["total_ms"].is_number() && (line["client"].is_string() == (status == 200)), "{line}");
    }
    let second = &lines[1];
    assert_eq!(second["output_tokens"], 5, "{second}");
    assert!(
        second["cached_tokens"].as_u64() > Some(0)
            && second["prompt_tokens"].as_u64() > second["cached_tokens"].as_u64()
    );
    assert!(
        second["queue_ms"].is_number() && second["first_token_ms"].as_f64() <= second["total_ms"].as_f64(),
        "{second}"
    );
    child.kill().unwrap();
    child.wait().unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("Zanzibar") && !text.contains("sesame"), "{text}");
}

/// An answer that comes before the body is read is not lost with the bytes that nobody reads.
#[test]
fn bodies_that_are_too_large_are_told_so() {
    let server = Server::start(&["--max-body-bytes", "1000000"]);
    let body = vec![b' '; 9_000_000];
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9000000\r\n\r\n";
    for _ in 0..40 {
        let mut stream = connect(&server);
        stream.write_all(head.as_bytes()).unwrap();
        // Who is not listened to any more may fail to send the rest.
        let _ = stream.write_all(&body);
        let answer = rest(stream);
        assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("request_too_large"), "{answer:?}");
    }
}
