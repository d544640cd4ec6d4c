//! Messages kept beside their rows, in one buffer: payload and headers as they came. Pure.

use std::{ops::Range, str};

use rdkafka::message::{Header, Headers};

/// Kept messages.
#[derive(Debug, Default)]
pub struct Messages {
    bytes: Vec<u8>,
}

/// A kept message.
#[derive(Clone, Copy, Debug)]
pub struct KeptMessage<'a> {
    /// Its payload.
    pub payload: &'a [u8],
    headers: &'a [u8],
}

impl Messages {
    /// Keeps a message; answers where.
    pub fn keep<H: Headers>(&mut self, payload: &[u8], headers: Option<&H>) -> Range<usize> {
        let start = self.bytes.len();
        self.push(payload);
        for Header { key, value } in headers.into_iter().flat_map(Headers::iter) {
            // One without a value says nothing.
            let Some(value) = value else { continue };
            self.push(key.as_bytes());
            self.push(value);
        }
        start..self.bytes.len()
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(&bytes.len().to_be_bytes());
        self.bytes.extend_from_slice(bytes);
    }

    /// The message that is kept there.
    pub fn get(&self, place: Range<usize>) -> Option<KeptMessage<'_>> {
        let (payload, headers) = pop(self.bytes.get(place)?)?;
        Some(KeptMessage { payload, headers })
    }

    /// How many bytes they take.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Forgets them and keeps so much memory at most.
    pub fn clear(&mut self, room: usize) {
        self.bytes.clear();
        self.bytes.shrink_to(room);
    }
}

/// The first of some byte strings, and the others.
fn pop(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::from_be_bytes(*length))
}

impl Headers for KeptMessage<'_> {
    fn count(&self) -> usize {
        (0..).map_while(|index| self.try_get(index)).count()
    }

    fn try_get(&self, idx: usize) -> Option<Header<'_, &[u8]>> {
        let mut rest = self.headers;
        for _ in 0..2 * idx {
            (_, rest) = pop(rest)?;
        }
        let (key, rest) = pop(rest)?;
        let (value, _) = pop(rest)?;
        Some(Header { key: str::from_utf8(key).ok()?, value: Some(value) })
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::message::OwnedHeaders;

    use super::*;

    #[test]
    fn a_message_is_as_it_was() {
        let mut messages = Messages::default();
        let headers = ["a", "", "b"].iter().fold(OwnedHeaders::new(), |headers, key| {
            headers.insert(Header { key, value: (*key != "a").then_some("é") })
        });
        let places = [messages.keep(b"{}", Some(&headers)), messages.keep::<OwnedHeaders>(b"", None)];
        let [first, second] = places.map(|place| messages.get(place).unwrap());
        assert_eq!(first.payload, b"{}");
        let found: Vec<_> = first.iter().map(|header| (header.key, header.value)).collect();
        assert_eq!(found, [("", Some("é".as_bytes())), ("b", Some("é".as_bytes()))]);
        assert_eq!((second.payload, second.count()), (&b""[..], 0));
    }
}
