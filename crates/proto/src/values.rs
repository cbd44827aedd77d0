//! JSON as protobuf's own value types.

use outrigger_core::json::Value;

use crate::google::protobuf;
use crate::google::protobuf::value::Kind;

/// A JSON value as `google.protobuf.Value`. Numbers are doubles there.
pub fn value(from: &Value) -> protobuf::Value {
    let kind = match from {
        Value::Null => Kind::NullValue(0),
        Value::Bool(flag) => Kind::BoolValue(*flag),
        Value::Number(number) => Kind::NumberValue(number.parse().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(items) => Kind::ListValue(protobuf::ListValue {
            values: items.iter().map(value).collect(),
        }),
        Value::Object(members) => Kind::StructValue(structure(
            members.iter().map(|(name, member)| (name.as_str(), member)),
        )),
    };
    protobuf::Value { kind: Some(kind) }
}

/// Members as `google.protobuf.Struct`.
pub fn structure<'a>(members: impl IntoIterator<Item = (&'a str, &'a Value)>) -> protobuf::Struct {
    protobuf::Struct {
        fields: members
            .into_iter()
            .map(|(name, member)| (name.to_owned(), value(member)))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_value_has_its_counterpart() {
        let json = outrigger_core::json::parse_all(br#"{"a":[1.5,true,null],"b":"t"}"#).unwrap();
        let Some(Kind::StructValue(object)) = value(&json).kind else {
            panic!("an object is a structure")
        };
        assert_eq!(
            object.fields["b"].kind,
            Some(Kind::StringValue("t".to_owned()))
        );
        let Some(Kind::ListValue(list)) = &object.fields["a"].kind else {
            panic!("an array is a list")
        };
        assert_eq!(list.values[0].kind, Some(Kind::NumberValue(1.5)));
        assert_eq!(list.values[2].kind, Some(Kind::NullValue(0)));
    }
}
