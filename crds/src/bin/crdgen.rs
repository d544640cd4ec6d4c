//! Prints the CustomResourceDefinition of `IoTPipeline` as YAML, for `crds/yaml` and the chart.

use std::io::{self, Write};

fn main() -> io::Result<()> {
    let yaml = crds::manifest().map_err(io::Error::other)?;
    io::stdout().write_all(yaml.as_bytes())
}
