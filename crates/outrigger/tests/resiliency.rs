//! `outrigger resiliency`, as a user runs it: in a folder with resources, without a sidecar.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that fails must fail its test"
)]

use std::process::{Command, Output};

use outrigger_core::json::{Value, parse_all};
use outrigger_testkit::PrivateDir;

const HEAD: &str = "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata: {name: r}\n";
const STORE: &str = "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: store}\nspec: {type: state.in-memory, version: v1}\n";
const BUS: &str = "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: bus}\nspec: {type: pubsub.in-memory, version: v1}\n";

/// A folder to run the command in.
struct Bench {
    folder: PrivateDir,
}

impl Bench {
    /// With a file of resources below `./resources` for each text.
    fn new(texts: &[&str]) -> Self {
        let folder = PrivateDir::new("resiliency");
        std::fs::create_dir(folder.path().join("resources")).unwrap();
        for (number, text) in texts.iter().enumerate() {
            folder.write(&format!("resources/{number}.yaml"), text);
        }
        Self { folder }
    }

    /// A Resiliency resource with this `spec`, beside a store and a broker.
    fn with(spec: &str) -> Self {
        Self::new(&[&format!("{HEAD}spec:\n{spec}"), STORE, BUS])
    }

    fn run(&self, line: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_outrigger"))
            .arg("resiliency")
            .args(line.split_whitespace())
            .current_dir(self.folder.path())
            .env_clear()
            .output()
            .unwrap()
    }

    /// What the command prints, and how it ends.
    #[track_caller]
    fn told(&self, line: &str, code: i32) -> String {
        let output = self.run(line);
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(code), "{line}\n{text}");
        text
    }

    #[track_caller]
    fn explained(&self, line: &str) -> Value {
        let text = self.told(&format!("explain --app-id a --json {line}"), 0);
        parse_all(text.as_bytes()).unwrap()
    }

    /// Attempts and seconds of the first use, in a case.
    #[track_caller]
    fn adds_up(&self, line: &str, case: &str) -> (i64, f64) {
        self.adds_up_in(line, 0, case)
    }

    #[track_caller]
    fn adds_up_in(&self, line: &str, section: usize, case: &str) -> (i64, f64) {
        let told = self.explained(line);
        let cases = field(&told, &["uses"]).as_array().unwrap()[section]
            .get("worstCase")
            .and_then(Value::as_array)
            .unwrap();
        let is_it = |one: &&Value| one.get("case").and_then(Value::as_str) == Some(case);
        let usual = cases.iter().find(is_it).unwrap().get("usual").unwrap();
        let Some(Value::Number(seconds)) = usual.get("seconds") else {
            panic!("no end: {usual:?}");
        };
        let attempts = usual.get("attempts").and_then(Value::as_i64).unwrap();
        (attempts, seconds.parse().unwrap())
    }

    /// Codes of warnings about the first use.
    #[track_caller]
    fn warned(&self, line: &str) -> Vec<String> {
        let told = self.explained(line);
        codes(field(
            &field(&told, &["uses"]).as_array().unwrap()[0],
            &["warnings"],
        ))
    }

    /// Codes of everything that is wrong.
    #[track_caller]
    fn faults(&self, line: &str) -> Vec<String> {
        let text = self.told(&format!("validate --json {line}"), 1);
        codes(field(&parse_all(text.as_bytes()).unwrap(), &["findings"]))
    }
}

#[track_caller]
fn field<'a>(value: &'a Value, path: &[&str]) -> &'a Value {
    path.iter().fold(value, |value, name| {
        let found = value.get(name);
        found.unwrap_or_else(|| panic!("no {name} in {value:?}"))
    })
}

fn codes(findings: &Value) -> Vec<String> {
    let code = |one: &Value| field(one, &["code"]).as_str().unwrap().to_owned();
    findings.as_array().unwrap().iter().map(code).collect()
}

/// Compares with a file; `UPDATE_GOLDEN=1` writes it.
#[track_caller]
fn golden(name: &str, text: &str) {
    let path = format!("{}/tests/golden/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(&path).unwrap(), "{path}");
}

#[test]
fn without_any_resource_the_built_in_retries_are_what_there_is() {
    let bench = Bench::new(&[]);
    assert_eq!(bench.adds_up("app b", "unreachable"), (4, 3.0));
    assert_eq!(bench.adds_up("app b", "failure"), (1, 0.0));
    golden("nothing", &bench.told("explain --app-id a app b", 0));
}

#[test]
fn the_own_app_and_endpoints_have_no_built_in_retries() {
    let endpoint = "apiVersion: dapr.io/v1alpha1\nkind: HTTPEndpoint\nmetadata: {name: shop}\nspec: {baseUrl: 'https://shop.example'}\n";
    let spec = "  policies: {circuitBreakers: {DefaultCircuitBreakerPolicy: {}}}\n";
    let bench = Bench::new(&[endpoint, &format!("{HEAD}spec:\n{spec}")]);
    for (target, key) in [
        (
            "app a",
            "a:<method>, one for each method; up to 100 are remembered",
        ),
        ("app shop", "shop:https://shop.example, one for all paths"),
        ("app https://x.example --method /y", "https://x.example/y"),
    ] {
        let told = bench.explained(target);
        let used = &field(&told, &["uses"]).as_array().unwrap()[0];
        let built_in = field(used, &["policies", "builtInRetry", "value"]);
        assert!(built_in.is_null(), "{target}: {built_in:?}");
        assert_eq!(
            field(used, &["breakers"]).as_array().unwrap()[0].as_str(),
            Some(key)
        );
    }
}

#[test]
fn default_retries_multiply_with_the_built_in_ones() {
    let bench = Bench::with(
        "  policies:\n    retries:\n      DefaultAppRetryPolicy: {duration: 10ms, maxRetries: 3}\n",
    );
    assert_eq!(bench.adds_up("app b", "unreachable"), (16, 12.03));
    assert_eq!(bench.adds_up("app b", "failure"), (4, 0.03));
    assert_eq!(bench.warned("app b"), ["CFG-MULTIPLIED"]);
    golden("multiplied", &bench.told("explain --app-id a app b", 0));
    assert_eq!(bench.faults(""), ["CFG-MULTIPLIED"]);
}

#[test]
fn exponential_retries_end_after_a_quarter_of_an_hour() {
    let bench = Bench::with(
        "  policies:\n    retries:\n      plain: {policy: exponential}\n      short: {policy: exponential, maxInterval: 15s, maxRetries: -1}\n  targets:\n    apps:\n      b: {retry: plain}\n      c: {retry: short}\n",
    );
    let (attempts, seconds) = bench.adds_up("app b", "failure");
    assert_eq!(attempts, 25);
    assert!((seconds - 848.7).abs() < 0.1, "{seconds}");
    let (attempts, seconds) = bench.adds_up("app c", "failure");
    assert_eq!(attempts, 67);
    assert!((seconds - 892.4).abs() < 0.1, "{seconds}");
    assert_eq!(bench.warned("app c"), ["CFG-RETRY-ELAPSED"]);
    assert_eq!(bench.faults(""), ["CFG-RETRY-ELAPSED", "CFG-RETRY-ELAPSED"]);
    golden("exponential", &bench.told("explain --app-id a app b", 0));
}

#[test]
fn time_outs_add_up_with_pauses() {
    let bench = Bench::with(
        "  policies:\n    timeouts: {t: 500ms}\n    retries:\n      r: {duration: 10ms, maxRetries: 2}\n    circuitBreakers:\n      cb: {trip: consecutiveFailures >= 2, timeout: 5s}\n  targets:\n    apps:\n      b: {timeout: t, retry: r}\n      c: {timeout: t, retry: r, circuitBreaker: cb}\n",
    );
    assert_eq!(bench.adds_up("app b", "hanging"), (3, 1.52));
    golden(
        "breaker",
        &bench.told("explain --app-id a app c --method /orders/1", 0),
    );
    assert_eq!(
        bench.told("validate", 0),
        "no faults in 1 Resiliency resource\n"
    );
}

#[test]
fn defaults_go_from_the_narrow_to_the_wide_and_an_entry_shuts_them_out() {
    let bench = Bench::with(
        "  policies:\n    retries:\n      DefaultRetryPolicy: {maxRetries: 3}\n      DefaultComponentOutboundRetryPolicy: {maxRetries: 2}\n      DefaultStatestoreComponentOutboundRetryPolicy: {maxRetries: 1}\n      own: {maxRetries: 7}\n  targets:\n    components:\n      bus: {outbound: {retry: own}}\n",
    );
    assert_eq!(bench.adds_up("component store", "failure").0, 2);
    assert_eq!(
        bench
            .adds_up("component other --type pubsub.kafka", "failure")
            .0,
        3
    );
    assert_eq!(bench.adds_up("app b", "failure").0, 4);
    assert_eq!(
        bench
            .adds_up("component bus --direction outbound", "failure")
            .0,
        8
    );
    assert_eq!(
        bench
            .adds_up("component bus --direction inbound", "failure")
            .0,
        1
    );
    golden("entry", &bench.told("explain --app-id a component bus", 0));
    golden(
        "any_type",
        &bench.told("explain --app-id a component other", 0),
    );
}

#[test]
fn an_open_breaker_holds_what_comes_in_and_rejects_what_goes_out() {
    let policies = "  policies:\n    retries: {r: {duration: 10ms, maxRetries: 4}}\n    circuitBreakers: {cb: {trip: consecutiveFailures >= 2}}\n";
    let one = "{retry: r, circuitBreaker: cb}";
    let bench = Bench::with(&format!(
        "{policies}  targets:\n    components:\n      bus: {{inbound: {one}, outbound: {one}}}\n"
    ));
    golden(
        "inbound",
        &bench.told("explain --app-id a component bus", 0),
    );
}

#[test]
fn overridden_built_in_retries_have_a_floor() {
    for (retries, attempts) in [(1, 4), (-1, 4), (10, 11)] {
        let spec = format!(
            "  policies:\n    retries:\n      DaprBuiltInServiceRetries: {{maxRetries: {retries}}}\n      DaprBuiltInActorNotFoundRetries: {{maxRetries: 10}}\n"
        );
        let bench = Bench::with(&spec);
        let seconds = 5.0 * f64::from(attempts - 1);
        let expected = (i64::from(attempts), seconds);
        assert_eq!(bench.adds_up("app b", "unreachable"), expected);
        assert_eq!(bench.adds_up("actor T", "unreachable"), (6, 5.0));
        assert_eq!(bench.warned("actor T"), ["CFG-BUILT-IN"]);
        let expected = if retries < 3 { 2 } else { 1 };
        assert_eq!(bench.faults("").len(), expected);
    }
}

#[test]
fn an_app_may_be_named_with_its_namespace() {
    let spec = "  policies: {retries: {none: {maxRetries: 0}}}\n  targets: {apps: {appB: {retry: none}}}\n";
    let bench = Bench::with(spec);
    assert!(bench.explained("app appB.default").get("uses").is_some());
    let cases = |name: &str| {
        let told = bench.explained(&format!("--namespace own app {name}"));
        let used = &field(&told, &["uses"]).as_array().unwrap()[0];
        field(used, &["worstCase"]).as_array().unwrap().len()
    };
    assert_eq!(cases("appB.own"), 2, "no case for what is built in");
    assert_eq!(
        bench.adds_up("--namespace own app appB.own", "failure"),
        (1, 0.0)
    );
    assert_eq!(
        bench.adds_up("--namespace own app appB.other", "unreachable"),
        (4, 3.0)
    );
    let near = bench.told("explain --app-id a app appC", 0);
    assert!(near.contains("that is called `appB`"), "{near}");
}

#[test]
fn methods_of_an_app_are_found_by_path_and_verb() {
    let bench = Bench::with(
        "  policies:\n    retries: {r: {maxRetries: 5}}\n    circuitBreakers: {cb: {}}\n  targets:\n    apps:\n      b:\n        circuitBreaker: cb\n        methods:\n          - {match: /orders/*, verbs: [GET], retry: r, breakerKey: pattern}\n",
    );
    let attempts = |line: &str| bench.adds_up(line, "failure").0;
    assert_eq!(attempts("app b --method /orders/1 --verb get"), 6);
    assert_eq!(attempts("app b --method /orders/1 --verb POST"), 1);
    assert_eq!(attempts("app b --method /other --verb GET"), 1);
    let text = bench.told("explain --app-id a app b --method orders/1 --verb GET", 0);
    assert!(
        text.contains("b:/orders/*, one for all that it matches"),
        "{text}"
    );
    let text = bench.told("explain --app-id a app b --method orders/1", 0);
    assert!(text.contains("`/orders/*` is passed over"), "{text}");
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let spec = "  policies:
    timeouts: {general: 5, past: -1s, DefaultSecretstoreComponentTimeoutPolicy: 5s}
    retries:
      endless: {duration: 1s}
      odd: {maxRetries: 3, maxRetry: 4}
    circuitBreakers:
      never: {trip: nosuch > 1}
  targets:
    apps:
      b: {timeout: genral, retry: endless, circuitBreaker: never}
    actors:
      T: {timeout: general}
    components:
      stor: {outbound: {timeout: past}}
      store: {inbound: {retry: odd}}
";
    let again = "  policies: {retries: {odd: {maxRetries: 2}}}\n";
    let bench = Bench::new(&[
        &format!("{HEAD}spec:\n{spec}"),
        STORE,
        &format!("{HEAD}spec:\n{again}"),
        "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata: {name: bad}\nspec: {policies: {retries: {x: {policy: soon}}}}\n",
    ]);
    golden("faults", &bench.told("validate", 1));
    let refused = bench.told("explain --app-id a app b", 0);
    assert!(
        refused.contains("`bad` (resources/3.yaml:3) is refused"),
        "{refused}"
    );
}

#[test]
fn each_app_that_is_named_is_looked_at_by_itself() {
    let one = "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata: {name: one}\nscopes: [first]\nspec: {policies: {retries: {r: {maxRetries: 1}}}}\n";
    let other = "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata: {name: other}\nscopes: [second]\nspec: {policies: {retries: {r: {maxRetries: 2}}}, targets: {apps: {b: {retry: r}}}}\n";
    let user = "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata: {name: user}\nscopes: [first]\nspec: {targets: {apps: {c: {retry: r}}}}\n";
    let bench = Bench::new(&[one, other, user]);
    assert_eq!(
        bench.told("validate", 0),
        "no faults in 3 Resiliency resources\n"
    );
    assert_eq!(
        bench.adds_up("app b", "failure").0,
        1,
        "no app but those two gets any"
    );
    let none = bench.told("validate --app-id a", 1);
    assert!(none.starts_with("no Resiliency resource"), "{none}");
    assert_eq!(
        bench.told("validate --app-id second", 0),
        "no faults in 1 Resiliency resource\n"
    );
}

#[test]
fn policies_that_another_resource_uses_are_reached() {
    let shared = format!("{HEAD}spec: {{policies: {{retries: {{r: {{maxRetries: 1}}}}}}}}\n");
    let user = "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata: {name: user}\nscopes: [first]\nspec: {targets: {apps: {c: {retry: r}}}}\n";
    let bench = Bench::new(&[&shared, user]);
    assert_eq!(
        bench.told("validate", 0),
        "no faults in 2 Resiliency resources\n"
    );
    assert_eq!(bench.faults("--app-id other"), ["CFG-UNREACHED"]);
}

#[test]
fn a_wrong_command_line_ends_with_2_and_files_that_are_not_there_with_1() {
    let bench = Bench::new(&[]);
    for (line, why) in [
        ("", "Usage"),
        ("expain", "unknown command `resiliency expain`"),
        ("explain app b", "--app-id is missing"),
        ("explain --app-id a app", "expected a kind"),
        ("explain --app-id a ap b", "`ap` is no kind of target"),
        (
            "explain --app-id a actor T --method x",
            "--method is for kind app",
        ),
        (
            "explain --app-id a component c --direction up",
            "neither inbound nor outbound",
        ),
        ("explain --app-id", "flag needs an argument: --app-id"),
        ("validate --jsn", "unknown flag: --jsn"),
    ] {
        let output = bench.run(line);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{line}");
        assert!(
            told.contains(why) && told.contains("Usage"),
            "{line}: {told}"
        );
    }
    for line in [
        "validate nowhere",
        "explain --app-id a --resources-path nowhere app b",
    ] {
        let output = bench.run(line);
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert!(
            String::from_utf8(output.stderr)
                .unwrap()
                .contains("nowhere")
        );
    }
    for line in ["--help", "validate --help", "explain --help"] {
        assert!(bench.told(line, 0).starts_with("Usage"));
    }
}
