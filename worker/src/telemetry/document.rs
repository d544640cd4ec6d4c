//! What `docs/metrics.md` lists and what a registry holds, for the tests that compare the two.

use std::collections::BTreeSet;

const DOCUMENT: &str = include_str!("../../../docs/metrics.md");

/// The metrics in the table of a section, each as `name{label,label} type`.
pub fn documented(section: &str) -> BTreeSet<String> {
    let heading = format!("{section}\n");
    let section = DOCUMENT.split("\n## ").find(|text| text.starts_with(&heading)).unwrap();
    section
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split(" | ");
            Some(format!("{} {}", cells.next()?.trim_end_matches('`'), cells.next()?))
        })
        .collect()
}

/// The metrics in an answer to `GET /metrics`, in the same form.
pub fn encoded(answer: &str) -> BTreeSet<String> {
    let declared = answer.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    declared
        .map(|(name, kind)| {
            let name = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
            let begin = format!("{name}{{");
            let labels = answer.lines().find_map(|line| line.strip_prefix(&begin)?.split_once('}'));
            let labels = labels.map(|(labels, _)| {
                let names: Vec<_> = labels
                    .split(',')
                    .filter_map(|label| label.split_once('='))
                    .map(|(name, _)| name)
                    .collect();
                format!("{{{}}}", names.join(","))
            });
            format!("{name}{} {kind}", labels.unwrap_or_default())
        })
        .collect()
}
