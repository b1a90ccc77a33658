//! `completions` and `man`: what the program says of itself, made from the same definitions as `--help`.

use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::output::print;
use super::{Cli, CommandResult, Exit, Failure};

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: fullscript-events completions bash > /etc/bash_completion.d/fullscript-events"
)]
pub(super) struct CompletionsArgs {
    /// For which shell.
    shell: Shell,
}

/// Arguments of `man`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: fullscript-events man --directory /usr/local/share/man/man1")]
pub(super) struct ManArgs {
    /// Write one page per command into this directory instead of printing the main page.
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

/// Runs `completions`.
pub(super) fn completions(args: &CompletionsArgs) -> CommandResult {
    let mut script = Vec::new();
    clap_complete::generate(
        args.shell,
        &mut Cli::command(),
        "fullscript-events",
        &mut script,
    );
    print(&String::from_utf8_lossy(&script))
}

/// Runs `man`.
pub(super) fn man(args: &ManArgs) -> CommandResult {
    let Some(directory) = &args.directory else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command())
            .render(&mut page)
            .map_err(|error| Failure::new(Exit::Unexpected, error))?;
        return print(&String::from_utf8_lossy(&page));
    };
    write_pages(directory).map_err(|error| {
        Failure::new(
            Exit::Usage,
            format!("{} cannot be written: {error}", directory.display()),
        )
    })?;
    print(&format!(
        "The manual pages are in {}.\n",
        directory.display()
    ))
}

fn write_pages(directory: &Path) -> std::io::Result<()> {
    fs::create_dir_all(directory)?;
    clap_mangen::generate_to(Cli::command(), directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_first_help_shows_every_command() {
        let help = Cli::command().term_width(100).render_help().to_string();
        insta::assert_snapshot!(help, @r#"
        Fullscript webhooks without a public endpoint, and with a memory

        Usage: fullscript-events [OPTIONS] <COMMAND>

        Commands:
          run          Poll and deliver, for ever or for one cycle
          backfill     Deliver what a sink never had of the past
          status       Tell whether all is well, and if not, what mends it
          tail         Watch events as they happen
          events       Look at events and their deliveries; send one again
          deliveries   Look at deliveries that need you, and settle them
          sinks        Look at sinks; test, pause, drain, rename one
          routes       Tell who gets what, and why
          crosswalk    List whom Fullscript knows no id of the EMR's for (sinks with format = "sfs")
          config       Check or create the configuration
          auth         Give, list and revoke the clinics' grants
          audit        Check the audit log, or hand it on
          demo         See all of it at work, against an imitation of Fullscript; nothing to configure
          simulate     Serve an imitation of the Fullscript API
          completions  Print the completions of a shell
          man          Print the manual page, or write one per command
          help         Print this message or the help of the given subcommand(s)

        Options:
          -c, --config <PATH>        The configuration file [env: FULLSCRIPT_EVENTS_CONFIG=] [default:
                                     /etc/fullscript-events/config.toml]
              --log-level <LEVEL>    How much is logged, to standard error; nothing but this program's own
                                     lines, at any level [env: FULLSCRIPT_EVENTS_LOG=] [default: info]
              --log-format <FORMAT>  How a log line looks [default: text] [possible values: text, json]
          -h, --help                 Print help (see more with '--help')
          -V, --version              Print version

        Start: fullscript-events config init, then auth login CLINIC, then run. At a glance: status.
        "#);
    }

    #[test]
    fn every_command_has_a_page() {
        let directory = tempfile::tempdir().unwrap();
        write_pages(directory.path()).unwrap();
        for page in [
            "fullscript-events.1",
            "fullscript-events-status.1",
            "fullscript-events-events-resend.1",
            "fullscript-events-deliveries-done.1",
        ] {
            assert!(directory.path().join(page).exists(), "{page}");
        }
    }
}
