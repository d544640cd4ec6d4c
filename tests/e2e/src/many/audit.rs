//! What the operator has asked of the API server, as that wrote it down.

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{Read, Seek, SeekFrom},
    path::PathBuf,
};

use serde::Deserialize;
use snafu::ResultExt;

use crate::Result;

/// The API server's log of the operator's calls.
#[derive(Clone, Debug)]
pub struct AuditLog(pub PathBuf);

/// Calls, by what was asked of what.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Calls {
    /// Those that change nothing.
    pub reads: usize,
    /// All others.
    pub writes: usize,
    kinds: BTreeMap<String, usize>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Call {
    verb: String,
    #[serde(rename = "requestURI")]
    request_uri: String,
    object_ref: Option<ObjectRef>,
}

#[derive(Debug, Deserialize)]
struct ObjectRef {
    resource: Option<String>,
    subresource: Option<String>,
}

impl AuditLog {
    /// The place that the log has come to.
    ///
    /// # Errors
    /// Fails where there is none.
    pub fn mark(&self) -> Result<u64> {
        let length = fs::metadata(&self.0).map(|log| log.len());
        length.with_whatever_context(|_| format!("failed to look at {}", self.0.display()))
    }

    /// All calls since then.
    ///
    /// # Errors
    /// Fails where the log cannot be read.
    pub fn calls_since(&self, mark: u64) -> Result<Calls> {
        Ok(count(&self.read_from(mark)?, ""))
    }

    /// The calls since then that name an object, or select by its name.
    ///
    /// # Errors
    /// Fails where the log cannot be read.
    pub fn calls_about(&self, name: &str, mark: u64) -> Result<Calls> {
        Ok(count(&self.read_from(mark)?, name))
    }

    fn read_from(&self, mark: u64) -> Result<String> {
        let read = || {
            let mut log = fs::File::open(&self.0)?;
            log.seek(SeekFrom::Start(mark))?;
            let mut text = String::new();
            log.read_to_string(&mut text)?;
            Ok::<_, std::io::Error>(text)
        };
        read().with_whatever_context(|_| format!("failed to read {}", self.0.display()))
    }
}

fn count(log: &str, name: &str) -> Calls {
    let mut calls = Calls::default();
    // The last line may be half of one.
    for call in log.lines().filter_map(|line| serde_json::from_str::<Call>(line).ok()) {
        if !call.request_uri.contains(name) {
            continue;
        }
        match call.verb.as_str() {
            "get" | "list" | "watch" => calls.reads += 1,
            _ => calls.writes += 1,
        }
        let object = call.object_ref.as_ref();
        let resource = object.and_then(|object| object.resource.as_deref()).unwrap_or("other");
        let subresource = object.and_then(|object| object.subresource.as_deref());
        let kind = subresource
            .map_or_else(|| resource.to_owned(), |subresource| format!("{resource}/{subresource}"));
        *calls.kinds.entry(format!("{} {kind}", call.verb)).or_default() += 1;
    }
    calls
}

impl fmt::Display for Calls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} API reads and {} writes", self.reads, self.writes)?;
        let mut kinds: Vec<_> = self.kinds.iter().collect();
        kinds.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        let kinds: Vec<_> = kinds.into_iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        if kinds.is_empty() { Ok(()) } else { write!(formatter, " ({})", kinds.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_what_they_do() {
        let log = concat!(
            r#"{"verb":"list","requestURI":"/api/v1/pods?labelSelector=p%3Da1","objectRef":{"resource":"pods"}}"#,
            "\n",
            r#"{"verb":"patch","requestURI":"/x/iotpipelines/a1/status","objectRef":{"resource":"iotpipelines","subresource":"status"}}"#,
            "\n",
            r#"{"verb":"get","requestURI":"/version"}"#,
            "\n",
            r#"{"verb":"get","reques"#,
        );
        assert_eq!(
            count(log, "").to_string(),
            "2 API reads and 1 writes (1 get other, 1 list pods, 1 patch iotpipelines/status)"
        );
        assert_eq!(count(log, "a1").reads, 1);
    }
}
