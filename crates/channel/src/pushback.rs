//! What a gRPC server asks of whoever would call it again.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use outrigger_policy::Pushback;
use outrigger_proto::{Message as _, google};

const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// Read off the trailers and the rich status. Something that is no number of milliseconds means: do not call again.
pub(crate) fn of(trailers: &HeaderMap, details: Option<&Bytes>) -> Pushback {
    if let Some(value) = trailers.get(PUSHBACK) {
        let millis = value
            .to_str()
            .ok()
            .and_then(|text| text.parse::<i64>().ok());
        return match millis.map(u64::try_from) {
            Some(Ok(millis)) => Pushback::After(Duration::from_millis(millis)),
            Some(Err(_)) | None => Pushback::Stop,
        };
    }
    details
        .and_then(retry_info)
        .map_or(Pushback::None, Pushback::After)
}

fn retry_info(details: &Bytes) -> Option<Duration> {
    let status = google::rpc::Status::decode(details.clone()).ok()?;
    let info = status
        .details
        .iter()
        .find(|detail| detail.type_url.ends_with("/google.rpc.RetryInfo"))?;
    let info = google::rpc::RetryInfo::decode(&*info.value).ok()?;
    let delay = info.retry_delay?;
    let seconds = u64::try_from(delay.seconds).ok()?;
    let nanos = u32::try_from(delay.nanos).ok()?.min(999_999_999);
    Some(Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use outrigger_core::error::{Detail, GrpcCode};
    use outrigger_wire::grpc::Status;
    use proptest::prelude::*;

    use super::*;

    fn trailers(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(PUSHBACK, HeaderValue::from_static(value))])
    }

    #[test]
    fn a_server_names_milliseconds_or_wants_no_call_at_all() {
        let asked = of(&trailers("250"), None);
        assert_eq!(asked, Pushback::After(Duration::from_millis(250)));
        assert_eq!(of(&trailers("-1"), None), Pushback::Stop);
        assert_eq!(of(&trailers("soon"), None), Pushback::Stop);
        assert_eq!(of(&HeaderMap::new(), None), Pushback::None);
    }

    #[test]
    fn a_rich_status_may_hold_a_delay() {
        let status = Status::new(GrpcCode::Unavailable, String::new())
            .with_details(&[Detail::RetryInfo { seconds: 4 }]);
        let asked = of(&HeaderMap::new(), status.details.as_ref());
        assert_eq!(asked, Pushback::After(Duration::from_secs(4)));
    }

    proptest! {
        #[test]
        fn no_details_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            of(&HeaderMap::new(), Some(&bytes.into()));
        }
    }
}
