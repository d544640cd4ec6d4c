//! Fields that no column takes, counted by name, so that a schema that drifts at the devices is seen. Nothing alters the
//! table because of them. No I/O.
//!
//! The names are the devices'. So only so many are told apart, a long one is not kept, and none becomes the label of a
//! metric.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crds::worker::{UnmappedField, UnmappedFields};

use crate::health::Health;

/// How many fields are told apart.
const MAX_FIELDS: usize = 50;

/// The longest name that is kept: that of a column is no longer.
const MAX_NAME_BYTES: usize = 63;

/// A field that was not met for so long is forgotten: devices have changed again, and another one gets its place.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// Where a field is.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Path {
    /// What stands before its name: `.` at the top level, else such as `.sensor.`.
    place: String,
    name: String,
}

impl fmt::Display for Path {
    /// As `from` of a column says it. What `from` does not take is in quotes, as in a program, and shows nothing that a
    /// terminal would obey.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, name } = self;
        let begins = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
        if begins && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte)) {
            write!(formatter, "{place}{name}")
        } else {
            write!(formatter, "{place}{name:?}")
        }
    }
}

/// What a batch has of them, of one partition.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    known: Vec<Known>,
    /// Which of them was noted last.
    last: usize,
    others: u64,
}

#[derive(Clone, Debug)]
struct Known {
    path: Path,
    count: u64,
    /// Which one was noted after it the last time: messages of one kind have their fields in one order, so the next one
    /// is found without a search.
    next: usize,
}

impl Tally {
    /// Counts a field by what stands before its name in a path, and its name.
    pub fn note(&mut self, place: &str, name: &str) {
        let is_it = |known: &Known| known.path.name == name && known.path.place == place;
        let expected = self.known.get(self.last).map_or(0, |last| last.next);
        let found = match self.known.get(expected) {
            Some(known) if is_it(known) => Some(expected),
            _ => self.known.iter().position(is_it),
        };
        let index = match found {
            Some(index) => index,
            None if self.known.len() < MAX_FIELDS && name.len() <= MAX_NAME_BYTES => {
                let path = Path { place: place.to_owned(), name: name.to_owned() };
                self.known.push(Known { path, count: 0, next: 0 });
                self.known.len() - 1
            }
            None => {
                self.others += 1;
                return;
            }
        };
        self.known[self.last].next = index;
        self.known[index].count += 1;
        self.last = index;
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.known.iter().map(|known| known.count).sum::<u64>() + self.others
    }
}

/// What is committed since the worker started, told to [`Health`].
#[derive(Debug)]
pub struct UnmappedCounter {
    health: Health,
    totals: Mutex<Totals>,
}

impl UnmappedCounter {
    /// Nothing yet.
    pub fn new(health: Health) -> Self {
        Self { health, totals: Mutex::default() }
    }

    /// Adds what a committed batch has. `now` is in microseconds since 1970.
    pub fn committed<'a>(&self, tallies: impl Iterator<Item = &'a Tally>, now: i64) {
        let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        let mut is_changed = totals.forget_old(now);
        for tally in tallies.filter(|tally| tally.count() > 0) {
            totals.add(tally, now);
            is_changed = true;
        }
        if is_changed {
            self.health.set_unmapped(totals.report());
        }
    }
}

#[derive(Debug, Default)]
struct Totals {
    known: BTreeMap<Path, Total>,
    others: u64,
}

#[derive(Debug)]
struct Total {
    count: u64,
    /// When it was first and last committed, microseconds since 1970.
    first: i64,
    last: i64,
}

impl Totals {
    fn add(&mut self, tally: &Tally, now: i64) {
        self.others += tally.others;
        for Known { path, count, .. } in &tally.known {
            if let Some(total) = self.known.get_mut(path) {
                total.count += count;
                total.last = now;
            } else if self.known.len() < MAX_FIELDS {
                self.known.insert(path.clone(), Total { count: *count, first: now, last: now });
            } else {
                self.others += count;
            }
        }
    }

    /// Answers whether there was anything to forget. A clock that went back by so much has nothing to go by either.
    fn forget_old(&mut self, now: i64) -> bool {
        let count = self.known.len();
        self.known.retain(|_, total| now.saturating_sub(total.last).unsigned_abs() < KEPT.as_micros() as u64);
        self.known.len() < count
    }

    fn report(&self) -> UnmappedFields {
        let field = |(path, total): (&Path, &Total)| UnmappedField {
            path: path.to_string(),
            count: total.count,
            since_seconds: total.first.div_euclid(1_000_000),
        };
        UnmappedFields { fields: self.known.iter().map(field).collect(), others: self.others }
    }
}

#[cfg(test)]
mod tests {
    use crds::worker::Component;

    use super::*;

    const NOW: i64 = 1_795_428_000_000_000;
    const HOUR: i64 = 3_600_000_000;

    fn tally(fields: &[(&str, &str)]) -> Tally {
        let mut tally = Tally::default();
        fields.iter().for_each(|(place, name)| tally.note(place, name));
        tally
    }

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|index| format!("f{index:03}")).collect()
    }

    /// What is reported, as `path count since`, and how many others there are.
    fn told(health: &Health) -> (Vec<String>, u64) {
        let UnmappedFields { fields, others } = health.status().unmapped;
        let text = |field: &UnmappedField| {
            format!("{} {} {}", field.path, field.count, field.since_seconds - NOW / 1_000_000)
        };
        (fields.iter().map(text).collect(), others)
    }

    #[test]
    fn fields_are_counted_by_name_and_place_over_all_batches() {
        let health = Health::new(Component::Processor);
        let counter = UnmappedCounter::new(health.clone());
        let first = [tally(&[(".", "b"), (".", "a"), (".", "b")]), tally(&[(".s.", "a"), (".", "b")])];
        counter.committed(first.iter(), NOW);
        counter.committed([tally(&[(".", "a"), (".", "c")])].iter(), NOW + HOUR);
        counter.committed([Tally::default()].iter(), NOW + 2 * HOUR);
        let expected = [".a 2 0", ".b 3 0", ".c 1 3600", ".s.a 1 0"].map(str::to_owned).to_vec();
        assert_eq!(told(&health), (expected, 0));
        assert_eq!(first.map(|tally| tally.count()), [3, 2]);
    }

    #[test]
    fn only_so_many_names_are_told_apart_and_no_long_one() {
        let health = Health::new(Component::Processor);
        let counter = UnmappedCounter::new(health.clone());
        let mut first = Tally::default();
        first.note(".", &"x".repeat(MAX_NAME_BYTES + 1));
        names(MAX_FIELDS + 5).iter().for_each(|name| first.note(".", name));
        first.note(".", "f000");
        first.note(".", "f054");
        assert_eq!(first.count(), 58);
        counter.committed([&first, &tally(&[(".", "z"), (".", "f001")])].into_iter(), NOW);
        let (fields, others) = told(&health);
        assert_eq!((fields.len(), others), (MAX_FIELDS, 8));
        assert_eq!(fields[..3], [".f000 2 0", ".f001 2 0", ".f002 1 0"]);
    }

    #[test]
    fn what_was_not_met_for_a_day_is_forgotten_and_makes_room() {
        let health = Health::new(Component::Processor);
        let counter = UnmappedCounter::new(health.clone());
        let mut burst = Tally::default();
        names(MAX_FIELDS).iter().for_each(|name| burst.note(".", name));
        counter.committed([&burst].into_iter(), NOW);
        counter.committed([&tally(&[(".", "f007"), (".", "late")])].into_iter(), NOW + 23 * HOUR);
        assert_eq!((told(&health).0.len(), told(&health).1), (MAX_FIELDS, 1));
        // A batch with nothing of them tells the time too.
        counter.committed([Tally::default()].iter(), NOW + 24 * HOUR);
        assert_eq!(told(&health), (vec![".f007 2 0".to_owned()], 1));
        counter.committed([&tally(&[(".", "late")])].into_iter(), NOW + 25 * HOUR);
        assert_eq!(told(&health).0, [".f007 2 0", ".late 1 90000"]);
    }

    #[test]
    fn a_path_is_what_from_takes_or_in_quotes() {
        let path = |name: &str| Path { place: ".s.".to_owned(), name: name.to_owned() }.to_string();
        for name in ["a", "_", "Temp-2_b"] {
            assert_eq!(path(name), format!(".s.{name}"));
        }
        assert_eq!(path(""), r#".s."""#);
        assert_eq!(path("2a"), r#".s."2a""#);
        assert_eq!(path("a.b c"), r#".s."a.b c""#);
        assert_eq!(path("größe"), r#".s."größe""#);
        assert_eq!(path("\u{1b}[31m\"\u{202e}\0"), r#".s."\u{1b}[31m\"\u{202e}\0""#);
    }

    #[test]
    fn the_longest_report_is_read_by_the_operator() {
        let mut worst = Tally::default();
        for index in 0..MAX_FIELDS {
            let name = format!("{index:02}{}", "\u{1b}".repeat(MAX_NAME_BYTES - 2));
            // As long as `from` may be.
            worst.note(&".x".repeat(128), &name);
        }
        let health = Health::new(Component::Processor);
        UnmappedCounter::new(health.clone()).committed([&worst].into_iter(), NOW);
        let report = serde_json::to_vec(&health.status()).unwrap();
        assert_eq!(health.status().unmapped.fields.len(), MAX_FIELDS);
        // The operator reads 64 KiB.
        assert!(report.len() < 48 * 1024, "{} bytes", report.len());
    }
}
