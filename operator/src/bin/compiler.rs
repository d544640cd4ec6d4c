//! Compiles one program, so that the operator need not: see `operator::compiler`.

use std::process::ExitCode;

use clap::Parser;
use operator::compiler::Compilation;

fn main() -> ExitCode {
    match Compilation::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("failed to compile a program: {error}");
            ExitCode::FAILURE
        }
    }
}
