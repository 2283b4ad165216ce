//! The crates depend on each other only as crates/README.md draws it.

use std::collections::BTreeSet;

use serde_json::Value;

/// (crate, crates of ours that it may use).
const EDGES: &[(&str, &[&str])] = &[
    ("protocol", &[]),
    ("chat", &["protocol"]),
    ("scheduler", &[]),
    ("engine", &["scheduler"]),
    ("kernels", &[]),
    ("cuda-emulator", &[]),
    ("model", &["kernels"]),
    ("worker", &["engine", "scheduler", "model", "kernels"]),
    ("bench", &[]),
    ("demo-model", &[]),
    ("server", &["protocol", "chat", "engine", "scheduler", "worker", "model", "bench", "demo-model"]),
];

/// (crate, external crates that it must never see).
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("protocol", &["axum", "tokio", "candle-core", "tokenizers"]),
    ("chat", &["axum", "tokio", "candle-core"]),
    ("scheduler", &["axum", "tokio", "candle-core", "tokenizers", "tracing", "rayon"]),
    ("engine", &["axum", "candle-core", "tokenizers"]),
    ("kernels", &["axum", "tokio", "tokenizers"]),
    ("cuda-emulator", &["candle-core", "tokio"]),
    ("model", &["axum", "tokio", "tokenizers"]),
    ("worker", &["axum", "tokio", "tokenizers"]),
];

#[test]
fn crates_know_only_what_they_may() {
    let output = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo metadata runs");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata writes JSON");
    let mut seen = BTreeSet::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        let Some(name) = name.strip_prefix("moesaic-").filter(|name| *name != "tests") else { continue };
        seen.insert(name.to_owned());
        let allowed = EDGES.iter().find(|(of, _)| *of == name).map(|(_, to)| *to);
        let allowed = allowed.unwrap_or_else(|| panic!("crate {name} is not in the drawing"));
        let forbidden = FORBIDDEN.iter().find(|(of, _)| *of == name).map_or(&[][..], |(_, never)| never);
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        for dependency in dependencies.filter(|dependency| dependency["kind"].is_null()) {
            let dependency = dependency["name"].as_str().unwrap();
            if let Some(ours) = dependency.strip_prefix("moesaic-") {
                assert!(allowed.contains(&ours), "{name} must not depend on {ours}");
            }
            assert!(!forbidden.contains(&dependency), "{name} must not know {dependency}");
        }
    }
    let drawn: BTreeSet<String> = EDGES.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(seen, drawn);
}
