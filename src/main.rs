//! Parses the command line and calls the command.

fn main() -> std::process::ExitCode {
    fullscript_events::cli::main()
}
