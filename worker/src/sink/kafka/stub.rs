//! What stands for a message that no record of the topic can hold: its key and headers, the beginning of its payload,
//! and the length and hash of all of it. The processor makes a dead letter of it.

use std::borrow::Cow;

use crds::names::MAX_STUB_PAYLOAD_BYTES;
use rdkafka::{Message, message::BorrowedMessage};
use sha2::{Digest, Sha256};

use super::{OwnedRecord, Record};
use crate::headers::{self, Stub as Mark};

/// A stub of `record`, with `room` bytes of the payload at most.
pub fn stub_of(record: Record<'_>, room: usize) -> OwnedRecord {
    let Record { key, payload, headers, timestamp_millis } = record;
    let mark = Mark {
        reason: Cow::Borrowed(crds::names::header::STUB_RECORD_TOO_LARGE),
        payload_bytes: payload.len() as u64,
        payload_sha256: Sha256::digest(payload).into(),
    };
    let kept = payload.len().min(MAX_STUB_PAYLOAD_BYTES).min(room);
    Record { key, payload: &payload[..kept], headers: headers::mark_stub(headers, &mark), timestamp_millis }
        .into_owned()
}

/// A stub of a record that Kafka refused; a smaller one, where it was a stub already. None where there is nothing left
/// to leave out.
pub fn stub_of_refused(message: &BorrowedMessage<'_>) -> Option<OwnedRecord> {
    let payload = message.payload().unwrap_or_default();
    // Half of it at most: the limit is not known here, only that this was above it.
    let room = payload.len() / 2;
    let headers = message.headers()?.detach();
    let key = message.key().unwrap_or_default();
    // librdkafka no longer tells the time of a record that failed; the bridge gives it that of the arrival.
    let (timestamp_millis, is_stub) = headers::decode(&headers)
        .map(|origin| (origin.ingested_at.as_millisecond(), origin.stub.is_some()))?;
    if !is_stub {
        return Some(stub_of(Record { key, payload, headers, timestamp_millis }, room));
    }
    let payload = payload.get(..room).filter(|_| !payload.is_empty())?;
    Some(Record { key, payload, headers, timestamp_millis }.into_owned())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::headers::Origin;

    fn stub(payload: &[u8], room: usize) -> OwnedRecord {
        let origin = Origin {
            topic: "plants/7".into(),
            qos: 1,
            retained: false,
            duplicate: false,
            ingested_at: Timestamp::UNIX_EPOCH,
            content_type: None,
            properties: Vec::new(),
            stub: None,
        };
        let headers = headers::encode(&origin, 0);
        stub_of(Record { key: b"plants/7", payload, headers, timestamp_millis: 7 }, room)
    }

    #[test]
    fn a_stub_keeps_the_beginning_and_says_what_the_whole_was() {
        let payload: Vec<u8> = (0..200_000).map(|index| index as u8).collect();
        let stub = stub(&payload, usize::MAX);
        let record = stub.record();
        assert_eq!((record.key, record.timestamp_millis), (b"plants/7".as_slice(), 7));
        assert_eq!(record.payload, &payload[..MAX_STUB_PAYLOAD_BYTES]);
        let origin = headers::decode(&record.headers).unwrap();
        assert_eq!(origin.topic, "plants/7");
        let mark = origin.stub.unwrap();
        assert_eq!((mark.reason.as_ref(), mark.payload_bytes), ("RecordTooLarge", 200_000));
        assert_eq!(mark.payload_sha256, <[u8; 32]>::from(Sha256::digest(&payload)));
    }

    #[test]
    fn a_stub_takes_no_more_than_there_is_room_for() {
        assert_eq!(stub(&[1; 1000], 10).record().payload, [1; 10]);
        assert!(stub(&[1; 1000], 0).record().payload.is_empty());
    }
}
