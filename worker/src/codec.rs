//! From bytes to events: one module a format. Pure.

pub mod json;

use crds::pipeline::CodecType;
use program::Value;

use crate::rejection::Rejection;

/// Decodes one payload.
///
/// # Errors
/// Says why the bytes are no event.
pub fn decode(codec: CodecType, payload: &[u8]) -> Result<Value, Rejection> {
    match codec {
        CodecType::Json => json::decode(payload),
    }
}
