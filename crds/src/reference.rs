//! The reference of every field, written from the definition that the API server has. No I/O.

use std::collections::BTreeMap;

use serde_json::Value;

/// What stands before the generated sections.
const HEAD: &str = include_str!("reference/head.md");

/// Fields whose types are Kubernetes' own. What lies inside them is explained where they come from.
const KUBERNETES_TYPES: [&str; 5] =
    ["affinity", "conditions", "imagePullSecrets", "resources", "tolerations"];

/// The patterns of [`crate::units`], by which a duration and a size are known in the definition.
const UNITS: [(&str, &str); 2] = [
    ("^[1-9][0-9]*(s|m|h|d|w)$", "[duration](#durations-sizes-and-secrets)"),
    ("^[1-9][0-9]*(Ki|Mi|Gi)?$", "[size](#durations-sizes-and-secrets)"),
];

/// A `*SecretRef`, in the column of types.
const SECRET: &str = "[Secret](#durations-sizes-and-secrets)";

/// `docs/reference.md`: what each field takes, its default and meaning, and what a wrong value gets.
///
/// # Errors
/// Fails where the definition has no JSON form, which no released version does.
pub fn reference() -> Result<String, serde_json::Error> {
    let definition = serde_json::to_value(<crate::IoTPipeline as kube::CustomResourceExt>::crd())?;
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let mut document = Document { text: HEAD.to_owned(), written: BTreeMap::new() };
    document.section("spec", &schema["properties"]["spec"], true);
    document.section("status", &schema["properties"]["status"], false);
    document.metadata(schema);
    Ok(document.text)
}

/// The document so far.
struct Document {
    text: String,
    /// The sections, by what they say: a block that occurs twice is explained once.
    written: BTreeMap<String, String>,
}

impl Document {
    /// A section for an object, and one for each object in it.
    fn section(&mut self, path: &str, schema: &Value, is_written_by_users: bool) {
        let level = "#".repeat(path.matches('.').count().min(2) + 2);
        self.text.push_str(&format!("\n{level} `{path}`\n\n{}\n\n", one_line(text(schema, "description"))));
        let content = schema["properties"].to_string();
        if let Some(twin) = self.written.get(&content) {
            self.text.push_str(&format!("The fields are those of {}.\n", link(twin)));
            return;
        }
        self.written.insert(content, path.to_owned());
        self.text.push_str(if is_written_by_users {
            "| field | takes | default | meaning |\n|---|---|---|---|\n"
        } else {
            "| field | is | meaning |\n|---|---|---|\n"
        });
        for (name, field) in properties(schema) {
            let meaning = one_line(text(field, "description")).replace('|', "\\|");
            let kind = kind(&format!("{path}.{name}"), name, field);
            let default = if is_written_by_users { default(schema, name, field) } else { String::new() };
            let middle = if is_written_by_users { format!("{kind} | {default}") } else { kind };
            self.text.push_str(&format!("| `{name}` | {middle} | {meaning} |\n"));
        }
        self.refusals(schema);
        for (name, field) in properties(schema) {
            let path = format!("{path}.{name}");
            if is_block(name, field) {
                self.section(&path, field, is_written_by_users);
            } else if is_block(name, &field["items"]) {
                self.section(&format!("{path}[]"), &field["items"], is_written_by_users);
            }
        }
    }

    /// The rules of an object and of the fields in its table.
    fn refusals(&mut self, schema: &Value) {
        let mut lines = rules("", schema);
        for (name, field) in properties(schema) {
            let is_shown_elsewhere = is_block(name, field);
            if is_kubernetes_type(name) || is_shown_elsewhere {
                continue;
            }
            for (within, schema) in [("", field), ("each of ", &field["items"])] {
                if is_block(name, schema) {
                    continue;
                }
                let pattern = text(schema, "pattern");
                if !pattern.is_empty() && UNITS.iter().all(|(known, _)| *known != pattern) {
                    lines.push(format!("{within}`{name}` must match `{pattern}`"));
                }
                lines.extend(rules(name, schema));
            }
        }
        if !lines.is_empty() {
            self.text.push_str("\nRefused by the API server, beside what the table says:\n\n");
            self.text.extend(lines.iter().map(|line| format!("- {line}\n")));
        }
    }

    /// The one rule for a field that is not the project's own.
    fn metadata(&mut self, schema: &Value) {
        self.text.push_str("\n## `metadata`\n\nAs of every Kubernetes object.\n");
        self.refusals(&Value::Object(
            [("x-kubernetes-validations".to_owned(), schema["x-kubernetes-validations"].clone())]
                .into_iter()
                .collect(),
        ));
    }
}

/// The messages of the CEL rules of a schema, each with the field that it is about.
fn rules(name: &str, schema: &Value) -> Vec<String> {
    let rules = schema["x-kubernetes-validations"].as_array();
    let line = |rule: &Value| {
        let field = format!("{name}{}", text(rule, "fieldPath"));
        let field = field.trim_start_matches('.');
        let message = one_line(text(rule, "message"));
        // Most messages begin with the field anyway.
        let place = if message.contains(field) { String::new() } else { format!("`{field}`: ") };
        let when = if text(rule, "rule").contains("oldSelf") { ", when it is changed" } else { "" };
        format!("{place}“{message}”{when}")
    };
    rules.into_iter().flatten().map(line).collect()
}

/// What a field takes, with its bounds.
fn kind(path: &str, name: &str, schema: &Value) -> String {
    if is_kubernetes_type(name) {
        return "as Kubernetes says".to_owned();
    }
    if is_secret(name) {
        let fields = if schema["properties"]["key"].is_null() { "name" } else { "name, key" };
        return format!("{SECRET} `{{{fields}}}`");
    }
    let pattern = text(schema, "pattern");
    if let Some((_, unit)) = UNITS.iter().find(|(known, _)| *known == pattern) {
        return (*unit).to_owned();
    }
    if let Some(values) = schema["enum"].as_array() {
        return values.iter().map(in_words).collect::<Vec<_>>().join(", ");
    }
    match text(schema, "type") {
        "array" => {
            let items = &schema["items"];
            let each = if is_block(name, items) {
                format!("[objects](#{})", anchor(&format!("{path}[]")))
            } else {
                kind(path, name, items)
            };
            match range(schema, "minItems", "maxItems") {
                bound if bound.is_empty() || is_block(name, items) => format!("list of{bound} {each}"),
                bound => format!("list of{bound} entries, each {each}"),
            }
        }
        "object" if is_block(name, schema) => format!("[object](#{})", anchor(path)),
        "object" => {
            let bound = range(schema, "minProperties", "maxProperties");
            format!("map of{bound} names to {}", kind(path, name, &schema["additionalProperties"]))
        }
        "string" => match range(schema, "minLength", "maxLength") {
            bound if bound.is_empty() => "text".to_owned(),
            bound => format!("text of{bound} characters"),
        },
        "integer" => format!("integer{}", range(schema, "minimum", "maximum")),
        other => other.to_owned(),
    }
}

/// The column of defaults.
fn default(parent: &Value, name: &str, schema: &Value) -> String {
    if parent["required"].as_array().is_some_and(|required| required.iter().any(|field| field == name)) {
        return "required".to_owned();
    }
    // The default of a block is what its own fields say.
    if is_secret(name) {
        let key = &schema["properties"]["key"]["default"];
        return if key.is_null() { "–".to_owned() } else { format!("–; `key`: {}", in_words(key)) };
    }
    match &schema["default"] {
        Value::Null => "–".to_owned(),
        Value::Object(_) => "its fields’".to_owned(),
        value => in_words(value),
    }
}

/// ` 1 to 300`, or nothing where there is no bound.
fn range(schema: &Value, least: &str, most: &str) -> String {
    match (schema[least].as_f64(), schema[most].as_f64()) {
        (Some(least), Some(most)) if least == most => format!(" {least}"),
        (Some(least), Some(most)) => format!(" {least} to {most}"),
        (Some(least), None) => format!(" {least} or more"),
        (None, Some(most)) => format!(" at most {most}"),
        (None, None) => String::new(),
    }
}

/// Whether an object has a section of its own.
fn is_block(name: &str, schema: &Value) -> bool {
    schema["properties"].is_object() && !is_kubernetes_type(name) && !is_secret(name)
}

fn is_kubernetes_type(name: &str) -> bool {
    KUBERNETES_TYPES.contains(&name)
}

fn is_secret(name: &str) -> bool {
    name.ends_with("SecretRef") || name == "secretRef"
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema["properties"].as_object().into_iter().flatten()
}

fn text<'schema>(schema: &'schema Value, name: &str) -> &'schema str {
    schema[name].as_str().unwrap_or_default()
}

fn in_words(value: &Value) -> String {
    format!("`{}`", value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn link(path: &str) -> String {
    format!("[`{path}`](#{})", anchor(path))
}

/// The anchor that a heading gets where Markdown is shown.
fn anchor(heading: &str) -> String {
    heading.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase()
}
