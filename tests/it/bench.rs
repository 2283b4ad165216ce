//! `moesaic bench` against our own server.

use std::process::Command;

use serde_json::Value;

use crate::server::{Server, binary};

#[tokio::test]
async fn figures_come_out() {
    let server = Server::start(&["--api-key", "k"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.json");
    for endpoint in ["completions", "chat"] {
        let output = Command::new(binary())
            .args(["bench", &server.url, "--api-key", "k", "--endpoint", endpoint, "--concurrency", "3"])
            .args(["--num-requests", "7", "--prompt-tokens", "20", "--output-tokens", "9", "--json"])
            .arg(&file)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        for part in ["7 ok, 0 failed", "output tokens/s", "first token", "between tokens"] {
            assert!(text.contains(part), "{text}");
        }
        let report: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        assert_eq!((&report["num_succeeded"], &report["output_tokens"]), (&7.into(), &63.into()), "{report}");
        let times = &report["time_to_first_token"];
        assert!(times["p50_ms"].as_f64().unwrap() > 0.0 && times["p99_ms"].as_f64() >= times["p50_ms"].as_f64());
    }
    let refused = Command::new(binary()).args(["bench", &server.url, "--api-key", "wrong"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("401"));
}
