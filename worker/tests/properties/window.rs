//! Acknowledgements: in the order of the messages, each once, and none before its message and all before it are safe.

use std::time::Instant;

use proptest::{prelude::*, sample::Index};
use worker::source::mqtt::window::Window;

#[derive(Clone, Debug)]
enum Step {
    /// A message of so many bytes arrives.
    Arrive(u64),
    /// One of the messages that ever came is reported as safe, perhaps not for the first time.
    Deliver(Index),
    /// The acknowledgements that are due leave.
    Settle,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0_u64..500).prop_map(Step::Arrive),
        4 => any::<Index>().prop_map(Step::Deliver),
        2 => Just(Step::Settle),
    ];
    prop::collection::vec(step, 0..200)
}

/// A message of the model.
struct Known {
    sequence: usize,
    bytes: u64,
    is_safe: bool,
    is_acknowledged: bool,
}

proptest! {
    #[test]
    fn acknowledgements_follow_their_messages(steps in steps()) {
        let mut window = Window::new(10, 2_000);
        let mut known: Vec<Known> = Vec::new();
        for step in steps {
            match step {
                Step::Arrive(bytes) => {
                    let sequence = window.push(bytes, Instant::now(), Some(known.len()));
                    known.push(Known { sequence, bytes, is_safe: false, is_acknowledged: false });
                }
                Step::Deliver(index) if !known.is_empty() => {
                    let message = index.get_mut(&mut known);
                    let is_news = !message.is_safe;
                    message.is_safe = true;
                    prop_assert_eq!(window.deliver(message.sequence).is_some(), is_news);
                }
                Step::Deliver(_) => {}
                Step::Settle => {
                    while let Some(acknowledged) = window.pop_due() {
                        let next = known.iter().position(|message| !message.is_acknowledged);
                        prop_assert_eq!(acknowledged, next);
                        prop_assert!(known[next.unwrap()].is_safe);
                        known[next.unwrap()].is_acknowledged = true;
                    }
                    let next = known.iter().find(|message| !message.is_acknowledged);
                    prop_assert!(next.is_none_or(|message| !message.is_safe), "one that is due stays");
                }
            }
            let waiting = || known.iter().filter(|message| !message.is_acknowledged);
            prop_assert_eq!(window.len(), waiting().count());
            prop_assert_eq!(window.bytes(), waiting().map(|message| message.bytes).sum::<u64>());
            prop_assert!(window.bytes() < 2_000 || window.is_full());
        }
    }
}
