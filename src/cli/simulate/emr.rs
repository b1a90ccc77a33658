//! `simulate sfs-emr`: serves an imitation of an EMR that takes Smart Flow Sheet's events, and says a line for each.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use url::Url;

use super::super::{CommandResult, Exit, Failure, on_runtime, output};
use super::{duration, start_failure};
use crate::config::Http;
use crate::simulator::emr::{CallBack, Options, Rule, SfsEmr};

/// The path of the late results, below the address that `--call-back` names.
const LATE_RESULTS: &str = "/sfs/api/v3/treatments";
/// How long a call-back may take.
const CALL_BACK_TIMEOUT: Duration = Duration::from_secs(20);

/// Arguments of `simulate sfs-emr`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to listen; loopback only.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8585")]
    listen: SocketAddr,
    /// A clinic and its API key; as often as there are clinics. Keys of your EMR do not belong here.
    #[arg(long = "clinic", value_name = "NAME=KEY", default_value = "clinic-1=simulated-clinic-key-1", value_parser = pair)]
    clinics: Vec<(String, String)>,
    /// A visit (`hospitalizationId`) that there is; without any, every visit is there.
    #[arg(long = "visit", value_name = "ID")]
    visits: Vec<String>,
    /// An inventory id that is refused with `Inventory item not found`.
    #[arg(long = "unknown-item", value_name = "ID")]
    unknown_items: Vec<String>,
    /// Leave out notes of fewer words, with success.
    #[arg(long, value_name = "WORDS", default_value_t = 0)]
    least_words: usize,
    /// Leave out all notes, with success.
    #[arg(long)]
    no_notes: bool,
    /// Refuse every event that holds this treatment or note.
    #[arg(long = "refuse", value_name = "GUID=MESSAGE", value_parser = pair)]
    refusals: Vec<(String, String)>,
    /// Answer the first events with this status.
    #[arg(long, value_name = "STATUS", value_parser = clap::value_parser!(u16).range(200..600))]
    status: Option<u16>,
    /// The `Retry-After` of `--status`, in seconds.
    #[arg(long, value_name = "SECONDS", requires = "status")]
    retry_after: Option<u64>,
    /// Book the first events, and never answer them.
    #[arg(long, conflicts_with = "status")]
    hang: bool,
    /// How many events `--status` and `--hang` are for.
    #[arg(long, value_name = "EVENTS", default_value = "1")]
    times: NonZeroU32,
    /// Answer every event so much later.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    delay: Duration,
    /// Post late results here; a URL without a path stands for its /sfs/api/v3/treatments.
    #[arg(long, value_name = "URL")]
    call_back: Option<Url>,
    /// The `emrApiKey` of late results.
    #[arg(long, value_name = "KEY", default_value = "simulated-emr-key")]
    emr_key: String,
    /// How long after the booking late results are posted.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration)]
    call_back_after: Duration,
    /// The late result of this treatment is an error.
    #[arg(long = "reject", value_name = "GUID=MESSAGE", value_parser = pair)]
    rejections: Vec<(String, String)>,
    /// Keep and show texts and bodies. Only with events that you have made up.
    #[arg(long)]
    show_text: bool,
}

/// Reads `LEFT=RIGHT`; neither may be empty.
fn pair(text: &str) -> Result<(String, String), String> {
    // A guid may hold colons, and a message anything.
    let pair = text
        .split_once('=')
        .filter(|(left, right)| !left.is_empty() && !right.is_empty());
    let pair = pair.map(|(left, right)| (left.to_owned(), right.to_owned()));
    pair.ok_or_else(|| "two texts with = between them are expected".to_owned())
}

/// Runs `simulate sfs-emr`.
pub(super) fn run(args: Args) -> CommandResult {
    on_runtime(serve(args))
}

async fn serve(args: Args) -> CommandResult {
    let mut terminate = signal(SignalKind::terminate())
        .map_err(|e| Failure::new(Exit::Unexpected, format!("cannot wait for SIGTERM: {e}")))?;
    let (lines, mut said) = mpsc::unbounded_channel();
    let options = Options {
        lines: Some(lines),
        ..options(&args)?
    };
    let clinics = options.clinics.clone();
    let emr = SfsEmr::start(options)
        .await
        .map_err(|e| start_failure(&e))?;
    for rule in rules(&args) {
        emr.script(rule);
    }
    for (guid, message) in &args.rejections {
        emr.set_late_result(guid, -1, message);
    }
    output::print(&greeting(&emr, &clinics))?;
    loop {
        tokio::select! {
            Some(line) = said.recv() => {
                output::print(&format!("{line}\n"))?;
            }
            _ = tokio::signal::ctrl_c() => break,
            _ = terminate.recv() => break,
        }
    }
    emr.shutdown().await;
    Ok(Exit::Done)
}

fn greeting(emr: &SfsEmr, clinics: &BTreeMap<String, String>) -> String {
    let (url, control) = (emr.url(), emr.control_url());
    let keys = clinics
        .iter()
        .map(|(name, key)| format!("{name:<15}{key}\n"));
    let keys: String = keys.collect();
    format!(
        "EMR that takes Smart Flow Sheet's events: an imitation, it keeps nothing. Ctrl-C ends it.\n\n\
         {:<15}{url}\n{:<15}{control}/state\n\n{:<15}API key\n{keys}\n",
        "webhook", "what it holds", "clinic"
    )
}

fn options(args: &Args) -> Result<Options, Failure> {
    let call_back = args.call_back.clone().map(|mut url| {
        if url.path() == "/" {
            url.set_path(LATE_RESULTS);
        }
        let client = crate::http::builder(&Http::default(), CALL_BACK_TIMEOUT)
            .map_err(|e| Failure::new(Exit::Unexpected, e))?
            .build()
            .map_err(|_| Failure::new(Exit::Unexpected, "the HTTP client cannot be built"))?;
        Ok::<_, Failure>(CallBack {
            client,
            url,
            emr_api_key: args.emr_key.clone(),
            after: args.call_back_after,
        })
    });
    Ok(Options {
        listen: args.listen,
        clinics: args.clinics.iter().cloned().collect(),
        visits: args.visits.clone(),
        unknown_items: args.unknown_items.clone(),
        least_words: args.least_words,
        without_notes: args.no_notes,
        shows_text: args.show_text,
        call_back: call_back.transpose()?,
        ..Options::default()
    })
}

/// What the arguments script. An event meets the first rule that fits it.
fn rules(args: &Args) -> Vec<Rule> {
    let delay_ms = u64::try_from(args.delay.as_millis()).unwrap_or(u64::MAX);
    let times = Some(args.times.get());
    let hang = args.hang.then(|| Rule {
        times,
        hang: true,
        ..Rule::default()
    });
    let status = args.status.map(|status| Rule {
        times,
        status: Some(status),
        retry_after_s: args.retry_after,
        ..Rule::default()
    });
    let refusals = args.refusals.iter();
    let refusals = refusals.map(|(guid, message)| Rule::refuse(guid, message));
    // Last, for whatever nothing else is scripted for.
    let usual = (delay_ms > 0).then(Rule::default);
    hang.into_iter()
        .chain(status)
        .chain(refusals)
        .chain(usual)
        .map(|rule| Rule { delay_ms, ..rule })
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::super::super::Cli;
    use super::*;

    #[test]
    fn its_help_shows_what_can_be_scripted() {
        let mut cli = Cli::command();
        let simulate = cli.find_subcommand_mut("simulate").unwrap();
        let emr = simulate.find_subcommand_mut("sfs-emr").unwrap().clone();
        let help = emr.term_width(100).render_help().to_string();
        insta::assert_snapshot!(help, @"
        Serve an imitation of an EMR that takes Smart Flow Sheet's events (sinks with format = \"sfs\")

        Usage: sfs-emr [OPTIONS]

        Options:
              --listen <ADDRESS>            Where to listen; loopback only [default: 127.0.0.1:8585]
              --clinic <NAME=KEY>           A clinic and its API key; as often as there are clinics. Keys of
                                            your EMR do not belong here [default:
                                            clinic-1=simulated-clinic-key-1]
              --visit <ID>                  A visit (`hospitalizationId`) that there is; without any, every
                                            visit is there
              --unknown-item <ID>           An inventory id that is refused with `Inventory item not found`
              --least-words <WORDS>         Leave out notes of fewer words, with success [default: 0]
              --no-notes                    Leave out all notes, with success
              --refuse <GUID=MESSAGE>       Refuse every event that holds this treatment or note
              --status <STATUS>             Answer the first events with this status
              --retry-after <SECONDS>       The `Retry-After` of `--status`, in seconds
              --hang                        Book the first events, and never answer them
              --times <EVENTS>              How many events `--status` and `--hang` are for [default: 1]
              --delay <DURATION>            Answer every event so much later [default: 0s]
              --call-back <URL>             Post late results here; a URL without a path stands for its
                                            /sfs/api/v3/treatments
              --emr-key <KEY>               The `emrApiKey` of late results [default: simulated-emr-key]
              --call-back-after <DURATION>  How long after the booking late results are posted [default: 1s]
              --reject <GUID=MESSAGE>       The late result of this treatment is an error
              --show-text                   Keep and show texts and bodies. Only with events that you have
                                            made up
          -h, --help                        Print help (see more with '--help')

        Example: fullscript-events simulate sfs-emr --clinic oak-street=KEY --call-back
        http://127.0.0.1:8767
        ");
    }

    #[test]
    fn a_pair_is_split_at_its_first_sign_and_has_two_sides() {
        assert_eq!(
            pair("plan:variant=a=b"),
            Ok(("plan:variant".to_owned(), "a=b".to_owned()))
        );
        for bad in ["", "oak", "=key", "oak="] {
            assert!(pair(bad).is_err(), "{bad}");
        }
    }
}
