//! The processor: what is told of the fields that it meets and no column takes.

use serde_json::{Value, json};

use crate::world::{PIPELINE, World};

fn unmapped(fields: &[(&str, u64)], others: u64) -> Value {
    let field =
        |(path, count): &(&str, u64)| json!({"path": path, "count": count, "sinceSeconds": 1_795_428_000});
    json!({"unmapped": {"fields": fields.iter().map(field).collect::<Vec<_>>(), "others": others}})
}

#[tokio::test]
async fn fields_that_no_column_takes_are_told_and_rarely_written() {
    let world = World::at_rest(PIPELINE).await;
    world.report_of_processor("line-processor-a", unmapped(&[(".humidity", 41_300)], 0));
    world.report_of_processor("line-processor-b", unmapped(&[(".humidity", 2_100), (".\"a b\"", 7)], 12));
    world.reconcile().await.unwrap();
    let since = "2026-11-23T10:00:00Z";
    let told = json!({
        "fields": [
            {"path": ".humidity", "count": 40_000, "since": since},
            {"path": ".\"a b\"", "count": 7, "since": since},
        ],
        "others": 10,
    });
    assert_eq!(world.status()["processor"]["unmapped"], told);
    assert_eq!(world.condition("Ready"), "True AsSpecified", "nothing is wrong with it");
    world.log();
    world.report_of_processor("line-processor-a", unmapped(&[(".humidity", 46_900)], 6));
    world.reconcile().await.unwrap();
    assert_eq!(world.log(), [""; 0]);

    // Processors that have stopped have met what they have met; a new one starts to count anew.
    world.api.remove("pods/line-processor-a");
    world.api.remove("pods/line-processor-b");
    world.reconcile().await.unwrap();
    assert_eq!(world.log(), [""; 0]);
    world.report_of_processor("line-processor-c", unmapped(&[], 0));
    world.reconcile().await.unwrap();
    assert_eq!(world.log(), ["apply iotpipelines/line/status"]);
    assert_eq!(world.status()["processor"]["unmapped"], json!(null));
}

#[tokio::test]
async fn a_processor_that_counts_no_fields_has_met_none() {
    let world = World::at_rest(PIPELINE).await;
    world.report_of_processor("line-processor-a", json!({}));
    world.reconcile().await.unwrap();
    assert_eq!(world.log(), [""; 0]);
}
