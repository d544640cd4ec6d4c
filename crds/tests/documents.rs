//! The documents say everything that the operator can say, and their links lead somewhere.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
};

use crds::status::{AutoscalingReason, ConditionType, Reason};
use strum::IntoEnumIterator;

#[test]
fn every_condition_and_reason_is_documented() {
    let document = include_str!("../../docs/conditions.md");
    let words = ConditionType::iter()
        .map(|condition| condition.to_string())
        .chain(Reason::iter().map(|reason| reason.to_string()));
    for word in words {
        assert!(document.contains(&format!("| `{word}` |")), "docs/conditions.md has no row for {word}");
    }
}

#[test]
fn every_reason_of_autoscaling_is_documented() {
    let document = include_str!("../../docs/scaling.md");
    for reason in AutoscalingReason::iter() {
        assert!(document.contains(&format!("| `{reason}` |")), "docs/scaling.md has no row for {reason}");
    }
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let documents = documents();
    assert!(documents.len() >= 10, "only {} documents found", documents.len());
    let mut broken = Vec::new();
    for path in documents {
        let text = fs::read_to_string(&path).unwrap();
        for link in links(&text) {
            let (file, heading) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() { path.clone() } else { path.with_file_name(file) };
            let leads_somewhere = target.exists()
                && (heading.is_empty()
                    || anchors(&fs::read_to_string(&target).unwrap()).contains(&heading.to_owned()));
            if !leads_somewhere {
                broken.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert_eq!(broken, Vec::<String>::new());
}

/// The documents for people.
fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let in_folder = |folder: &str| {
        let files = fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect::<Vec<_>>()
    };
    ["", "docs", "charts/iotpipeline-operator"].into_iter().flat_map(in_folder).collect()
}

/// The targets of links within the repository.
fn links(text: &str) -> Vec<String> {
    // Every other piece between backticks is code.
    let prose: String = text.split('`').step_by(2).collect();
    let targets = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    targets.map(|(target, _)| target.to_owned()).filter(|target| !target.contains("://")).collect()
}

/// The anchors that headings get where Markdown is shown: small letters, hyphens for spaces, no punctuation.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|heading| {
            let words = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = words.chars().filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
            kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
        })
        .collect()
}
