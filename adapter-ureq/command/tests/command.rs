//! The `keybound` command's words: its exit status, its stdout, and that wrong input sends nothing.

#![cfg(test)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread::{self, JoinHandle};

use keybound_sandbox::{self as sandbox, Sandbox};
use serde_json::Value;
use tempfile::TempDir;

/// Runs the command in a home of its own, with the sandbox's secret in SECRET.
fn keybound(home: &Path, args: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_keybound"))
        .args(args)
        .current_dir(home)
        .env("HOME", home)
        .env("XDG_CACHE_HOME", home.join("cache"))
        .env("SECRET", sandbox::CLIENT_SECRET)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that refuses its arguments doesn't read its input.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

fn home() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

#[test]
fn the_demo_goes_well_and_shows_no_secret() {
    let output = keybound(home().path(), &["demo"], "");
    let text = stdout(&output);
    assert!(text.ends_with("All flows went well.\n"));
    assert!(!text.contains(sandbox::CLIENT_SECRET));
}

const RECORDING: &str = include_str!("../../tests/recordings/lost_refresh.jsonl");

#[test]
fn a_recording_is_replayed_with_the_reason_of_each_step() {
    let home = home();
    fs::write(home.path().join("session.jsonl"), RECORDING).unwrap();
    let text = stdout(&keybound(home.path(), &["replay", "session.jsonl"], ""));
    let reason = "because of 400 invalid_grant: the server's error is the result";
    assert!(text.contains(reason), "{text}");
    let lines = RECORDING.lines().count() - 1;
    assert!(
        text.ends_with(&format!("{lines} lines, each as it was recorded\n")),
        "{text}"
    );
}

#[test]
fn a_replay_that_differs_ends_with_status_1_and_names_the_line() {
    let home = home();
    let at = RECORDING
        .lines()
        .position(|line| line.contains("invalid_grant"))
        .unwrap();
    let changed = RECORDING.replacen("invalid_grant", "invalid_scope", 1);
    fs::write(home.path().join("session.jsonl"), changed).unwrap();
    let output = keybound(home.path(), &["replay", "session.jsonl"], "");
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    let place = format!("session.jsonl, line {}: the replay differs", at + 1);
    assert!(message.contains(&place), "{message}");
}

#[test]
fn a_file_that_is_no_recording_is_status_2() {
    let home = home();
    fs::write(
        home.path().join("cut.jsonl"),
        &RECORDING[..RECORDING.len() / 2],
    )
    .unwrap();
    fs::write(home.path().join("later.jsonl"), "{\"recording\":9}\n").unwrap();
    fs::write(home.path().join("note.txt"), "hello").unwrap();
    for (file, message) in [
        ("note.txt", "the file is not a recording"),
        ("later.jsonl", "version 9"),
        ("cut.jsonl", "is incomplete"),
        ("none.jsonl", "none.jsonl"),
    ] {
        let output = keybound(home.path(), &["replay", file], "");
        assert_eq!(output.status.code(), Some(2), "{file}");
        let shown = String::from_utf8(output.stderr).unwrap();
        assert!(shown.contains(message), "{file}: {shown}");
    }
}

#[test]
fn a_step_of_the_demo_that_fails_ends_it_with_status_1() {
    // Not enough open files for a server and its clients.
    let script = r#"ulimit -n 7; exec "$0" demo"#;
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_keybound")])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn wrong_input_is_status_2_with_the_argument_and_the_rule_and_nothing_is_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}/token", listener.local_addr().unwrap());
    let home = home();
    fs::write(
        home.path().join("bad.pem"),
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    )
    .unwrap();
    fs::write(home.path().join("note.txt"), "hello").unwrap();
    stdout(&keybound(
        home.path(),
        &["key", "new", "--out", "good.pem"],
        "",
    ));
    let token = [
        "token",
        "--token-url",
        &url,
        "--client-id",
        "id",
        "--client-secret-env",
        "SECRET",
    ];
    let call = ["call", &url, "--token-url", &url, "--client-id", "id"];
    let moov = [
        "token",
        "--provider",
        "moov",
        "--base-url",
        &url,
        "--client-id",
        "id",
        "--client-secret-env",
        "SECRET",
    ];
    for (base, more, named, rule) in [
        (
            &[][..],
            &["token", "--token-url", "nonsense", "--client-id", "id"][..],
            "url",
            "absolute",
        ),
        (
            &[],
            &[
                "token",
                "--token-url",
                "http://as.example/token",
                "--client-id",
                "id",
            ],
            "url",
            "https://",
        ),
        (&[], &["token", "--token-url", &url], "client_id", "empty"),
        (
            &[],
            &[
                "token",
                "--token-url",
                &url,
                "--client-id",
                "id",
                "--auth",
                "basic",
            ],
            "--client-secret-env",
            "must be given",
        ),
        (
            &[],
            &[
                "token",
                "--token-url",
                &url,
                "--client-id",
                "id",
                "--client-secret-env",
                "UNSET",
            ],
            "UNSET",
            "not set",
        ),
        (
            &[],
            &["token", "--client-id", "id"],
            "--token-url",
            "required",
        ),
        (
            &token,
            &["--base-url", "https://as.example"],
            "--base-url",
            "cannot be used with",
        ),
        (
            &[],
            &[
                "token",
                "--issuer",
                &url,
                "--base-url",
                "https://as.example",
                "--client-id",
                "id",
            ],
            "--base-url",
            "cannot be used with",
        ),
        (
            &[],
            &[
                "token",
                "--issuer",
                "http://as.example",
                "--client-id",
                "id",
            ],
            "url",
            "https://",
        ),
        (
            &[],
            &[
                "token",
                "--issuer",
                "https://as.example?x",
                "--client-id",
                "id",
            ],
            "issuer",
            "query",
        ),
        (
            &token,
            &["--issuer", "https://as.example"],
            "--issuer",
            "cannot be used with",
        ),
        (
            &[],
            &[
                "token",
                "--token-url",
                &url,
                "--client-id",
                "id",
                "--auth",
                "private-key-jwt",
            ],
            "--client-key",
            "must be given",
        ),
        (
            &token,
            &["--auth", "basic", "--client-key", "good.pem"],
            "--client-key",
            "private-key-jwt",
        ),
        (
            &token,
            &["--client-key", "absent.pem"],
            "key",
            "can't be read",
        ),
        (&token, &["--client-kid", "x"], "--client-key", "required"),
        (&token, &["--resource", "api"], "resource", "absolute"),
        (
            &token,
            &["--param-env", "assertion=UNSET"],
            "UNSET",
            "not set",
        ),
        (
            &token,
            &["--param-env", "grant_type=SECRET"],
            "param",
            "twice",
        ),
        (
            &token,
            &["--grant", "device_code"],
            "device_authorization_endpoint",
            "give --issuer",
        ),
        (
            &token,
            &["--grant", "authorization_code"],
            "code",
            "`keybound login`",
        ),
        (
            &token,
            &["--grant", "device_code", "--resource", "api"],
            "resource",
            "absolute",
        ),
        (
            &[],
            &["login", "--token-url", &url, "--client-id", "id"],
            "authorization_endpoint",
            "give --issuer",
        ),
        (
            &[],
            &[
                "login",
                "--issuer",
                &url,
                "--redirect-uri",
                "https://app.example/",
            ],
            "--redirect-uri",
            "loopback",
        ),
        (
            &[],
            &[
                "login",
                "--issuer",
                &url,
                "--redirect-uri",
                "com.example:/cb",
            ],
            "--redirect-uri",
            "loopback",
        ),
        (
            &[],
            &[
                "login",
                "--issuer",
                &url,
                "--redirect-uri",
                "http://127.0.0.1:0/?x",
            ],
            "--redirect-uri",
            "query",
        ),
        (
            &[],
            &["introspect", "--token-url", &url, "--client-id", "id"],
            "--token-env",
            "required",
        ),
        (
            &[],
            &[
                "introspect",
                "--token-url",
                &url,
                "--client-id",
                "id",
                "--token-env",
                "SECRET",
            ],
            "introspection_endpoint",
            "give --issuer",
        ),
        (
            &[],
            &[
                "revoke",
                "--token-url",
                &url,
                "--client-id",
                "id",
                "--token-env",
                "SECRET",
            ],
            "revocation_endpoint",
            "give --issuer",
        ),
        (
            &[],
            &[
                "revoke",
                "--token-url",
                &url,
                "--client-id",
                "id",
                "--token-env",
                "SECRET",
                "--hint",
                "x",
            ],
            "--hint",
            "access_token",
        ),
        (&token, &["--scope", ""], "scope", "must not be empty"),
        (&token, &["--scope", "a\"b"], "scope", "printable"),
        (
            &token,
            &["--header", "X-A=b\nX-C: d"],
            "header",
            "control characters",
        ),
        (&token, &["--header", "a b=c"], "header", "valid name"),
        (
            &token,
            &["--header", "Authorization=x"],
            "header",
            "sets itself",
        ),
        (&call, &["-H", "Host=x"], "header", "sets itself"),
        (&call, &["-H", "Connection=close"], "header", "sets itself"),
        (&call, &["-H", "Content-Length: 3"], "header", "sets itself"),
        (
            &call,
            &["-H", "transfer-encoding=chunked"],
            "header",
            "sets itself",
        ),
        (&token, &["--param", "grant_type=x"], "param", "twice"),
        (&token, &["--param", "x"], "--param", "NAME=VALUE"),
        (
            &token,
            &["--param", "client_secret=hush"],
            "client_secret",
            "--param-env",
        ),
        (
            &token,
            &["--param", "client_assertion=hush"],
            "client_assertion",
            "--param-env",
        ),
        (
            &token,
            &["--param", "refresh_token=hush"],
            "refresh_token",
            "--param-env",
        ),
        (
            &token,
            &["--param", "subject_token=hush"],
            "subject_token",
            "--param-env",
        ),
        (
            &token,
            &["--param", "actor_token=hush"],
            "actor_token",
            "--param-env",
        ),
        (
            &token,
            &["--grant", "device_code", "--param", "assertion=hush"],
            "assertion",
            "--param-env",
        ),
        (
            &call,
            &["--grant", "password", "--param", "password=hush"],
            "password",
            "--param-env",
        ),
        (&token, &["--dpop"], "--key", "required"),
        (
            &token,
            &["--dpop", "--key", "absent.pem"],
            "key",
            "can't be read",
        ),
        (&token, &["--dpop", "--key", "bad.pem"], "key", "PKCS#8"),
        (&token, &["--dpop", "--key", "note.txt"], "key", "PEM"),
        (
            &token,
            &["--grant", "refresh_token"],
            "--refresh-token-env",
            "must be given",
        ),
        (&token, &["--grant", ""], "grant_type", "empty"),
        (&moov, &[], "scope", "must be given"),
        (
            &moov,
            &["--scope", "/a", "--header", "X-Moov-Version=v2024.1"],
            "version",
            "vYYYY.QQ.BB",
        ),
        (
            &moov,
            &["--scope", "/a", "--header", "Origin=https://x.example/"],
            "origin",
            "without a path or a trailing slash",
        ),
        (&token, &["--unknown"], "--unknown", "unexpected"),
        (
            &[],
            &[
                "proof",
                "make",
                "--key",
                "bad.pem",
                "--method",
                "GET",
                "--url",
                "https://x/",
            ],
            "key",
            "PKCS#8",
        ),
        (
            &[],
            &["proof", "inspect", "--url", "nonsense"],
            "url",
            "absolute",
        ),
        (
            &[],
            &["proof", "inspect", "--nonce", "a b"],
            "nonce",
            "printable",
        ),
        (
            &[],
            &["key", "new", "--alg", "none", "--out", "k.pem"],
            "alg",
            "must be",
        ),
        (
            &[],
            &[
                "uxt",
                "--person",
                "psn_1",
                "--client-id",
                "id",
                "--client-secret-env",
                "UNSET",
            ],
            "UNSET",
            "not set",
        ),
        (
            &[],
            &[
                "uxt",
                "--person",
                "psn_1",
                "--base-url",
                "http://tp.example",
                "--client-id",
                "id",
                "--client-secret-env",
                "SECRET",
            ],
            "url",
            "https://",
        ),
    ] {
        let args: Vec<&str> = base.iter().chain(more).copied().collect();
        let output = keybound(home.path(), &args, "");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(
            stderr.contains(named) && stderr.contains(rule),
            "{args:?}: {stderr}"
        );
        assert!(output.stdout.is_empty(), "{args:?}");
        assert!(
            !stderr.contains(sandbox::CLIENT_SECRET) && !stderr.contains("hush"),
            "{args:?}"
        );
    }
    assert!(listener.accept().is_err(), "something was sent");
}

#[test]
fn the_version_is_that_of_keybound() {
    let version = stdout(&keybound(home().path(), &["-V"], ""));
    assert_eq!(
        version,
        concat!("keybound ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_stdout_is_named() {
    let home = home();
    stdout(&keybound(
        home.path(),
        &["key", "new", "--out", "key.pem"],
        "",
    ));
    let (url, _server) = server(vec![token_answer(), answer("200 OK", "body")]);
    let token_url = format!("{url}/token");
    for args in [
        &["key", "show", "key.pem"][..],
        &["call", &url, "--token-url", &token_url, "--client-id", "id"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_keybound"))
            .args(args)
            .current_dir(home.path())
            .env("XDG_CACHE_HOME", home.path())
            .stdout(fs::File::options().write(true).open("/dev/full").unwrap())
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(
            stderr.contains("stdout can't be written: No space left"),
            "{stderr}"
        );
    }
}

#[test]
fn what_may_be_a_secret_is_quoted_by_no_message() {
    let home = home();
    let client = [
        "--token-url",
        "http://127.0.0.1:9/token",
        "--client-id",
        "id",
    ];
    let given = "Hunter2: hunter2";
    for args in [
        &["call", "http://127.0.0.1:9/", "-H", "Hunter2 hunter2"][..],
        &["call", "http://127.0.0.1:9/", "-H", given, "-H", "=hunter2"],
        &["call", "http://127.0.0.1:9/", "-H", "Hunter2:", "hunter2"],
        &["token", "--client-secret-env", "hunter2"],
        &["token", "--client-secret-env", "HUNTER2=hunter2"],
        &["token", "--header", "hunter2"],
        &["token", "--param", "hunter2"],
        &["token", "--param-env", "assertion=hunter2.hunter2"],
        &["token", "--param-env", "hunter2"],
        &["introspect", "--token-env", "hunter2"],
    ] {
        let output = keybound(home.path(), &[args, &client].concat(), "");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(
            !stderr.to_lowercase().contains("hunter2"),
            "{args:?}: {stderr}"
        );
    }
}

#[cfg(unix)]
#[test]
fn a_variable_that_holds_no_secret_is_said_to_be_empty_or_not_text() {
    use std::os::unix::ffi::OsStrExt as _;
    for (value, problem) in [
        (&b""[..], "VARIABLE must contain the secret, but is empty"),
        (b"\xff", "not UTF-8"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_keybound"))
            .args([
                "token",
                "--token-url",
                "http://127.0.0.1:9/token",
                "--client-secret-env",
                "VARIABLE",
            ])
            .env("VARIABLE", std::ffi::OsStr::from_bytes(value))
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(
            output.status.code() == Some(2) && stderr.contains(problem),
            "{stderr}"
        );
    }
}

/// A server that gives one answer to each connection, and hands out what it was sent: the first 4 KiB, lower case.
fn server(answers: Vec<String>) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (url, serve(listener, answers))
}

fn serve(listener: TcpListener, answers: Vec<String>) -> JoinHandle<Vec<String>> {
    let answered = move |answer: String| {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let length = stream.read(&mut request).unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8_lossy(&request[..length]).to_lowercase()
    };
    thread::spawn(move || answers.into_iter().map(answered).collect())
}

fn answer(head: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {head}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A token for `call`, without further members.
fn token_answer() -> String {
    answer(
        "200 OK",
        r#"{"access_token":"at","token_type":"Bearer","expires_in":60}"#,
    )
}

#[test]
fn a_header_is_given_in_our_way_or_in_curls() {
    let (url, server) = server(vec![token_answer(), answer("200 OK", "")]);
    let token_url = format!("{url}/token");
    let call = ["call", &url, "--token-url", &token_url, "--client-id", "id"];
    let headers = [
        "-H",
        "X-One=http://a/",
        "-H",
        "X-Two: b=c",
        "--header",
        "X-Three:d",
    ];
    stdout(&keybound(
        home().path(),
        &[&call[..], &headers].concat(),
        "",
    ));
    let sent = server.join().unwrap();
    assert!(sent[0].contains("\r\nx-three: d\r\n"), "{sent:?}");
    assert!(
        sent[1].contains("\r\nx-one: http://a/\r\n") && sent[1].contains("\r\nx-two: b=c\r\n"),
        "{sent:?}"
    );
}

#[test]
fn a_new_refresh_token_that_call_loses_is_told_of() {
    let member = |refresh: &str| format!(r#","refresh_token":"{refresh}""#);
    for (more, lost) in [
        (String::new(), false),
        (member(sandbox::CLIENT_SECRET), false),
        (member("new"), true),
    ] {
        let token =
            format!(r#"{{"access_token":"at","token_type":"Bearer","expires_in":60{more}}}"#);
        let (url, server) = server(vec![answer("200 OK", &token), answer("200 OK", "")]);
        let token_url = format!("{url}/token");
        let call = ["call", &url, "--token-url", &token_url, "--client-id", "id"];
        let refresh = ["--grant", "refresh_token", "--refresh-token-env", "SECRET"];
        let output = keybound(home().path(), &[&call[..], &refresh].concat(), "");
        stdout(&output);
        server.join().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            stderr.contains("the server issued a new refresh token, which `call` does not store"),
            lost,
            "{stderr}"
        );
        assert!(lost || stderr.is_empty(), "{stderr}");
    }
}

#[test]
fn a_redirection_is_not_followed_and_is_status_1() {
    for (location, named) in [
        (
            "Location: https://user:pass@else.example:8443/hidden?hidden#hidden",
            ", to https://else.example:8443;",
        ),
        (
            "Location: //else.example/hidden",
            ", to http://else.example;",
        ),
        ("Location: /hidden", ", to URL;"),
        ("Location: hidden", ", to URL;"),
        ("Location: ?hidden", ", to URL;"),
        ("Location: other:hidden", "Found;"),
        ("X-Location: none", "Found;"),
    ] {
        for repeat in [&[][..], &["--repeat", "1"]] {
            let redirection = answer(&format!("302 Found\r\n{location}"), "");
            let (url, server) = server(vec![token_answer(), redirection]);
            let token_url = format!("{url}/token");
            let call = ["call", &url, "--token-url", &token_url, "--client-id", "id"];
            let output = keybound(home().path(), &[&call[..], repeat].concat(), "");
            server.join().unwrap();
            let stderr = String::from_utf8(output.stderr.clone()).unwrap();
            assert_eq!(output.status.code(), Some(1), "{stderr}");
            assert!(stderr.contains(&named.replace("URL", &url)), "{stderr}");
            assert!(
                stderr.contains("not followed") && !stderr.contains("hidden"),
                "{stderr}"
            );
            assert!(repeat.is_empty() || json(&output)["failed"] == 1);
        }
    }
    let (url, server) = server(vec![token_answer(), answer("304 Not Modified", "")]);
    let token_url = format!("{url}/token");
    stdout(&keybound(
        home().path(),
        &["call", &url, "--token-url", &token_url, "--client-id", "id"],
        "",
    ));
    server.join().unwrap();
}

#[test]
fn a_key_that_cant_be_read_is_named_and_what_to_do_about_it() {
    let home = home();
    for (label, remedy) in [
        (
            "RSA PRIVATE KEY",
            "`openssl pkcs8 -topk8 -nocrypt -in key.pem`",
        ),
        (
            "EC PRIVATE KEY",
            "`openssl pkcs8 -topk8 -nocrypt -in key.pem`",
        ),
        ("ENCRYPTED PRIVATE KEY", "decrypt it first"),
        ("PUBLIC KEY", "it contains a public key"),
        ("PRIVATE KEY", "key.pem: key must"),
        ("", "key.pem is empty"),
    ] {
        let pem = format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n");
        fs::write(
            home.path().join("key.pem"),
            if label.is_empty() { "\n" } else { &pem },
        )
        .unwrap();
        let client = [
            "token",
            "--token-url",
            "http://127.0.0.1:9/token",
            "--client-id",
            "id",
        ];
        for args in [
            &["key", "show", "key.pem"][..],
            &[&client[..], &["--client-key", "key.pem"]].concat(),
            &[&client[..], &["--dpop", "--key", "key.pem"]].concat(),
        ] {
            let output = keybound(home.path(), args, "");
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{label}: {stderr}");
            assert!(
                stderr.contains("key.pem") && stderr.contains(remedy),
                "{label}: {stderr}"
            );
            assert!(!stderr.contains("AAAA"), "{label}: {stderr}");
        }
    }
}

#[test]
fn an_endpoint_that_the_issuer_doesnt_name_is_told_of() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let issuer = format!("http://{}", listener.local_addr().unwrap());
    let metadata = format!(r#"{{"issuer":"{issuer}","token_endpoint":"{issuer}/token"}}"#);
    let server = serve(
        listener,
        vec![answer(
            "200 OK\r\nContent-Type: application/json",
            &metadata,
        )],
    );
    let revoke = [
        "revoke",
        "--issuer",
        &issuer,
        "--client-id",
        "id",
        "--token-env",
        "SECRET",
    ];
    let stderr = String::from_utf8(keybound(home().path(), &revoke, "").stderr).unwrap();
    server.join().unwrap();
    assert!(
        stderr.contains("the issuer's metadata has no revocation_endpoint"),
        "{stderr}"
    );
}

#[test]
fn moov_gives_a_token_and_an_account_list() {
    let sandbox = Sandbox::start(sandbox::Options::default()).unwrap();
    let (home, base) = (home(), sandbox.moov());
    let options = [
        "--provider",
        "moov",
        "--base-url",
        &base,
        "--client-id",
        sandbox::CLIENT_ID,
        "--client-secret-env",
        "SECRET",
        "--scope",
        "/accounts.read",
        "--header",
        "Origin=https://app.example",
    ];
    let output = keybound(home.path(), &[&["token"], &options[..]].concat(), "");
    let token: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let members: Vec<&str> = token
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        members,
        [
            "access_token",
            "expires_at",
            "jkt",
            "refresh_token",
            "scope",
            "token_type"
        ]
    );
    assert!(output.stderr.is_empty());

    let (accounts, nowhere) = (format!("{base}/accounts"), format!("{base}/nowhere"));
    let call = [&["call", accounts.as_str()], &options[..]].concat();
    assert_eq!(stdout(&keybound(home.path(), &call, "")), "[]");
    let elsewhere = [&["call", nowhere.as_str()], &options[..]].concat();
    assert_eq!(keybound(home.path(), &elsewhere, "").status.code(), Some(1));
}

/// As the README has it.
#[test]
fn the_sandbox_says_what_it_is_to_whoever_knows_its_issuer() {
    let sandbox = Sandbox::start(sandbox::Options::default().require_nonce(true)).unwrap();
    let (home, issuer) = (home(), sandbox.oauth());
    let key = home.path().join("key.pem").to_str().unwrap().to_owned();
    assert!(
        keybound(home.path(), &["key", "new", "--out", &key], "")
            .status
            .success()
    );
    let client = [
        "--issuer",
        &issuer,
        "--client-id",
        sandbox::CLIENT_ID,
        "--client-secret-env",
        "SECRET",
        "--dpop",
    ];
    let client = [&client[..], &["--key", &key]].concat();
    let told = |args: &[&str]| stdout(&keybound(home.path(), &[args, &client[..]].concat(), ""));
    let token: Value = serde_json::from_str(&told(&["token"])).unwrap();
    let called: Value =
        serde_json::from_str(&told(&["call", &format!("{issuer}/resource")])).unwrap();
    assert_eq!(
        (called["method"].as_str(), &called["jkt"]),
        (Some("GET"), &token["jkt"])
    );

    let of_token = |verb: &str| {
        let args = [&[verb, "--token-env", "TOKEN"], &client[..6]].concat();
        let mut command = Command::new(env!("CARGO_BIN_EXE_keybound"));
        command
            .args(args)
            .env("SECRET", sandbox::CLIENT_SECRET)
            .env("XDG_CACHE_HOME", home.path());
        let output = command
            .env("TOKEN", token["access_token"].as_str().unwrap())
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(of_token("introspect").contains(r#""active":true"#));
    of_token("revoke");
    assert!(of_token("introspect").contains(r#""active":false"#));
}

#[test]
fn a_token_may_be_for_several_resources() {
    let sandbox = Sandbox::start(sandbox::Options::default()).unwrap();
    let url = format!("{}/token", sandbox.oauth());
    let token = [
        "token",
        "--token-url",
        &url,
        "--client-id",
        sandbox::CLIENT_ID,
    ];
    let resources = [
        "--resource",
        "https://a.example/",
        "--resource",
        "https://b.example/",
    ];
    let args = [&token[..], &["--client-secret-env", "SECRET"], &resources].concat();
    let output = keybound(home().path(), &args, "");
    assert!(stdout(&output).contains("access_token"));
}

#[test]
fn plain_http_is_shown_to_no_proxy() {
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    proxy.set_nonblocking(true).unwrap();
    let sandbox = Sandbox::start(sandbox::Options::default()).unwrap();
    let url = format!("{}/token", sandbox.oauth());
    let output = Command::new(env!("CARGO_BIN_EXE_keybound"))
        .args([
            "token",
            "--token-url",
            &url,
            "--client-id",
            sandbox::CLIENT_ID,
            "--client-secret-env",
            "SECRET",
        ])
        .env("SECRET", sandbox::CLIENT_SECRET)
        .envs(
            ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]
                .map(|name| (name, format!("http://{}", proxy.local_addr().unwrap()))),
        )
        .env_remove("no_proxy")
        .env_remove("NO_PROXY")
        .env("XDG_CACHE_HOME", home().path())
        .output()
        .unwrap();
    stdout(&output);
    assert!(proxy.accept().is_err());
}

#[test]
fn a_trace_strikes_out_what_the_server_echoes() {
    let secret = sandbox::CLIENT_SECRET;
    let head = format!(
        "401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"{secret}\"\r\nX-Echo: {secret}"
    );
    let body = format!(
        r#"{{"error":"invalid_client","error_description":"not {secret} \u001b[31m","scope":{{"a":"hidden-object"}}}}"#
    );
    let (url, server) = server(vec![answer(&head, &body)]);
    let url = format!("{url}/token?client=hidden-query");
    let token = [
        "token",
        "--token-url",
        &url,
        "--client-id",
        "id",
        "--client-secret-env",
        "SECRET",
        "--trace",
    ];
    let output = keybound(home().path(), &token, "");
    server.join().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("invalid_client") && stderr.contains("[redacted]"),
        "{stderr}"
    );
    for hidden in [
        sandbox::CLIENT_SECRET,
        "hidden-query",
        "hidden-object",
        "\u{1b}",
    ] {
        assert!(!stderr.contains(hidden), "{stderr}");
    }
}

#[test]
fn many_calls_by_one_session_cost_one_token() {
    let sandbox = Sandbox::start(sandbox::Options::default().require_nonce(true)).unwrap();
    let home = home();
    let (token_url, resource) = (
        format!("{}/token", sandbox.oauth()),
        format!("{}/resource", sandbox.oauth()),
    );
    let key = home.path().join("key.pem");
    let key = key.to_str().unwrap();
    stdout(&keybound(
        home.path(),
        &["key", "new", "--alg", "EdDSA", "--out", key],
        "",
    ));
    let call = |url: &str, more: &[&str]| {
        let options = [
            "call",
            url,
            "--token-url",
            &token_url,
            "--client-id",
            sandbox::CLIENT_ID,
        ];
        let rest = [
            "--client-secret-env",
            "SECRET",
            "--dpop",
            "--key",
            key,
            "--repeat",
            "50",
            "--parallel",
            "8",
        ];
        keybound(home.path(), &[&options[..], &rest, more].concat(), "")
    };
    let output = call(&resource, &[]);
    stdout(&output);
    let figures = json(&output);
    assert_eq!(
        (&figures["ok"], &figures["failed"]),
        (&50.into(), &0.into())
    );
    assert_eq!(
        (&figures["requests"], &figures["token_requests"]),
        (&51.into(), &2.into())
    );
    assert!(figures["p50_ms"].as_f64().unwrap() <= figures["p99_ms"].as_f64().unwrap());

    let output = call(&format!("{resource}/nowhere"), &[]);
    assert_eq!(
        (output.status.code(), &json(&output)["failed"]),
        (Some(1), &50.into())
    );
}

#[test]
fn a_relay_prints_the_token_or_why_not_with_the_nonce() {
    let sandbox = Sandbox::start(sandbox::Options::default().require_nonce(true)).unwrap();
    let (home, base) = (home(), sandbox.treasury_prime());
    let marqeta = format!("{}/oauth/token", sandbox.marqeta());
    let key = home.path().join("key.pem");
    let key = key.to_str().unwrap();
    stdout(&keybound(home.path(), &["key", "new", "--out", key], ""));
    let make = [
        "proof", "make", "--key", key, "--method", "POST", "--url", &marqeta,
    ];
    let uxt = [
        "uxt",
        "--person",
        "psn_1",
        "--base-url",
        &base,
        "--client-id",
        sandbox::CLIENT_ID,
        "--client-secret-env",
        "SECRET",
        "--url",
        &marqeta,
    ];

    let proof = stdout(&keybound(home.path(), &make, ""));
    let refused = keybound(home.path(), &uxt, &proof);
    assert_eq!(
        (refused.status.code(), &json(&refused)["error"]),
        (Some(1), &"use_dpop_nonce".into())
    );
    let nonce = json(&refused)["nonce"].as_str().unwrap().to_owned();

    let proof = stdout(&keybound(
        home.path(),
        &[&make[..], &["--nonce", &nonce]].concat(),
        "",
    ));
    let bound = keybound(home.path(), &uxt, &proof);
    stdout(&bound);
    let shown = keybound(home.path(), &["key", "show", key], "");
    assert_eq!(json(&bound)["jkt"], json(&shown)["thumbprint"]);

    let stale = keybound(home.path(), &uxt, "not a proof");
    assert_eq!(
        (stale.status.code(), &json(&stale)["error"]),
        (Some(1), &"invalid_proof".into())
    );
    assert_eq!(json(&stale)["problems"][0]["code"], "not_jws");
}

#[test]
fn the_proof_of_a_wrong_request_is_status_1_and_says_why() {
    let home = home();
    let key = home.path().join("key.pem");
    let key = key.to_str().unwrap();
    stdout(&keybound(home.path(), &["key", "new", "--out", key], ""));
    let proof = stdout(&keybound(
        home.path(),
        &[
            "proof",
            "make",
            "--key",
            key,
            "--method",
            "GET",
            "--url",
            "https://rs.example/a",
        ],
        "",
    ));
    let good = [
        "proof",
        "inspect",
        "--method",
        "GET",
        "--url",
        "https://RS.example:443/a?x",
    ];
    assert_eq!(json(&keybound(home.path(), &good, &proof))["valid"], true);
    let inspected = keybound(
        home.path(),
        &["proof", "inspect", "--method", "POST", "--now", "1"],
        &proof,
    );
    assert_eq!(inspected.status.code(), Some(1));
    let problems: Vec<String> = json(&inspected)["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["code"].to_string())
        .collect();
    assert_eq!(problems, ["\"htm_mismatch\"", "\"from_the_future\""]);
}

#[test]
fn the_sandbox_says_where_its_parts_are() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_keybound"))
        .args(["sandbox", "--nonce"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(child.stdout.take().unwrap()),
        &mut line,
    )
    .unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let parts: Value = serde_json::from_str(&line).unwrap();
    for part in ["base_url", "moov", "treasury_prime", "oauth"] {
        assert!(
            parts[part]
                .as_str()
                .unwrap()
                .starts_with("http://127.0.0.1:"),
            "{part}"
        );
    }
}

/// A server that gives each path the same answer whenever it is asked for, and else a 404.
fn router(answers: impl Fn(&str) -> Vec<(&'static str, String)>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let answers = answers(&base);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let length = stream.read(&mut request).unwrap();
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            let path = request.split(' ').nth(1).unwrap_or_default();
            let known = answers.iter().find(|(known, _)| *known == path);
            let answer = known.map_or(answer("404 Not Found", ""), |(_, answer)| answer.clone());
            // Whoever has got what he wants may be gone.
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    base
}

/// Signs in as a person does, at a server of which these members of the metadata and these answers are known beside the usual.
fn log_in(scope: &str, metadata: &str, jwks: (&'static str, &str), id_token: &str) -> Output {
    let base = router(|base| {
        let metadata = format!(
            r#"{{"issuer":"{base}","token_endpoint":"{base}/token","authorization_endpoint":"{base}/authorize"{}}}"#,
            metadata.replace("BASE", base)
        );
        let token = format!(
            r#"{{"access_token":"at-1","refresh_token":"rt-1","token_type":"Bearer","expires_in":60{id_token}}}"#
        );
        vec![
            (
                "/.well-known/oauth-authorization-server",
                answer("200 OK", &metadata),
            ),
            ("/token", answer("200 OK", &token)),
            ("/jwks", answer(jwks.0, jwks.1)),
        ]
    });
    let home = home();
    let mut child = Command::new(env!("CARGO_BIN_EXE_keybound"))
        .args([
            "login",
            "--issuer",
            &base,
            "--client-id",
            "app",
            "--no-browser",
            "--scope",
            scope,
        ])
        .env("XDG_CACHE_HOME", home.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut first_line = String::new();
    std::io::BufRead::read_line(&mut stderr, &mut first_line).unwrap();
    if let Some((_, url)) = first_line.trim().split_once("sign in at ") {
        let param = |name: &str| {
            let pair = url
                .split(['?', '&'])
                .find_map(|pair| pair.strip_prefix(&format!("{name}=")));
            pair.unwrap().replace("%3A", ":").replace("%2F", "/")
        };
        let (redirect_uri, state) = (param("redirect_uri"), param("state"));
        let place = redirect_uri.strip_prefix("http://").unwrap();
        let (host, path) = place.split_once('/').unwrap();
        let mut browser = std::net::TcpStream::connect(host).unwrap();
        let get = format!(
            "GET /{path}?code=c&state={state} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        );
        browser.write_all(get.as_bytes()).unwrap();
        browser.read_to_end(&mut Vec::new()).unwrap();
    }
    let mut rest = Vec::new();
    stderr.read_to_end(&mut rest).unwrap();
    let mut output = child.wait_with_output().unwrap();
    output.stderr = [first_line.into_bytes(), rest].concat();
    output
}

const JWKS_URI: &str = r#","jwks_uri":"BASE/jwks""#;
const ID_TOKEN: &str = r#","id_token":"e30.e30.e30""#;

#[test]
fn a_login_prints_the_tokens_that_it_has_got_whatever_becomes_of_the_id_token() {
    let no_keys = r#"{"keys":[]}"#;
    for (metadata, jwks, id_token) in [
        (JWKS_URI, ("503 Service Unavailable", ""), ID_TOKEN),
        (JWKS_URI, ("404 Not Found", ""), ID_TOKEN),
        (JWKS_URI, ("200 OK", "<html>"), ID_TOKEN),
        (
            r#","jwks_uri":"http://127.0.0.1:9/jwks""#,
            ("200 OK", no_keys),
            ID_TOKEN,
        ),
        (JWKS_URI, ("200 OK", no_keys), ID_TOKEN),
        (JWKS_URI, ("200 OK", no_keys), r#","id_token":"odd""#),
    ] {
        let output = log_in("openid a", metadata, jwks, id_token);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let tokens = json(&output);
        assert_eq!(
            (&tokens["access_token"], &tokens["refresh_token"]),
            (&"at-1".into(), &"rt-1".into()),
            "{stderr}"
        );
        assert_eq!(tokens.get("sub"), None);
        // Who signed in was asked for, and isn't known.
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(
            stderr.contains("the tokens are printed without sub"),
            "{stderr}"
        );
    }
    // Nobody asked for it.
    for metadata in ["", JWKS_URI] {
        let output = log_in("a", metadata, ("503 Service Unavailable", ""), ID_TOKEN);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(json(&output)["access_token"], "at-1", "{stderr}");
        assert_eq!(output.status.code(), Some(0), "{stderr}");
    }
}

#[test]
fn a_login_whose_person_nobody_could_verify_ends_before_anybody_signs_in() {
    for metadata in ["", r#","jwks_uri":null"#, r#","jwks_uri":[]"#] {
        let output = log_in("a openid", metadata, ("200 OK", ""), ID_TOKEN);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(
            stderr.contains("jwks_uri") && stderr.contains("--scope"),
            "{stderr}"
        );
        assert!(!stderr.contains("sign in at"), "{stderr}");
    }
}

#[test]
fn moovs_empty_401_is_explained() {
    let accounts = |status: &'static str, body: &'static str| {
        router(move |_| {
            vec![
                ("/oauth2/token", token_answer()),
                ("/accounts", answer(status, body)),
            ]
        })
    };
    for (status, body, is_explained) in [
        ("401 Unauthorized", "", true),
        ("401 Unauthorized", "{}", false),
        ("403 Forbidden", "", false),
        ("200 OK", "", false),
    ] {
        for repeat in [&[][..], &["--repeat", "1"]] {
            let base = accounts(status, body);
            let url = format!("{base}/accounts");
            let options = [
                "call",
                &url,
                "--provider",
                "moov",
                "--base-url",
                &base,
                "--client-id",
                "id",
                "--client-secret-env",
                "SECRET",
                "--scope",
                "/accounts.read",
                "--header",
                "Origin=https://app.example",
            ];
            let output = keybound(home().path(), &[&options[..], repeat].concat(), "");
            let shown = String::from_utf8([output.stderr, output.stdout].concat()).unwrap();
            for cause in ["Origin", "test mode", "production"] {
                assert_eq!(
                    shown.contains(cause),
                    is_explained,
                    "{status} {body}: {shown}"
                );
            }
        }
        // No other server's.
        let base = accounts(status, body);
        let (url, token_url) = (format!("{base}/accounts"), format!("{base}/oauth2/token"));
        let output = keybound(
            home().path(),
            &["call", &url, "--token-url", &token_url, "--client-id", "id"],
            "",
        );
        assert!(!String::from_utf8(output.stderr).unwrap().contains("Moov"));
    }
}

#[test]
fn a_call_asks_for_an_answer_that_is_not_compressed_unless_it_is_told_otherwise() {
    for (more, asked) in [
        (&[][..], "accept-encoding: identity\r\n"),
        (&["-H", "Accept-Encoding=gzip"], "accept-encoding: gzip\r\n"),
    ] {
        let coded = answer("200 OK\r\nContent-Encoding: x-own", "raw");
        let (url, server) = server(vec![token_answer(), coded]);
        let token_url = format!("{url}/token");
        let call = ["call", &url, "--token-url", &token_url, "--client-id", "id"];
        let output = keybound(home().path(), &[&call[..], more].concat(), "");
        assert_eq!(stdout(&output), "raw");
        let sent = server.join().unwrap();
        assert!(
            sent[0].contains("accept-encoding: identity\r\n"),
            "{}",
            sent[0]
        );
        assert_eq!(sent[1].matches("accept-encoding").count(), 1, "{}", sent[1]);
        assert!(sent[1].contains(asked), "{}", sent[1]);
        // Who asked for a coding knows of it.
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(stderr.contains("x-own"), more.is_empty(), "{stderr}");
    }
}

#[test]
fn credentials_in_a_refusal_never_reach_stderr() {
    let body = r#"{"accessToken":"hidden-at-4711","data":{"refresh_token":"hidden-rt-4711"},"message":"no hidden-at-4711","error_description":"no hidden-at-4711"}"#;
    for status in [
        "400 Bad Request",
        "401 Unauthorized",
        "422 Unprocessable Content",
    ] {
        let (url, server) = server(vec![answer(status, body)]);
        let url = format!("{url}/token");
        let output = keybound(
            home().path(),
            &["token", "--token-url", &url, "--client-id", "id", "--trace"],
            "",
        );
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(
            !stderr.contains("hidden") && stderr.contains("no [redacted]"),
            "{stderr}"
        );
        server.join().unwrap();
    }
}
