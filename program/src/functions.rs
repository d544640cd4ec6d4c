//! Which functions of VRL's standard library a program may call. Pure.
//!
//! A list of what is allowed, so that a function which a later version of VRL brings is not available before
//! somebody has thought about it. What is not named is not in the binary at all. Left out on purpose:
//! - what reaches outside: `get_env_var`, `get_hostname`, `get_timezone_name`, `dns_lookup`, `reverse_dns`,
//!   `http_request`, `log`, and what reads files (`parse_proto`, `encode_proto`, `validate_json_schema`,
//!   `parse_etld`, `parse_user_agent`);
//! - what a small input can expand without bound, in size, depth or time: `decode_gzip` and its relatives,
//!   `parse_yaml` and `parse_xml` (aliases, entities), `set` and `unflatten` (a path taken from data nests as
//!   deep as the data says), `parse_grok`, `parse_groks` and `match_datadog_query` (backtracking);
//! - what is about logs of web servers and operating systems rather than devices.

use vrl::{compiler::Function, stdlib};

use crate::clock::Now;

/// The functions a program may call, in order of their names.
pub(crate) fn allowed_functions() -> Vec<Box<dyn Function>> {
    vec![
        Box::new(stdlib::Abs),
        Box::new(stdlib::Append),
        Box::new(stdlib::Array),
        Box::new(stdlib::Assert),
        Box::new(stdlib::AssertEq),
        Box::new(stdlib::BaseName),
        Box::new(stdlib::Boolean),
        Box::new(stdlib::Camelcase),
        Box::new(stdlib::Ceil),
        Box::new(stdlib::Chunks),
        Box::new(stdlib::Compact),
        Box::new(stdlib::Contains),
        Box::new(stdlib::ContainsAll),
        Box::new(stdlib::DecodeBase16),
        Box::new(stdlib::DecodeBase64),
        Box::new(stdlib::DecodeCharset),
        Box::new(stdlib::DecodeMimeQ),
        Box::new(stdlib::DecodePercent),
        Box::new(stdlib::Del),
        Box::new(stdlib::DirName),
        Box::new(stdlib::Downcase),
        Box::new(stdlib::EncodeBase16),
        Box::new(stdlib::EncodeBase64),
        Box::new(stdlib::EncodeCsv),
        Box::new(stdlib::EncodeJson),
        Box::new(stdlib::EncodeKeyValue),
        Box::new(stdlib::EncodeLogfmt),
        Box::new(stdlib::EncodePercent),
        Box::new(stdlib::EndsWith),
        Box::new(stdlib::Exists),
        Box::new(stdlib::Filter),
        Box::new(stdlib::Find),
        Box::new(stdlib::Flatten),
        Box::new(stdlib::Float),
        Box::new(stdlib::Floor),
        Box::new(stdlib::ForEach),
        Box::new(stdlib::FormatInt),
        Box::new(stdlib::FormatNumber),
        Box::new(stdlib::FormatTimestamp),
        Box::new(stdlib::FromEntries),
        Box::new(stdlib::FromUnixTimestamp),
        Box::new(stdlib::Get),
        Box::new(stdlib::Haversine),
        Box::new(stdlib::Includes),
        Box::new(stdlib::Integer),
        Box::new(stdlib::IpAton),
        Box::new(stdlib::IpCidrContains),
        Box::new(stdlib::IpNtoa),
        Box::new(stdlib::IpNtop),
        Box::new(stdlib::IpPton),
        Box::new(stdlib::IpSubnet),
        Box::new(stdlib::IpToIpv6),
        Box::new(stdlib::Ipv6ToIpV4),
        Box::new(stdlib::IsArray),
        Box::new(stdlib::IsBoolean),
        Box::new(stdlib::IsEmpty),
        Box::new(stdlib::IsFloat),
        Box::new(stdlib::IsInteger),
        Box::new(stdlib::IsIpv4),
        Box::new(stdlib::IsIpv6),
        Box::new(stdlib::IsJson),
        Box::new(stdlib::IsNull),
        Box::new(stdlib::IsNullish),
        Box::new(stdlib::IsObject),
        Box::new(stdlib::IsRegex),
        Box::new(stdlib::IsString),
        Box::new(stdlib::IsTimestamp),
        Box::new(stdlib::Join),
        Box::new(stdlib::Kebabcase),
        Box::new(stdlib::Keys),
        Box::new(stdlib::Length),
        Box::new(stdlib::MapKeys),
        Box::new(stdlib::MapValues),
        Box::new(stdlib::Match),
        Box::new(stdlib::MatchAny),
        Box::new(stdlib::MatchArray),
        Box::new(stdlib::Merge),
        Box::new(stdlib::Mod),
        Box::new(Now),
        Box::new(stdlib::Object),
        Box::new(stdlib::ObjectFromArray),
        Box::new(stdlib::ParseBytes),
        Box::new(stdlib::ParseCbor),
        Box::new(stdlib::ParseCsv),
        Box::new(stdlib::ParseDuration),
        Box::new(stdlib::ParseFloat),
        Box::new(stdlib::ParseInfluxDB),
        Box::new(stdlib::ParseInt),
        Box::new(stdlib::ParseJson),
        Box::new(stdlib::ParseKeyValue),
        Box::new(stdlib::ParseLogFmt),
        Box::new(stdlib::ParseQueryString),
        Box::new(stdlib::ParseRegex),
        Box::new(stdlib::ParseRegexAll),
        Box::new(stdlib::ParseTimestamp),
        Box::new(stdlib::ParseTokens),
        Box::new(stdlib::ParseUrl),
        Box::new(stdlib::Pascalcase),
        Box::new(stdlib::Pop),
        Box::new(stdlib::Push),
        Box::new(stdlib::Range),
        Box::new(stdlib::Redact),
        Box::new(stdlib::Remove),
        Box::new(stdlib::Replace),
        Box::new(stdlib::ReplaceWith),
        Box::new(stdlib::Round),
        Box::new(stdlib::ScreamingSnakecase),
        Box::new(stdlib::ShannonEntropy),
        Box::new(stdlib::Sieve),
        Box::new(stdlib::Slice),
        Box::new(stdlib::Snakecase),
        Box::new(stdlib::Split),
        Box::new(stdlib::SplitPath),
        Box::new(stdlib::StartsWith),
        Box::new(stdlib::String),
        Box::new(stdlib::StripWhitespace),
        Box::new(stdlib::Strlen),
        Box::new(stdlib::Tally),
        Box::new(stdlib::TallyValue),
        Box::new(stdlib::Timestamp),
        Box::new(stdlib::ToBool),
        Box::new(stdlib::ToEntries),
        Box::new(stdlib::ToFloat),
        Box::new(stdlib::ToInt),
        Box::new(stdlib::ToRegex),
        Box::new(stdlib::ToString),
        Box::new(stdlib::ToUnixTimestamp),
        Box::new(stdlib::Truncate),
        Box::new(stdlib::TypeDef),
        Box::new(stdlib::Unique),
        Box::new(stdlib::Unnest),
        Box::new(stdlib::Upcase),
        Box::new(stdlib::UuidFromFriendlyId),
        Box::new(stdlib::UuidV4),
        Box::new(stdlib::UuidV7),
        Box::new(stdlib::Values),
        Box::new(stdlib::Zip),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<&'static str> {
        allowed_functions().iter().map(|function| function.identifier()).collect()
    }

    #[test]
    fn the_list_is_sorted_and_names_each_function_once() {
        assert!(names().is_sorted_by(|a, b| a < b), "{:?}", names());
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
        let allowed = names();
        for name in refused {
            assert!(!allowed.contains(&name), "{name}");
        }
    }
}
