//! Why a record becomes a dead letter rather than rows. Pure.

use strum::{Display, EnumIter, IntoStaticStr};

/// What is wrong with the record. The word is the `reason` of the dead letter and of its metric.
#[derive(Clone, Copy, Debug, Display, EnumIter, Eq, Hash, IntoStaticStr, PartialEq)]
pub enum Reason {
    /// Kafka's retention took records before they became rows. One dead letter stands for all of them.
    OffsetLost,
    /// The topic was created again, and with it what had not become rows is gone.
    TopicRecreated,
    /// The processor was killed, or hung, while it handled this record.
    Poison,
    /// The payload has no bytes.
    Empty,
    /// The payload is no UTF-8, or the program made text that is none.
    InvalidUtf8,
    /// The payload is no JSON.
    InvalidJson,
    /// Values nest too deep.
    TooDeep,
    /// The rows of one record take too many bytes.
    TooLarge,
    /// The bridge could not put the message into one record of Kafka and wrote a stub in its place.
    RecordTooLarge,
    /// The program reads what the bridge says of a message, and another client wrote the record.
    ForeignRecord,
    /// The program failed.
    ProgramFailed,
    /// One record makes too many rows.
    TooManyRows,
    /// A row is not an object.
    NotAnObject,
    /// A column that is not nullable has no value.
    MissingField,
    /// A value does not fit the type of its column.
    WrongType,
    /// A value is outside the range of its column's type.
    OutOfRange,
    /// The event time is outside of what the pipeline accepts.
    TimeOutOfRange,
    /// Text holds U+0000, which PostgreSQL cannot store.
    NulCharacter,
    /// The database refused the row because of a constraint of the table.
    Constraint,
    /// Another row has the natural key of one of its rows, and other content.
    KeyConflict,
}

/// Where on its way the record was rejected.
#[derive(Clone, Copy, Debug, Display, Eq, IntoStaticStr, PartialEq)]
pub enum Stage {
    /// In the bridge, before it reached Kafka.
    Bridge,
    /// In Kafka, which does not have it any more.
    Read,
    /// From bytes to an event.
    Decode,
    /// In the program.
    Program,
    /// From the event to columns.
    Encode,
    /// In the database.
    Store,
}

/// A record that does not become rows.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rejection {
    /// What is wrong.
    pub reason: Reason,
    /// Where it was found.
    pub stage: Stage,
    /// One sentence for a person.
    pub message: String,
}

impl Rejection {
    /// A record that does not become rows.
    pub fn new(reason: Reason, stage: Stage, message: impl Into<String>) -> Self {
        Self { reason, stage, message: message.into() }
    }
}
