//! A change that would delete data waits for a person.

use std::time::Duration;

use crds::{
    names::APPROVE_ANNOTATION,
    status::{ConditionType, Reason},
};
use e2e::{
    Result,
    fleet::Shares,
    scenario::{Scenario, condition, scenario},
    wait::eventually,
};
use serde_json::json;
use snafu::{OptionExt, Report, Whatever};

#[tokio::test]
async fn a_shorter_retention_waits_until_it_is_approved() -> Report<Whatever> {
    scenario("approval", async |test: &Scenario| {
        test.start(&test.manifest()?).await?;
        let table = test.table().quoted();
        let insert =
            format!("INSERT INTO {table} (time, device) VALUES (now() - interval '3 days', 'an old row')");
        test.database.execute(&insert).await?;
        let old_rows = format!("SELECT count(*) FROM {table} WHERE device = 'an old row'");

        let shorter = json!({"spec": {"timescale": {"retention": {"dropAfter": "30m"}}}});
        test.patch(shorter).await?;
        let message = test.not_ready(Reason::ApprovalRequired).await?;
        for word in ["90", "30 min", "1 chunk"] {
            assert!(message.contains(word), "{message}\nshould say {word}");
        }
        let hash = hash_in(&message)?;

        let planned = test
            .wait_for("lists the change that waits", |pipeline| {
                let plan = pipeline.status.as_ref().map(|status| status.plan.as_slice());
                plan.is_some_and(|plan| {
                    plan.iter().any(|step| step.approval.as_deref() == Some(hash.as_str()))
                })
            })
            .await?;
        assert_eq!(planned.status.map(|status| status.plan.len()), Some(1));

        // Meanwhile everything works, and nothing is deleted; the word of another change does not count.
        approve(test, "0123456789ab").await?;
        let ledger = test.publish(20, 500.0, 1_000, Shares::NONE).await?;
        test.drained(&ledger).await?;
        let pipeline = test.wait_for("says what it waits for", |_| true).await?;
        for worker in [ConditionType::BridgeReady, ConditionType::ProcessorReady] {
            let status = condition(&pipeline, worker).map(|condition| condition.status.clone());
            assert_eq!(status.as_deref(), Some("True"), "{worker}");
        }
        test.not_ready(Reason::ApprovalRequired).await?;
        assert_eq!(test.database.number(&old_rows).await?, 1, "dropped without approval");

        approve(test, &hash).await?;
        test.ready().await?;
        // Expired chunks are looked for every 75 seconds then.
        eventually(Duration::from_secs(150), "the row of three days ago is dropped", async || {
            let rows = test.database.number(&old_rows).await?;
            Ok((rows == 0).then_some(()).ok_or(format!("{rows} old rows")))
        })
        .await?;

        // The annotation is still there; undone by an edit and asked for once more, the change waits again.
        test.patch(json!({"spec": {"timescale": {"retention": {"dropAfter": "90d"}}}})).await?;
        test.ready().await?;
        test.patch(json!({"spec": {"timescale": {"retention": {"dropAfter": "30m"}}}})).await?;
        test.not_ready(Reason::ApprovalRequired).await?;
        let pipeline = test.wait_for("remembers what was used", |_| true).await?;
        let used = pipeline.status.map(|status| status.used_approvals).unwrap_or_default();
        assert!(used.contains(&hash), "{hash} in {used:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_shorter_retention_of_the_topic_waits_until_it_is_approved() -> Report<Whatever> {
    scenario("approval-topic", async |test: &Scenario| {
        test.start(&test.manifest()?).await?;
        // An empty topic has nothing to lose, and waits for nobody.
        let ledger = test.publish(20, 500.0, 500, Shares::NONE).await?;
        let retention = async || {
            let mut settings = test.kafka.settings(&test.topic()).await?;
            Result::Ok(settings.remove("retention.ms"))
        };
        test.patch(json!({"spec": {"kafka": {"topic": {"retention": "1h"}}}})).await?;
        let message = test.not_ready(Reason::ApprovalRequired).await?;
        assert!(message.contains(&test.topic()) && message.contains("retention.ms"), "{message}");
        let hash = hash_in(&message)?;
        let pipeline = test.wait_for("says what waits", |_| true).await?;
        let topic = condition(&pipeline, ConditionType::TopicReady).map(|topic| topic.reason.clone());
        assert_eq!(topic.as_deref(), Some("ApprovalRequired"));
        assert_eq!(retention().await?.as_deref(), Some("86400000"), "shorter without approval");

        approve(test, &hash).await?;
        test.ready().await?;
        assert_eq!(retention().await?.as_deref(), Some("3600000"));
        test.wait_for("remembers what was used", |pipeline| {
            pipeline.status.as_ref().is_some_and(|status| status.used_approvals.contains(&hash))
        })
        .await?;
        test.expect_delivered(&ledger, false).await
    })
    .await
}

/// What the command in a message writes into the annotation.
fn hash_in(message: &str) -> Result<String> {
    let hash = message.split(&format!("{APPROVE_ANNOTATION}=")).nth(1);
    let hash = hash.with_whatever_context(|| format!("no command in {message}"))?;
    Ok(hash.chars().take_while(char::is_ascii_hexdigit).collect())
}

/// What the command does.
async fn approve(test: &Scenario, hash: &str) -> Result<()> {
    test.patch(json!({"metadata": {"annotations": {APPROVE_ANNOTATION: hash}}})).await?;
    Ok(())
}
