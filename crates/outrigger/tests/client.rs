//! Commands that ask a running sidecar, as a user runs them: against a server that follows a script, well meant or not, and
//! against a real sidecar.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that fails must fail its test"
)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use outrigger_core::json::{Value, parse_all};
use outrigger_testkit::{PrivateDir, ports};

/// No command may take longer, whatever it is told.
const LIMIT: Duration = Duration::from_secs(60);

/// What a command came to.
#[derive(Debug)]
struct Ended {
    code: i32,
    out: String,
    err: String,
    took: Duration,
}

fn run(line: &str) -> Ended {
    run_with(line, &[])
}

fn run_with(line: &str, environment: &[(&str, &str)]) -> Ended {
    let began = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_outrigger"))
        .args(line.split_whitespace())
        .env_clear()
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        err.read_to_string(&mut text).unwrap();
        text
    });
    let stopper = Stopper::new(child);
    let mut text = String::new();
    out.read_to_string(&mut text).unwrap();
    let (err, code) = (reading.join().unwrap(), stopper.code());
    let took = began.elapsed();
    assert!(!err.contains("panicked"), "{line}: {err}");
    for text in [&text, &err] {
        let is_odd = |c: char| c.is_control() && c != '\n';
        assert!(!text.contains(is_odd), "{line}: {text:?}");
    }
    Ended {
        code,
        out: text,
        err,
        took,
    }
}

/// Ends a command that hangs, so that its test fails.
struct Stopper(std::thread::JoinHandle<i32>);

impl Stopper {
    fn new(mut child: Child) -> Self {
        Self(std::thread::spawn(move || {
            let deadline = Instant::now() + LIMIT;
            while Instant::now() < deadline {
                if let Some(status) = child.try_wait().unwrap() {
                    return status.code().unwrap_or(-1);
                }
                std::thread::park_timeout(Duration::from_millis(5));
            }
            child.kill().unwrap();
            child.wait().unwrap();
            -2
        }))
    }

    fn code(self) -> i32 {
        self.0.join().unwrap()
    }
}

/// What a server does with a connection on which something was asked.
type Script = dyn Fn(usize, &str, &mut TcpStream) + Send + Sync;

/// Follows a script on a port of its own. Its threads end with the test program.
struct Server {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// The script gets the number of the request, from 1, its head, and the connection.
    fn start(script: impl Fn(usize, &str, &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (all, script): (_, Arc<Script>) = (Arc::clone(&asked), Arc::new(script));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (all, script) = (Arc::clone(&all), Arc::clone(&script));
                std::thread::spawn(move || serve(stream, &all, &*script));
            }
        });
        Self { port, asked }
    }

    fn answering(status: u16, body: &'static str) -> Self {
        Self::start(move |_, _, stream| answer(stream, status, body))
    }

    /// The heads of all requests, with line breaks in place of CRLF.
    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// The first line of the only request.
    #[track_caller]
    fn one(&self) -> String {
        let asked = self.asked();
        assert_eq!(asked.len(), 1, "{asked:?}");
        asked[0].lines().next().unwrap().to_owned()
    }
}

fn serve(mut stream: TcpStream, all: &Mutex<Vec<String>>, script: &Script) {
    let mut head = String::new();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        if line.trim_end().is_empty() {
            break;
        }
        head.push_str(line.trim_end());
        head.push('\n');
    }
    let number = {
        let mut all = all.lock().unwrap();
        all.push(head.clone());
        all.len()
    };
    script(number, &head, &mut stream);
}

fn answer(stream: &mut TcpStream, status: u16, body: &str) {
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).ok();
}

const STATUS: &str = r#"{"appId":"orders","pid":7,"uptimeMs":81234,"phase":"ready","phaseSinceMs":80000,"gate":"open",
  "inflight":{"invoke":2},"counters":{"httpRequests":12},
  "components":[{"name":"bus","type":"pubsub.redis/v1","state":"unavailable","sinceMs":12000,"attempt":3,
                 "class":"TRANSIENT","message":"refused \u001b[2J\u009b2J","nextRetryMs":4000}]}"#;

#[test]
fn wait_asks_until_everything_is_ready() {
    let server = Server::start(|number, _, stream| match number {
        1 => answer(
            stream,
            500,
            r#"{"errorCode":"ERR_HEALTH_NOT_READY","message":"dapr is not ready: [component:a]"}"#,
        ),
        2 => {}
        3 => answer(stream, 502, "<html>"),
        _ => answer(stream, 204, ""),
    });
    let line = format!(
        "wait --for outbound,component:a --port {} --timeout 30s",
        server.port
    );
    let ended = run_with(&line, &[("DAPR_API_TOKEN", "secret")]);
    assert_eq!(
        (ended.code, ended.out.as_str(), ended.err.as_str()),
        (0, "", "")
    );
    let asked = server.asked();
    assert_eq!(asked.len(), 4, "{asked:?}");
    for head in &asked {
        assert!(
            head.starts_with("GET /v1.0/healthz?for=outbound,component:a HTTP/1.1\n"),
            "{head}"
        );
        assert!(head.contains("\ndapr-api-token: secret\n"), "{head}");
        assert!(
            head.contains(&format!("\nhost: 127.0.0.1:{}\n", server.port)),
            "{head}"
        );
    }
}

#[test]
fn wait_says_what_is_missing_and_why() {
    let server = Server::start(|_, head, stream| {
        if head.starts_with("GET /v1.0/healthz/components ") {
            answer(
                stream,
                200,
                r#"{"phase":"waiting_app","gate":"wait_port","componentsHealth":[{"componentName":"bus","state":"unavailable","class":"AUTH","message":"wrong \u001b[31mpassword"}]}"#,
            );
        } else {
            answer(
                stream,
                500,
                r#"{"errorCode":"ERR_HEALTH_NOT_READY","message":"dapr is not ready: [app component:bus]"}"#,
            );
        }
    });
    let port = server.port;
    let ended = run(&format!(
        "wait --for app,component:bus --timeout 500ms --dapr-http-port {port}"
    ));
    assert_eq!(ended.code, 1);
    assert_eq!(
        ended.err,
        format!(
            "error: 127.0.0.1:{port} is not ready after 500ms
  app            the app's gate is wait_port
  component:bus  unavailable, AUTH: wrong ?[31mpassword
"
        )
    );
}

#[test]
fn wait_gives_up_when_nobody_is_there_and_at_once_when_it_asks_for_nonsense() {
    let port = ports::free();
    let ended = run(&format!(
        "wait --timeout 300ms --url http://localhost:{port}"
    ));
    assert_eq!(ended.code, 1);
    assert_eq!(
        ended.err,
        format!(
            "error: gave up after 300ms: no sidecar answers at localhost:{port}: connection refused\n"
        )
    );
    let server = Server::answering(
        400,
        r#"{"errorCode":"ERR_HEALTH_TARGET_UNKNOWN","message":"for: \"inbound\" is not known"}"#,
    );
    let ended = run(&format!("wait --for inbound --port {}", server.port));
    assert_eq!(ended.code, 2);
    assert_eq!(ended.err, "error: for: \"inbound\" is not known\n");
    assert_eq!(server.one(), "GET /v1.0/healthz?for=inbound HTTP/1.1");
}

#[test]
fn wait_knows_a_real_sidecar() {
    let folder = PrivateDir::new("wait");
    let component = |name: &str, more: &str| {
        format!(
            "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {{name: {name}}}\nspec: {{version: v1, {more}}}\n"
        )
    };
    folder.write("store.yaml", component("store", "type: state.in-memory"));
    let nowhere = format!(
        "type: pubsub.redis, metadata: [{{name: redisHost, value: '127.0.0.1:{}'}}]",
        ports::free()
    );
    folder.write("bus.yaml", component("bus", &nowhere));
    let port = ports::free();
    let mut sidecar = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    sidecar.args(["sidecar", "--app-id=a", "--enable-metrics=false"]);
    sidecar.args([
        format!("--resources-path={}", folder.path().display()),
        format!("--dapr-http-port={port}"),
        format!("--dapr-grpc-port={}", ports::free()),
        format!("--dapr-internal-grpc-port={}", ports::free()),
    ]);
    // The command is there first, and waits for it.
    let waiting = std::thread::spawn(move || {
        run(&format!(
            "wait --for outbound,component:store --port {port}"
        ))
    });
    let mut sidecar = sidecar.stdout(Stdio::null()).spawn().unwrap();
    let ready = waiting.join().unwrap();
    let port = port.to_string();
    let unknown = run_with("wait --for component:nope", &[("DAPR_HTTP_PORT", &port)]);
    let down = run(&format!(
        "wait --for component:store,component:bus --timeout 1s --port {port}"
    ));
    sidecar.kill().unwrap();
    sidecar.wait().unwrap();
    assert_eq!((ready.code, ready.err.as_str()), (0, ""));
    assert_eq!(unknown.code, 2, "{}", unknown.err);
    assert!(
        unknown.err.contains("there is no component \"nope\""),
        "{}",
        unknown.err
    );
    assert_eq!(down.code, 1, "{}", down.err);
    let why = down
        .err
        .lines()
        .find(|line| line.starts_with("  component:bus"));
    assert!(
        why.is_some_and(|why| why.contains("connection refused")),
        "{}",
        down.err
    );
    assert!(!down.err.contains("component:store"), "{}", down.err);
}

#[test]
fn drain_says_how_it_ended() {
    let drained = r#"{"phase":"lingering","drained":true,"inflight":{},"durationMs":812}"#;
    let busy = r#"{"phase":"draining","drained":false,"inflight":{"pubsub/bus":3,"invoke":1},"durationMs":25000}"#;
    let resumed = r#"{"phase":"ready","drained":false,"inflight":{},"durationMs":1}"#;
    let last = r#"{"errorCode":"ERR_DRAIN_FINAL","message":"the sidecar was told to end"}"#;
    for (flags, asks, status, body, code, said) in [
        (
            "--wait",
            "POST /outrigger/v1/drain?wait=true&timeout=25s",
            200,
            drained,
            0,
            "AT is drained after 812ms\n",
        ),
        (
            "--wait --timeout=90s",
            "POST /outrigger/v1/drain?wait=true&timeout=1m30s",
            504,
            busy,
            1,
            "error: AT is not drained after 1m30s; in hand: pubsub/bus 3, invoke 1; the drain goes on\n",
        ),
        (
            "",
            "POST /outrigger/v1/drain?wait=false",
            202,
            busy,
            0,
            "AT drains; in hand: pubsub/bus 3, invoke 1\n",
        ),
        (
            "--timeout=5s",
            "POST /outrigger/v1/drain?wait=false&timeout=5s",
            202,
            drained,
            0,
            "AT is drained\n",
        ),
        (
            "--resume",
            "DELETE /outrigger/v1/drain",
            200,
            resumed,
            0,
            "AT has resumed; its phase is ready\n",
        ),
        (
            "--resume",
            "DELETE /outrigger/v1/drain",
            409,
            last,
            1,
            "error: the sidecar at AT refuses: status 409, the sidecar was told to end\n",
        ),
        (
            "--wait",
            "POST /outrigger/v1/drain?wait=true&timeout=25s",
            400,
            r#"{"errorCode":"ERR_DRAIN_PARAMETER","message":"timeout is odd"}"#,
            1,
            "error: the sidecar at AT refuses: status 400, timeout is odd\n",
        ),
        (
            "--wait",
            "POST /outrigger/v1/drain?wait=true&timeout=25s",
            200,
            "{}",
            1,
            "error: what listens at AT is no Outrigger sidecar, or one that does not know this call or does not allow it (`spec.api` of its Configuration): status 200, {}\n",
        ),
    ] {
        let server = Server::answering(status, body);
        let ended = run(&format!("drain {flags} --port {}", server.port));
        let said = said.replace("AT", &format!("127.0.0.1:{}", server.port));
        assert_eq!(
            (ended.code, ended.out + &ended.err),
            (code, said),
            "{flags} {status}"
        );
        assert_eq!(server.one(), format!("{asks} HTTP/1.1"));
    }
    let port = ports::free();
    let ended = run(&format!("drain --port {port}"));
    assert_eq!(ended.code, 3);
    assert_eq!(
        ended.err,
        format!("error: no sidecar answers at 127.0.0.1:{port}: connection refused\n")
    );
}

#[test]
fn history_is_shown_and_its_absence_explained() {
    let history = r#"{"appId":"orders","from":"2026-09-01T10:00:00.000Z","to":"2026-09-01T11:00:00.000Z","changes":[{"at":"2026-09-01T10:00:01.000Z","kind":"gate","to":"open"}],
      "outages":[{"kind":"component","subject":"bus","from":"2026-09-01T10:30:00.000Z","to":"2026-09-01T10:30:08.000Z","durationMs":8000,"cause":"no \u001b[2J route","refused":2}],
      "recovery":[{"component":"bus","count":1,"meanMs":8000,"p95Ms":8000}]}"#;
    let server = Server::answering(200, history);
    let port = server.port;
    let ended = run(&format!("history --since 1h --url http://127.0.0.1:{port}"));
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert_eq!(
        ended.out,
        "orders, 2026-09-01 10:00:00 to 2026-09-01 11:00:00 (UTC)

1 outage, 0 ongoing, 2 calls refused
  BEGAN                WHAT           LASTED  REFUSED  WHY
  2026-09-01 10:30:00  component bus      8s        2  no ?[2J route

time to come back
  COMPONENT  TIMES  MEAN  P95
  bus            1    8s   8s
"
    );
    assert_eq!(
        server.one(),
        "GET /outrigger/v1/history?since=1h0m0s&limit=500 HTTP/1.1"
    );
    let ended = run(&format!("history --kind gate --format json --port {port}"));
    let json = parse_all(ended.out.as_bytes()).unwrap();
    let count = |name| json.get(name).and_then(Value::as_array).unwrap().len();
    assert_eq!(
        [count("changes"), count("outages"), count("recovery")],
        [1, 0, 0]
    );

    let off = Server::answering(
        404,
        r#"{"errorCode":"ERR_HISTORY_OFF","message":"no history is kept: start the sidecar with --state-dir"}"#,
    );
    let ended = run(&format!("history --port {}", off.port));
    assert_eq!(ended.code, 1);
    assert!(ended.err.contains("--state-dir"), "{}", ended.err);
    let odd = Server::answering(200, "{}");
    let ended = run(&format!("history --port {}", odd.port));
    assert_eq!(ended.code, 1);
    assert!(
        ended.err.contains("something that is no history"),
        "{}",
        ended.err
    );
    assert_eq!(run(&format!("history --port {}", ports::free())).code, 3);
}

#[test]
fn status_and_top_print_the_same_when_the_output_is_no_terminal() {
    let server = Server::answering(200, STATUS);
    let status = run(&format!("status --port {}", server.port));
    assert_eq!(status.code, 0, "{}", status.err);
    assert_eq!(
        status.out,
        "orders  pid 7  up 1m21s
phase       ready for 1m20s   gate open
in hand     invoke 2
so far      http 12

  COMPONENT  TYPE             STATE         SINCE  NEXT TRY
x bus        pubsub.redis/v1  unavailable     12s  in 4s
    TRANSIENT, attempt 3: refused ?[2J?2J
"
    );
    let once = run(&format!("top --once --port {}", server.port));
    assert_eq!(
        (once.code, &once.out, once.err.as_str()),
        (0, &status.out, "")
    );
    let piped = run(&format!("top --port {}", server.port));
    assert_eq!((piped.code, &piped.out), (0, &status.out));
    assert!(piped.err.starts_with("note: "), "{}", piped.err);

    let json = run(&format!("status --format json --port {}", server.port));
    assert_eq!(parse_all(json.out.as_bytes()), parse_all(STATUS.as_bytes()));

    let port = ports::free();
    let both = run(&format!("top --once --port {} --port {port}", server.port));
    assert_eq!(both.code, 3);
    assert!(
        both.out.contains(&format!(
            "\n127.0.0.1:{port} is unreachable for 0ms: connection refused\n"
        )),
        "{}",
        both.out
    );
    assert!(
        both.out.contains("  x bus") || both.out.contains("\nx bus"),
        "{}",
        both.out
    );
}

#[test]
fn a_sidecar_that_refuses_is_told_from_one_that_is_none() {
    let server = Server::answering(
        401,
        r#"{"errorCode":"ERR_UNAUTHORIZED","message":"invalid api token"}"#,
    );
    let ended = run(&format!("status --port {}", server.port));
    assert_eq!(ended.code, 1);
    assert!(
        ended.err.contains("DAPR_API_TOKEN") && ended.err.contains("invalid api token"),
        "{}",
        ended.err
    );
    let older = Server::answering(
        404,
        r#"{"errorCode":"ERR_DIRECT_INVOKE","message":"failed getting app id"}"#,
    );
    let ended = run(&format!("status --port {}", older.port));
    assert_eq!(ended.code, 1);
    assert!(
        ended
            .err
            .contains("no Outrigger sidecar, or one that does not know this call"),
        "{}",
        ended.err
    );
}

/// Whatever listens there, a command ends, says why, and neither panics nor lets anything through to the terminal.
#[test]
fn no_server_can_hold_up_or_upset_a_command() {
    const OK: &str = "HTTP/1.1 200 OK\r\n";
    fn forever(stream: &mut TcpStream, bytes: &[u8], pause: Duration) {
        while stream.write_all(bytes).is_ok() {
            if !pause.is_zero() {
                std::thread::park_timeout(pause);
            }
        }
    }
    fn until_gone(stream: &mut TcpStream) {
        let mut rest = [0; 64];
        while stream.read(&mut rest).is_ok_and(|read| read > 0) {}
    }
    type Trick = fn(&mut TcpStream);
    let tricks: [(&str, Trick, i32, &str); 12] = [
        (
            "garbage",
            |stream| stream.write_all(b"\x1b[2J\0\xff\r\n\r\n").unwrap(),
            1,
            "does not speak HTTP/1.1",
        ),
        (
            "endless garbage",
            |stream| forever(stream, &[b'x'; 4096], Duration::ZERO),
            1,
            "does not speak HTTP/1.1",
        ),
        ("nothing", |_| {}, 3, "ended before an answer"),
        ("silence", until_gone, 3, "not within 5s"),
        (
            "a drip",
            |stream| {
                stream.write_all(OK.as_bytes()).unwrap();
                forever(stream, b"x", Duration::from_millis(50));
            },
            3,
            "not within 5s",
        ),
        (
            "a drip of the body",
            |stream| {
                stream
                    .write_all(format!("{OK}content-length: 1000\r\n\r\n").as_bytes())
                    .unwrap();
                forever(stream, b"{", Duration::from_millis(50));
            },
            3,
            "not within 5s",
        ),
        (
            "a body without an end",
            |stream| {
                stream.write_all(format!("{OK}\r\n").as_bytes()).unwrap();
                forever(stream, &[b'['; 65536], Duration::ZERO);
            },
            1,
            "larger than 8 MiB",
        ),
        (
            "chunks without an end",
            |stream| {
                stream
                    .write_all(format!("{OK}transfer-encoding: chunked\r\n\r\n").as_bytes())
                    .unwrap();
                forever(
                    stream,
                    format!("4000\r\n{}\r\n", "x".repeat(0x4000)).as_bytes(),
                    Duration::ZERO,
                );
            },
            1,
            "larger than 8 MiB",
        ),
        (
            "deep nesting",
            |stream| answer(stream, 200, &"[".repeat(7_000_000)),
            1,
            "no Outrigger sidecar",
        ),
        (
            "a redirect",
            |stream| {
                stream.write_all(b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n").unwrap()
            },
            1,
            "points elsewhere",
        ),
        (
            "a page",
            |stream| answer(stream, 200, "<!DOCTYPE html>\n<title>\x1b[2J</title>"),
            1,
            "an HTML page",
        ),
        (
            "a half",
            |stream| {
                stream
                    .write_all(format!("{OK}content-length: 10\r\n\r\n{{").as_bytes())
                    .unwrap()
            },
            3,
            "cut off",
        ),
    ];
    let running: Vec<_> = tricks
        .into_iter()
        .map(|(name, trick, code, why)| {
            std::thread::spawn(move || {
                let server = Server::start(move |_, _, stream| trick(stream));
                let ended = run(&format!("status --port {}", server.port));
                assert_eq!(ended.code, code, "{name}: {ended:?}");
                assert!(ended.err.contains(why), "{name}: {ended:?}");
                assert!(ended.took < Duration::from_secs(30), "{name}: {ended:?}");
                // What is repeated does not end either.
                let ended = run(&format!("wait --timeout 300ms --port {}", server.port));
                assert_eq!(ended.code, 1, "{name}: {ended:?}");
                assert!(ended.took < Duration::from_secs(15), "{name}: {ended:?}");
            })
        })
        .collect();
    for one in running {
        one.join().unwrap();
    }
}

#[test]
fn a_large_status_is_read() {
    let server = Server::start(|_, _, stream| {
        let component = r#"{"name":"c","state":"ready","type":"state.redis/v1"},"#;
        let body = format!(
            r#"{{"appId":"a","phase":"ready","components":[{}{{"name":"last","state":"ready"}}]}}"#,
            component.repeat(100_000)
        );
        answer(stream, 200, &body);
    });
    let ended = run(&format!("status --port {}", server.port));
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert_eq!(
        ended
            .out
            .lines()
            .filter(|line| line.starts_with('+'))
            .count(),
        100_001
    );
}

#[test]
fn command_lines_that_cannot_be_followed_name_the_flag() {
    for (line, why) in [
        (
            "wait --fro app",
            "error: unknown flag: --fro; did you mean `--for`?",
        ),
        (
            "wait --timeout -1s",
            "error: --timeout: `-1s` is no duration above zero and up to a year, such as 10s",
        ),
        (
            "wait --timeout 1000000h",
            "error: --timeout: `1000000h` is too long; a year is the longest",
        ),
        (
            "wait --port 70000",
            "error: --port: `70000` is no port, 1 to 65535",
        ),
        (
            "drain --wait=yes",
            "error: --wait takes no value, but has `yes`",
        ),
        (
            "drain --resume --timeout 1s",
            "error: --resume and --timeout exclude each other",
        ),
        (
            "history --kind x",
            "error: --kind: `x` is not known; known are process, phase, gate, component, subscription, breaker, drain",
        ),
        ("history --since", "error: flag needs an argument: --since"),
        (
            "status --format yaml",
            "error: --format: `yaml` is not known; known are text, json",
        ),
        (
            "status --url https://a:1",
            "error: --url: `https://a:1` asks for TLS, which a sidecar's API does not have; expected http://HOST:PORT",
        ),
        (
            "status now",
            "error: `now` is no flag, and nothing else is expected",
        ),
        (
            "top --interval 1ms",
            "error: --interval: 100ms is the shortest",
        ),
        ("top --port 0", "error: --port: `0` is no port, 1 to 65535"),
    ] {
        let ended = run(line);
        assert_eq!(ended.code, 2, "{line}");
        assert_eq!(ended.err.lines().next(), Some(why), "{line}");
        assert!(ended.err.contains("\nUsage: outrigger "), "{line}");
    }
    for command in ["wait", "drain", "history", "status", "top"] {
        let ended = run(&format!("{command} --help"));
        assert_eq!((ended.code, ended.err.as_str()), (0, ""));
        assert!(
            ended
                .out
                .starts_with(&format!("Usage: outrigger {command}")),
            "{}",
            ended.out
        );
        assert!(
            ended.out.lines().all(|line| line.chars().count() <= 125),
            "{}",
            ended.out
        );
        assert!(run("help").out.contains(&format!("  outrigger {command} ")));
    }
}
