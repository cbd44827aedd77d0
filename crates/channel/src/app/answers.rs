//! What an app's answer means for a message.

use outrigger_blocks::app::{BulkVerdict, Verdict};
use outrigger_core::json::{Value, parse_all};
use outrigger_policy::Code;

/// The answer of an HTTP app to one message.
pub(super) fn verdict(status: u16, body: &[u8]) -> Verdict {
    match status {
        200..=299 => {
            if body.is_empty() {
                return Verdict::Success;
            }
            // Only an object with a text can say anything but "fine".
            let said = parse_all(body).ok();
            match said
                .as_ref()
                .and_then(|said| said.get("status"))
                .and_then(Value::as_str)
            {
                Some(word) => word_verdict(word),
                None => Verdict::Success,
            }
        }
        404 => Verdict::Drop("the app answered 404".to_owned()),
        status => Verdict::Refused(
            Code::Http(status),
            format!(
                "retriable error returned from app while processing pub/sub event, status code returned: {status}"
            ),
        ),
    }
}

fn word_verdict(word: &str) -> Verdict {
    match word {
        "" | "SUCCESS" => Verdict::Success,
        "RETRY" => Verdict::Retry(
            "RETRY status returned from app while processing pub/sub event".to_owned(),
        ),
        "DROP" => {
            Verdict::Drop("DROP status returned from app while processing pub/sub event".to_owned())
        }
        other => Verdict::Retry(format!(
            "unknown status returned from app while processing pub/sub event: {other}"
        )),
    }
}

/// The answer of an HTTP app to several messages.
pub(super) fn bulk_verdict(status: u16, body: &[u8]) -> BulkVerdict {
    match status {
        200..=299 => {
            let said = parse_all(body).ok();
            let Some(statuses) = said
                .as_ref()
                .and_then(|said| said.get("statuses"))
                .and_then(Value::as_array)
            else {
                return BulkVerdict::All(Verdict::Retry(
                    "no statuses in the answer to a bulk of messages".to_owned(),
                ));
            };
            let each = statuses.iter().filter_map(|entry| {
                let text = |name| entry.get(name).and_then(Value::as_str);
                let id = text("entryId").filter(|id| !id.is_empty())?;
                let verdict = match text("status").unwrap_or_default() {
                    "" => Verdict::Retry("no status for this entry".to_owned()),
                    word => word_verdict(word),
                };
                Some((id.to_owned(), verdict))
            });
            BulkVerdict::Each(each.collect())
        }
        404 => BulkVerdict::All(Verdict::Forget("the app answered 404".to_owned())),
        status => BulkVerdict::All(Verdict::Retry(format!(
            "retriable error returned from app while processing pub/sub event, status code returned: {status}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_a_text_under_status_says_anything_but_fine() {
        for fine in [
            "",
            "x",
            "[1]",
            "null",
            "{}",
            r#"{"status":""}"#,
            r#"{"status":1}"#,
            r#"{"status":"SUCCESS"}"#,
        ] {
            assert_eq!(verdict(200, fine.as_bytes()), Verdict::Success, "{fine}");
        }
        assert!(matches!(
            verdict(204, br#"{"status":"RETRY"}"#),
            Verdict::Retry(_)
        ));
        assert!(matches!(
            verdict(200, br#"{"status":"success"}"#),
            Verdict::Retry(_)
        ));
        assert!(matches!(
            verdict(200, br#"{"status":"DROP"}"#),
            Verdict::Drop(_)
        ));
        assert!(matches!(verdict(404, b""), Verdict::Drop(_)));
        for status in [302, 500] {
            let code = Code::Http(status);
            assert!(matches!(verdict(status, b""), Verdict::Refused(found, _) if found == code));
        }
    }

    #[test]
    fn every_entry_of_a_bulk_has_its_own_answer() {
        let BulkVerdict::Each(each) = bulk_verdict(200, br#"{"statuses":[{"entryId":"1","status":"SUCCESS"},{"entryId":"2","status":""},{"status":"DROP"}]}"#) else {
            panic!("one answer each");
        };
        assert_eq!(each.len(), 2);
        assert_eq!(each[0], ("1".to_owned(), Verdict::Success));
        assert!(matches!(each[1].1, Verdict::Retry(_)));
        assert!(matches!(
            bulk_verdict(200, b"{\"status\":\"SUCCESS\"}"),
            BulkVerdict::All(Verdict::Retry(_))
        ));
        assert!(matches!(
            bulk_verdict(404, b""),
            BulkVerdict::All(Verdict::Forget(_))
        ));
    }

    proptest! {
        #[test]
        fn no_answer_panics(status in 100_u16..600, body in proptest::collection::vec(any::<u8>(), 0..60)) {
            verdict(status, &body);
            bulk_verdict(status, &body);
        }
    }
}
