//! Gathers everything that is wrong with a spec, so that it can be mended in one edit.

use std::time::Duration;

use crds::{
    status::Reason,
    units::{ByteSizeText, DurationText},
    worker::PipelineId,
};
use k8s_openapi::api::core::v1::Secret;

use super::Secrets;

/// All that is wrong, in the order in which it was found.
#[derive(Default)]
pub(super) struct Problems {
    pub(super) found: Vec<(Reason, String)>,
}

impl Problems {
    pub(super) fn note(&mut self, reason: Reason, message: String) {
        self.found.push((reason, message));
    }

    pub(super) fn refuse_if(&mut self, wrong: bool, message: impl FnOnce() -> String) {
        if wrong {
            self.note(Reason::InvalidSpec, message());
        }
    }

    pub(super) fn refuse_secret_if(&mut self, wrong: bool, message: impl FnOnce() -> String) {
        if wrong {
            self.note(Reason::SecretInvalid, message());
        }
    }

    pub(super) fn require<T>(&mut self, parsed: Option<T>, message: impl FnOnce() -> String) -> Option<T> {
        self.refuse_if(parsed.is_none(), message);
        parsed
    }

    pub(super) fn duration(&mut self, field: &str, text: &DurationText) -> Option<Duration> {
        self.require(text.parse(), || {
            format!("{field} {:?} is no duration; write 30s, 15m, 24h, 7d or 12w", text.0)
        })
    }

    /// `Some(None)` where there is no value, `None` where it is wrong.
    pub(super) fn optional_duration(
        &mut self,
        field: &str,
        text: Option<&DurationText>,
    ) -> Option<Option<Duration>> {
        text.map_or(Some(None), |text| self.duration(field, text).map(Some))
    }

    pub(super) fn size(&mut self, field: &str, text: &ByteSizeText) -> Option<u64> {
        self.require(text.parse(), || {
            format!("{field} {:?} is no size; write 512, 64Ki, 16Mi or 1Gi", text.0)
        })
    }

    pub(super) fn secret<'secrets>(
        &mut self,
        field: &str,
        name: &str,
        secrets: &'secrets Secrets,
        id: &PipelineId,
    ) -> Option<&'secrets Secret> {
        let secret = secrets.get(name).and_then(Option::as_ref);
        if secret.is_none() {
            self.note(
                Reason::SecretMissing,
                format!("{field}: there is no Secret {}/{name}; create it or name another", id.namespace),
            );
        }
        secret
    }
}
