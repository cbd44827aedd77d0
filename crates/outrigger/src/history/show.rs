//! A history as text. Whatever is missing in it is left out.

use outrigger_core::json::Value;

use crate::client::{number, text};

/// Everything, ending with a line break. `limit`: how many changes are told at most.
pub(super) fn text(history: &Value, shows_changes: bool, limit: usize) -> String {
    let member = |name| member(history, name).unwrap_or_default();
    let mut all = format!(
        "{}, {} to {} (UTC)\n",
        member("appId"),
        moment(&member("from"), false),
        moment(&member("to"), false)
    );
    all.push_str(&outages(list(history, "outages")));
    let recovery = list(history, "recovery");
    if !recovery.is_empty() {
        all.push_str(&recoveries(recovery));
    }
    if shows_changes {
        all.push_str(&changes(list(history, "changes"), limit));
    }
    all
}

fn outages(outages: &[Value]) -> String {
    if outages.is_empty() {
        return "\nno outages\n".to_owned();
    }
    let rows: Vec<[String; 5]> = outages
        .iter()
        .map(|one| {
            let lasted = one.get("durationMs").and_then(number);
            [
                moment(&member(one, "from").unwrap_or_default(), false),
                what(one),
                lasted.map_or_else(|| "ongoing".to_owned(), text::ms),
                one.get("refused")
                    .and_then(number)
                    .map_or_else(String::new, |refused| refused.to_string()),
                member(one, "cause").unwrap_or_default(),
            ]
        })
        .collect();
    let refused: u64 = outages
        .iter()
        .filter_map(|one| one.get("refused").and_then(number))
        .fold(0, u64::saturating_add);
    let ongoing = outages
        .iter()
        .filter(|one| one.get("durationMs").is_none())
        .count();
    let head = ["BEGAN", "WHAT", "LASTED", "REFUSED", "WHY"];
    let numbers = [false, false, true, true, false];
    format!(
        "\n{}, {ongoing} ongoing, {} refused\n{}",
        count(outages.len() as u64, "outage"),
        count(refused, "call"),
        text::table(head, numbers, &rows)
    )
}

fn recoveries(recovery: &[Value]) -> String {
    let rows: Vec<[String; 4]> = recovery
        .iter()
        .map(|one| {
            let number = |name| one.get(name).and_then(number);
            let time = |name| number(name).map_or_else(String::new, text::ms);
            [
                member(one, "component").unwrap_or_default(),
                number("count").unwrap_or_default().to_string(),
                time("meanMs"),
                time("p95Ms"),
            ]
        })
        .collect();
    let head = ["COMPONENT", "TIMES", "MEAN", "P95"];
    let numbers = [false, true, true, true];
    format!("\ntime to come back\n{}", text::table(head, numbers, &rows))
}

fn changes(changes: &[Value], limit: usize) -> String {
    if changes.is_empty() {
        return "\nno changes\n".to_owned();
    }
    let mut all = format!("\n{}\n", count(changes.len() as u64, "change"));
    if changes.len() >= limit {
        all.push_str(&format!(
            "  (no more than {limit} are told; a smaller --since shows others)\n"
        ));
    }
    let widest = changes.iter().map(|one| text::width(&what(one))).max();
    let widest = widest.unwrap_or(0);
    for one in changes {
        let after = one.get("afterMs").and_then(number);
        let after = after.map_or_else(String::new, |after| format!(" after {}", text::ms(after)));
        let why = match (member(one, "class"), member(one, "cause")) {
            (Some(class), Some(cause)) => format!("; {class}: {cause}"),
            (Some(one), None) | (None, Some(one)) => format!("; {one}"),
            (None, None) => String::new(),
        };
        let from = member(one, "from").map_or_else(String::new, |from| format!("{from} -> "));
        all.push_str(&format!(
            "  {}  {}  {from}{}{after}{why}\n",
            moment(&member(one, "at").unwrap_or_default(), true),
            text::filled(&what(one), widest),
            member(one, "to").unwrap_or_default(),
        ));
    }
    all
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value
        .get(name)
        .and_then(Value::as_array)
        .unwrap_or_default()
}

fn member(value: &Value, name: &str) -> Option<String> {
    let text = value.get(name)?.as_str()?;
    (!text.is_empty()).then(|| text::clean(text))
}

/// `component orders`, `gate`.
fn what(one: &Value) -> String {
    let kind = member(one, "kind").unwrap_or_default();
    match member(one, "subject") {
        Some(subject) => format!("{kind} {subject}"),
        None => kind,
    }
}

/// `2026-09-01 10:00:00` of `2026-09-01T10:00:00.123Z`; what is no such moment stays as it is.
fn moment(text: &str, is_precise: bool) -> String {
    let parts = text.strip_suffix('Z').and_then(|text| text.split_once('T'));
    match parts {
        Some((day, time)) if !is_precise => {
            let (seconds, _) = time.split_once('.').unwrap_or((time, ""));
            format!("{day} {seconds}")
        }
        Some((day, time)) => format!("{day} {time}"),
        None => text.to_owned(),
    }
}

fn count(number: u64, one: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        many => format!("{many} {one}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_core::json::parse_all;
    use proptest::prelude::*;

    fn shown(json: &str, shows_changes: bool) -> String {
        text(&parse_all(json.as_bytes()).unwrap(), shows_changes, 3)
    }

    const DAY: &str = r#"{
        "appId":"orders","from":"2026-09-01T10:00:00.000Z","to":"2026-09-02T10:00:00.000Z",
        "outages":[
          {"kind":"component","subject":"bus","from":"2026-09-01T11:00:00.123Z","to":"2026-09-01T11:00:12.468Z",
           "durationMs":12345,"cause":"connection refused","refused":17},
          {"kind":"gate","from":"2026-09-02T09:00:00.000Z","cause":"app port \u001b[2J closed"}],
        "recovery":[{"component":"bus","count":3,"meanMs":8123,"p95Ms":12345}],
        "changes":[
          {"at":"2026-09-01T11:00:00.123Z","kind":"component","subject":"bus","from":"ready","to":"unavailable",
           "afterMs":80000,"cause":"connection refused","class":"TRANSIENT"},
          {"at":"2026-09-02T09:00:00.000Z","kind":"gate","to":"closed"}]}"#;

    #[test]
    fn outages_and_recoveries_are_tables() {
        assert_eq!(
            shown(DAY, false),
            "\
orders, 2026-09-01 10:00:00 to 2026-09-02 10:00:00 (UTC)

2 outages, 1 ongoing, 17 calls refused
  BEGAN                WHAT            LASTED  REFUSED  WHY
  2026-09-01 11:00:00  component bus      12s       17  connection refused
  2026-09-02 09:00:00  gate           ongoing           app port ?[2J closed

time to come back
  COMPONENT  TIMES  MEAN  P95
  bus            3  8.1s  12s
"
        );
    }

    #[test]
    fn changes_are_lines() {
        let shown = shown(DAY, true);
        let changes = shown.split_once("\n2 changes\n").unwrap().1;
        assert_eq!(
            changes,
            "  2026-09-01 11:00:00.123  component bus  ready -> unavailable after 1m20s; TRANSIENT: connection refused
  2026-09-02 09:00:00.000  gate           closed
"
        );
    }

    #[test]
    fn nothing_is_said_as_such() {
        assert_eq!(
            shown(
                r#"{"appId":"a","from":"x","to":"y","outages":[],"changes":[]}"#,
                true
            ),
            "a, x to y (UTC)\n\nno outages\n\nno changes\n"
        );
        let change = r#"{"at":"x","kind":"phase","to":"ready"}"#;
        let many = format!(r#"{{"changes":[{change},{change},{change}]}}"#);
        assert!(shown(&many, true).contains("no more than 3 are told"));
    }

    proptest! {
        #[test]
        fn no_history_panics_or_moves_a_cursor(texts in prop::collection::vec(any::<String>(), 6), numbers in prop::collection::vec(any::<i64>(), 4)) {
            let text_of = |at: usize| Value::string(texts[at].as_str());
            let one = Value::object([
                ("kind", text_of(0)), ("subject", text_of(1)), ("from", text_of(2)), ("to", text_of(3)),
                ("at", text_of(4)), ("cause", text_of(5)), ("class", text_of(0)), ("component", text_of(1)),
                ("durationMs", Value::integer(numbers[0])), ("refused", Value::integer(numbers[1])),
                ("count", Value::integer(numbers[2])), ("meanMs", Value::integer(numbers[3])),
            ]);
            let all = || Value::Array(vec![one.clone(), one.clone()]);
            let history = Value::object([("appId", text_of(0)), ("outages", all()), ("changes", all()), ("recovery", all())]);
            let shown = text(&history, true, 500);
            prop_assert!(!shown.replace('\n', "").contains(text::is_harmful));
        }
    }
}
