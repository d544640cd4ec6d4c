//! The operator's TimescaleDB half against real servers of both editions: `IOTPIPELINE_TEST_TIMESCALE` names a
//! superuser of an Apache-2 server, `IOTPIPELINE_TEST_TIMESCALE_COMMUNITY` a Community server that may be one
//! PostgreSQL session for ever (so its scenarios wait for each other, each in a schema of its own).
//!
//! `scripts/test timescale` counts the tests of each edition: those in `community::`, and all others.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

#[cfg(test)]
mod adoption;
#[cfg(test)]
mod bookkeeping;
#[cfg(test)]
mod catalogue;
#[cfg(test)]
mod chunks;
#[cfg(test)]
mod columnstore;
#[cfg(test)]
mod connections;
#[cfg(test)]
mod edits;
#[cfg(test)]
mod external;
#[cfg(test)]
mod fields;
#[cfg(test)]
mod indexes;
#[cfg(test)]
mod jobs;
#[cfg(test)]
mod managed;
#[cfg(test)]
mod ownership;
#[cfg(test)]
mod retention;
#[cfg(test)]
mod rights;
#[cfg(test)]
mod rollup_definitions;
#[cfg(test)]
mod rollup_ends;
#[cfg(test)]
mod rollup_support;
#[cfg(test)]
mod rollup_views;
#[cfg(test)]
mod rollups;
#[cfg(test)]
mod spec;
#[cfg(test)]
mod support;

/// A scenario as a test on one edition.
macro_rules! scenario {
    ($edition:ident, $file:ident, $scenario:ident) => {
        #[tokio::test]
        async fn $scenario() {
            crate::support::Test::$edition().await.run(crate::$file::$scenario).await;
        }
    };
}

/// Scenarios as tests: `apache2::NAME` and `community::NAME`.
macro_rules! scenarios {
    (both { $($file:ident::$scenario:ident,)+ } community { $($other_file:ident::$other:ident,)+ }) => {
        #[cfg(test)]
        mod apache2 {
            $(scenario!(apache2, $file, $scenario);)+
        }

        #[cfg(test)]
        mod community {
            $(scenario!(community, $file, $scenario);)+
            $(scenario!(community, $other_file, $other);)+
        }
    };
}

scenarios! {
    both {
        adoption::a_table_of_nobody_is_adopted_and_never_deleted,
        adoption::table_and_dead_letters_go_apart,
        bookkeeping::an_older_version_is_brought_up,
        chunks::full_chunks_of_the_specs_interval_are_measured,
        edits::any_sequence_ends_where_its_last_spec_alone_does,
        external::a_table_of_somebody_else_is_checked_and_left_as_it_is,
        external::one_pipeline_feeds_a_table_from_a_topic,
        fields::every_field_changes_what_it_says,
        indexes::an_index_over_rows_is_made,
        jobs::policies_are_watched,
        managed::created_from_nothing_and_then_left_alone,
        managed::columns_are_added_and_never_changed,
        managed::indexes_and_chunk_interval_are_repaired,
        managed::a_natural_key_is_made_repaired_and_not_changed_in_silence,
        ownership::what_is_not_ours_is_refused,
        ownership::only_our_own_is_deleted,
        ownership::a_topic_is_claimed_once_and_released_with_its_positions,
        retention::a_shorter_time_waits_for_approval,
        retention::dead_letters_have_a_retention_of_their_own,
        retention::dead_letters_beside_a_table_of_somebody_else_go_too,
    }
    community {
        columnstore::settings_and_policy_follow_the_spec,
        columnstore::what_somebody_changed_in_it_is_mended,
        columnstore::the_rest_of_the_table_changes_as_before,
        retention::a_native_policy_follows_the_spec,
        rights::another_role_is_granted_what_workers_need,
        rollup_definitions::another_definition_waits_with_what_depends_on_it,
        rollup_definitions::one_that_is_being_filled_goes_on_while_another_bucket_waits,
        rollup_definitions::what_is_computed_changes_by_approval_alone,
        rollup_definitions::what_cannot_be_made_anew_is_said_before_it_is_approved,
        rollup_ends::rollups_go_with_their_table,
        rollup_ends::rows_that_a_rollup_needs_stay,
        rollup_ends::what_is_not_ours_is_left,
        rollup_views::a_plain_view_becomes_the_real_thing,
        rollups::a_rollup_is_made_filled_and_kept,
        rollups::every_field_changes_by_itself,
        rollups::what_somebody_changed_is_mended,
    }
}
