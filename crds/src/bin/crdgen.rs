//! Prints the CustomResourceDefinition of `IoTPipeline`: as YAML for `crds/yaml`, with `--chart` as the template of
//! the Helm chart, or with `--reference` as `docs/reference.md`.

use std::{
    env,
    io::{self, Write},
};

fn main() -> io::Result<()> {
    let text = match env::args().nth(1).as_deref() {
        None => crds::manifest().map_err(io::Error::other),
        Some("--chart") => crds::chart_template().map_err(io::Error::other),
        Some("--reference") => crds::reference().map_err(io::Error::other),
        Some(other) => {
            Err(io::Error::other(format!("unknown argument {other}; it takes --chart, --reference or none")))
        }
    };
    io::stdout().write_all(text?.as_bytes())
}
