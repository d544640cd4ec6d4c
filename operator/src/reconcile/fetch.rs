//! First step: reads the world. The only one that does; it changes nothing.
//!
//! A dead Kafka or database is a value here, not an error, so that neither hides the other nor the workers.

mod stores;
mod workers;

use crds::IoTPipeline;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{Api, ResourceExt};
use snafu::ResultExt;

pub use self::{
    stores::{Stores, fetch_stores},
    workers::{LiveChild, WorkerPod, Workers, fetch_workers},
};
use super::validate::{self, Secrets};
use crate::{
    context::Context,
    error::{Error, ReadNamespaceSnafu, ReadSecretSnafu},
};

/// Reads the Secrets that the spec refers to.
///
/// # Errors
/// A Secret that does not exist is no error; an API server that does not answer is one.
pub async fn fetch_secrets(object: &IoTPipeline, context: &Context) -> Result<Secrets, Error> {
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &object.namespace().unwrap_or_default());
    let mut secrets = Secrets::new();
    for name in validate::referenced_secrets(&object.spec) {
        let secret = api.get_opt(&name).await.context(ReadSecretSnafu { name: &name })?;
        secrets.insert(name, secret);
    }
    Ok(secrets)
}

/// Whether the namespace is being deleted, or gone.
///
/// # Errors
/// Fails where the API server does not answer.
pub async fn is_namespace_terminating(name: &str, context: &Context) -> Result<bool, Error> {
    let api: Api<Namespace> = Api::all(context.client.clone());
    let namespace = api.get_opt(name).await.context(ReadNamespaceSnafu { name })?;
    Ok(namespace.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some()))
}
