//! Any bytes decode or are rejected, and what decodes is written as JSON that decodes to the same values.
#![no_main]

use crds::pipeline::CodecType;
use libfuzzer_sys::fuzz_target;
use worker::{codec::decode, sink::timescale::encode::json::write_object};

fuzz_target!(|payload: &[u8]| {
    if let Some(text) = rewritten(payload) {
        // As text, because of numbers 1.0 and 1 are the same.
        assert_eq!(rewritten(&text).as_deref(), Some(text.as_slice()));
    }
});

/// The object in a payload as the database gets it; `None` where there is none, or text that it cannot hold.
fn rewritten(payload: &[u8]) -> Option<Vec<u8>> {
    let event = decode(CodecType::Json, payload).ok()?;
    let mut text = Vec::new();
    let fields = event.as_object()?.iter().map(|(name, value)| (name.as_str(), value));
    write_object(fields, &mut text).ok()?;
    Some(text)
}
