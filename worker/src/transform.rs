//! From a payload to the objects that become rows: the codec, then the program. Pure.

use crds::pipeline::CodecType;
use program::{MAX_ROWS, Metadata, Outcome, Program, Value};

use crate::{
    codec, failpoint,
    headers::Origin,
    rejection::{Reason, Rejection, Stage},
};

/// The codec and the program of a pipeline.
#[derive(Clone, Debug)]
pub struct Transform {
    /// How bytes become an event.
    pub codec: CodecType,
    /// What becomes of the event; without one it passes as it is.
    pub program: Option<Program>,
}

impl Transform {
    /// The rows of one payload; none where the program dropped it.
    ///
    /// # Errors
    /// Says why the payload makes no rows.
    pub fn apply(&self, payload: &[u8], metadata: &Metadata<'_>) -> Result<Vec<Value>, Rejection> {
        failpoint::handle(payload);
        let event = codec::decode(self.codec, payload)?;
        let outcome = match &self.program {
            Some(program) => program.run(event, metadata),
            None => program::rows(event),
        };
        let (reason, message) = match outcome {
            Outcome::Rows(rows) => return Ok(rows),
            Outcome::Dropped => return Ok(Vec::new()),
            Outcome::WithoutOrigin => (
                Reason::ForeignRecord,
                "the record is not from the bridge, and the program reads what only the bridge knows"
                    .to_owned(),
            ),
            Outcome::Failed(message) => (Reason::ProgramFailed, message),
            Outcome::TooManyRows(count) => {
                (Reason::TooManyRows, format!("{count} rows; at most {MAX_ROWS} are allowed"))
            }
            Outcome::NotAnObject { found } => {
                (Reason::NotAnObject, format!("a row is {found}, not an object"))
            }
        };
        Err(Rejection::new(reason, Stage::Program, message))
    }

    /// Whether where a record came from makes a difference.
    pub fn reads_metadata(&self) -> bool {
        self.program.as_ref().is_some_and(Program::reads_metadata)
    }
}

/// Calls with what the place of a record (partition and offset) and its headers say.
pub fn with_metadata<T>(
    (partition, offset): (i32, i64),
    origin: Option<&Origin<'_>>,
    call: impl FnOnce(&Metadata<'_>) -> T,
) -> T {
    let place = Metadata { partition, offset, ..Metadata::default() };
    let Some(origin) = origin else { return call(&place) };
    let properties: Vec<(&str, &str)> =
        origin.properties.iter().map(|(name, value)| (name.as_ref(), value.as_ref())).collect();
    call(&Metadata {
        topic: Some(&origin.topic),
        qos: Some(origin.qos),
        retained: Some(origin.retained),
        properties: Some(&properties),
        ingested_at: Some(origin.ingested_at.into()),
        ..place
    })
}

#[cfg(test)]
mod tests {
    use program::TopicWriter;

    use super::*;

    fn apply(program: Option<&str>, payload: &str) -> Result<usize, (Reason, Stage)> {
        let program = program.map(|source| program::compile(source, TopicWriter::Bridge).unwrap());
        Transform { codec: CodecType::Json, program }
            .apply(payload.as_bytes(), &Metadata::default())
            .map(|rows| rows.len())
            .map_err(|rejection| (rejection.reason, rejection.stage))
    }

    #[test]
    fn without_a_program_objects_and_arrays_of_objects_pass() {
        assert_eq!(apply(None, r#"{"a":1}"#), Ok(1));
        assert_eq!(apply(None, r#"[{"a":1},{"a":2}]"#), Ok(2));
        assert_eq!(apply(None, "null"), Ok(0));
        assert_eq!(apply(None, "[]"), Ok(0));
        assert_eq!(apply(None, "3"), Err((Reason::NotAnObject, Stage::Program)));
        assert_eq!(apply(None, "[{},[]]"), Err((Reason::NotAnObject, Stage::Program)));
        assert_eq!(apply(None, "{"), Err((Reason::InvalidJson, Stage::Decode)));
    }

    #[test]
    fn a_program_decides() {
        assert_eq!(apply(Some("if .a == 1 { abort }"), r#"{"a":1}"#), Ok(0));
        assert_eq!(apply(Some(". = [., .]"), r#"{"a":1}"#), Ok(2));
        assert_eq!(
            apply(Some(".b = to_int!(.a)"), r#"{"a":"x"}"#),
            Err((Reason::ProgramFailed, Stage::Program))
        );
        assert_eq!(apply(Some(".t = %topic"), "{}"), Err((Reason::ForeignRecord, Stage::Program)));
        assert_eq!(apply(Some(". = range!(0, 2000)"), "{}"), Err((Reason::TooManyRows, Stage::Program)));
    }
}
