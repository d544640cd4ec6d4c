//! Rollups, and what they are not allowed to stop.

use serde_json::json;

use crate::world::{PIPELINE, World};

#[tokio::test]
async fn a_rollup_in_the_way_of_something_stops_no_worker() {
    let world = World::with(PIPELINE);
    let rollups = json!([{
        "name": "line_1h", "bucket": "1h", "select": {"rows": "count(*)"},
        "refresh": {"startOffset": "3d", "endOffset": "1h", "every": "1h"},
    }]);
    world.edit(|spec| spec["timescale"]["rollups"] = rollups.clone());
    world.reconcile().await.unwrap();
    world.settle_workers();
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("TableReady"), "True RollupsComputedWhenQueried");
    assert_eq!(world.condition("Ready"), "True AsSpecified");

    world.databases.put_view("line_1h");
    world.edit(|spec| spec["processing"] = json!({"program": ".device = \"x\""}));
    world.reconcile().await.unwrap();
    world.settle_workers();
    world.reconcile().await.unwrap();
    assert!(world.log().contains(&"apply deployments/line-processor".to_owned()));
    assert_eq!(world.condition("TableReady"), "False RollupRefused");
    assert_eq!(world.condition("ProcessorReady"), "True AsSpecified");
    assert_eq!(world.status()["appliedGeneration"], world.status()["observedGeneration"]);
}
