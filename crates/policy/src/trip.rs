//! When a breaker opens.
//!
//! Owns: the counters, and the expression over them ([`Trip`]), in CEL. Compiling takes bounded time whatever the text
//! is, and so does asking.
//! Never: logs; what is wrong with an expression is told by [`Trip::compile`], [`Trip::caution`] and [`Trip::holds`].
//! Tests: below, and random texts in `tests/fuzz_trip.rs`.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};

use cel::common::ast::{CallExpr, EntryExpr, Expr};
use cel::{Context, Env, IdedExpr, Program, Value};

/// What a breaker has counted.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counts {
    pub requests: u32,
    pub total_successes: u32,
    pub total_failures: u32,
    pub consecutive_successes: u32,
    pub consecutive_failures: u32,
}

impl Counts {
    /// The names that an expression has for them.
    pub const NAMES: [&'static str; 5] = [
        "requests",
        "totalSuccesses",
        "totalFailures",
        "consecutiveSuccesses",
        "consecutiveFailures",
    ];

    fn named(self) -> [(&'static str, u32); 5] {
        let [requests, successes, failures, good, bad] = Self::NAMES;
        [
            (requests, self.requests),
            (successes, self.total_successes),
            (failures, self.total_failures),
            (good, self.consecutive_successes),
            (bad, self.consecutive_failures),
        ]
    }
}

/// In bytes; longer expressions are refused.
const LONGEST: usize = 4096;
/// Names, numbers and signs. A chain of operators is as deep as it is long, and depth costs stack.
const MOST_TOKENS: usize = 512;
/// Brackets opened, wherever they stand.
const MOST_BRACKETS: usize = 64;
/// Loops and patterns. One within another multiplies, so there is none.
const MOST_LOOPS: usize = 4;

/// The functions of CEL's standard library.
const FUNCTIONS: [&str; 25] = [
    "bool",
    "bytes",
    "contains",
    "double",
    "duration",
    "dyn",
    "endsWith",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getFullYear",
    "getHours",
    "getMilliseconds",
    "getMinutes",
    "getMonth",
    "getSeconds",
    "int",
    "matches",
    "size",
    "startsWith",
    "string",
    "timestamp",
    "type",
    "uint",
];
/// What operators are called in the tree.
const OPERATORS: [&str; 21] = [
    "!_",
    "-_",
    "@in",
    "@not_strictly_false",
    "_!=_",
    "_%_",
    "_&&_",
    "_*_",
    "_+_",
    "_-_",
    "_/_",
    "_<=_",
    "_<_",
    "_==_",
    "_>=_",
    "_>_",
    "_?._",
    "_?_:_",
    "_[?_]",
    "_[_]",
    "_||_",
];
/// The names of types, which are values too.
const TYPES: [&str; 10] = [
    "bool",
    "bytes",
    "double",
    "int",
    "list",
    "map",
    "null_type",
    "string",
    "type",
    "uint",
];

/// The condition under which a closed breaker opens.
#[derive(Clone, Debug)]
pub struct Trip {
    text: Arc<str>,
    rule: Rule,
    unknown: Arc<[String]>,
}

#[derive(Clone, Debug)]
enum Rule {
    /// So many failures in a row; needs no CEL.
    InARow(u64),
    Expression(Arc<Program>),
}

/// An expression that does not compile: what is wrong, and where, from 1.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TripError {
    pub message: String,
    pub line: usize,
    /// In characters.
    pub column: usize,
}

impl fmt::Display for TripError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

impl std::error::Error for TripError {}

impl Default for Trip {
    /// More than five failures in a row.
    fn default() -> Self {
        Self {
            text: Arc::from("consecutiveFailures > 5"),
            rule: Rule::InARow(6),
            unknown: Arc::default(),
        }
    }
}

impl PartialEq for Trip {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Trip {}

impl Trip {
    /// Compiles an expression.
    ///
    /// # Errors
    /// When it is not CEL, calls a function that CEL does not have, or is larger than a condition needs to be.
    pub fn compile(text: &str) -> Result<Self, TripError> {
        let text = text.trim();
        if let Some(failures) = in_a_row(text) {
            return Ok(Self {
                text: Arc::from(text),
                rule: Rule::InARow(failures),
                unknown: Arc::default(),
            });
        }
        check_size(text)?;
        let program = parse(text)?;
        let mut survey = Survey {
            program: &program,
            scope: Vec::new(),
            unknown: Vec::new(),
            loops: 0,
            within_loop: false,
        };
        survey.look_at(program.expression())?;
        Ok(Self {
            text: Arc::from(text),
            unknown: survey.unknown.into(),
            rule: Rule::Expression(Arc::new(program)),
        })
    }

    /// Whether the breaker opens.
    ///
    /// # Errors
    /// When the expression cannot be evaluated or gives no boolean. The breaker stays closed then.
    pub fn holds(&self, counts: &Counts) -> Result<bool, String> {
        match self.ask(counts)? {
            Value::Bool(holds) => Ok(holds),
            other => Err(format!("the result is {}, not a boolean", kind(&other))),
        }
    }

    fn ask(&self, counts: &Counts) -> Result<Value, String> {
        let program = match &self.rule {
            Rule::InARow(failures) => {
                return Ok(Value::Bool(
                    u64::from(counts.consecutive_failures) >= *failures,
                ));
            }
            Rule::Expression(program) => program,
        };
        static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));
        let evaluated = catch_unwind(AssertUnwindSafe(|| {
            let mut context = Context::with_env(ENVIRONMENT.clone());
            for (name, count) in counts.named() {
                context.add_variable_from_value(name, i64::from(count));
            }
            program.execute(&context)
        }));
        match evaluated {
            Ok(result) => result.map_err(|error| one_line(&error.to_string())),
            Err(_) => Err("the expression cannot be evaluated".to_owned()),
        }
    }

    /// The expression as it was written, without blanks around it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Names in the expression that are no counters: evaluation fails where it meets one.
    pub fn unknown_names(&self) -> &[String] {
        &self.unknown
    }

    /// Why the expression, although it compiles, is not what its author wants; absent when nothing seems wrong.
    pub fn caution(&self) -> Option<String> {
        match &*self.unknown {
            [] => {}
            [name] => return Some(format!("`{name}` is not a counter")),
            [first, others @ ..] => {
                let mut message = format!("`{first}`");
                for name in others {
                    message.push_str(&format!(", `{name}`"));
                }
                return Some(message + " are not counters");
            }
        }
        let results = SAMPLES.map(|counts| self.ask(&counts));
        if results
            .iter()
            .any(|result| matches!(result, Ok(Value::Bool(_))))
        {
            return None;
        }
        // What it can give says more than how it fails.
        let value = results.iter().find_map(|result| result.as_ref().ok());
        match (value, results.first()) {
            (Some(value), _) => Some(format!("it gives {}, not a boolean", kind(value))),
            (None, Some(Err(reason))) => Some(format!("it can only fail: {reason}")),
            (None, _) => None,
        }
    }
}

/// Counters as they are after a failure in the closed state.
const SAMPLES: [Counts; 6] = [
    sample(1, 0, 1, 1),
    sample(6, 0, 6, 6),
    sample(10, 5, 5, 1),
    sample(100, 40, 57, 3),
    sample(1_000, 999, 1, 1),
    sample(u32::MAX, 0, u32::MAX, u32::MAX),
];

const fn sample(requests: u32, successes: u32, failures: u32, in_a_row: u32) -> Counts {
    Counts {
        requests,
        total_successes: successes,
        total_failures: failures,
        consecutive_successes: 0,
        consecutive_failures: in_a_row,
    }
}

/// Recognises the form that nearly everybody writes. How many failures it takes.
fn in_a_row(text: &str) -> Option<u64> {
    let comparison = text.strip_prefix("consecutiveFailures")?.trim_ascii_start();
    let (number, more) = match comparison.strip_prefix(">=") {
        Some(number) => (number, 0),
        None => (comparison.strip_prefix('>')?, 1),
    };
    let number = number.trim_ascii_start();
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: i64 = number.parse().ok()?;
    u64::try_from(number).ok()?.checked_add(more)
}

/// Refuses what would take the parser too long or too deep, before it sees it.
fn check_size(text: &str) -> Result<(), TripError> {
    let too = |what: &str, at: usize| {
        let (line, column) = line_and_column(text, text.chars().take(at).map(char::len_utf8).sum());
        Err(TripError {
            message: format!("the expression has more than {what}"),
            line,
            column,
        })
    };
    if text.len() > LONGEST {
        return too(&format!("{LONGEST} bytes"), 0);
    }
    let (mut tokens, mut brackets, mut within_word) = (0, 0, false);
    for (at, c) in text.chars().enumerate() {
        let is_word = c.is_alphanumeric() || c == '_';
        if !(c.is_whitespace() || is_word && within_word) {
            tokens += 1;
        }
        if matches!(c, '(' | '[' | '{') {
            brackets += 1;
        }
        within_word = is_word;
        if tokens > MOST_TOKENS {
            return too(&format!("{MOST_TOKENS} names, numbers and signs"), at);
        }
        if brackets > MOST_BRACKETS {
            return too(&format!("{MOST_BRACKETS} opening brackets"), at);
        }
    }
    Ok(())
}

fn parse(text: &str) -> Result<Program, TripError> {
    // The parser is fed what users write; should it panic, that is an answer too.
    let compiled = catch_unwind(AssertUnwindSafe(|| Program::compile(text)));
    let position = |number: isize| usize::try_from(number).unwrap_or(1).max(1);
    let bad = |message: &str, line, column| TripError {
        message: in_short(message),
        line: position(line),
        column: position(column),
    };
    match compiled {
        Ok(Ok(program)) => Ok(program),
        Ok(Err(errors)) => Err(match errors.errors.first() {
            Some(error) => bad(&error.msg, error.pos.0, error.pos.1),
            None => bad("it is not CEL", 1, 1),
        }),
        Err(_) => Err(bad("the expression cannot be parsed", 1, 1)),
    }
}

/// A look at every node of a compiled expression.
struct Survey<'a> {
    program: &'a Program,
    /// Variables of the loops around the node.
    scope: Vec<&'a str>,
    unknown: Vec<String>,
    loops: usize,
    within_loop: bool,
}

impl<'a> Survey<'a> {
    fn look_at(&mut self, node: &'a IdedExpr) -> Result<(), TripError> {
        match &node.expr {
            Expr::Unspecified => Err(self.refusal(node, "a part of the expression is missing")),
            Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => {
                self.name(name);
                Ok(())
            }
            Expr::Select(select) => self.look_at(&select.operand),
            Expr::List(list) => list.elements.iter().try_for_each(|item| self.look_at(item)),
            Expr::Map(map) => (map.entries.iter()).try_for_each(|entry| self.entry(&entry.expr)),
            Expr::Struct(of) => {
                let message = format!("there is no type `{}`", of.type_name);
                Err(self.refusal(node, message))
            }
            Expr::Call(call) => self.call(node, call),
            Expr::Comprehension(each) => {
                self.count_loop(node)?;
                let outer = std::mem::replace(&mut self.within_loop, true);
                self.look_at(&each.iter_range)?;
                self.look_at(&each.accu_init)?;
                let known = self.scope.len();
                self.scope.push(&each.accu_var);
                self.scope.push(&each.iter_var);
                self.scope.extend(each.iter_var2.as_deref());
                self.look_at(&each.loop_cond)?;
                self.look_at(&each.loop_step)?;
                self.look_at(&each.result)?;
                self.scope.truncate(known);
                self.within_loop = outer;
                Ok(())
            }
        }
    }

    fn entry(&mut self, entry: &'a EntryExpr) -> Result<(), TripError> {
        match entry {
            EntryExpr::StructField(field) => self.look_at(&field.value),
            EntryExpr::MapEntry(entry) => {
                self.look_at(&entry.key)?;
                self.look_at(&entry.value)
            }
        }
    }

    fn name(&mut self, name: &str) {
        let plain = name.strip_prefix('.').unwrap_or(name);
        let is_known =
            Counts::NAMES.contains(&plain) || TYPES.contains(&plain) || self.scope.contains(&name);
        if !is_known && !self.unknown.iter().any(|known| known == plain) {
            self.unknown.push(plain.to_owned());
        }
    }

    fn call(&mut self, node: &'a IdedExpr, call: &'a CallExpr) -> Result<(), TripError> {
        let name = call.func_name.as_str();
        let plain = name.strip_prefix('.').unwrap_or(name);
        if !OPERATORS.contains(&name) && !FUNCTIONS.contains(&plain) {
            return Err(self.no_function(node, name));
        }
        if plain == "matches" {
            self.count_loop(node)?;
        }
        if let Some(target) = &call.target {
            self.look_at(target)?;
        }
        call.args.iter().try_for_each(|arg| self.look_at(arg))
    }

    fn count_loop(&mut self, node: &IdedExpr) -> Result<(), TripError> {
        self.loops += 1;
        if self.within_loop {
            return Err(self.refusal(node, "a loop or pattern within a loop takes too long"));
        }
        if self.loops > MOST_LOOPS {
            let message = format!("more than {MOST_LOOPS} loops and patterns take too long");
            return Err(self.refusal(node, message));
        }
        Ok(())
    }

    /// A call stands where its bracket opens; the name is before it.
    fn no_function(&self, node: &IdedExpr, name: &str) -> TripError {
        let bracket = self.offset(node);
        let before = self.program.source_info().source.get(..bracket);
        let name_at = before
            .and_then(|before| before.trim_end().strip_suffix(name))
            .map_or(bracket, str::len);
        self.refusal_at(name_at, format!("there is no function `{name}`"))
    }

    fn refusal(&self, node: &IdedExpr, message: impl Into<String>) -> TripError {
        self.refusal_at(self.offset(node), message.into())
    }

    fn refusal_at(&self, offset: usize, message: String) -> TripError {
        let (line, column) = line_and_column(&self.program.source_info().source, offset);
        TripError {
            message,
            line,
            column,
        }
    }

    fn offset(&self, node: &IdedExpr) -> usize {
        let offsets = self.program.source_info().offset_for(node.id);
        offsets.map_or(0, |(start, _)| usize::try_from(start).unwrap_or(0))
    }
}

/// Both from 1, the column in characters. `offset` is in bytes.
fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |end| end + 1);
    let column = before.get(start..).unwrap_or("").chars().count() + 1;
    (line, column)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Int(_) | Value::UInt(_) | Value::Float(_) => "a number",
        Value::String(_) => "a text",
        Value::List(_) => "a list",
        Value::Map(_) => "a map",
        Value::Null => "null",
        _ => "something else",
    }
}

/// What a parser or evaluator says, cut and in one line.
fn one_line(text: &str) -> String {
    const LONGEST: usize = 200;
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(LONGEST)
        .collect()
}

/// What the parser says, without the list of everything that could stand there.
fn in_short(message: &str) -> String {
    if message.contains("Recursion limit") {
        return "it is nested too deep".to_owned();
    }
    let message = message.strip_prefix("Syntax error: ").unwrap_or(message);
    let (message, _) = message.split_once(" expecting ").unwrap_or((message, ""));
    if message == "mismatched input '<EOF>'" {
        return "it ends too early".to_owned();
    }
    one_line(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(requests: u32, failures: u32, in_a_row: u32) -> Counts {
        sample(requests, requests - failures, failures, in_a_row)
    }

    #[track_caller]
    fn holds(text: &str, counts: &Counts) -> Result<bool, String> {
        Trip::compile(text).unwrap().holds(counts)
    }

    #[track_caller]
    fn caution(text: &str) -> Option<String> {
        Trip::compile(text).unwrap().caution()
    }

    #[track_caller]
    fn refused(text: &str) -> String {
        Trip::compile(text).unwrap_err().to_string()
    }

    #[test]
    fn without_an_expression_the_sixth_failure_in_a_row_opens() {
        let trip = Trip::default();
        assert_eq!(trip.holds(&after(100, 90, 5)), Ok(false));
        assert_eq!(trip.holds(&after(6, 6, 6)), Ok(true));
        assert_eq!(trip, Trip::compile(" consecutiveFailures > 5\n").unwrap());
        assert_eq!(trip.text(), "consecutiveFailures > 5");
    }

    #[test]
    fn the_usual_form_needs_no_cel_and_means_the_same() {
        for (native, cel) in [
            ("consecutiveFailures >= 3", "0 + consecutiveFailures >= 3"),
            ("consecutiveFailures>3", "0 + consecutiveFailures > 3"),
            (
                "consecutiveFailures\t>\n007",
                "0 + consecutiveFailures > 007",
            ),
            (
                "consecutiveFailures > 4294967295",
                "0 + consecutiveFailures > 4294967295",
            ),
            (
                "consecutiveFailures > 9223372036854775807",
                "0 + consecutiveFailures > 9223372036854775807",
            ),
        ] {
            let (native, cel) = (Trip::compile(native).unwrap(), Trip::compile(cel).unwrap());
            assert!(matches!(native.rule, Rule::InARow(_)), "{native:?}");
            assert!(matches!(cel.rule, Rule::Expression(_)), "{cel:?}");
            for in_a_row in [0, 2, 3, 4, 7, 8, u32::MAX] {
                let counts = after(u32::MAX, u32::MAX, in_a_row);
                assert_eq!(native.holds(&counts), cel.holds(&counts), "{native:?}");
            }
        }
        for other in [
            "consecutiveFailures >",
            "consecutiveFailures = 5",
            "consecutiveFailures > 9223372036854775808",
        ] {
            assert!(Trip::compile(other).is_err(), "{other}");
        }
        assert_eq!(holds("consecutiveFailures > -1", &after(1, 1, 1)), Ok(true));
    }

    #[test]
    fn every_counter_has_its_name() {
        let counts = Counts {
            requests: 11,
            total_successes: 12,
            total_failures: 13,
            consecutive_successes: 14,
            consecutive_failures: 15,
        };
        for (name, value) in Counts::NAMES.into_iter().zip(11..) {
            assert_eq!(holds(&format!("{value} == {name}"), &counts), Ok(true));
        }
    }

    #[test]
    fn whole_numbers_are_cut_off_and_compare_with_fractions() {
        let counts = after(10, 6, 3);
        assert_eq!(holds("totalFailures / requests == 0", &counts), Ok(true));
        assert_eq!(
            holds("requests > 9.5 && requests < 10.5", &counts),
            Ok(true)
        );
        assert_eq!(
            holds("double(totalFailures) / double(requests) >= 0.5", &counts),
            Ok(true)
        );
        let ratio = "requests >= 20 && totalFailures * 2 >= requests";
        assert_eq!(holds(ratio, &counts), Ok(false));
        assert_eq!(holds(ratio, &after(20, 10, 1)), Ok(true));
    }

    #[test]
    fn whole_numbers_do_not_mix_with_fractions_in_arithmetic() {
        for text in [
            "totalFailures * 1.0 / requests > 0.5",
            "totalFailures / 2.0 > 1.0",
            "requests + 0.5 > 1.0",
        ] {
            assert!(holds(text, &after(10, 6, 3)).is_err(), "{text}");
            let told = caution(text).unwrap();
            assert!(told.starts_with("it can only fail: "), "{told}");
        }
    }

    #[test]
    fn an_unknown_name_fails_only_where_it_is_read() {
        assert!(holds("nosuch > 1", &after(9, 9, 9)).is_err());
        assert_eq!(
            caution("nosuch > 1").as_deref(),
            Some("`nosuch` is not a counter")
        );
        assert_eq!(
            caution("a.requests > b || c[0] == type(d)").as_deref(),
            Some("`a`, `b`, `c`, `d` are not counters")
        );
        let either = "nosuch > 1 || consecutiveFailures >= 2";
        assert_eq!(holds(either, &after(9, 9, 2)), Ok(true));
        assert!(holds(either, &after(9, 9, 1)).is_err());
    }

    #[test]
    fn what_is_no_boolean_is_an_error_and_told_before() {
        assert_eq!(
            holds("consecutiveFailures", &after(1, 1, 1)),
            Err("the result is a number, not a boolean".to_owned())
        );
        for (text, gives) in [
            ("requests", "a number"),
            ("'open'", "a text"),
            ("[requests]", "a list"),
            ("null", "null"),
        ] {
            assert_eq!(
                caution(text),
                Some(format!("it gives {gives}, not a boolean"))
            );
        }
    }

    #[test]
    fn nothing_is_told_of_what_is_right() {
        for text in [
            "requests > 4",
            "true",
            "totalFailures / (requests - 1) > 2 || consecutiveFailures > 3",
            "[1, 10, 100].exists(n, n == requests)",
            "requests % 2 == 0 ? totalFailures > 1 : consecutiveFailures in [3, 4]",
            "type(requests) == int && size('abc') == 3",
        ] {
            assert_eq!(caution(text), None, "{text}");
        }
    }

    #[test]
    fn what_does_not_compile_is_told_with_its_place() {
        for (text, told) in [
            ("", "1:1: it ends too early"),
            ("consecutiveFailures >", "1:22: it ends too early"),
            ("foo() > 1", "1:1: there is no function `foo`"),
            (
                "requests > 1 ||\n  bar (2)",
                "2:3: there is no function `bar`",
            ),
            ("'é' == x.baz()", "1:10: there is no function `baz`"),
            ("_f_(1)", "1:1: there is no function `_f_`"),
            ("requests.all(x)", "1:10: there is no function `all`"),
            ("Counts{a: 1} == 1", "1:7: there is no type `Counts`"),
            ("has(requests)", "1:5: invalid argument to has() macro"),
            ("if > 1", "1:1: reserved identifier: if"),
        ] {
            assert_eq!(refused(text), told);
        }
    }

    #[test]
    fn size_depth_and_loops_are_bounded() {
        let deep = format!("{}true{}", "(".repeat(10_000), ")".repeat(10_000));
        assert!(refused(&deep).contains("4096 bytes"));
        let deep = format!("{}true{}", "(".repeat(500), ")".repeat(500));
        assert!(refused(&deep).starts_with("1:65: "), "{}", refused(&deep));
        assert!(refused(&"requests + ".repeat(300)).contains("512"));
        assert!(refused(&"true ? false : ".repeat(125)).contains("too deep"));
        let nested = "[1, 2].all(x, [1, 2].all(y, x > y))";
        assert!(refused(nested).contains("within a loop"));
        let in_range = "size(['a'].map(x, x + x).map(y, y + y)) > 0";
        assert!(refused(in_range).contains("within a loop"));
        assert!(refused(&["'a'.matches('a')"; 5].join(" && ")).contains("more than 4"));
    }

    /// Half of what a worker of the runtime has, and that without optimisation.
    #[test]
    fn the_deepest_expressions_fit_the_stack() {
        let texts = [
            ["requests"; 256].join(" + "),
            ["true"; 170].join(" && "),
            ["1"; 250].join(" < "),
            format!("{}true", "!".repeat(500)),
            format!("{}1 > 0", "-".repeat(500)),
            format!("{}true", "true ? false : ".repeat(90)),
            format!("{}true{}", "(".repeat(64), ")".repeat(64)),
            format!("{}1{}", "[".repeat(64), "]".repeat(64)),
            format!("{}1{}", "{1: ".repeat(64), "}".repeat(64)),
            format!("{}requests{}", "size(".repeat(64), ")".repeat(64)),
            format!("a{} > 1", ".b".repeat(240)),
        ];
        let small = std::thread::Builder::new().stack_size(1 << 20);
        let run = small.spawn(move || {
            for text in texts {
                let trip = Trip::compile(&text).unwrap();
                trip.holds(&after(10, 6, 3)).ok();
                trip.caution();
            }
        });
        assert!(run.unwrap().join().is_ok());
    }

    #[test]
    fn a_condition_may_cross_threads() {
        fn crosses<T: Send + Sync + 'static>() {}
        crosses::<Trip>();
    }
}
