//! The messages of one connection that are not yet acknowledged: in which order, how many, how large. Pure.
//!
//! MQTT wants acknowledgements in the order of the messages (MQTT-4.6.0-2), while Kafka's partitions deliver in
//! any order. So an acknowledgement is due once its message and all before it are delivered.

use std::{collections::VecDeque, time::Instant};

/// How many more than the receive maximum are let in before reading stops: brokers count generously (Mosquitto
/// sends one more), and where reading stops the keep-alive does too.
const SLACK: usize = 16;

/// A ring of unacknowledged messages. `A` is what it takes to acknowledge one.
#[derive(Debug)]
pub struct Window<A> {
    entries: VecDeque<Entry<A>>,
    first_sequence: usize,
    bytes: u64,
    max_messages: usize,
    max_bytes: u64,
}

#[derive(Debug)]
struct Entry<A> {
    ack: Option<A>,
    bytes: u64,
    arrived: Instant,
    delivered: bool,
}

impl<A> Window<A> {
    /// An empty window with its bounds.
    pub fn new(max_messages: usize, max_bytes: u64) -> Self {
        let entries = VecDeque::with_capacity(max_messages.min(4096));
        Self { entries, first_sequence: 0, bytes: 0, max_messages, max_bytes }
    }

    /// Takes a message in; answers the sequence number under which it will be delivered.
    pub fn push(&mut self, bytes: u64, arrived: Instant, ack: Option<A>) -> usize {
        self.entries.push_back(Entry { ack, bytes, arrived, delivered: false });
        self.bytes += bytes;
        self.first_sequence.wrapping_add(self.entries.len() - 1)
    }

    /// A message is safe downstream. Answers when it arrived; `None` where no such message waits.
    pub fn deliver(&mut self, sequence: usize) -> Option<Instant> {
        let entry = self.entries.get_mut(sequence.wrapping_sub(self.first_sequence))?;
        let first_time = !std::mem::replace(&mut entry.delivered, true);
        first_time.then_some(entry.arrived)
    }

    /// The oldest message, if it is delivered, with its acknowledgement (`None` inside at QoS 0).
    pub fn pop_due(&mut self) -> Option<Option<A>> {
        let entry = self.entries.pop_front_if(|entry| entry.delivered)?;
        self.first_sequence = self.first_sequence.wrapping_add(1);
        self.bytes -= entry.bytes;
        Some(entry.ack)
    }

    /// Whether nothing more may be read.
    ///
    /// An MQTT 5 broker stops by itself at `max_messages` (receive maximum), where reading must go on so that the
    /// keep-alive does: only what clearly exceeds it, at QoS 0 or from an MQTT 3.1.1 broker, fills the window.
    pub fn is_full(&self) -> bool {
        self.entries.len() >= self.max_messages + SLACK || self.bytes >= self.max_bytes
    }

    /// How many messages wait.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no message waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The payloads of the waiting messages together, bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// When the oldest waiting message arrived.
    pub fn oldest(&self) -> Option<Instant> {
        self.entries.front().map(|entry| entry.arrived)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(window: &mut Window<char>) -> String {
        std::iter::from_fn(|| window.pop_due()).flatten().collect()
    }

    #[test]
    fn acknowledgements_are_due_in_the_order_of_the_messages() {
        let mut window = Window::new(10, 1000);
        let [a, b, c] = ['a', 'b', 'c'].map(|ack| window.push(1, Instant::now(), Some(ack)));
        window.deliver(c);
        assert_eq!(due(&mut window), "");
        window.deliver(a);
        assert_eq!(due(&mut window), "a");
        window.deliver(b);
        assert_eq!(due(&mut window), "bc");
        assert!(window.is_empty());
    }

    #[test]
    fn a_message_without_acknowledgement_holds_its_place() {
        let mut window = Window::new(10, 1000);
        let at_most_once = window.push(1, Instant::now(), None);
        let at_least_once = window.push(1, Instant::now(), Some('b'));
        window.deliver(at_least_once);
        assert_eq!(due(&mut window), "");
        window.deliver(at_most_once);
        assert_eq!(due(&mut window), "b");
    }

    #[test]
    fn a_delivery_counts_once_and_only_for_waiting_messages() {
        let mut window = Window::new(10, 1000);
        let arrived = Instant::now();
        let a = window.push(1, arrived, Some('a'));
        assert_eq!(window.deliver(a), Some(arrived));
        assert_eq!(window.deliver(a), None);
        assert_eq!(due(&mut window), "a");
        assert_eq!(window.deliver(a), None, "gone");
        assert_eq!(window.deliver(a + 1), None, "not there yet");
    }

    #[test]
    fn bytes_and_count_fill_the_window_and_delivery_alone_does_not_empty_it() {
        let mut window = Window::new(2, 100);
        let a = window.push(99, Instant::now(), Some('a'));
        assert!(!window.is_full());
        let b = window.push(1, Instant::now(), Some('b'));
        assert!(window.is_full(), "by bytes");
        window.deliver(b);
        assert!(window.is_full(), "b still waits for a");
        window.deliver(a);
        due(&mut window);
        assert_eq!((window.len(), window.bytes()), (0, 0));
        for _ in 0..3 {
            window.push(1, Instant::now(), Some('x'));
        }
        assert!(!window.is_full(), "the receive maximum and one more: the keep-alive goes on");
        for _ in 3..2 + SLACK {
            window.push(1, Instant::now(), None);
        }
        assert!(window.is_full(), "by count");
    }
}
