//! What a Kubernetes API server says of an IoTPipeline, worked out from the CustomResourceDefinition alone: its
//! structural schema first, with unknown fields refused as `kubectl` asks for, and then its CEL rules. No I/O.

use kube::{CustomResourceExt, core::cel};
use serde_json::{Map, Value, json};

/// The schema and the rules, ready for use.
pub struct ApiServer {
    structure: jsonschema::Validator,
    rules: cel::CompiledSchema,
}

impl ApiServer {
    /// Reads the CustomResourceDefinition.
    pub fn new() -> Self {
        let schema = schema();
        Self {
            structure: jsonschema::Validator::new(&as_json_schema(&schema)).expect("the schema is legal"),
            rules: cel::compile_schema(&schema),
        }
    }

    /// Why the API server refuses `object`, created afresh or as an update of `stored`; nothing where it accepts
    /// it. Each line is `path: message`, and for a CEL rule the message is the rule's own.
    pub fn refusals(&self, object: &Value, stored: Option<&Value>) -> Vec<String> {
        let refusals: Vec<_> = self
            .structure
            .iter_errors(object)
            .map(|error| format!("{}: {error}", dotted(&error.instance_path().to_string())))
            .collect();
        if !refusals.is_empty() {
            return refusals;
        }
        let verdict = cel::Validator::new().validate_compiled(&self.rules, object, stored);
        verdict.err().map_or_else(Vec::new, |errors| errors.iter().map(ToString::to_string).collect())
    }
}

/// The resource's schema, with the fields that every resource has and no definition declares.
fn schema() -> Value {
    let version = crds::IoTPipeline::crd().spec.versions.remove(0);
    let schema = version.schema.expect("the version has a schema").open_api_v3_schema;
    let mut schema = serde_json::to_value(schema).expect("a schema is JSON");
    schema["properties"]["apiVersion"] = json!({"type": "string", "enum": ["iotpipeline.dev/v1alpha1"]});
    schema["properties"]["kind"] = json!({"type": "string", "enum": ["IoTPipeline"]});
    schema["properties"]["metadata"] = json!({"type": "object", "additionalProperties": true});
    schema
}

/// OpenAPI's dialect in JSON Schema's words. Objects take only the fields they declare.
fn as_json_schema(schema: &Value) -> Value {
    let Some(schema) = schema.as_object() else { return schema.clone() };
    let mut translated: Map<String, Value> = schema
        .iter()
        .filter(|(keyword, _)| !keyword.starts_with("x-") && *keyword != "default")
        .map(|(keyword, value)| (keyword.clone(), translate(keyword, value)))
        .collect();
    if schema.contains_key("properties") && !schema.contains_key("additionalProperties") {
        translated.insert("additionalProperties".to_owned(), json!(false));
    }
    if schema.get("x-kubernetes-int-or-string") == Some(&json!(true)) {
        translated.insert("type".to_owned(), json!(["integer", "string"]));
    }
    if translated.remove("nullable") == Some(json!(true)) {
        translated.insert("type".to_owned(), json!([schema["type"], "null"]));
    }
    Value::Object(translated)
}

fn translate(keyword: &str, value: &Value) -> Value {
    match (keyword, value) {
        ("properties", Value::Object(properties)) => {
            properties.iter().map(|(name, schema)| (name.clone(), as_json_schema(schema))).collect()
        }
        ("items" | "additionalProperties", schema) => as_json_schema(schema),
        (_, value) => value.clone(),
    }
}

/// `/spec/kafka` as `spec.kafka`.
fn dotted(pointer: &str) -> String {
    pointer.trim_start_matches('/').replace('/', ".")
}
