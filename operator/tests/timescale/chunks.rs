//! What chunks take.

use operator::{
    pipeline::Table,
    timescale::{Edition, advise_chunk_interval},
};

use super::support::{DAY, Test, wanted};

pub async fn full_chunks_of_the_specs_interval_are_measured(test: &Test) {
    let table = test.table("readings");
    test.bring_about(&table).await;
    let measure = async |table: &Table| {
        let mut session = test.open().await;
        let sizes = session.chunk_sizes(table).await.unwrap();
        session.close().await;
        sizes
    };
    assert_eq!((measure(&table).await.number, measure(&table).await.last_full), (0, Vec::new()));

    // The chunk of now is not full; that of yesterday has the most rows.
    test.sql(&format!(
        "INSERT INTO {table} (time, device) \
           SELECT now() - day * interval '1 day', 'a' FROM generate_series(0, 4) AS day, generate_series(0, 2000 * (5 - day)) AS row \
             WHERE day > 0 OR row = 0"
    ))
    .await;
    let sizes = measure(&table).await;
    assert_eq!((sizes.number, sizes.last_full.len()), (5, 3));
    assert!(sizes.last_full.is_sorted_by(|a, b| a > b), "{sizes:?}");
    let with_index = test
        .number(&format!(
            "SELECT max(pg_total_relation_size(chunk))::bigint FROM public.show_chunks('{table}') AS chunk"
        ))
        .await;
    assert_eq!(i64::try_from(sizes.last_full[0]).unwrap(), with_index);
    assert_eq!(
        i64::try_from(sizes.shared_buffers).unwrap(),
        test.number("SELECT setting::bigint * 8192 FROM pg_settings WHERE name = 'shared_buffers'").await
    );
    assert_eq!(advise_chunk_interval(&table, &sizes, false), None);

    if test.edition == Edition::Community {
        test.sql(&format!(
            "ALTER TABLE {table} SET (timescaledb.enable_columnstore); \
             SELECT public.compress_chunk(chunk) FROM public.show_chunks('{table}', older_than => interval '2 days') AS chunk"
        ))
        .await;
        assert_eq!(measure(&table).await.last_full, sizes.last_full[..2]);
    }
    // Those of another interval say nothing of the new one.
    let mut longer = test.table("readings");
    wanted(&mut longer).chunk_interval = 2 * DAY;
    test.bring_about(&longer).await;
    assert_eq!(measure(&longer).await.last_full, [0; 0]);
}
