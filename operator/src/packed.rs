//! How the pipelines of a watch are kept in memory: as text, which takes half of what its types take. No I/O.

use std::borrow::Cow;

use crds::{IoTPipeline, IoTPipelineStatus};
use kube::{
    Resource,
    core::{DeserializeGuard, ObjectMeta, error_boundary::InvalidObject},
};
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;

/// An IoTPipeline whose metadata can be read; the rest is text until it is unpacked. So one object that has not the shape
/// of an IoTPipeline does not keep a watch from all others.
#[derive(Clone, Debug)]
pub struct Packed {
    metadata: ObjectMeta,
    spec: Box<str>,
    status: Box<str>,
}

impl Packed {
    /// The pipeline, or why it cannot be read.
    pub fn unpack(&self) -> DeserializeGuard<IoTPipeline> {
        let read = || {
            let spec = serde_json::from_slice(self.spec.as_bytes())?;
            let status: Option<IoTPipelineStatus> = serde_json::from_slice(self.status.as_bytes())?;
            Ok(IoTPipeline { metadata: self.metadata.clone(), spec, status })
        };
        DeserializeGuard(read().map_err(|error: serde_json::Error| InvalidObject {
            error: without_place(&error),
            metadata: self.metadata.clone(),
        }))
    }
}

/// What is wrong, but not where: the text is this operator's own, and nobody else sees it.
fn without_place(error: &serde_json::Error) -> String {
    let place = format!(" at line {} column {}", error.line(), error.column());
    let text = error.to_string();
    text.strip_suffix(&place).unwrap_or(&text).to_owned()
}

impl<'de> Deserialize<'de> for Packed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Object {
            metadata: ObjectMeta,
            #[serde(default)]
            spec: Value,
            #[serde(default)]
            status: Value,
        }
        let Object { metadata, spec, status } = Object::deserialize(deserializer)?;
        let text = |value: Value| serde_json::to_string(&value).map(String::into_boxed_str);
        Ok(Self {
            metadata,
            spec: text(spec).map_err(D::Error::custom)?,
            status: text(status).map_err(D::Error::custom)?,
        })
    }
}

impl Resource for Packed {
    type DynamicType = <IoTPipeline as Resource>::DynamicType;
    type Scope = <IoTPipeline as Resource>::Scope;

    fn kind(type_: &Self::DynamicType) -> Cow<'_, str> {
        IoTPipeline::kind(type_)
    }

    fn group(type_: &Self::DynamicType) -> Cow<'_, str> {
        IoTPipeline::group(type_)
    }

    fn version(type_: &Self::DynamicType) -> Cow<'_, str> {
        IoTPipeline::version(type_)
    }

    fn plural(type_: &Self::DynamicType) -> Cow<'_, str> {
        IoTPipeline::plural(type_)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::test_support::{QUICKSTART, object};

    #[test]
    fn a_pipeline_comes_out_as_it_went_in() {
        let pipeline = IoTPipeline { status: Some(IoTPipelineStatus::default()), ..object(QUICKSTART) };
        for pipeline in [object(QUICKSTART), pipeline] {
            let text = serde_json::to_value(&pipeline).unwrap();
            let packed: Packed = serde_json::from_value(text.clone()).unwrap();
            assert_eq!(packed.meta(), &pipeline.metadata);
            let unpacked = packed.unpack().0.unwrap();
            assert_eq!(serde_json::to_value(unpacked).unwrap(), text);
        }
    }

    #[test]
    fn an_object_of_another_shape_keeps_its_name() {
        for (rest, problem) in [
            (json!({}), "invalid type: null, expected struct IoTPipelineSpec"),
            (json!({"spec": {"kafka": 1}}), "invalid type: integer `1`, expected struct KafkaSpec"),
            (json!({"spec": {}}), "missing field `kafka`"),
        ] {
            let mut object = rest;
            object["metadata"] = json!({"name": "odd", "namespace": "plant"});
            let packed: Packed = serde_json::from_value(object).unwrap();
            let unreadable = packed.unpack().0.unwrap_err();
            assert_eq!(unreadable.metadata.name.as_deref(), Some("odd"));
            assert_eq!(unreadable.error, problem);
        }
    }
}
