//! Whatever a device says becomes a row or a dead letter with a reason, and nothing stands still because of it.

use std::{collections::BTreeMap, time::Duration};

use e2e::{
    Result,
    fleet::Shares,
    manifest::set,
    scenario::{Scenario, scenario},
    wait::eventually,
};
use serde_json::json;
use snafu::{Report, Whatever};

/// What a device says, by a name for it, and what becomes of it: `None` a row, or the reason of a dead letter.
fn corpus() -> Vec<(&'static str, Vec<u8>, Option<&'static str>)> {
    let now = jiff::Timestamp::now();
    let reading = |field: &str| format!(r#"{{"device":"d","ts":"{now}","temp_f":70.5{field}}}"#).into_bytes();
    let nested = |depth: usize| format!(r#","deep":{}{}"#, "[".repeat(depth), "]".repeat(depth));
    let many_keys: String = (0..20_000).map(|key| format!(r#","k{key}":1"#)).collect();
    vec![
        ("as it should be", reading(""), None),
        ("eleven KiB", reading(&format!(r#","note":"{}""#, "x".repeat(11 * 1024))), None),
        ("twenty thousand keys", reading(&many_keys), None),
        ("a key twice", reading(r#","seq":1,"seq":2"#), None),
        ("a field that is null", reading(r#","vibration":null"#), None),
        ("minus zero", reading(r#","vibration":-0.0"#), None),
        ("nothing at all", Vec::new(), Some("Empty")),
        ("half an object", br#"{"device":"#.to_vec(), Some("InvalidJson")),
        ("no JSON", b"temperature 70.5".to_vec(), Some("InvalidJson")),
        ("no UTF-8", b"{\"device\":\"\xff\xfe\"}".to_vec(), Some("InvalidUtf8")),
        ("nesting without end", reading(&nested(10_000)), Some("TooDeep")),
        ("not a number", reading(r#","vibration":NaN"#), Some("InvalidJson")),
        ("infinity", reading(r#","vibration":Infinity"#), Some("InvalidJson")),
        ("a number without end", reading(r#","vibration":1e400"#), Some("InvalidJson")),
        ("a number that is too large", reading(r#","seq":9223372036854775808"#), Some("OutOfRange")),
        (
            "a NUL character",
            format!(r#"{{"device":"d\u0000","ts":"{now}","temp_f":1}}"#).into_bytes(),
            Some("NulCharacter"),
        ),
        ("no device", format!(r#"{{"ts":"{now}","temp_f":1}}"#).into_bytes(), Some("MissingField")),
        ("text for a number", reading(r#","vibration":"shaky""#), Some("WrongType")),
        (
            "text for the program's number",
            format!(r#"{{"device":"d","ts":"{now}","temp_f":"warm"}}"#).into_bytes(),
            Some("ProgramFailed"),
        ),
        ("1970", br#"{"device":"d","ts":0,"temp_f":1}"#.to_vec(), Some("TimeOutOfRange")),
        (
            "9999",
            br#"{"device":"d","ts":"9999-12-31T23:59:59Z","temp_f":1}"#.to_vec(),
            Some("TimeOutOfRange"),
        ),
        ("no time", br#"{"device":"d","temp_f":1}"#.to_vec(), Some("MissingField")),
    ]
}

#[tokio::test]
async fn whatever_a_device_says_becomes_a_row_or_a_dead_letter() -> Report<Whatever> {
    scenario("bad-input", async |test: &Scenario| {
        test.start(&test.manifest()?).await?;
        let corpus = corpus();
        let mut expected = BTreeMap::<String, u64>::new();
        let mut rows = 0;
        for (_, _, reason) in &corpus {
            match reason {
                Some(reason) => *expected.entry((*reason).to_owned()).or_default() += 1,
                None => rows += 1,
            }
        }
        publish(test, corpus.iter().map(|(_, payload, _)| payload.clone())).await?;
        eventually(Duration::from_secs(90), "each message is a row or a dead letter", async || {
            let (found, letters) =
                (test.table().count().await?, test.table().dead_letters_by_reason().await?);
            let is_all = found == rows && letters == expected;
            Ok(is_all.then_some(()).ok_or(format!("{found} of {rows} rows, {letters:?} of {expected:?}")))
        })
        .await?;

        // Nobody stands still: what comes next passes, and nothing is behind.
        let ledger = test.publish(20, 500.0, 1_000, Shares::NONE).await?;
        eventually(Duration::from_secs(90), "later messages become rows", async || {
            let found = test.table().count().await?;
            let wanted = rows + ledger.entries.len() as u64;
            Ok((found == wanted).then_some(()).ok_or(format!("{found} of {wanted} rows")))
        })
        .await?;
        let (ends, positions) = (test.kafka.ends(&test.topic()).await?, test.table().positions().await?);
        assert_eq!(positions, ends, "lag");
        let restarts: i32 = e2e::pods::restarts(&test.workers(crds::worker::Component::Processor).await?);
        assert_eq!(restarts, 0, "no processor was killed");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_packet_larger_than_the_pipeline_takes_never_stops_it() -> Report<Whatever> {
    scenario("too-large", async |test: &Scenario| {
        test.start(&set(test.manifest()?, "/spec/mqtt/maxPacketSize", json!("16Ki"))?).await?;
        let payload = |bytes: usize| {
            format!(
                r#"{{"device":"d","ts":"{}","temp_f":1,"note":"{}"}}"#,
                jiff::Timestamp::now(),
                "x".repeat(bytes)
            )
            .into_bytes()
        };
        // The broker was told the largest packet, so it drops the second one and delivers the third.
        publish(test, [payload(11 * 1024), payload(64 * 1024), payload(10)].into_iter()).await?;
        eventually(Duration::from_secs(60), "the messages that fit are rows", async || {
            let found = test.table().count().await?;
            Ok((found == 2).then_some(()).ok_or(format!("{found} rows")))
        })
        .await?;
        test.ready().await?;
        Ok(())
    })
    .await
}

async fn publish(test: &Scenario, payloads: impl Iterator<Item = Vec<u8>>) -> Result<()> {
    let topic = format!("{}/line-1/telemetry", test.namespace);
    let messages: Vec<_> = payloads.map(|payload| (topic.clone(), payload)).collect();
    e2e::mqtt::publish(&test.broker, &format!("{}-publisher", test.namespace), &messages).await
}
