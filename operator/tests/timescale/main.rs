//! The operator's TimescaleDB half against real servers of both editions: `IOTPIPELINE_TEST_TIMESCALE` names a
//! superuser of an Apache-2 server, `IOTPIPELINE_TEST_TIMESCALE_COMMUNITY` a Community server that may be one
//! PostgreSQL session for ever (so its scenarios run one after the other, each in a schema of its own).

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

#[cfg(test)]
mod bookkeeping;
#[cfg(test)]
mod columnstore;
#[cfg(test)]
mod connections;
#[cfg(test)]
mod external;
#[cfg(test)]
mod managed;
#[cfg(test)]
mod retention;
#[cfg(test)]
mod rights;
#[cfg(test)]
mod rollups;
#[cfg(test)]
mod support;

use support::Test;

#[tokio::test]
async fn community_edition() {
    Test::community().await.run(managed::created_from_nothing_and_then_left_alone).await;
    Test::community().await.run(managed::a_native_policy_follows_the_spec).await;
    Test::community().await.run(managed::columns_are_added_and_never_changed).await;
    Test::community().await.run(managed::indexes_and_chunk_interval_are_repaired).await;
    Test::community().await.run(managed::a_natural_key_is_made_repaired_and_not_changed_in_silence).await;
    Test::community().await.run(managed::what_is_not_ours_is_refused).await;
    Test::community().await.run(managed::only_our_own_is_deleted).await;
    Test::community().await.run(managed::a_topic_is_claimed_once_and_released_with_its_positions).await;
    Test::community().await.run(retention::a_shorter_time_waits_for_approval).await;
    Test::community().await.run(retention::dead_letters_have_a_retention_of_their_own).await;
    Test::community().await.run(retention::dead_letters_beside_a_table_of_somebody_else_go_too).await;
    Test::community().await.run(external::a_table_of_somebody_else_is_checked_and_left_as_it_is).await;
    Test::community().await.run(external::one_pipeline_feeds_a_table_from_a_topic).await;
    Test::community().await.run(columnstore::settings_and_policy_follow_the_spec).await;
    Test::community().await.run(columnstore::what_somebody_changed_in_it_is_mended).await;
    Test::community().await.run(columnstore::the_rest_of_the_table_changes_as_before).await;
    Test::community().await.run(rollups::a_rollup_is_made_filled_and_kept).await;
    Test::community().await.run(rollups::every_field_changes_by_itself).await;
    Test::community().await.run(rollups::what_somebody_changed_is_mended).await;
    Test::community().await.run(rollups::a_plain_view_becomes_the_real_thing).await;
    Test::community().await.run(rollups::rows_that_a_rollup_needs_stay).await;
    Test::community().await.run(rollups::what_is_computed_changes_by_approval_alone).await;
    Test::community().await.run(rollups::what_is_not_ours_is_left).await;
    Test::community().await.run(rollups::rollups_go_with_their_table).await;
    Test::community().await.run(bookkeeping::an_older_version_is_brought_up).await;
    Test::community().await.run(rights::another_role_is_granted_what_workers_need).await;
}
