//! `spec.processing`: how a payload becomes rows.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::DurationText;

/// How a payload becomes rows.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProcessingSpec {
    /// The format of the payload.
    #[serde(default)]
    pub codec: CodecSpec,
    /// A VRL program, at most 16 KiB. It sees the event as `.` and where it came from as `%`. One that does not compile is
    /// refused with the compiler's diagnostic. Without it the event is taken as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16384))]
    pub program: Option<String>,
    /// Which event times to accept; what lies outside becomes a dead letter.
    #[serde(default)]
    pub accept_time: AcceptTimeSpec,
    /// A processor pauses, and says so, where it has to reject more than this share of its last 1,000 messages, rather
    /// than drain the topic into dead letters; default 50. With 100 it never pauses.
    #[serde(default = "default_max_rejected_percent")]
    #[schemars(range(min = 1, max = 100))]
    pub max_rejected_percent: i32,
}

impl Default for ProcessingSpec {
    fn default() -> Self {
        Self {
            codec: CodecSpec::default(),
            program: None,
            accept_time: AcceptTimeSpec::default(),
            max_rejected_percent: default_max_rejected_percent(),
        }
    }
}

/// How bytes become an event.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CodecSpec {
    /// Json (default): one JSON value a message.
    #[serde(default, rename = "type")]
    pub codec_type: CodecType,
}

/// The format of the payload.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum CodecType {
    /// One JSON value a message.
    #[default]
    Json,
}

/// Which event times to accept, relative to the processor's clock.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AcceptTimeSpec {
    /// How old an event may be, by the processor's clock; without it any age.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_late: Option<DurationText>,
    /// How far ahead of the processor's clock an event may be; without it any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ahead: Option<DurationText>,
}

fn default_max_rejected_percent() -> i32 {
    50
}
