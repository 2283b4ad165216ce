//! `moesaic launch` with a client that only writes down how it was started.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::server::{Server, binary};

/// (client, its program, what must be among its variables or arguments).
const CLIENTS: &[(&str, &str, &[&str])] = &[
    ("claude", "claude", &["ANTHROPIC_BASE_URL=<url>", "ANTHROPIC_AUTH_TOKEN=k", "ANTHROPIC_MODEL=it's a model"]),
    (
        "codex",
        "codex",
        &["MOESAIC_API_KEY=k", "model_providers.moesaic.base_url=\"<url>/v1\"", "model=\"it's a model\""],
    ),
    ("opencode", "opencode", &["MOESAIC_API_KEY=k", "\"baseURL\":\"<url>/v1\""]),
    ("pi", "pi", &["MOESAIC_API_KEY=k", "\"baseUrl\":\"<url>/v1\"", "--provider"]),
    ("open-webui", "open-webui", &["OPENAI_API_BASE_URL=<url>/v1", "OPENAI_API_KEY=k"]),
];

/// A folder with `program` in it, which prints its variables and arguments and ends with 7.
fn install(folder: &Path, program: &str) {
    let script = "#!/bin/sh\nenv | grep -v ^_= | sort\nprintf '[%s]\\n' \"$@\"\nexit 7\n";
    let file = folder.join(program);
    fs::write(&file, script).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Runs a program that finds only the shell's own and what is in `folder`, at home there.
fn run(folder: &Path, program: &Path, args: &[&str]) -> Output {
    let path = format!("{}:/usr/bin:/bin", folder.display());
    let mut command = Command::new(program);
    command.args(args).env_clear().env("PATH", path).env("HOME", folder).current_dir(folder).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn clients_start_as_they_are_printed() {
    let server = Server::start(&["--api-key", "k", "--served-model-name", "it's a model"]);
    for (client, program, expected) in CLIENTS {
        let home = tempfile::tempdir().unwrap();
        install(home.path(), program);
        let args = ["launch", client, "--url", &server.url, "--api-key", "k"];
        let more = ["--", "serve", "two words", "$HOME"];
        let printed = run(home.path(), &binary(), &[&args[..], &["--print"], &more].concat());
        assert!(printed.status.success(), "{}", text(&printed.stderr));
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1, "{client}: --print wrote something");
        let pasted = run(home.path(), Path::new("/bin/sh"), &["-c", text(&printed.stdout)]);
        let launched = run(home.path(), &binary(), &[&args[..], &more].concat());
        let started = text(&launched.stdout);
        assert_eq!(launched.status.code(), Some(7), "{started}{}", text(&launched.stderr));
        for part in expected.iter().chain(&["[serve]", "[two words]", "[$HOME]"]) {
            assert!(started.contains(&part.replace("<url>", &server.url)), "{client}: no {part} in {started}");
        }
        // The shell adds variables of its own.
        let own = |line: &&str| !["PWD=", "OLDPWD=", "SHLVL="].iter().any(|name| line.starts_with(name));
        let lines = |output: &Output| text(&output.stdout).lines().filter(own).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(lines(&pasted), lines(&launched), "{client}");
    }
}

#[test]
fn what_is_missing_is_said() {
    let server = Server::start(&["--api-key", "k"]);
    let home = tempfile::tempdir().unwrap();
    let check = |args: &[&str], expected: &str| {
        let output = run(home.path(), &binary(), &[&["launch", "pi"], args].concat());
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(text(&output.stderr).trim(), format!("error: {expected}"));
    };
    let at = ["--url", &server.url];
    let with_key = [&at[..], &["--api-key", "k"]].concat();
    check(&with_key, "pi is not installed: npm install -g @mariozechner/pi-coding-agent");
    check(&at, &format!("the server at {} wants a key: give it with --api-key or in MOESAIC_API_KEY", server.url));
    check(
        &[&at[..], &["--api-key", "x"]].concat(),
        &format!("the server at {} does not take this key (--api-key or MOESAIC_API_KEY)", server.url),
    );
    check(
        &[&with_key[..], &["--model", "x"]].concat(),
        &format!("the server at {} has no model \"x\"; it has moesaic-demo", server.url),
    );
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{free}");
    check(&["--url", &url], &format!("no server at {url}: start one with `moesaic`"));
}

#[test]
fn settings_are_written_when_asked() {
    let server = Server::start(&[]);
    let home = tempfile::tempdir().unwrap();
    let output = run(home.path(), &binary(), &["launch", "pi", "--url", &server.url, "--write"]);
    let file = home.path().join(".pi/agent/models.json");
    let expected = format!("wrote {}\nstart it with `pi --provider moesaic --model moesaic-demo`\n", file.display());
    assert_eq!(text(&output.stdout), expected);
    assert!(fs::read_to_string(&file).unwrap().contains(&format!("{}/v1", server.url)));
}
