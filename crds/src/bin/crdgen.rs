//! Prints the CustomResourceDefinition of `IoTPipeline`: as YAML for `crds/yaml`, or with `--chart` as the
//! template of the Helm chart.

use std::{
    env,
    io::{self, Write},
};

fn main() -> io::Result<()> {
    let text = match env::args().nth(1).as_deref() {
        None => crds::manifest(),
        Some("--chart") => crds::chart_template(),
        Some(other) => {
            return Err(io::Error::other(format!("unknown argument {other}; it takes --chart or none")));
        }
    };
    io::stdout().write_all(text.map_err(io::Error::other)?.as_bytes())
}
