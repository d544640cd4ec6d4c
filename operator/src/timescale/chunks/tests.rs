use super::*;
use crate::timescale::test_support::{DAY, wanted};

const GIB: u64 = 1 << 30;

/// A server whose quarter of memory is 4 GiB.
fn sizes(number: i64, bytes: u64) -> ChunkSizes {
    ChunkSizes {
        number,
        last_full: vec![bytes; MEASURED],
        shared_buffers: 4 * GIB,
        effective_cache_size: 11 * GIB,
    }
}

fn advice(sizes: &ChunkSizes, is_advised: bool) -> Option<String> {
    advise_chunk_interval(&wanted(), sizes, is_advised).map(|note| note.message)
}

#[test]
fn chunks_far_from_a_quarter_of_memory_are_told_with_an_interval_that_suits() {
    let replayed = ChunkSizes { last_full: vec![9 * GIB, 40 * GIB, 9 * GIB], ..sizes(100, 0) };
    let told = [
        advice(&sizes(100, 9 * GIB), false),
        advice(&replayed, false),
        advice(&ChunkSizes { shared_buffers: 128 * MIB, ..sizes(100, 9 * GIB) }, false),
        advice(&sizes(2_345, 700 * 1024), false),
    ];
    insta::assert_snapshot!(told.map(Option::unwrap).join("\n"));
}

#[test]
fn what_is_not_far_off_is_left_alone() {
    for fine in [
        sizes(100, 2 * GIB),
        sizes(100, 7 * GIB),
        sizes(100, MIB),
        sizes(5_000, 50 * MIB),
        ChunkSizes { last_full: vec![40 * GIB; 2], ..sizes(2, 0) },
        ChunkSizes::default(),
    ] {
        assert_eq!(advice(&fine, false), None, "{fine:?}");
    }
}

#[test]
fn advice_does_not_come_and_go() {
    for (between, within) in [
        (sizes(100, 7 * GIB), sizes(100, 5 * GIB)),
        (sizes(900, 6 * MIB), sizes(700, 6 * MIB)),
        (sizes(1_500, 6 * MIB), sizes(1_500, 9 * MIB)),
    ] {
        assert_eq!(advice(&between, false), None);
        assert!(advice(&between, true).is_some(), "{between:?}");
        assert_eq!(advice(&within, true), None);
    }
    // Nor is it another one with every chunk.
    assert_eq!(advice(&sizes(100, 9 * GIB), false), advice(&sizes(101, 9 * GIB + 300 * MIB), true));
}

#[test]
fn an_interval_is_only_advised_where_it_makes_a_difference() {
    let mut table = wanted();
    // Chunks must not be long in proportion to the time that rows stay.
    table.wanted.as_mut().unwrap().drop_after = Some(7 * DAY);
    assert_eq!(advise_chunk_interval(&table, &sizes(1_200, MIB), false), None);
    table.wanted.as_mut().unwrap().drop_after = Some(40 * DAY);
    assert!(
        advise_chunk_interval(&table, &sizes(1_200, MIB), false).unwrap().message.contains("About 7 days")
    );
    // The shortest that is advised at all.
    table.wanted.as_mut().unwrap().chunk_interval = Duration::from_secs(600);
    assert_eq!(advise_chunk_interval(&table, &sizes(100, 90 * GIB), false), None);
    table.wanted = None;
    assert_eq!(advise_chunk_interval(&table, &sizes(100, 90 * GIB), false), None);
}
