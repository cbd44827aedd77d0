//! `grpc.reflection`: which services are here, and what their messages look like.

use http::HeaderMap;
use outrigger_core::error::GrpcCode;
use outrigger_proto::Message;
use outrigger_proto::descriptors::{FILES, NAMES};
use outrigger_proto::grpc::reflection::{v1, v1alpha};
use outrigger_wire::grpc::{Exchange, Gone, Status, decode, encode};

pub(crate) const V1: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
pub(crate) const V1_ALPHA: &str = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";

/// What a question is answered with, before it takes the form of a version.
enum Answer {
    Services,
    Files(Vec<&'static [u8]>),
    Extensions(String),
    Unknown(String),
}

fn answer(question: &Question) -> Answer {
    match question {
        Question::Services => Answer::Services,
        Question::File(name) => files(FILES.iter().position(|file| file.name == name))
            .unwrap_or_else(|| Answer::Unknown(format!("could not find file {name:?}"))),
        Question::Symbol(name) => files(file_of(name))
            .unwrap_or_else(|| Answer::Unknown(format!("could not find symbol {name:?}"))),
        Question::Extension => Answer::Unknown("there are no extensions".to_owned()),
        Question::Extensions(name) if file_of(name).is_some() => Answer::Extensions(name.clone()),
        Question::Extensions(name) => Answer::Unknown(format!("could not find type {name:?}")),
    }
}

enum Question {
    Services,
    File(String),
    Symbol(String),
    Extension,
    Extensions(String),
}

/// The file of a name, or of what a field or value of it belongs to.
fn file_of(name: &str) -> Option<usize> {
    let place = NAMES.binary_search_by(|(known, _)| (*known).cmp(name)).ok();
    match place.and_then(|place| NAMES.get(place)) {
        Some((_, file)) => Some(*file),
        None => name
            .rsplit_once('.')
            .filter(|(scope, _)| {
                NAMES
                    .binary_search_by(|(known, _)| (*known).cmp(scope))
                    .is_ok()
            })
            .and_then(|(scope, _)| file_of(scope)),
    }
}

/// A file and everything that it needs.
fn files(place: Option<usize>) -> Option<Answer> {
    let mut open = vec![FILES.get(place?)?];
    let mut seen = Vec::new();
    let mut bytes = Vec::new();
    while let Some(file) = open.pop() {
        if seen.contains(&file.name) {
            continue;
        }
        seen.push(file.name);
        bytes.push(file.bytes);
        open.extend(
            file.needs
                .iter()
                .filter_map(|name| FILES.iter().find(|file| file.name == *name)),
        );
    }
    Some(Answer::Files(bytes))
}

/// Answers questions until there are no more.
pub(crate) async fn serve(exchange: Exchange, services: &[&str]) {
    let alpha = exchange.path() == V1_ALPHA;
    let Exchange {
        mut messages,
        mut reply,
        ..
    } = exchange;
    if reply.start(HeaderMap::new()).is_err() {
        return;
    }
    let status = loop {
        let message = match messages.next().await {
            Ok(Some(message)) => message,
            Ok(None) => break Status::ok(),
            Err(error) => break error.to_status(),
        };
        let framed = if alpha {
            asked_alpha(message, services)
        } else {
            asked(message, services)
        };
        match framed {
            Ok(framed) => {
                if let Err(Gone) = reply.send(framed).await {
                    return;
                }
            }
            Err(status) => break status,
        }
    };
    reply.end(HeaderMap::new(), &status);
}

macro_rules! version {
    ($name:ident, $module:ident) => {
        fn $name(message: bytes::Bytes, services: &[&str]) -> Result<bytes::Bytes, Status> {
            use $module::server_reflection_request::MessageRequest as Asked;
            use $module::server_reflection_response::MessageResponse as Told;
            let request: $module::ServerReflectionRequest = decode(message)?;
            let question = match request.message_request.clone() {
                Some(Asked::ListServices(_)) => Question::Services,
                Some(Asked::FileByFilename(name)) => Question::File(name),
                Some(Asked::FileContainingSymbol(name)) => Question::Symbol(name),
                Some(Asked::FileContainingExtension(_)) => Question::Extension,
                Some(Asked::AllExtensionNumbersOfType(name)) => Question::Extensions(name),
                None => {
                    return Err(Status::new(
                        GrpcCode::InvalidArgument,
                        "invalid MessageRequest: <nil>".to_owned(),
                    ))
                }
            };
            let told = match answer(&question) {
                Answer::Services => {
                    let service = services
                        .iter()
                        .map(|name| $module::ServiceResponse {
                            name: (*name).to_owned(),
                        })
                        .collect();
                    Told::ListServicesResponse($module::ListServiceResponse { service })
                }
                Answer::Files(files) => {
                    let file_descriptor_proto =
                        files.into_iter().map(bytes::Bytes::from_static).collect();
                    Told::FileDescriptorResponse($module::FileDescriptorResponse {
                        file_descriptor_proto,
                    })
                }
                Answer::Extensions(base_type_name) => {
                    Told::AllExtensionNumbersResponse($module::ExtensionNumberResponse {
                        base_type_name,
                        extension_number: Vec::new(),
                    })
                }
                Answer::Unknown(error_message) => Told::ErrorResponse($module::ErrorResponse {
                    error_code: i32::from(GrpcCode::NotFound.number()),
                    error_message,
                }),
            };
            let response = $module::ServerReflectionResponse {
                valid_host: request.host.clone(),
                original_request: Some(request),
                message_response: Some(told),
            };
            Ok(framed(&response))
        }
    };
}

version!(asked, v1);
version!(asked_alpha, v1alpha);

fn framed(message: &impl Message) -> bytes::Bytes {
    encode(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_files_with_all_that_they_need() {
        let Answer::Files(files) = answer(&Question::Symbol("dapr.proto.runtime.v1.Dapr".into()))
        else {
            panic!("the service is known")
        };
        assert!(files.len() > 10);
        for symbol in [
            "dapr.proto.runtime.v1.Dapr.GetState",
            "dapr.proto.common.v1.StateItem",
            "dapr.proto.common.v1.StateItem.key",
        ] {
            assert!(
                matches!(answer(&Question::Symbol(symbol.into())), Answer::Files(_)),
                "{symbol}"
            );
        }
        assert!(matches!(
            answer(&Question::Symbol("nope".into())),
            Answer::Unknown(_)
        ));
        assert!(
            matches!(answer(&Question::File("google/protobuf/any.proto".into())), Answer::Files(files) if files.len() == 1)
        );
    }
}
