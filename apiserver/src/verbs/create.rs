//! `create`: a new object.

use std::sync::Arc;

use api::{ErrorList, Persistence, Subresource, metadata};
use bytes::Bytes;
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::Value;
use store::{Action, Record, WriteError, Written};

use crate::apply::managed;
use crate::body::{self, Body};
use crate::call::Call;
use crate::error::ApiError;
use crate::meta::Meta;
use crate::negotiate::Encoding;
use crate::object;
use crate::options::WriteOptions;
use crate::subresources::binding;
use crate::write::{self, Room, Stored};
use crate::{admission, decode};

/// How many generated names are tried.
const GENERATE_ATTEMPTS: usize = 8;

/// Answers with the created object.
pub(crate) async fn answer(call: &Call<'_>, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let options = WriteOptions::parse(call, "CreateOptions")?;
    let document = decode::document(call.headers, body)?;
    let mut object = document.check(call, call.served, options.field_validation)?;
    object::metadata_mut(&mut object).remove(managed::FIELD);
    if call.resource.persistence == Persistence::None {
        if call.served.plural == "bindings" {
            return binding::answer_collection(call, &object).await;
        }
        let review =
            call.server.security.review(call.user, call.served.plural, call.namespace(), object)?;
        return body::value(StatusCode::CREATED, &review, Encoding::Json, call.headers);
    }
    let stored = create(call, object, &options).await?;
    stored.respond(call, StatusCode::CREATED)
}

/// Creates an object given in the version of the request.
pub(crate) async fn create(
    call: &Call<'_>,
    mut object: Value,
    options: &WriteOptions,
) -> Result<Stored, ApiError> {
    claim_place(call, &mut object)?;
    let name = object::name(&object).to_owned();
    call.resource
        .decode(call.served, &mut object)
        .map_err(|errors| ApiError::invalid(call.served, &name, errors))?;
    initialise_metadata(call, &mut object);
    let generated = object::name(&object).is_empty()
        && !object::metadata_str(&object, "generateName").is_empty();
    if !generated {
        return create_named(call, object, options).await;
    }
    for _ in 1..GENERATE_ATTEMPTS {
        match create_named(call, with_generated_name(object.clone()), options).await {
            Err(error) if error.is_already_exists() => {}
            result => return result,
        }
    }
    create_named(call, with_generated_name(object), options).await
}

fn with_generated_name(mut object: Value) -> Value {
    let name = object::generate_name(object::metadata_str(&object, "generateName"));
    object["metadata"]["name"] = name.into();
    object
}

/// Creates an object that has a name (or fails validation for want of one).
async fn create_named(
    call: &Call<'_>,
    mut object: Value,
    options: &WriteOptions,
) -> Result<Stored, ApiError> {
    let behaviour = call.resource.behaviour;
    let name = object::name(&object).to_owned();
    admission::create(call, &mut object).await?;
    behaviour.prepare_for_create(&mut object);
    let reservation = call.server.services.for_create(call, &mut object)?;
    write::drop_empty_metadata(&mut object);
    let errors = errors(call, &object);
    if !errors.is_empty() {
        return Err(ApiError::invalid(call.served, &name, errors));
    }
    call.warn_all(call.resource.warnings(&object, None));
    admission::validate_create(call, &object)?;
    let _turn = admission::quota::create(call, &object).await?;
    let key = call.key(&name);
    if options.dry_run {
        if call.server.store.get(&key).is_some() {
            return Err(ApiError::already_exists(call.served, &name));
        }
        return Ok(Stored::Imagined(object));
    }
    let record = insert(call, &key, &object).await?;
    reservation.keep(&call.server.services);
    Ok(Stored::Object(record))
}

async fn insert(call: &Call<'_>, key: &str, object: &Value) -> Result<Arc<Record<Meta>>, ApiError> {
    let meta = Meta::of(call.resource, object);
    let encoded = write::encode(call, object, &meta, None, Room::Object)?;
    let durability = call.durability(Subresource::None);
    let decide = |current: Option<&Arc<Record<Meta>>>, revision| match current {
        Some(_) => Err(()),
        None => Ok(Action::Put { value: encoded.at(revision), meta }),
    };
    let _writing = call.deadline.write()?;
    match call.server.store.write(key, durability, decide).await {
        Ok(Written::Put(record)) => {
            call.server.churn.note();
            Ok(record)
        }
        Ok(_) => Err(ApiError::internal("a new object was not stored")),
        Err(WriteError::Rejected(())) => {
            Err(ApiError::already_exists(call.served, object::name(object)))
        }
        Err(other) => Err(write::disk_failure(other)),
    }
}

fn errors(call: &Call<'_>, object: &Value) -> ErrorList {
    let behaviour = call.resource.behaviour;
    let mut errors =
        metadata::validate_name(object, |name, prefix| behaviour.name_rule(name, prefix));
    errors.extend(metadata::validate_metadata(object, call.resource.namespaced));
    errors.extend(behaviour.validate(object));
    errors
}

/// Takes the namespace from the URL and refuses what contradicts it.
fn claim_place(call: &Call<'_>, object: &mut Value) -> Result<(), ApiError> {
    let name = object::name(object).to_owned();
    if !call.info.name.is_empty() && call.info.name != name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            call.info.name
        )));
    }
    if !object::metadata_str(object, "resourceVersion").is_empty() {
        return Err(ApiError::bad_request(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    if !call.resource.namespaced {
        return Ok(());
    }
    if call.namespace().is_empty() {
        return Err(ApiError::bad_request("an empty namespace may not be set during creation"));
    }
    claim_namespace(call, object)
}

/// Fills in the namespace from the URL, or refuses another.
pub(super) fn claim_namespace(call: &Call<'_>, object: &mut Value) -> Result<(), ApiError> {
    let namespace = object::metadata_str(object, "namespace");
    if !namespace.is_empty() && namespace != call.namespace() {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the \
             request",
        ));
    }
    object::metadata_mut(object).insert("namespace".into(), call.namespace().into());
    Ok(())
}

/// Sets what only the server sets.
fn initialise_metadata(call: &Call<'_>, object: &mut Value) {
    let metadata = object::metadata_mut(object);
    for name in [
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "resourceVersion",
        "generation",
    ] {
        metadata.remove(name);
    }
    metadata.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".into(), object::time(Timestamp::now()).into());
    if call.resource.has_generation {
        metadata.insert("generation".into(), 1.into());
    }
    write::drop_empty_metadata(object);
}
