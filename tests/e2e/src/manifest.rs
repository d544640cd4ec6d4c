//! Resources as YAML text, and small changes of them. Pure.

use serde_json::Value;
use snafu::{OptionExt, ResultExt};

use crate::Result;

/// Reads one YAML document in which `@NAME@` stands for the value of each name.
///
/// # Errors
/// Fails where the text is no YAML document.
pub fn read(yaml: &str, values: &[(&str, &str)]) -> Result<Value> {
    let mut text = yaml.to_owned();
    for (name, value) in values {
        text = text.replace(&format!("@{name}@"), value);
    }
    serde_saphyr::from_str(&text).whatever_context("failed to read a manifest")
}

/// The manifest with the value at `pointer` (`/spec/processor/replicas`) set; `null` removes it.
///
/// # Errors
/// Fails where the parent of the value does not exist.
pub fn set(mut manifest: Value, pointer: &str, value: Value) -> Result<Value> {
    let (parent, key) = pointer.rsplit_once('/').whatever_context("a pointer begins with /")?;
    let parent = manifest
        .pointer_mut(parent)
        .with_whatever_context(|| format!("the manifest has nothing at {parent}"))?;
    match parent {
        Value::Object(fields) if value.is_null() => {
            fields.remove(key);
        }
        Value::Object(fields) => {
            fields.insert(key.to_owned(), value);
        }
        Value::Array(items) => match key.parse::<usize>().ok().filter(|index| *index < items.len()) {
            Some(index) => items[index] = value,
            None => items.push(value),
        },
        _ => snafu::whatever!("the manifest has no object or list above {pointer}"),
    }
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_are_replaced_and_values_are_set_added_and_removed() {
        let manifest = read("spec: {name: \"@NAME@.x\", list: [1]}", &[("NAME", "a")]).unwrap();
        let manifest = set(manifest, "/spec/name", json!("b")).unwrap();
        let manifest = set(manifest, "/spec/more", json!(true)).unwrap();
        let manifest = set(manifest, "/spec/list/-", json!(2)).unwrap();
        let manifest = set(manifest, "/spec/list/0", json!(0)).unwrap();
        assert_eq!(manifest, json!({"spec": {"name": "b", "list": [0, 2], "more": true}}));
        assert_eq!(set(manifest, "/spec/more", Value::Null).unwrap()["spec"].get("more"), None);
        assert!(set(json!({}), "/spec/more", json!(1)).is_err());
    }
}
