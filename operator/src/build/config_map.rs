//! The ConfigMap with a worker's configuration. Pure.
//!
//! Its name carries a hash of its content and it is immutable, so a pod never sees its configuration change, and
//! a changed configuration is a changed pod template, which rolls the pods.

use std::collections::BTreeMap;

use crds::{names::WORKER_CONFIG_KEY, worker::Component};
use k8s_openapi::api::core::v1::ConfigMap;
use snafu::ResultExt;

use super::{Error, Snafu, metadata, short_hash, worker};
use crate::pipeline::Pipeline;

/// Builds the ConfigMap `<pipeline>-<component>-<hash>`.
///
/// # Errors
/// Fails where the configuration has no JSON form.
pub fn build_config_map(pipeline: &Pipeline, component: Component) -> Result<ConfigMap, Error> {
    let mut metadata = metadata(pipeline, component);
    let worker_name = metadata.name.take().unwrap_or_default();
    let content = serde_json::to_string_pretty(&worker(pipeline, component).config)
        .with_context(|_| Snafu { name: worker_name.clone() })?;
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
        insta::assert_yaml_snapshot!(build_config_map(&pipeline(QUICKSTART), Component::Bridge).unwrap());
    }

    #[test]
    fn config_map_of_the_processor() {
        insta::assert_yaml_snapshot!(build_config_map(&pipeline(QUICKSTART), Component::Processor).unwrap());
    }

    #[test]
    fn the_name_follows_the_content_and_nothing_else() {
        let name =
            |yaml: &str| build_config_map(&pipeline(yaml), Component::Bridge).unwrap().metadata.name.unwrap();
        assert_eq!(name(QUICKSTART), name(&QUICKSTART.replace("uid: 6f2b", "uid: 7a3c")));
        assert_ne!(name(QUICKSTART), name(&QUICKSTART.replace("plants/+", "sites/+")));
    }

    #[test]
    fn no_secret_is_in_it() {
        for component in [Component::Bridge, Component::Processor] {
            let config_map = build_config_map(&pipeline(QUICKSTART), component).unwrap();
            assert!(!config_map.data.unwrap()[WORKER_CONFIG_KEY].contains("hunter2"));
        }
    }
}
