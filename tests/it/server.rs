//! The real binary as a child process, and requests to it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};

/// Nothing in these tests takes this long unless it hangs.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// The binary beside this test's own build.
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let binary = test.parent().and_then(Path::parent).unwrap().join("moesaic");
    assert!(binary.exists(), "{} is missing: run tests/run, or cargo build --release first", binary.display());
    binary
}

/// Lets a command see the emulated GPU, or, with MOESAIC_TEST_GPU set, the real one.
pub fn on_gpu(command: &mut Command) -> &mut Command {
    if std::env::var_os("MOESAIC_TEST_GPU").is_none() {
        command.env("LD_LIBRARY_PATH", moesaic_cuda_emulator::folder());
    }
    command
}

/// A running server; killed when dropped.
pub struct Server {
    child: Child,
    pub url: String,
    pub ready_line: String,
    /// What was logged before.
    pub log: Vec<String>,
    http: reqwest::Client,
}

impl Server {
    /// Starts `moesaic serve` on a free port and waits until it is ready.
    pub fn start(args: &[&str]) -> Self {
        Self::start_command(Command::new(binary()).args(["serve", "--port", "0"]).args(args))
    }

    /// The same on the first GPU, which is emulated unless MOESAIC_TEST_GPU is set.
    pub fn start_on_gpu(args: &[&str]) -> Self {
        Self::start_command(
            on_gpu(&mut Command::new(binary())).args(["serve", "--port", "0", "--device", "cuda"]).args(args),
        )
    }

    /// Starts a command that serves on a free port.
    pub fn start_command(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                // The test may have ended; the pipe is read on so that the server never blocks.
                let _ = sender.send(line);
            }
        });
        let mut log = Vec::new();
        let ready_line = loop {
            let line = lines.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("{error}; its log: {log:#?}"));
            if line.contains(" ready in ") {
                break line;
            }
            log.push(line);
        };
        let url = ready_line.split(" at ").nth(1).unwrap().split(" | ").next().unwrap().to_owned();
        Self { child, url, ready_line, log, http: reqwest::Client::new() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn get(&self, path: &str) -> RequestBuilder {
        self.http.get(format!("{}{path}", self.url)).timeout(PATIENCE)
    }

    pub fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.http.post(format!("{}{path}", self.url)).json(body).timeout(PATIENCE)
    }

    /// Sends a request that must succeed.
    pub async fn ask(&self, path: &str, body: Value) -> Value {
        let response = self.post(path, &body).send().await.unwrap();
        let status = response.status();
        let answer: Value = response.json().await.unwrap();
        assert_eq!(status, 200, "{body}: {answer}");
        answer
    }

    /// Sends a request that must be streamed, to its end.
    pub async fn stream(&self, path: &str, mut body: Value) -> Vec<Value> {
        body["stream"] = json!(true);
        let response = self.post(path, &body).send().await.unwrap();
        assert_eq!(response.status(), 200, "{body}");
        events(response).await
    }

    /// The value of a metric, summed over its labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").send().await.unwrap().text().await.unwrap();
        let is_sample = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{'));
        text.lines().filter(is_sample).map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// Polls a metric until it has the value, a second at most.
    pub async fn wait_for_metric(&self, name: &str, value: f64) {
        let deadline = Instant::now() + Duration::from_secs(1);
        loop {
            let now = self.metric(name).await;
            if now == value {
                return;
            }
            assert!(Instant::now() < deadline, "{name} is {now} after a second, not {value}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the process to end.
    pub async fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the server does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All events of a stream; asserts that it ends with `[DONE]` and nothing after it.
pub async fn events(response: Response) -> Vec<Value> {
    assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/event-stream"));
    assert_eq!(response.headers()["cache-control"], "no-cache");
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    let text = response.text().await.unwrap();
    let mut data: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(data.pop(), Some("[DONE]"), "{text}");
    data.into_iter().map(|data| serde_json::from_str(data).unwrap()).collect()
}

/// Reads a stream until it has brought this many bytes, and gives the rest up.
pub async fn read_some(response: Response, num_bytes: usize) -> usize {
    let (mut stream, mut seen) = (response.bytes_stream(), 0);
    while seen < num_bytes {
        match stream.next().await {
            Some(part) => seen += part.unwrap().len(),
            None => break,
        }
    }
    seen
}

/// Reads a stream until it has brought this text, and gives the rest up.
pub async fn read_until(response: Response, wanted: &str) -> String {
    let (mut stream, mut seen) = (response.bytes_stream(), String::new());
    while !seen.contains(wanted) {
        let part = tokio::time::timeout(PATIENCE, stream.next()).await.unwrap();
        seen.push_str(std::str::from_utf8(&part.expect("the stream goes on").unwrap()).unwrap());
    }
    seen
}

/// A chat request with one message.
pub fn chat(text: &str) -> Value {
    json!({"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 16})
}

/// Runs the program to its end: exit code, standard output and error.
pub fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(binary()).args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Makes a random checkpoint.
pub fn synth(args: &[&str], out: &Path) {
    let out = out.to_str().unwrap();
    let (code, _, error) = run(&[&["synth", "--out", out], args].concat());
    assert_eq!(code, Some(0), "{error}");
}
