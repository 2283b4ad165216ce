//! Starting, stopping and refusing to start.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::server::{Server, binary, chat, run, synth};
use crate::support::golden_dir;

#[tokio::test]
async fn up_in_a_second_and_small() {
    let start = || {
        let started = Instant::now();
        let server = Server::start(&[]);
        (started.elapsed(), server)
    };
    // The best of three: other tests run on the same cores.
    let (elapsed, server) = (0..3).map(|_| start()).min_by_key(|(elapsed, _)| *elapsed).unwrap();
    assert!(elapsed < Duration::from_secs(1), "ready after {elapsed:?}");
    for part in ["http://127.0.0.1:", "model moesaic-demo", "context 65536", "KV 69904 tokens", "bf16", "curl "] {
        assert!(server.ready_line.contains(part), "{part:?} is not in {:?}", server.ready_line);
    }
    server.ask("/v1/chat/completions", chat("hello")).await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse().unwrap();
    assert!(kilobytes < 120_000, "{kilobytes} kB are resident");
}

/// The embedded model's cache holds its longest sequence in any type.
#[test]
fn the_embedded_context_is_whole_in_f32() {
    let server = Server::start(&["--dtype", "f32"]);
    assert!(server.ready_line.contains("context 65536"), "{}", server.ready_line);
}

/// Beyond what the model's config says: refused unless allowed, and then said.
#[tokio::test]
async fn longer_than_the_model_by_permission() {
    let model = golden_dir("deepseek_v3_yarn");
    let args = ["--model", model.to_str().unwrap(), "--max-model-len", "512"];
    let (code, _, error) = run(&[&["serve", "--port", "0"], &args[..]].concat());
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("at most 256 tokens") && error.contains("--allow-long-max-model-len"), "{error}");
    let server = Server::start(&[&args[..], &["--allow-long-max-model-len"]].concat());
    assert!(server.log.iter().any(|line| line.contains("WARN") && line.contains("at most 256")), "{:?}", server.log);
    let body = json!({"prompt": vec![5; 400], "max_tokens": 100, "ignore_eos": true});
    let answer = server.ask("/v1/completions", body).await;
    assert_eq!(answer["usage"]["total_tokens"], 500, "{answer}");
    let within = Server::start(&["--model", args[1], "--allow-long-max-model-len=true"]);
    assert!(!within.log.iter().any(|line| line.contains("WARN") && line.contains("at most")), "{:?}", within.log);
    assert!(within.ready_line.contains("context 256"), "{}", within.ready_line);
}

/// Open to the network without a key: allowed, but said.
#[test]
fn an_open_server_says_so() {
    let open = Server::start(&["--host", "0.0.0.0"]);
    assert!(open.log.iter().any(|line| line.contains("WARN") && line.contains("without an API key")), "{:?}", open.log);
    assert!(open.url.starts_with("http://127.0.0.1:"), "{}", open.url);
    let closed = Server::start(&["--host", "0.0.0.0", "--api-key", "k"]);
    assert!(!closed.log.iter().any(|line| line.contains("WARN")), "{:?}", closed.log);
}

/// SIGTERM: not ready any more, the stream in flight ends as if nothing had happened, exit code 0.
#[tokio::test]
async fn requests_in_flight_finish_before_the_end() {
    let mut server = Server::start(&[]);
    let mut body = chat("a story");
    (body["max_tokens"], body["ignore_eos"]) = (json!(1000), json!(true));
    body["stream"] = json!(true);
    let response = server.post("/v1/chat/completions", &body).send().await.unwrap();
    server.signal("TERM");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let refused = server.post("/v1/chat/completions", &chat("hi")).send().await.unwrap();
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(server.get("/ready").send().await.unwrap().status(), 503);
    assert_eq!(server.get("/live").send().await.unwrap().status(), 200);
    let events = crate::server::events(response).await;
    assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "length");
    assert_eq!(server.wait().await.code(), Some(0));
}

/// Loading takes a while; stopping does not.
#[test]
fn stopping_while_loading() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    synth(&["--preset", "v2-lite", "--layers", "2", "--vocab", "1000"], &model);
    let mut child = std::process::Command::new(crate::server::binary())
        .args(["serve", "--port", "0", "--model", model.to_str().unwrap()])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let started = Instant::now();
    std::process::Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

/// What does not finish in time ends with an error event, never with silence.
#[tokio::test]
async fn the_grace_period_ends() {
    let mut server = Server::start(&["--shutdown-grace-seconds", "0"]);
    let mut body = chat("a story");
    body["max_tokens"] = json!(8000);
    // Far more work than a busy machine needs to deliver a signal.
    body["n"] = json!(16);
    body["stream"] = json!(true);
    let response = server.post("/v1/chat/completions", &body).send().await.unwrap();
    server.signal("TERM");
    let events = crate::server::events(response).await;
    assert_eq!(events.last().unwrap()["error"]["code"], "server_shutting_down");
    assert_eq!(server.wait().await.code(), Some(0));
}

#[test]
fn wrong_starts_say_why() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.toml");
    std::fs::write(&file, "\n\nprot = 8000\n").unwrap();
    let file = file.to_str().unwrap();
    let check = |args: &[&str], code: i32, parts: &[&str]| {
        let (got, out, error) = run(args);
        assert_eq!(got, Some(code), "{args:?}: {out}{error}");
        for part in parts {
            assert!(error.contains(part) || out.contains(part), "{args:?}: {part:?} is not in {error:?}");
        }
    };
    check(&["serve", "--port", &port], 1, &[&port, "in use", "--port"]);
    check(&["serve", "--config", file], 2, &["bad.toml", "line 3", "prot"]);
    check(&["config", "check", file], 2, &["line 3", "prot"]);
    check(&["serve", "--config", "/nowhere.toml"], 2, &["/nowhere.toml"]);
    check(&["serve", "--max-num-seqs", "0"], 2, &["max_num_seqs"]);
    check(&["serve", "--dtype", "f16"], 2, &["f16", "bf16"]);
    check(&["serve", "--nonsense"], 2, &["--nonsense"]);
    check(&["serve", "--port", "0", "--model", "/nowhere"], 1, &["/nowhere", "no such folder"]);
    check(&["serve", "--port", "0", "--max-model-len", "70000"], 1, &["70000", "65536", "--allow-long-max-model-len"]);
    check(&["serve", "--port", "0", "--max-model-len", "65536", "--kv-cache-memory", "1MB"], 1, &["kv_cache_memory"]);
    check(
        &["config", "check", "config/default.toml"],
        if Path::new("config/default.toml").exists() { 0 } else { 2 },
        &[],
    );
    check(&["version"], 0, &["moesaic 0."]);
    check(&["--help"], 0, &["serve", "bench", "synth", "--model", "127.0.0.1:8000"]);
}

/// Broken and hostile checkpoints refuse to start and name the file and the tensor.
#[test]
fn broken_checkpoints_refuse_to_start() {
    let read = |name: &str| std::fs::read(golden_dir("deepseek_v3_yarn").join(name)).unwrap();
    let (config, weights) = (read("config.json"), read("model.safetensors"));
    let config_with = |from: &str, to: &str| {
        let text = String::from_utf8(config.clone()).unwrap();
        assert!(text.contains(from));
        text.replace(from, to).into_bytes()
    };
    let weights_with = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let start = weights.windows(from.len()).position(|part| part == from.as_bytes()).unwrap();
        [&weights[..start], to.as_bytes(), &weights[start + from.len()..]].concat()
    };
    let huge_header = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
    let overlapping = {
        let header = br#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#;
        [&(header.len() as u64).to_le_bytes()[..], header, &[0; 12]].concat()
    };
    let cases: Vec<(Vec<u8>, Vec<u8>, Vec<&str>)> = vec![
        (b"{".to_vec(), weights.clone(), vec!["config.json"]),
        (
            config_with("\"deepseek_v3\"", "\"deepseek_v4\""),
            weights.clone(),
            vec!["config.json", "deepseek_v4", "not supported"],
        ),
        (
            config_with("\"hidden_size\": 96", "\"hidden_size\": 97"),
            weights.clone(),
            vec!["model.safetensors", "model.embed_tokens.weight", "[256, 96]", "[256, 97]"],
        ),
        (
            config_with("\"hidden_size\": 96", "\"hidden_size\": 1e300"),
            weights.clone(),
            vec!["config.json", "hidden_size"],
        ),
        (
            config_with("\"hidden_size\": 96", "\"hidden_size\": -1"),
            weights.clone(),
            vec!["config.json", "hidden_size"],
        ),
        (config_with("\"kv_lora_rank\": 48,", ""), weights.clone(), vec!["config.json", "kv_lora_rank", "missing"]),
        (config_with("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 16777216"), weights.clone(), vec!["KV cache"]),
        (config_with("\"n_group\": 4", "\"n_group\": 5"), weights.clone(), vec!["config.json", "5 groups"]),
        (config_with("\"type\": \"yarn\"", "\"type\": \"wobbly\""), weights.clone(), vec!["config.json", "wobbly"]),
        (
            config_with("\"hidden_act\": \"silu\"", "\"hidden_act\": \"gelu\""),
            weights.clone(),
            vec!["hidden_act", "gelu"],
        ),
        (
            config_with("\"n_routed_experts\": 16", "\"n_routed_experts\": 16777216"),
            weights.clone(),
            vec!["mlp.gate.weight"],
        ),
        (
            config_with("\"max_position_embeddings\": 256", "\"max_position_embeddings\": 1"),
            weights.clone(),
            vec!["max_position_embeddings"],
        ),
        (config.clone(), weights[..weights.len() - 10].to_vec(), vec!["model.safetensors"]),
        (config.clone(), weights[..100].to_vec(), vec!["model.safetensors"]),
        (config.clone(), Vec::new(), vec!["model.safetensors"]),
        (config.clone(), huge_header, vec!["model.safetensors"]),
        (config.clone(), overlapping, vec!["model.safetensors"]),
        (config.clone(), weights_with("model.norm.weight", "model.nOrm.weight"), vec!["model.norm.weight", "missing"]),
        (config.clone(), weights_with("\"dtype\":\"F32\"", "\"dtype\":\"I32\""), vec!["model.safetensors", "I32"]),
    ];
    for (index, (config, weights, parts)) in cases.into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        std::fs::write(folder.path().join("model.safetensors"), weights).unwrap();
        let (code, _, error) = run(&["serve", "--port", "0", "--model", folder.path().to_str().unwrap()]);
        assert_eq!(code, Some(1), "case {index}: {error}");
        assert!(!error.contains("panicked"), "case {index}: {error}");
        for part in parts {
            assert!(error.contains(part), "case {index}: {part:?} is not in {error:?}");
        }
    }
}

/// A tokenizer with more ids than the model has embeddings; an index that names files elsewhere.
#[test]
fn files_that_do_not_belong_together() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/demo-model/data");
    let model = folder.path().join("small");
    synth(&["--preset", "demo", "--vocab", "1000", "--tokenizer", tokenizer.to_str().unwrap()], &model);
    let serve = |model: &Path| run(&["serve", "--port", "0", "--model", model.to_str().unwrap()]);
    let (code, _, error) = serve(&model);
    assert_eq!(code, Some(1));
    assert!(error.contains("tokenizer.json") && error.contains("1535") && error.contains("999"), "{error}");
    let hostile = std::fs::read_to_string(model.join("tokenizer.json")).unwrap();
    let hostile = hostile.replacen("\"<｜▁pad▁｜>\": 2,", "\"<｜▁pad▁｜>\": 4294967294,", 1);
    assert!(hostile.contains("4294967294"));
    std::fs::write(model.join("tokenizer.json"), hostile).unwrap();
    let (code, _, error) = serve(&model);
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("tokenizer.json") && !error.contains("panicked"), "{error}");
    let index = json!({"weight_map": {"model.norm.weight": "../small/model.safetensors"}});
    std::fs::write(model.join("model.safetensors.index.json"), index.to_string()).unwrap();
    std::fs::remove_file(model.join("tokenizer.json")).unwrap();
    let (code, _, error) = serve(&model);
    assert_eq!(code, Some(1));
    assert!(error.contains("model.safetensors.index.json") && error.contains("../small"), "{error}");
}

/// The two orders of additions can be compared, `system_fingerprint` tells them apart, and another word is refused.
#[tokio::test]
async fn the_order_of_additions_can_be_chosen() {
    let serve = |choice: &str| {
        let mut command = Command::new(binary());
        command.args(["serve", "--port", "0", "--max-model-len", "256"]).env("MOESAIC_CPU_ARITHMETIC", choice);
        command
    };
    let mut fingerprints = Vec::new();
    for choice in ["tiles", "vectors"] {
        let server = Server::start_command(&mut serve(choice));
        let body = json!({"messages": [{"role": "user", "content": "What is 12 + 30?"}], "temperature": 0});
        let answer = server.ask("/v1/chat/completions", body).await;
        assert!(answer["choices"][0]["message"]["content"].as_str().unwrap().contains("42"), "{answer}");
        fingerprints.push(answer["system_fingerprint"].clone());
    }
    assert_ne!(fingerprints[0], fingerprints[1]);
    let output = serve("tile").output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    let expected = "MOESAIC_CPU_ARITHMETIC is \"tile\": expected tiles or vectors";
    assert!(!output.status.success() && log.contains(expected), "{log}");
}
