//! Which path of the app an event goes to: rules in order, the first that is true wins.
//!
//! Expressions are CEL over `event`, a map of the event's attributes. They are compiled when the subscription is made.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use cel::{Context, Program};
use outrigger_core::json::Value;

/// The rules of one subscription.
#[derive(Debug, Default)]
pub struct Rules {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    /// `None` is always true.
    condition: Option<Condition>,
    path: Arc<str>,
}

#[derive(Debug)]
struct Condition {
    text: String,
    program: Program,
}

/// An expression that does not compile: what is wrong, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadExpression {
    pub expression: String,
    pub reason: String,
    pub line: usize,
    pub column: usize,
}

impl std::fmt::Display for BadExpression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "rule `{}` does not compile at {}:{}: {}",
            self.expression, self.line, self.column, self.reason
        )
    }
}

/// Checks an expression without keeping it.
///
/// # Errors
/// What is wrong with it, and where.
pub fn check(expression: &str) -> Result<(), BadExpression> {
    compile(expression).map(|_| ())
}

fn compile(expression: &str) -> Result<Program, BadExpression> {
    // The parser is fed what users write; should it panic, that is an answer too.
    let compiled = catch_unwind(AssertUnwindSafe(|| Program::compile(expression)));
    let bad = |reason: String, line: isize, column: isize| BadExpression {
        expression: expression.to_owned(),
        reason,
        line: usize::try_from(line).unwrap_or(1).max(1),
        column: usize::try_from(column).unwrap_or(0) + 1,
    };
    match compiled {
        Ok(Ok(program)) => Ok(program),
        Ok(Err(errors)) => Err(match errors.errors.first() {
            Some(error) => bad(error.msg.clone(), error.pos.0, error.pos.1),
            None => bad("syntax error".to_owned(), 1, 0),
        }),
        Err(_) => Err(bad("the expression cannot be parsed".to_owned(), 1, 0)),
    }
}

impl Rules {
    /// Compiles rules, the default last. No rules at all: everything goes to `fallback`.
    ///
    /// # Errors
    /// The first expression that does not compile.
    pub fn compile(rules: &[(Option<String>, String)]) -> Result<Self, BadExpression> {
        let compiled: Result<Vec<Rule>, BadExpression> = rules
            .iter()
            .map(|(expression, path)| {
                let condition = match expression
                    .as_deref()
                    .map(str::trim)
                    .filter(|text| !text.is_empty())
                {
                    Some(text) => Some(Condition {
                        text: text.to_owned(),
                        program: compile(text)?,
                    }),
                    None => None,
                };
                Ok(Rule {
                    condition,
                    path: path.as_str().into(),
                })
            })
            .collect();
        Ok(Self { rules: compiled? })
    }

    /// Everything goes to one path.
    pub fn single(path: &str) -> Self {
        Self {
            rules: vec![Rule {
                condition: None,
                path: path.into(),
            }],
        }
    }

    /// The path for an event; `None` when no rule is true.
    ///
    /// # Errors
    /// When an expression cannot be evaluated or is no boolean.
    pub fn choose(&self, event: &Value) -> Result<Option<Arc<str>>, String> {
        let mut context = None;
        for rule in &self.rules {
            let Some(condition) = &rule.condition else {
                return Ok(Some(rule.path.clone()));
            };
            let context = context.get_or_insert_with(|| {
                let mut context = Context::default();
                context.add_variable_from_value("event", to_cel(event));
                context
            });
            let value = catch_unwind(AssertUnwindSafe(|| condition.program.execute(context)));
            match value {
                Ok(Ok(cel::Value::Bool(true))) => return Ok(Some(rule.path.clone())),
                Ok(Ok(cel::Value::Bool(false))) => {}
                Ok(Ok(_)) => {
                    return Err(format!(
                        "the result of match expression {:?} was not a boolean",
                        condition.text
                    ));
                }
                Ok(Err(error)) => {
                    return Err(format!("match expression {:?}: {error}", condition.text));
                }
                Err(_) => {
                    return Err(format!(
                        "match expression {:?} cannot be evaluated",
                        condition.text
                    ));
                }
            }
        }
        Ok(None)
    }

    /// Expression and path of each rule, for the metadata API.
    pub fn list(&self) -> impl Iterator<Item = (&str, &str)> {
        self.rules.iter().map(|rule| {
            (
                rule.condition
                    .as_ref()
                    .map_or("", |condition| condition.text.as_str()),
                &*rule.path,
            )
        })
    }
}

fn to_cel(value: &Value) -> cel::Value {
    match value {
        Value::Null => cel::Value::Null,
        Value::Bool(value) => cel::Value::Bool(*value),
        Value::Number(text) => match text.parse::<i64>() {
            Ok(number) => cel::Value::Int(number),
            Err(_) => cel::Value::Float(text.parse().unwrap_or(f64::NAN)),
        },
        Value::String(text) => cel::Value::String(Arc::new(text.clone())),
        Value::Array(items) => cel::Value::List(Arc::new(items.iter().map(to_cel).collect())),
        Value::Object(members) => {
            let map = members
                .iter()
                .map(|(name, value)| {
                    (
                        cel::objects::Key::String(Arc::new(name.clone())),
                        to_cel(value),
                    )
                })
                .collect();
            cel::Value::Map(cel::objects::Map { map: Arc::new(map) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_core::json::parse_all;
    use proptest::prelude::*;

    fn choose(rules: &[(&str, &str)], event: &str) -> Result<Option<String>, String> {
        let rules: Vec<_> = rules
            .iter()
            .map(|(expression, path)| (Some((*expression).to_owned()), (*path).to_owned()))
            .collect();
        let event = parse_all(event.as_bytes()).unwrap();
        Rules::compile(&rules)
            .unwrap()
            .choose(&event)
            .map(|path| path.map(|path| path.to_string()))
    }

    #[test]
    fn the_first_true_rule_wins_and_an_empty_one_is_true() {
        let rules = [
            (r#"event.type == "a""#, "/a"),
            (r#"event.data.n > 3 && has(event.data.s)"#, "/n"),
            ("", "/default"),
        ];
        let path = |event: &str| choose(&rules, event).unwrap().unwrap();
        assert_eq!(path(r#"{"type":"a"}"#), "/a");
        assert_eq!(path(r#"{"type":"b","data":{"n":5,"s":1}}"#), "/n");
        assert_eq!(path(r#"{"type":"b","data":{"n":2,"s":1}}"#), "/default");
        assert_eq!(choose(&rules[..1], r#"{"type":"b"}"#), Ok(None));
    }

    #[test]
    fn numbers_compare_across_their_kinds() {
        for expression in [
            "event.data == 5",
            "event.data >= 4.5",
            "event.data < 6",
            "event.data == 5.0",
        ] {
            assert_eq!(
                choose(&[(expression, "/x")], r#"{"data":5}"#),
                Ok(Some("/x".into())),
                "{expression}"
            );
        }
        assert_eq!(
            choose(&[("event.data > 5", "/x")], r#"{"data":5.5}"#),
            Ok(Some("/x".into()))
        );
    }

    #[test]
    fn a_result_that_is_no_boolean_and_an_unknown_name_are_errors() {
        assert!(choose(&[("event.type", "/x")], r#"{"type":"a"}"#).is_err());
        assert!(choose(&[("message.type == 'a'", "/x")], r#"{"type":"a"}"#).is_err());
    }

    #[test]
    fn a_bad_expression_is_told_with_its_place() {
        let error = check("event.type == ").unwrap_err();
        assert_eq!(error.line, 1);
        assert!(error.to_string().contains("event.type == "), "{error}");
        assert!(check("event.type == 'a' &&& x").is_err());
    }

    proptest! {
        #[test]
        fn no_expression_panics(text in "[a-z.()=&|!'\"0-9 \\[\\]{}<>+*?:,-]{0,30}") {
            if check(&text).is_ok() {
                choose(&[(&text, "/x")], r#"{"a":{"b":[1,"x",null]}}"#).ok();
            }
        }
    }
}
