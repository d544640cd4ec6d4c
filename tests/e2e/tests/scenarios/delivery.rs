//! What is published becomes rows, all of it and once.

use std::collections::BTreeMap;

use e2e::{
    fleet::Shares,
    scenario::{Scenario, scenario},
};
use snafu::{Report, Whatever};

#[tokio::test]
async fn fifty_thousand_messages_of_200_devices_become_exactly_those_rows() -> Report<Whatever> {
    scenario("delivery", async |test: &Scenario| {
        test.start(&test.manifest()?).await?;
        let shares = Shares { late: 0.02, repeated: 0.01, malformed: 0.0 };
        let ledger = test.publish(200, 2_500.0, 50_000, shares).await?;
        assert_eq!(ledger.entries.len(), 50_000);
        test.expect_delivered(&ledger, false).await?;
        assert_eq!(test.table().dead_letters_by_reason().await?, BTreeMap::new());
        Ok(())
    })
    .await
}
