//! The ConfigMap with a worker's configuration. Pure.
//!
//! Its name carries a hash of its content and it is immutable, so a pod never sees its configuration change, and
//! a changed configuration is a changed pod template, which rolls the pods.

use std::collections::BTreeMap;

use crds::names::WORKER_CONFIG_KEY;
use k8s_openapi::api::core::v1::ConfigMap;
use snafu::ResultExt;

use super::{Error, Snafu, metadata, short_hash};
use crate::pipeline::{Pipeline, Worker};

/// Builds the ConfigMap `<pipeline>-<component>-<hash>`.
///
/// # Errors
/// Fails where the configuration has no JSON form.
pub fn build_config_map(pipeline: &Pipeline, worker: &Worker) -> Result<ConfigMap, Error> {
    let mut metadata = metadata(pipeline, worker.component());
    let worker_name = metadata.name.take().unwrap_or_default();
    let content =
        serde_json::to_string_pretty(&worker.config).with_context(|_| Snafu { name: worker_name.clone() })?;
    metadata.name = Some(format!("{worker_name}-{}", short_hash(&content)));
    Ok(ConfigMap {
        metadata,
        immutable: Some(true),
        data: Some(BTreeMap::from([(WORKER_CONFIG_KEY.to_owned(), content)])),
        ..ConfigMap::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{QUICKSTART, pipeline};

    #[test]
    fn config_map_of_the_bridge() {
        let pipeline = pipeline(QUICKSTART);
        insta::assert_yaml_snapshot!(build_config_map(&pipeline, pipeline.bridge.as_ref().unwrap()).unwrap());
    }

    #[test]
    fn config_map_of_the_processor() {
        let pipeline = pipeline(QUICKSTART);
        insta::assert_yaml_snapshot!(build_config_map(&pipeline, &pipeline.processor).unwrap());
    }

    #[test]
    fn the_name_follows_the_content_and_nothing_else() {
        let name = |yaml: &str| {
            let pipeline = pipeline(yaml);
            build_config_map(&pipeline, pipeline.bridge.as_ref().unwrap()).unwrap().metadata.name.unwrap()
        };
        assert_eq!(name(QUICKSTART), name(&QUICKSTART.replace("uid: 6f2b", "uid: 7a3c")));
        assert_ne!(name(QUICKSTART), name(&QUICKSTART.replace("plants/+", "sites/+")));
    }

    #[test]
    fn no_secret_is_in_it() {
        let pipeline = pipeline(QUICKSTART);
        for worker in pipeline.workers() {
            let config_map = build_config_map(&pipeline, worker).unwrap();
            assert!(!config_map.data.unwrap()[WORKER_CONFIG_KEY].contains("hunter2"));
        }
    }
}
