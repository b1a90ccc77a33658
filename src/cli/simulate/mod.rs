//! `simulate`: serves an imitation of the Fullscript API until it is told to end; `simulate sfs-emr`: one of an EMR.

mod emr;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use chrono_tz::Tz;
use tokio::signal::unix::{SignalKind, signal};

use super::{CommandResult, Exit, Failure};
use crate::domain::KNOWN_CATEGORIES;
use crate::simulator::{
    Bounds, Delay, EmrIds, ErrorBody, Options, RateLimit, RetryAfter, Rotation, Simulator,
    StartError,
};

/// Arguments of `simulate`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    #[command(subcommand)]
    other: Option<Other>,
    /// Where to listen; loopback only.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8484")]
    listen: SocketAddr,
    /// What ids, tokens and bodies are made from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many clinics there are.
    #[arg(long, default_value = "3")]
    clinics: NonZeroU32,
    /// Events per clinic and day in the past.
    #[arg(long, default_value_t = 20)]
    events_per_day: u32,
    /// How many days of past there are; Fullscript lists 30.
    #[arg(long, default_value_t = 30)]
    days: u32,
    /// Give every patient an id of the EMR's own (`metadata.id`); else /_control/emr-ids sets them.
    #[arg(long)]
    emr_ids: bool,
    /// Make a new event so often, such as `5s`; none if absent.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    live_every: Option<Duration>,
    /// When a refreshed grant's old tokens die.
    #[arg(long, value_enum, default_value_t = Rotation::OnUse)]
    rotation: Rotation,
    /// The life of an access token.
    #[arg(long, value_name = "DURATION", default_value = "2h", value_parser = duration)]
    token_lifetime: Duration,
    /// Requests per window; 0 turns the limit off.
    #[arg(long, value_name = "REQUESTS", default_value_t = 5000)]
    rate_limit: u32,
    /// The rolling window of the limit.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    rate_window: Duration,
    /// The status over the limit.
    #[arg(long, value_name = "STATUS", default_value_t = 429, value_parser = clap::value_parser!(u16).range(400..600))]
    rate_status: u16,
    /// The `Retry-After` over the limit.
    #[arg(long, value_enum, default_value_t = RetryAfter::Seconds)]
    retry_after: RetryAfter,
    /// What comes with a 401, 403, 404 and over the limit.
    #[arg(long, value_enum, default_value_t = ErrorBody::Json)]
    error_body: ErrorBody,
    /// How long every request takes at least.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    latency: Duration,
    /// New events become visible at most so late.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    visible_within: Duration,
    /// The time zone in which the day of the `created_at` filter begins.
    #[arg(long, value_name = "ZONE", default_value = "America/New_York")]
    zone: Tz,
    /// Which days that filter takes in.
    #[arg(long, value_enum, default_value_t = Bounds::Usual)]
    bounds: Bounds,
    /// The redirect URI registered for the app.
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://127.0.0.1:8765/callback"
    )]
    redirect_uri: String,
}

/// What else can be imitated.
#[derive(Debug, clap::Subcommand)]
enum Other {
    /// Serve an imitation of an EMR that takes Smart Flow Sheet's events (sinks with format = "sfs").
    ///
    /// It reads an event as OpenVPMS does: as a stream of keys, so that an `eventType` after the object drops the event,
    /// with success. It says a line for each event, with ids and counts only, and shows what it holds at /control/state;
    /// /control/rules scripts answers while it runs.
    #[command(
        after_help = "Example: fullscript-events simulate sfs-emr --clinic oak-street=KEY --call-back http://127.0.0.1:8767"
    )]
    SfsEmr(emr::Args),
}

/// Runs `simulate`.
pub(super) fn run(mut args: Args) -> CommandResult {
    if let Some(Other::SfsEmr(emr)) = args.other.take() {
        return emr::run(emr);
    }
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Exit::Unexpected, format!("the runtime cannot start: {e}")))?
        .block_on(serve(args))
}

async fn serve(args: Args) -> CommandResult {
    let mut terminate = signal(SignalKind::terminate())
        .map_err(|e| Failure::new(Exit::Unexpected, format!("cannot wait for SIGTERM: {e}")))?;
    let options = options(&args);
    let (client_id, client_secret) = (options.client_id.clone(), options.client_secret.clone());
    let simulator = Simulator::start(options)
        .await
        .map_err(|e| start_failure(&e))?;
    println!("Fullscript API simulator: everything in it is made up. Ctrl-C ends it.\n");
    for (name, value) in [
        ("API base", simulator.base_url()),
        ("authorize URL", simulator.authorize_url()),
        ("client id", client_id),
        ("client secret", client_secret),
        ("redirect URI", args.redirect_uri.clone()),
        ("control", simulator.control_url()),
    ] {
        println!("{name:<15}{value}");
    }
    println!("\n{:<15}{:<38}refresh token", "clinic", "clinic id");
    for number in 1..=args.clinics.get() {
        let clinic = simulator.add_clinic(&format!("clinic-{number}"));
        make_past(&simulator, &clinic.clinic_id, &args);
        let token = simulator.grant(&clinic.clinic_id).unwrap_or_default();
        println!("{:<15}{:<38}{token}", clinic.name, clinic.clinic_id);
    }
    println!(
        "\nNext: put the first five into [app] of the configuration and the clinics into [[clinics]]; then either\n  \
         fullscript-events auth import clinic-1    with a refresh token from above\n  \
         fullscript-events auth login clinic-1     with a browser"
    );
    let live = async {
        let Some(every) = args.live_every.filter(|every| !every.is_zero()) else {
            return std::future::pending::<()>().await;
        };
        let mut ticks = tokio::time::interval(every);
        loop {
            ticks.tick().await;
            simulator.make_any_event();
        }
    };
    tokio::select! {
        () = live => {}
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    simulator.shutdown().await;
    Ok(Exit::Done)
}

fn start_failure(error: &StartError) -> Failure {
    let reason = std::error::Error::source(error).map(|e| format!(": {e}"));
    Failure::new(
        Exit::Usage,
        format!("{error}{}", reason.unwrap_or_default()),
    )
}

/// A clinic's past: the events of all days, shared out among the categories.
fn make_past(simulator: &Simulator, clinic_id: &str, args: &Args) {
    let categories: Vec<&str> = KNOWN_CATEGORIES
        .iter()
        .filter(|known| known.scope.is_some())
        .map(|known| known.name)
        .collect();
    let events = args.events_per_day.saturating_mul(args.days);
    let share = u32::try_from(categories.len()).map_or(0, |n| events.div_ceil(n));
    let span = Duration::from_hours(u64::from(args.days) * 24);
    for category in categories {
        simulator.make_history(clinic_id, category, share, span);
    }
}

fn options(args: &Args) -> Options {
    Options {
        listen: args.listen,
        seed: args.seed,
        emr_ids: if args.emr_ids {
            EmrIds::OfPatients
        } else {
            EmrIds::None
        },
        zone: args.zone,
        bounds: args.bounds,
        error_body: args.error_body,
        rotation: args.rotation,
        token_lifetime: args.token_lifetime,
        rate_limit: RateLimit {
            requests: (args.rate_limit > 0).then_some(args.rate_limit),
            window: args.rate_window,
            status: args.rate_status,
            retry_after: args.retry_after,
        },
        latency: args.latency,
        visible_after: Delay {
            least: Duration::ZERO,
            most: args.visible_within,
        },
        redirect_uris: vec![args.redirect_uri.clone()],
        ..Options::default()
    }
}

/// Reads a number and a unit, such as `20ms`, `5s`, `10m`, `2h`.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let millis = match unit {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        "d" => Some(86_400_000),
        _ => None,
    };
    let number: Option<u64> = number.parse().ok();
    number
        .zip(millis)
        .and_then(|(number, millis)| number.checked_mul(millis))
        .map(Duration::from_millis)
        .ok_or_else(|| "a number and ms, s, m, h or d is expected, such as 20ms or 2h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_number_and_a_unit() {
        assert_eq!(duration("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(duration("2h"), Ok(Duration::from_hours(2)));
        for bad in [
            "",
            "5",
            "s",
            "1.5s",
            "-1s",
            "5 s",
            "99999999999999999999s",
            "300000000000000d",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
