//! The names on which user, operator and workers agree.

use strum::Display;

/// The API group of `IoTPipeline`, and the prefix of every label and annotation of this project.
pub const API_GROUP: &str = "iotpipeline.dev";

/// The one field manager under which the operator applies its objects (server-side apply).
pub const FIELD_MANAGER: &str = "iotpipeline-operator";

/// The finalizer of a pipeline that has something to end or to delete outside Kubernetes.
pub const FINALIZER: &str = "iotpipeline.dev/cleanup";

/// Annotation that lets a pipeline go although its session, topic or table is left:
/// `kubectl annotate iotp NAME iotpipeline.dev/skip-cleanup=true`.
pub const SKIP_CLEANUP_ANNOTATION: &str = "iotpipeline.dev/skip-cleanup";

/// Annotation that lets changes through that would destroy data: its value is the hashes that the condition and
/// `status.plan` show, with commas between them.
pub const APPROVE_ANNOTATION: &str = "iotpipeline.dev/approve";

/// Label on every child object: the name of the pipeline it belongs to.
///
/// Children carry no `app.kubernetes.io/instance`: Argo CD's label tracking would take them for its own.
pub const PIPELINE_LABEL: &str = "iotpipeline.dev/pipeline";

/// Label on every child object that belongs to a worker: `bridge` or `processor`.
pub const COMPONENT_LABEL: &str = "app.kubernetes.io/component";

/// Label on every child object, with the value [`FIELD_MANAGER`].
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";

/// The port of a worker's HTTP endpoint (`/livez`, `/readyz`, `/metrics`, `/status`).
pub const WORKER_HTTP_PORT: u16 = 8080;

/// Where a worker finds its configuration.
pub const WORKER_CONFIG_PATH: &str = "/etc/iotpipeline/config/worker.json";

/// The key of the configuration in its ConfigMap.
pub const WORKER_CONFIG_KEY: &str = "worker.json";

/// The directory into which a worker's Secrets are mounted, each in a directory named after its
/// [`SecretPurpose`].
pub const SECRETS_DIR: &str = "/etc/iotpipeline/secrets";

/// The directory into which the volume of the bridge's spool is mounted.
pub const SPOOL_DIR: &str = "/var/lib/iotpipeline/spool";

/// The directory that outlives a processor's container, and not its pod.
pub const STATE_DIR: &str = "/run/iotpipeline";

/// What a mounted Secret is for. Displays as the name of its directory, such as `mqtt-client`.
#[derive(Clone, Copy, Debug, Display, Eq, PartialEq)]
#[strum(serialize_all = "kebab-case")]
pub enum SecretPurpose {
    /// `mqtt.credentialsSecretRef`: the keys `username` and `password`.
    Mqtt,
    /// `mqtt.tls.caSecretRef`: [`CA_FILE`].
    MqttCa,
    /// `mqtt.tls.clientSecretRef`: [`CERTIFICATE_FILE`] and [`KEY_FILE`].
    MqttClient,
    /// `kafka.tls.caSecretRef`: [`CA_FILE`].
    KafkaCa,
    /// `kafka.tls.clientSecretRef`: [`CERTIFICATE_FILE`] and [`KEY_FILE`].
    KafkaClient,
    /// `kafka.sasl.passwordSecretRef`: [`PASSWORD_FILE`].
    KafkaPassword,
    /// `timescale.secretRef`: whatever keys it has.
    Timescale,
    /// `timescale.tls.caSecretRef`: [`CA_FILE`].
    TimescaleCa,
    /// `timescale.tls.clientSecretRef`: [`CERTIFICATE_FILE`] and [`KEY_FILE`].
    TimescaleClient,
}

/// Certificate authorities, as they are mounted.
pub const CA_FILE: &str = "ca.crt";

/// A client certificate, as it is mounted, whatever its key in the Secret.
pub const CERTIFICATE_FILE: &str = "tls.crt";

/// The private key of a client certificate, as it is mounted, whatever its key in the Secret.
pub const KEY_FILE: &str = "tls.key";

/// A password, as it is mounted, whatever its key in the Secret.
pub const PASSWORD_FILE: &str = "password";

/// Table with one row: the version of the bookkeeping tables in this schema.
///
/// `version int NOT NULL`
pub const VERSION_TABLE: &str = "_iotpipeline_version";

/// Table of markers: which pipeline created which hypertable of this schema, and how long its rows stay. A table has one
/// and its dead letters have one, unless somebody else keeps the table.
///
/// `table_name text PRIMARY KEY, cluster_name text NOT NULL, namespace text NOT NULL, pipeline text NOT NULL,
/// created_at timestamptz NOT NULL DEFAULT now(), drop_after_seconds bigint,
/// is_dead_letters boolean NOT NULL DEFAULT false, adopted boolean NOT NULL DEFAULT false, rollup_of text, definition text,
/// filled_to timestamptz, is_filled boolean`
///
/// `drop_after_seconds` is what was last applied, 0 where rows stay for ever; NULL where an older version wrote the row.
/// What was `adopted` was there before, and is never deleted. The last four are of rollups alone: the table that one belongs
/// to, what it computes, and up to when it is filled with the rows that were there before it.
pub const MARKER_TABLE: &str = "_iotpipeline_tables";

/// Table of topic markers: which pipeline created which Kafka topic. Kafka has no place for such a mark, so it
/// stands beside the data.
///
/// `kafka_cluster_id text NOT NULL, topic text NOT NULL, cluster_name text NOT NULL, namespace text NOT NULL,
/// pipeline text NOT NULL, created_at timestamptz NOT NULL DEFAULT now(), adopted boolean NOT NULL DEFAULT false,
/// PRIMARY KEY (kafka_cluster_id, topic)`
pub const TOPIC_MARKER_TABLE: &str = "_iotpipeline_topics";

/// Table of positions: up to where each partition has become rows of a table of this schema.
///
/// `table_name text NOT NULL, kafka_cluster_id text NOT NULL, topic text NOT NULL, partition int NOT NULL,
/// next_offset bigint NOT NULL, last_offset bigint, last_timestamp timestamptz, last_hash bytea,
/// updated_at timestamptz NOT NULL DEFAULT now(),
/// PRIMARY KEY (table_name, kafka_cluster_id, topic, partition)`
///
/// `last_*` describe the last record that became rows (or was dead-lettered or dropped): its offset, its Kafka
/// timestamp, and the first 16 bytes of the SHA-256 of its value.
pub const POSITION_TABLE: &str = "_iotpipeline_positions";

/// Table of feeds: which pipeline writes into which table of this schema from which topic. Two that did would share
/// positions and fence each other.
///
/// `table_name text NOT NULL, kafka_cluster_id text NOT NULL, topic text NOT NULL, cluster_name text NOT NULL,
/// namespace text NOT NULL, pipeline text NOT NULL, created_at timestamptz NOT NULL DEFAULT now(),
/// PRIMARY KEY (table_name, kafka_cluster_id, topic)`
pub const FEED_TABLE: &str = "_iotpipeline_feeds";

/// The largest length of an SQL identifier in bytes; PostgreSQL cuts longer ones off silently.
pub const MAX_IDENTIFIER_BYTES: usize = 63;

/// The longest table name, so that the name of its dead-letter table fits [`MAX_IDENTIFIER_BYTES`].
pub const MAX_TABLE_NAME_BYTES: usize = 50;

/// The dead-letter hypertable of a table, in the same schema.
///
/// `time timestamptz NOT NULL DEFAULT now(), reason text NOT NULL, stage text NOT NULL, error text NOT NULL,
/// topic text NOT NULL, partition int NOT NULL, "offset" bigint NOT NULL, key bytea, headers jsonb,
/// payload bytea, payload_bytes bigint NOT NULL, payload_sha256 bytea NOT NULL`
///
/// `payload` holds the first [`MAX_DEAD_LETTER_PAYLOAD_BYTES`] of the record's value.
pub fn dead_letter_table(table: &str) -> String {
    format!("{table}_dead_letters")
}

/// How much of a record's value a dead letter keeps, in bytes; its hash covers the whole.
pub const MAX_DEAD_LETTER_PAYLOAD_BYTES: usize = 64 * 1024;

/// How much of a payload a stub keeps at most, in bytes: as much as its dead letter.
pub const MAX_STUB_PAYLOAD_BYTES: usize = MAX_DEAD_LETTER_PAYLOAD_BYTES;

/// Headers of a Kafka record that the bridge wrote. All values are UTF-8 text.
pub mod header {
    /// The MQTT topic on which the message was published.
    pub const TOPIC: &str = "mqtt.topic";
    /// The QoS with which the broker delivered it: `0`, `1` or `2`.
    pub const QOS: &str = "mqtt.qos";
    /// `true` where the broker sent it as a retained message.
    pub const RETAINED: &str = "mqtt.retained";
    /// `true` where the broker marked it as delivered before (a hint only).
    pub const DUPLICATE: &str = "mqtt.dup";
    /// When the bridge received it, RFC 3339 with microseconds.
    pub const INGESTED_AT: &str = "ingested_at";
    /// The MQTT 5 content type, if any.
    pub const CONTENT_TYPE: &str = "mqtt.content_type";
    /// Prefix of each MQTT 5 user property: `mqtt.property.<name>`.
    pub const PROPERTY_PREFIX: &str = "mqtt.property.";
    /// How many MQTT 5 user properties were left out, because there were more than a record has room for.
    pub const PROPERTIES_OMITTED: &str = "mqtt.properties_omitted";
    /// Marks a stub, which stands for a message that no record of the topic can hold: same key and headers, and the
    /// first [`MAX_STUB_PAYLOAD_BYTES`](super::MAX_STUB_PAYLOAD_BYTES) of its payload at most. The value is why:
    /// [`STUB_RECORD_TOO_LARGE`].
    pub const STUB: &str = "iotpipeline.stub";
    /// The value of [`STUB`]: the record would be larger than the topic takes.
    pub const STUB_RECORD_TOO_LARGE: &str = "RecordTooLarge";
    /// Of a stub: the length of the whole payload in bytes, decimal.
    pub const STUB_PAYLOAD_BYTES: &str = "iotpipeline.payload_bytes";
    /// Of a stub: the SHA-256 of the whole payload, 64 lower-case hexadecimal digits.
    pub const STUB_PAYLOAD_SHA256: &str = "iotpipeline.payload_sha256";
}

/// The name of a worker's objects: `<pipeline>-bridge`, `<pipeline>-processor`.
pub fn worker_name(pipeline: &str, component: crate::worker::Component) -> String {
    format!("{pipeline}-{component}")
}

/// The ordinal of a StatefulSet's pod, by the pod's name: 2 of `line-bridge-2`.
pub fn ordinal(pod: &str) -> Option<u32> {
    pod.rsplit_once('-')?.1.parse().ok()
}

/// The name of the PersistentVolumeClaim of the bridge's spool.
pub fn spool_claim(pipeline: &str) -> String {
    format!("{pipeline}-bridge-spool")
}

/// The longest key of a record: as long as an MQTT topic may be (MQTT-1.5.4). A longer field is no key.
pub const MAX_KEY_BYTES: usize = 65_535;

/// What a record holds beside payload, key, topic and user properties at most, bytes.
pub const RECORD_FIXED_BYTES: usize = 1024;

/// The MQTT client id of a pipeline that names none.
pub fn default_client_id(cluster_name: &str, namespace: &str, pipeline: &str) -> String {
    format!("{cluster_name}-{namespace}-{pipeline}")
}

/// The MQTT client id of the bridge with this ordinal. The first one has the pipeline's own: so one bridge and several
/// follow each other in its session, and nothing is lost between them. The others add their ordinals with a character that
/// no default id holds: `line_1` is no pipeline, and `line-1` may be one.
pub fn bridge_client_id(client_id: &str, ordinal: u32) -> String {
    if ordinal == 0 { client_id.to_owned() } else { format!("{client_id}_{ordinal}") }
}

/// The filter of a subscription that the bridges of a pipeline share. The group is the pipeline's client id, which no other
/// client has, and which never changes.
pub fn shared_filter(client_id: &str, filter: &str) -> String {
    format!("{SHARE}{client_id}/{filter}")
}

/// The filter that is shared; one that is not is the same.
pub fn unshared_filter(filter: &str) -> &str {
    filter.strip_prefix(SHARE).and_then(|shared| shared.split_once('/')).map_or(filter, |(_, filter)| filter)
}

/// With what the filter of a shared subscription begins.
pub const SHARE: &str = "$share/";

/// The Kafka consumer group of a pipeline that names none.
pub fn default_consumer_group(namespace: &str, pipeline: &str) -> String {
    format!("iotp.{namespace}.{pipeline}")
}

/// The host to connect to: one without a dot is a Service in the pipeline's namespace.
pub fn service_host(host: &str, namespace: &str) -> String {
    let is_full = host.contains('.') || host.contains(':') || host == "localhost";
    if is_full { host.to_owned() } else { format!("{host}.{namespace}.svc") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_has_no_other_pipelines_client_id() {
        let of =
            |pipeline: &str, ordinal| bridge_client_id(&default_client_id("c", "plant-7", pipeline), ordinal);
        assert_eq!(of("line", 0), "c-plant-7-line", "as a bridge alone");
        for ordinal in [1, 2, 10] {
            assert_ne!(of("line", ordinal), of(&format!("line-{ordinal}"), 0));
        }
        assert_ne!(of("line", 12), of("line-1", 2));
    }
}
