//! Calls to the sidecars of other apps.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::Poll;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, FORWARDED};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue};
use outrigger_blocks::fields::{CALLEE_APP_ID, CALLER_APP_ID, CALLER_NAMESPACE, TRACE_PARENT};
use outrigger_blocks::invoke::{Call, CallFailure, PeerClient, Reply, ReplyStatus};
use outrigger_core::error::GrpcCode;
use outrigger_core::{AppId, Body, BodyError, Namespace};
use outrigger_lifecycle::Scope;
use outrigger_policy::Pushback;
use outrigger_proto::Message as _;
use outrigger_proto::dapr::proto::internals::v1 as internals;
use outrigger_wire::grpc::{CallError, Channel, Status};
use outrigger_wire::{Target, http2};

use super::codec::{self, Extra, FRAME_PREFIX, Malformed, Piece};
use super::pieces::{Incoming, send_rest, split_first};
use super::{CALL_LOCAL, CALL_LOCAL_STREAM};
use crate::pushback;
use crate::trace::{add_trace, trace_in};

const DESTINATION: HeaderName = HeaderName::from_static("destination-app-id");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Numbers for calls between sidecars.
#[derive(Clone, Copy, Debug)]
pub struct PeerSettings {
    pub http2: http2::Settings,
    /// Bytes of a message.
    pub max_message: usize,
    /// Bytes of one piece of a body.
    pub piece: usize,
}

impl PeerSettings {
    /// For a given `--max-body-size`; a peer with the same limit takes our pieces.
    pub fn for_body_limit(limit: Option<u64>) -> Self {
        let limit = limit
            .and_then(|limit| usize::try_from(limit).ok())
            .unwrap_or(usize::MAX);
        Self {
            http2: http2::Settings::default(),
            max_message: limit.max(4 << 20),
            piece: (limit / 2).clamp(2 << 10, 32 << 10),
        }
    }
}

/// What our sidecar writes into every call to a peer.
#[derive(Clone, Debug)]
pub struct Stamp {
    pub app_id: String,
    pub namespace: String,
    /// Our address, as peers see it.
    pub host_address: String,
    pub host_name: String,
}

impl Stamp {
    fn forwarded(&self) -> String {
        let mut parts = Vec::with_capacity(3);
        if !self.host_address.is_empty() {
            let address = if self.host_address.contains(':') {
                format!("\"[{}]\"", self.host_address)
            } else {
                self.host_address.clone()
            };
            parts.push(format!("for={address};by={address}"));
        }
        if !self.host_name.is_empty() {
            parts.push(format!("host={}", self.host_name));
        }
        parts.join(";")
    }
}

/// Connections to other sidecars, one for each address.
#[derive(Debug)]
pub struct PeerPool {
    channels: RwLock<HashMap<String, Arc<Channel>>>,
    settings: PeerSettings,
    stamp: Stamp,
    /// The value of `Forwarded`, which says the same as the two fields beside it.
    forwarded: String,
    scope: Scope,
}

impl PeerPool {
    pub fn new(stamp: Stamp, settings: PeerSettings, scope: Scope) -> Self {
        Self {
            channels: RwLock::default(),
            settings,
            forwarded: stamp.forwarded(),
            stamp,
            scope,
        }
    }

    pub fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    pub fn settings(&self) -> &PeerSettings {
        &self.settings
    }

    /// The connection to an address.
    ///
    /// # Errors
    /// When the address is none.
    pub fn channel(&self, address: &str) -> Result<Arc<Channel>, CallFailure> {
        if let Some(channel) = self
            .channels
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(address)
        {
            return Ok(channel.clone());
        }
        let target = target_of(address)
            .ok_or_else(|| CallFailure::plain(format!("invalid address {address:?} of a peer")))?;
        let failed = |status: Status| CallFailure::plain(status.message);
        let channel = Arc::new(
            Channel::new(
                target,
                self.settings.http2,
                self.settings.max_message,
                self.scope.clone(),
            )
            .map_err(failed)?,
        );
        let mut channels = self
            .channels
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        Ok(channels
            .entry(address.to_owned())
            .or_insert(channel)
            .clone())
    }

    /// What our sidecar says of a call in fields; what the caller sent under these names is gone.
    fn extra<'a>(&'a self, target: &'a AppId) -> Vec<Extra<'a>> {
        let put = |name, value: &'a str| Extra {
            name,
            value: value.as_bytes(),
            append: false,
        };
        let mut extra = vec![
            put(DESTINATION, target.as_str()),
            put(CALLER_APP_ID, &self.stamp.app_id),
            put(CALLER_NAMESPACE, &self.stamp.namespace),
            put(CALLEE_APP_ID, target.as_str()),
            Extra {
                name: FORWARDED,
                value: self.forwarded.as_bytes(),
                append: true,
            },
        ];
        let known = |name, value: &'a str| {
            (!value.is_empty()).then(|| Extra {
                append: true,
                ..put(name, value)
            })
        };
        extra.extend(known(FORWARDED_FOR, &self.stamp.host_address));
        extra.extend(known(FORWARDED_HOST, &self.stamp.host_name));
        extra
    }

    async fn stream(
        &self,
        channel: &Channel,
        target: &AppId,
        call: &mut Call,
    ) -> Result<Reply, CallFailure> {
        let mut metadata = HeaderMap::with_capacity(6);
        if call.fields.contains_key(TRACE_PARENT) {
            add_trace(&mut metadata, &trace_in(&call.fields).unwrap_or_default());
        }
        let mut started = channel
            .start(PathAndQuery::from_static(CALL_LOCAL_STREAM), metadata)
            .await
            .map_err(failure)?;
        let body = match &mut call.body {
            Body::Bytes(bytes) => Body::Bytes(bytes.clone()),
            stream => std::mem::replace(stream, Body::EMPTY),
        };
        let length = body.length();
        let (first, rest) = split_first(body, self.settings.piece);
        let message = codec::request(call, length, &self.extra(target), first.as_deref());
        if rest.is_empty() {
            http2::send(&mut started.requests, message, true).await.ok();
            let replies = started.replies().await.map_err(failure)?;
            return reply(replies, None).await;
        }
        let size = self.settings.piece;
        let (mut requests, answer) = started.halves();
        let mut sending: Sending = Box::pin(async move {
            if http2::send(&mut requests, message, false).await.is_err() {
                return Ok(());
            }
            let sent = send_rest(&mut requests, rest, u64::from(first.is_some()), size).await;
            if sent.is_ok() {
                requests.send_data(Bytes::new(), true).ok();
            } else {
                requests.send_reset(h2::Reason::CANCEL);
            }
            sent
        });
        // A reply may begin before the request has ended.
        let mut answer = pin!(answer);
        let mut sent = false;
        let replies = poll_fn(|context| {
            if !sent && let Poll::Ready(outcome) = sending.as_mut().poll(context) {
                sent = true;
                if let Err(cause) = outcome {
                    // What the peer says to a request that broke off is not the cause.
                    return Poll::Ready(Err(CallFailure::plain(cause.to_string())));
                }
            }
            answer.as_mut().poll(context).map_err(failure)
        });
        let replies = replies.await?;
        reply(replies, (!sent).then_some(sending)).await
    }

    /// The older form, for peers that know nothing newer.
    async fn unary(
        &self,
        channel: &Channel,
        target: &AppId,
        call: &mut Call,
        body: Bytes,
    ) -> Result<Reply, CallFailure> {
        let head = codec::request(call, Some(body.len() as u64), &self.extra(target), None)
            .slice(FRAME_PREFIX..);
        let mut request = internals::InternalInvokeRequestStream::decode(head)
            .ok()
            .and_then(|message| message.request)
            .unwrap_or_default();
        if let Some(message) = &mut request.message {
            message.data.get_or_insert_default().value = body;
        }
        let (_, response) = channel
            .unary::<internals::InternalInvokeResponse>(CALL_LOCAL, HeaderMap::new(), &request)
            .await
            .map_err(failure)?;
        let data = response
            .message
            .as_ref()
            .and_then(|message| message.data.as_ref())
            .map(|data| data.value.clone())
            .unwrap_or_default();
        let stream = internals::InternalInvokeResponseStream {
            response: Some(response),
            payload: None,
        };
        let read = codec::read_response(&stream.encode_to_vec().into())
            .ok()
            .and_then(|read| read.head);
        let head = read
            .ok_or_else(|| CallFailure::plain("response does not contain the required fields"))?;
        Ok(with_body(head, Body::Bytes(data)))
    }
}

type Sending = Pin<Box<dyn Future<Output = Result<(), BodyError>> + Send>>;

/// Reads the first message of a reply, and makes the rest its body.
async fn reply(
    mut replies: outrigger_wire::grpc::Replies,
    sending: Option<Sending>,
) -> Result<Reply, CallFailure> {
    let failed = |status: Status| CallFailure {
        code: Some(status.code),
        message: status.message,
        unsent: false,
        told: None,
        retry_after: None,
        attempts: None,
    };
    if let Some(status) = replies.ended.take() {
        return Err(failed(status));
    }
    let first = match replies.messages.next().await {
        Ok(Some(first)) => first,
        Ok(None) => return Err(failed(replies.status().await)),
        Err(error) => return Err(failed(error.to_status())),
    };
    let lacking =
        || CallFailure::plain("response does not contain the required fields in the leading chunk");
    let read = codec::read_response(&first).map_err(|Malformed| lacking())?;
    let head = read.head.ok_or_else(lacking)?;
    let mut body = Incoming::new(replies.messages, read.piece, later, "response", sending);
    // A short reply has come whole: then it is no stream.
    let whole = poll_fn(|context| Poll::Ready(body.poll_whole(context))).await;
    Ok(with_body(
        head,
        whole.map_or_else(|| Body::stream(body), Body::Bytes),
    ))
}

fn with_body(head: codec::ResponseHead, body: Body) -> Reply {
    let codec::ResponseHead {
        status,
        mut fields,
        trailers,
        content_type,
        type_url,
    } = head;
    if let (ReplyStatus::Http(_), Some(kind)) = (
        &status,
        content_type
            .as_deref()
            .and_then(|kind| HeaderValue::from_str(kind).ok()),
    ) {
        fields.entry(CONTENT_TYPE).or_insert(kind);
    }
    let pushback = match &status {
        ReplyStatus::Grpc { details, .. } => pushback::of(&trailers, details.as_ref()),
        ReplyStatus::Http(_) => Pushback::None,
    };
    Reply {
        pushback,
        status,
        fields,
        trailers,
        content_type,
        type_url,
        body,
    }
}

fn later(message: &Bytes) -> Result<(Option<Piece>, bool), Malformed> {
    codec::read_response(message).map(|read| (read.piece, read.has_fields))
}

fn failure(error: CallError) -> CallFailure {
    CallFailure {
        code: Some(error.status.code),
        message: error.status.message,
        unsent: error.unsent,
        told: None,
        retry_after: None,
        attempts: None,
    }
}

/// `host:port` as a target.
pub(crate) fn target_of(address: &str) -> Option<Target> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (!host.is_empty()).then_some(Target::plain(host, port.parse().ok()?))
}

#[async_trait]
impl PeerClient for PeerPool {
    async fn call(
        &self,
        address: &str,
        target: &AppId,
        _namespace: &Namespace,
        call: &mut Call,
    ) -> Result<Reply, CallFailure> {
        let channel = self.channel(address)?;
        match self.stream(&channel, target, call).await {
            Err(failure) if failure.code == Some(GrpcCode::Unimplemented) => match &call.body {
                Body::Bytes(body) => {
                    let body = body.clone();
                    self.unary(&channel, target, call, body).await
                }
                Body::Stream { .. } => Err(failure),
            },
            outcome => outcome,
        }
    }

    fn forget(&self, address: &str) {
        let channel = self
            .channels
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(address);
        if let Some(channel) = channel {
            channel.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_may_be_of_either_kind() {
        let target = target_of("[::1]:50002").unwrap();
        assert_eq!((target.host.as_str(), target.port), ("::1", 50002));
        assert_eq!(target_of("10.0.0.1:1").unwrap().host, "10.0.0.1");
        assert!(target_of("nowhere").is_none());
        assert!(target_of(":1").is_none());
    }

    #[test]
    fn forwarded_quotes_addresses_with_colons() {
        let stamp = |address: &str| Stamp {
            app_id: "a".into(),
            namespace: "n".into(),
            host_address: address.into(),
            host_name: "h".into(),
        };
        assert_eq!(
            stamp("1.2.3.4").forwarded(),
            "for=1.2.3.4;by=1.2.3.4;host=h"
        );
        assert_eq!(
            stamp("::1").forwarded(),
            "for=\"[::1]\";by=\"[::1]\";host=h"
        );
    }
}
