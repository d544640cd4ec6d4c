//! The fields that no column takes, from what all processors say. Pure.

use std::{cmp::Reverse, collections::BTreeMap};

use crds::{
    status::{UnmappedField, UnmappedStatus},
    worker::UnmappedFields,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::coarse_number;

/// How many fields are named: the most frequent ones.
const MAX_FIELDS: usize = 10;

/// One digit: the counts only grow, and a status for each step of them is enough to see how much there is.
const DIGITS: u32 = 1;

/// What to report; `None` where every field is taken.
pub fn unmapped<'a>(reports: impl Iterator<Item = &'a UnmappedFields>) -> Option<UnmappedStatus> {
    let mut fields = BTreeMap::<&str, (u64, i64)>::new();
    let mut others = 0_u64;
    for report in reports {
        others = others.saturating_add(report.others);
        for field in &report.fields {
            let (count, since) = fields.entry(&field.path).or_insert((0, field.since_seconds));
            *count = count.saturating_add(field.count);
            *since = field.since_seconds.min(*since);
        }
    }
    // By the coarse count, and then by name: two that are about as frequent do not change places at every look.
    let mut fields: Vec<_> =
        fields.into_iter().map(|(path, (count, since))| (coarse(count), count, path, since)).collect();
    fields.sort_by_key(|(coarse, _, path, _)| (Reverse(*coarse), *path));
    for (_, count, ..) in fields.drain(fields.len().min(MAX_FIELDS)..) {
        others = others.saturating_add(count);
    }
    let field = |(count, _, path, since): (i64, u64, &str, i64)| UnmappedField {
        path: path.to_owned(),
        count,
        // A time that the API server takes, whatever is said.
        since: Time(Timestamp::from_second(since.max(0)).unwrap_or_default()),
    };
    let status = UnmappedStatus { fields: fields.into_iter().map(field).collect(), others: coarse(others) };
    (status != UnmappedStatus::default()).then_some(status)
}

fn coarse(count: u64) -> i64 {
    coarse_number(i64::try_from(count).unwrap_or(i64::MAX), DIGITS)
}

#[cfg(test)]
mod tests {
    use crds::worker;

    use super::*;

    fn report(fields: &[(&str, u64, i64)], others: u64) -> UnmappedFields {
        let field = |(path, count, since): &(&str, u64, i64)| worker::UnmappedField {
            path: (*path).to_owned(),
            count: *count,
            since_seconds: *since,
        };
        UnmappedFields { fields: fields.iter().map(field).collect(), others }
    }

    /// The fields as `path count since`, and how many others there are.
    fn told(reports: &[UnmappedFields]) -> (Vec<String>, i64) {
        let status = unmapped(reports.iter()).unwrap();
        let text =
            |field: &UnmappedField| format!("{} {} {}", field.path, field.count, field.since.0.as_second());
        (status.fields.iter().map(text).collect(), status.others)
    }

    #[test]
    fn where_every_field_is_taken_there_is_nothing_to_tell() {
        assert_eq!(unmapped([].into_iter()), None);
        assert_eq!(unmapped([report(&[], 0), report(&[], 0)].iter()), None);
    }

    #[test]
    fn counts_of_all_processors_are_added_and_told_in_one_digit() {
        let reports = [report(&[(".b", 70, 500), (".a", 40, 300)], 8), report(&[(".a", 59, 200)], 3)];
        assert_eq!(told(&reports), (vec![".a 90 200".to_owned(), ".b 70 500".to_owned()], 10));
    }

    #[test]
    fn the_most_frequent_are_named_and_the_rest_is_counted() {
        let names: Vec<String> = (10..25).map(|index| format!(".f{index}")).collect();
        let fields: Vec<_> = names.iter().map(|name| (name.as_str(), 100, 0)).collect();
        let many = report(&[&fields[..], &[(".often", 900, 0)]].concat(), 0);
        let (named, others) = told(&[many]);
        assert_eq!(named.len(), MAX_FIELDS);
        assert_eq!(named[..2], [".often 900 0", ".f10 100 0"]);
        assert_eq!(others, 600);
    }

    #[test]
    fn what_no_worker_says_does_no_harm() {
        let absurd = report(&[(".a", u64::MAX, i64::MAX), (".b", 1, i64::MIN)], u64::MAX);
        let (fields, others) = told(&[absurd.clone(), absurd]);
        assert_eq!(fields, [".a 9000000000000000000 0", ".b 2 0"]);
        assert_eq!(others, 9_000_000_000_000_000_000);
    }
}
