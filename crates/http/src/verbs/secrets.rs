//! Secrets.

use outrigger_component_api::SecretValue;
use outrigger_core::json::Value;

use super::Outcome;
use crate::pipeline::{Api, Asked};
use crate::reply;

pub(super) async fn get(api: &Api, asked: Asked<'_>) -> Outcome {
    let (store, key) = (asked.param(0), asked.param(1));
    let found = api
        .blocks
        .secrets
        .get(&store, &key, &asked.query().metadata())
        .await?;
    Ok(found.map_or_else(reply::empty, |secret| reply::json(200, &object(&secret))))
}

pub(super) async fn bulk_get(api: &Api, asked: Asked<'_>) -> Outcome {
    let store = asked.param(0);
    let all = api
        .blocks
        .secrets
        .bulk_get(&store, &asked.query().metadata())
        .await?;
    let members = all
        .iter()
        .map(|(name, secret)| (name.clone(), object(secret)))
        .collect();
    Ok(reply::json(200, &Value::Object(members)))
}

fn object(secret: &SecretValue) -> Value {
    Value::Object(
        secret
            .iter()
            .map(|(name, value)| (name.clone(), Value::string(value.reveal())))
            .collect(),
    )
}
