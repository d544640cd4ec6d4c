//! Messages that cannot become rows are kept with the reason, and their neighbours pass.

use std::collections::BTreeMap;

use e2e::{
    fleet::{Kind, Shares},
    scenario::{Scenario, scenario},
};
use snafu::{Report, Whatever};

#[tokio::test]
async fn malformed_messages_become_dead_letters_and_their_neighbours_pass() -> Report<Whatever> {
    scenario("dead-letters", async |test: &Scenario| {
        test.start(&test.manifest()?).await?;
        let ledger = test.publish(50, 1_000.0, 5_000, Shares { late: 0.0, repeated: 0.0, malformed: 0.2 }).await?;
        test.drained(&ledger).await?;

        let published = ledger.counts();
        let expected: BTreeMap<String, u64> = [
            (Kind::BrokenJson, "InvalidJson"),
            (Kind::WrongType, "ProgramFailed"),
            (Kind::MissingDevice, "MissingField"),
            (Kind::ClockNotSet, "TimeOutOfRange"),
        ]
        .into_iter()
        .map(|(kind, reason)| (reason.to_owned(), published.get(&kind).copied().unwrap_or(0)))
        .collect();
        assert!(expected.values().all(|count| *count > 100), "{expected:?}");
        assert_eq!(test.table().dead_letters_by_reason().await?, expected);
        test.expect_rows(&ledger, false).await?;
        test.expect_each_record_once().await?;

        // Each holds what a person needs to find the device: the payload as it came, the topic, a sentence.
        let letters = test.table().dead_letters();
        let useless = format!(
            "SELECT count(*) FROM {letters} WHERE error = '' OR payload IS NULL OR sha256(payload) <> payload_sha256 \
             OR length(payload) <> payload_bytes OR headers ->> 'mqtt.topic' NOT LIKE '%/telemetry' \
             OR headers ->> 'mqtt.topic' IS NULL"
        );
        assert_eq!(test.database.number(&useless).await?, 0);
        let broken = format!(
            "SELECT convert_from(payload, 'UTF8'), stage FROM {letters} WHERE reason = 'InvalidJson' LIMIT 1"
        );
        let broken: Vec<(String, String)> = test.database.query(&broken).await?;
        assert!(broken[0].0.starts_with("{\"device\":\""), "{broken:?}");
        assert_eq!(broken[0].1, "Decode");
        Ok(())
    })
    .await
}
