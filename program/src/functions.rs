//! Which functions of VRL's standard library a program may call. Pure.
//!
//! A list of what is allowed, so that a function which a later version of VRL brings is not available before
//! somebody has thought about it. Left out on purpose:
//! - what reaches outside: `get_env_var`, `get_hostname`, `get_timezone_name`, `dns_lookup`, `reverse_dns`,
//!   `http_request`, `log`, and what reads files (`parse_proto`, `encode_proto`, `validate_json_schema`,
//!   `parse_etld`, `parse_user_agent`);
//! - what a small input can expand without bound, in size, depth or time: `decode_gzip` and its relatives,
//!   `parse_yaml` and `parse_xml` (aliases, entities), `set` and `unflatten` (a path taken from data nests as
//!   deep as the data says), `parse_grok`, `parse_groks` and `match_datadog_query` (backtracking);
//! - what is about logs of web servers and operating systems rather than devices.

use vrl::compiler::Function;

use crate::clock::Now;

/// The functions a program may call, sorted.
const ALLOWED: &[&str] = &[
    "abs",
    "append",
    "array",
    "assert",
    "assert_eq",
    "basename",
    "bool",
    "camelcase",
    "ceil",
    "chunks",
    "compact",
    "contains",
    "contains_all",
    "decode_base16",
    "decode_base64",
    "decode_charset",
    "decode_mime_q",
    "decode_percent",
    "del",
    "dirname",
    "downcase",
    "encode_base16",
    "encode_base64",
    "encode_csv",
    "encode_json",
    "encode_key_value",
    "encode_logfmt",
    "encode_percent",
    "ends_with",
    "exists",
    "filter",
    "find",
    "flatten",
    "float",
    "floor",
    "for_each",
    "format_int",
    "format_number",
    "format_timestamp",
    "from_entries",
    "from_unix_timestamp",
    "get",
    "haversine",
    "includes",
    "int",
    "ip_aton",
    "ip_cidr_contains",
    "ip_ntoa",
    "ip_ntop",
    "ip_pton",
    "ip_subnet",
    "ip_to_ipv6",
    "ipv6_to_ipv4",
    "is_array",
    "is_boolean",
    "is_empty",
    "is_float",
    "is_integer",
    "is_ipv4",
    "is_ipv6",
    "is_json",
    "is_null",
    "is_nullish",
    "is_object",
    "is_regex",
    "is_string",
    "is_timestamp",
    "join",
    "kebabcase",
    "keys",
    "length",
    "map_keys",
    "map_values",
    "match",
    "match_any",
    "match_array",
    "merge",
    "mod",
    "now",
    "object",
    "object_from_array",
    "parse_bytes",
    "parse_cbor",
    "parse_csv",
    "parse_duration",
    "parse_float",
    "parse_influxdb",
    "parse_int",
    "parse_json",
    "parse_key_value",
    "parse_logfmt",
    "parse_query_string",
    "parse_regex",
    "parse_regex_all",
    "parse_timestamp",
    "parse_tokens",
    "parse_url",
    "pascalcase",
    "pop",
    "push",
    "range",
    "redact",
    "remove",
    "replace",
    "replace_with",
    "round",
    "screamingsnakecase",
    "shannon_entropy",
    "sieve",
    "slice",
    "snakecase",
    "split",
    "split_path",
    "starts_with",
    "string",
    "strip_whitespace",
    "strlen",
    "tally",
    "tally_value",
    "timestamp",
    "to_bool",
    "to_entries",
    "to_float",
    "to_int",
    "to_regex",
    "to_string",
    "to_unix_timestamp",
    "truncate",
    "type_def",
    "unique",
    "unnest",
    "upcase",
    "uuid_from_friendly_id",
    "uuid_v4",
    "uuid_v7",
    "values",
    "zip",
];

/// The functions a program may call, as the compiler takes them.
pub(crate) fn allowed_functions() -> Vec<Box<dyn Function>> {
    vrl::stdlib::all()
        .into_iter()
        .filter(|function| ALLOWED.binary_search(&function.identifier()).is_ok())
        .map(|function| if function.identifier() == "now" { Box::new(Now) } else { function })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_and_names_functions_that_exist() {
        assert!(ALLOWED.is_sorted());
        let mut names: Vec<&str> = allowed_functions().iter().map(|function| function.identifier()).collect();
        names.sort_unstable();
        assert_eq!(names, ALLOWED);
    }

    #[test]
    fn nothing_that_reaches_outside_or_expands_without_bound_is_allowed() {
        let refused = [
            "get_env_var",
            "get_hostname",
            "get_timezone_name",
            "dns_lookup",
            "reverse_dns",
            "http_request",
            "log",
            "parse_proto",
            "encode_proto",
            "validate_json_schema",
            "parse_etld",
            "parse_user_agent",
            "decode_gzip",
            "decode_zlib",
            "decode_zstd",
            "decode_lz4",
            "decode_snappy",
            "parse_yaml",
            "parse_xml",
            "parse_grok",
            "parse_groks",
            "match_datadog_query",
            "set",
            "unflatten",
        ];
        for name in refused {
            assert!(!ALLOWED.contains(&name), "{name}");
        }
    }
}
