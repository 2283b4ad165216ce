//! The crates depend on each other only as crates/README.md draws it, and the modules of the server in no circle.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

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

/// Source texts of a crate by the paths of their modules, such as `api::chat::answer`.
type Sources = BTreeMap<String, String>;

fn sources(folder: &Path, module: &str, found: &mut Sources) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let inner = if module.is_empty() { name.to_owned() } else { format!("{module}::{name}") };
        if path.is_dir() {
            sources(&path, &inner, found);
        } else if !matches!(inner.as_str(), "lib" | "main") {
            found.insert(inner, std::fs::read_to_string(&path).unwrap());
        }
    }
}

/// What the tests of a file use is not looked at.
fn without_tests_and_comments(source: &str) -> String {
    let source = source.split("#[cfg(test)]").next().unwrap();
    source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .fold(String::new(), |all, line| all + line + "\n")
}

/// The paths that a text after `crate::` spells, groups in braces opened.
fn paths(text: &str, before: &str, all: &mut Vec<String>) -> usize {
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let end = text.find(|c| !is_path(c)).unwrap_or(text.len());
    let path = format!("{before}{}", &text[..end]);
    if !text[end..].starts_with('{') {
        all.push(path);
        return end;
    }
    let mut at = end + 1;
    while !text[at..].starts_with('}') {
        if text[at..].starts_with(is_path) || text[at..].starts_with('{') {
            at += paths(&text[at..], &path, all);
        } else {
            at += text[at..].chars().next().unwrap().len_utf8();
        }
    }
    at + 1
}

/// The modules that a module names.
fn named(module: &str, all: &Sources) -> BTreeSet<String> {
    let source = without_tests_and_comments(&all[module]);
    let parent = module.rsplit_once("::").map_or(String::new(), |(parent, _)| format!("{parent}::"));
    let mut found = Vec::new();
    for (root, before) in [("crate::", ""), ("super::", parent.as_str())] {
        for (at, _) in source.match_indices(root) {
            if !source[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
                paths(&source[at + root.len()..], before, &mut found);
            }
        }
    }
    let children = all.keys().filter_map(|other| other.strip_prefix(module)?.strip_prefix("::"));
    let named_children = children.filter(|child| !child.contains("::") && source.contains(&format!(" {child}::")));
    found.extend(named_children.map(|child| format!("{module}::{child}")));
    // The longest part of a path that is a module; what follows are its items.
    let module_of = |path: &String| {
        let mut path = path.trim_end_matches("::self");
        while !all.contains_key(path) {
            path = path.rsplit_once("::")?.0;
        }
        Some(path.to_owned()).filter(|path| path != module)
    };
    found.iter().filter_map(module_of).collect()
}

/// A circle of modules that name each other, if there is one.
fn circle(all: &Sources) -> Option<Vec<String>> {
    fn visit(module: &str, all: &Sources, way: &mut Vec<String>, done: &mut BTreeSet<String>) -> Option<Vec<String>> {
        if let Some(start) = way.iter().position(|earlier| earlier == module) {
            return Some(way[start..].to_vec());
        }
        if done.contains(module) {
            return None;
        }
        way.push(module.to_owned());
        let found = named(module, all).iter().find_map(|next| visit(next, all, way, done));
        way.pop();
        done.insert(module.to_owned());
        found
    }
    let mut done = BTreeSet::new();
    all.keys().find_map(|module| visit(module, all, &mut Vec::new(), &mut done))
}

#[test]
fn modules_of_the_server_name_each_other_in_no_circle() {
    let mut all = Sources::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/server/src"), "", &mut all);
    assert!(named("api::anthropic", &all).contains("api::pipeline"), "imports are read");
    assert_eq!(circle(&all), None);
    // What once closed circles is seen, however it is written.
    for (module, import) in [
        ("auth", "use crate::api::anthropic::PATH;"),
        ("metrics", "use crate::{\n    error::ApiError,\n    state::{AppState, State as All},\n};"),
        ("metrics", "fn all() -> crate::state::AppState"),
        ("api::chat::answer", "use crate::api::{models, pipeline::begin};"),
        ("validate::sampling", "use super::prompt::fit_prompt;"),
        ("validate", "pub use sampling::ValidSampling;"),
    ] {
        let mut changed = all.clone();
        changed.get_mut(module).unwrap().insert_str(0, &format!("{import}\n"));
        let found = circle(&changed).unwrap_or_else(|| panic!("not seen: {module}: {import}"));
        assert!(found.iter().any(|name| name == module), "{found:?}");
    }
}
