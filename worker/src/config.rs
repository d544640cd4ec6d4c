//! Reads the configuration file that the operator wrote.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crds::{
    names,
    worker::{Component, RoleConfig, WORKER_CONFIG_VERSION, WorkerConfig},
};
use serde::Deserialize;
use snafu::{OptionExt, ResultExt, Snafu, ensure};

/// Why a configuration cannot be used.
#[derive(Debug, Snafu)]
pub enum Error {
    /// The file cannot be read.
    #[snafu(display("failed to read {}", path.display()))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is no `WorkerConfig`.
    #[snafu(display("failed to parse {}", path.display()))]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where it differs.
        source: serde_json::Error,
    },
    /// Another version of the operator wrote the file.
    #[snafu(display(
        "the configuration has version {found}, this worker reads version {WORKER_CONFIG_VERSION} only"
    ))]
    Version {
        /// What the file says; `None` where it says nothing.
        found: u64,
    },
    /// The file is for the other kind of worker.
    #[snafu(display("the configuration is not for a {component}"))]
    Role {
        /// What this worker is.
        component: Component,
    },
    /// Bridges that share their subscriptions are told apart by their ordinals.
    #[snafu(display(
        "bridges that share their subscriptions need their ordinals: --pod must name the pod, such as line-bridge-2, and \
         says {pod:?}"
    ))]
    Ordinal {
        /// What `--pod` says.
        pod: String,
    },
}

/// Reads and checks the configuration of a worker of kind `component` that runs in this pod.
pub fn read(path: &Path, component: Component, pod: Option<&str>) -> Result<WorkerConfig, Error> {
    let text = fs::read(path).context(ReadSnafu { path })?;
    parse(&text, path, component, pod)
}

fn parse(text: &[u8], path: &Path, component: Component, pod: Option<&str>) -> Result<WorkerConfig, Error> {
    // The version first: another version may well have other fields.
    let Versioned { version } = serde_json::from_slice(text).context(ParseSnafu { path })?;
    ensure!(version == u64::from(WORKER_CONFIG_VERSION), VersionSnafu { found: version });
    let config: WorkerConfig = serde_json::from_slice(text).context(ParseSnafu { path })?;
    let role = match (config.role, component) {
        (RoleConfig::Bridge(bridge), Component::Bridge) if bridge.shared.is_some() => {
            let ordinal = pod.and_then(names::ordinal);
            let pod = pod.unwrap_or_default();
            RoleConfig::Bridge(bridge.of_ordinal(ordinal.context(OrdinalSnafu { pod })?))
        }
        (role @ RoleConfig::Bridge(_), Component::Bridge)
        | (role @ RoleConfig::Processor(_), Component::Processor) => role,
        _ => return RoleSnafu { component }.fail(),
    };
    Ok(WorkerConfig { role, ..config })
}

#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const BRIDGE: &str = r#"{
        "version": 1,
        "pipeline": {"clusterName": "c", "namespace": "n", "name": "p"},
        "kafka": {"bootstrapServers": "kafka:9092", "topic": "t"},
        "role": {"bridge": {
            "host": "mosquitto", "port": 1883, "transport": "tcp", "tls": {"hasCa": false, "hasClientCertificate": false},
            "alpn": [], "protocolVersion": "V5", "clientId": "c-n-p", "subscriptions": [{"filter": "a/#", "qos": 1}],
            "unsubscribe": [], "retire": false, "sessionExpirySeconds": 60,
            "maxPacketSizeBytes": 1048576, "maxInFlight": 1000, "maxInFlightBytes": 16777216,
            "hasCredentials": false, "key": {"topicLevel": 1}, "maxRecordBytes": 2097152
        }}
    }"#;

    fn check(text: &str, component: Component) -> Result<WorkerConfig, String> {
        parse(text.as_bytes(), Path::new("worker.json"), component, Some("line-bridge-2"))
            .map_err(|error| crate::telemetry::chain(&error))
    }

    #[test]
    fn a_configuration_of_this_version_is_read() {
        let config = check(BRIDGE, Component::Bridge).unwrap();
        assert!(matches!(config.role, RoleConfig::Bridge(bridge) if bridge.max_in_flight == 1000));
    }

    #[test]
    fn bridges_that_share_are_told_apart_by_their_ordinals() {
        let told = |shared: &str, pod: Option<&str>| {
            let text =
                BRIDGE.replace("\"hasCredentials\"", &format!("\"shared\": {shared}, \"hasCredentials\""));
            let config = parse(text.as_bytes(), Path::new("worker.json"), Component::Bridge, pod);
            match config.map(|config| config.role) {
                Ok(RoleConfig::Bridge(bridge)) => Some((bridge.client_id, bridge.retire)),
                _ => None,
            }
        };
        let of =
            |ordinal: u32, shared| told(shared, Some(format!("line-bridge-{ordinal}").as_str())).unwrap();
        for shared in ["{}", r#"{"retireFrom": null}"#, r#"{"retireFrom": 3}"#] {
            assert_eq!(of(0, shared), ("c-n-p".to_owned(), false));
            assert_eq!(of(2, shared), ("c-n-p_2".to_owned(), false));
        }
        assert_eq!(of(3, r#"{"retireFrom": 3}"#), ("c-n-p_3".to_owned(), true));
        assert_eq!(of(4, r#"{"retireFrom": 3}"#), ("c-n-p_4".to_owned(), true));
        for pod in [None, Some("line-bridge"), Some("line-bridge-x")] {
            assert_eq!(told("{}", pod), None, "{pod:?}");
        }
        let alone = parse(BRIDGE.as_bytes(), Path::new("worker.json"), Component::Bridge, None).unwrap();
        assert!(matches!(alone.role, RoleConfig::Bridge(bridge) if bridge.client_id == "c-n-p"));
    }

    #[test]
    fn any_other_version_is_refused_before_its_fields_are_looked_at() {
        let error = check(r#"{"version": 2, "surprise": true}"#, Component::Bridge).unwrap_err();
        assert!(error.contains("has version 2"), "{error}");
    }

    #[test]
    fn the_other_workers_configuration_is_refused() {
        let error = check(BRIDGE, Component::Processor).unwrap_err();
        assert!(error.contains("not for a processor"), "{error}");
    }

    #[test]
    fn an_unknown_field_is_refused() {
        let error = check(&BRIDGE.replace("\"host\"", "\"hots\""), Component::Bridge).unwrap_err();
        assert!(error.contains("hots"), "{error}");
    }
}
