//! Settings from files, and what is said of wrong ones.

use super::*;

const DEFAULT_FILE: &str = include_str!("../../../../config/default.toml");

#[test]
fn the_default_file_is_the_default() {
    let from_file: RawConfig = toml::from_str(DEFAULT_FILE).unwrap();
    assert_eq!(from_file.resolve().unwrap(), RawConfig::default().resolve().unwrap());
}

#[test]
fn the_default_file_names_every_key() {
    let all = serde_json::to_value(RawConfig::default()).unwrap();
    for key in all.as_object().unwrap().keys() {
        let named = DEFAULT_FILE.lines().any(|line| line.trim_start_matches("# ").starts_with(&format!("{key} =")));
        assert!(named, "config/default.toml does not name {key}");
    }
}

#[test]
fn later_sources_win() {
    let file: RawConfig = toml::from_str("port = 1\nmax_num_seqs = 2").unwrap();
    let line = RawConfig { port: Some(3.into()), ..RawConfig::default() };
    let config = line.or(file).resolve().unwrap();
    assert_eq!((config.port, config.limits.max_num_seqs), (3, 2));
}

#[test]
fn mistakes_are_named() {
    let check = |text: &str, expected: &str| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(&path, text).unwrap();
        let error = RawConfig::from_file(&path).and_then(RawConfig::resolve).unwrap_err();
        assert!(error.0.contains(expected), "{text}: {error}");
    };
    check("\nprot = 1", "line 2");
    check("\nprot = 1", "unknown field `prot`");
    check("port = 70000", "line 1");
    check("dtype = \"f16\"", "unknown variant `f16`");
    check("max_num_seqs = 0", "max_num_seqs must be at least 1");
    check("max_num_seqs = 600", "max_num_batched_tokens (512)");
    check("kv_cache_memory = \"lots\"", "kv_cache_memory is \"lots\"");
    check("response_store_memory = \"some\"", "response_store_memory is \"some\"");
    check("api_key_file = \"/nowhere\"", "/nowhere");
    check("encrypted_content_key = \"secret\"", "at least 16 characters");
    check("device = \"gpu\"", "expected cpu, cuda or cuda:N");
    check("device = \"cuda:x\"", "expected cpu, cuda or cuda:N");
    check("kv_cache_dtype = \"fp8\"", "on a GPU only");
    check("gpu_memory_utilization = 1.5", "gpu_memory_utilization is 1.5");
    check("log_level = \"a=b=c\"", "log_level");
    check("cors_allow_origin = [\"example.com\"]", "cors_allow_origin");
    check("request_timeout_seconds = 9000000000000000000", "request_timeout_seconds");
    check("max_model_len = 20000000", "at most 16777216 are possible");
    check("max_queued_requests = 4000000000000000000", "max_queued_requests");
}

#[test]
fn sizes() {
    for (text, bytes) in [("512MB", 512_000_000), ("4GiB", 4 << 30), ("1.5 KiB", 1536), ("77", 77)] {
        assert_eq!(parse_size("size", text).unwrap(), bytes, "{text}");
    }
    for text in ["-1", "", "MB", "1e400", "99999PB"] {
        assert!(parse_size("size", text).is_err(), "{text}");
    }
}
