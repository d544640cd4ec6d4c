//! What the database itself knows of a table, its dead letters and its rollups, in lines to compare.

use std::collections::BTreeSet;

use operator::timescale::Edition;

use super::support::Test;

/// One line for each thing, with `it` for the table's name and without the names of schemas. Rollups are the views whose
/// names begin with that of the table.
pub async fn catalogue(test: &Test, table: &str) -> BTreeSet<String> {
    let schema = test.schema.as_str();
    let mut lines = BTreeSet::new();
    for (kind, name) in [("table", table.to_owned()), ("dead letters", format!("{table}_dead_letters"))] {
        lines.extend(test.texts(&of_hypertable(kind, schema, &name, test.edition)).await);
    }
    lines.extend(test.texts(&of_rollups(schema, table, test.edition)).await);
    // Whether TimescaleDB's schema is told depends on the role's search_path.
    let plain =
        |line: String| line.replace(&format!("{schema}."), "").replace("public.", "").replace(table, "it");
    lines.into_iter().map(plain).collect()
}

/// The rollup that a line is about.
pub fn rollup_of(line: &str) -> Option<&str> {
    line.strip_prefix("rollup it_")?.split(' ').next()
}

fn of_hypertable(kind: &str, schema: &str, name: &str, edition: Edition) -> String {
    let columnstore = match edition {
        Edition::Apache2 => "",
        Edition::Community => {
            "UNION ALL SELECT concat('columnstore ', segmentby, ' ', orderby, ' ', orderby_desc, ' ', orderby_nullsfirst) \
               FROM _timescaledb_catalog.compression_settings, wanted WHERE relid = oid "
        }
    };
    format!(
        "WITH wanted AS (SELECT '{schema}.{name}'::regclass AS oid) \
         SELECT '{kind} ' || line FROM ( \
           SELECT concat('column ', attname, ' ', format_type(atttypid, atttypmod), \
               ' ' || pg_get_expr(adbin, adrelid), CASE WHEN attnotnull THEN ' NOT NULL' END) AS line \
             FROM wanted JOIN pg_attribute ON attrelid = oid LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum \
             WHERE attnum > 0 AND NOT attisdropped \
           UNION ALL SELECT 'index ' || replace(pg_get_indexdef(indexrelid), '{name}', 'it') \
             FROM pg_index, wanted WHERE indrelid = oid \
           UNION ALL SELECT concat('dimension ', column_name, ' ', time_interval) FROM timescaledb_information.dimensions \
             WHERE hypertable_schema = '{schema}' AND hypertable_name = '{name}' \
           UNION ALL SELECT concat('policy ', replace(proc_name, 'policy_', ''), ' every ', schedule_interval, ' ', scheduled, ' ', \
               config - 'hypertable_id') FROM timescaledb_information.jobs \
             WHERE hypertable_schema = '{schema}' AND hypertable_name = '{name}' \
           UNION ALL SELECT concat('retention noted ', drop_after_seconds) FROM {schema}._iotpipeline_tables \
             WHERE table_name = '{name}' {columnstore}) AS catalogue (line)"
    )
}

fn of_rollups(schema: &str, table: &str, edition: Edition) -> String {
    let columnstore = match edition {
        Edition::Apache2 => "",
        Edition::Community => {
            "UNION ALL SELECT name, concat('columnstore ', segmentby, ' ', orderby, ' ', orderby_desc, ' ', orderby_nullsfirst) \
               FROM aggregates JOIN _timescaledb_catalog.compression_settings ON relid = format('%I.%I', \
                 materialization_hypertable_schema, materialization_hypertable_name)::regclass "
        }
    };
    format!(
        "WITH views AS (SELECT oid, relname::text AS name FROM pg_class \
             WHERE relnamespace = '{schema}'::regnamespace AND relkind IN ('v', 'm') AND relname LIKE '{table}\\_%'), \
           aggregates AS (SELECT views.*, aggregate.* FROM views \
             JOIN timescaledb_information.continuous_aggregates AS aggregate ON view_schema = '{schema}' AND view_name = name) \
         SELECT concat('rollup ', name, ' ', line) FROM ( \
           SELECT views.name, concat('definition ', CASE WHEN view_name IS NULL THEN 'of a view' ELSE 'of an aggregate' END, \
               regexp_replace(coalesce(view_definition, pg_get_viewdef(views.oid)), '\\s+', ' ', 'g')) AS line \
             FROM views LEFT JOIN aggregates USING (oid) \
           UNION ALL SELECT name, 'columns ' || string_agg(concat(attname, ' ', format_type(atttypid, atttypmod)), ', ' \
               ORDER BY attnum) FROM views JOIN pg_attribute ON attrelid = oid WHERE attnum > 0 GROUP BY name \
           UNION ALL SELECT name, concat('materialized only ', materialized_only) FROM aggregates \
           UNION ALL SELECT name, concat('policy ', replace(proc_name, 'policy_', ''), ' every ', schedule_interval, ' ', scheduled, \
               ' ', config - 'hypertable_id' - 'mat_hypertable_id') FROM views JOIN timescaledb_information.jobs \
               ON hypertable_schema = '{schema}' AND hypertable_name = name \
           UNION ALL SELECT name, concat('retention noted ', drop_after_seconds) \
             FROM aggregates JOIN {schema}._iotpipeline_tables ON table_name = name {columnstore}) AS catalogue (name, line)"
    )
}
