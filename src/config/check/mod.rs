//! From what TOML says to a [`Config`]: every section is read, every problem is noted, and only a file without any
//! gives a value.

mod app;
mod audit;
mod clinics;
mod enrich;
mod late;
mod matches;
mod poll;
mod sinks;
mod stream;
mod values;

use toml::de::DeTable;

use super::file::{Field, Report, Section};
use super::{Bodies, Config, Http, State};

/// Reads the whole document. `None`, or a report with problems, is an unusable configuration.
pub(super) fn config<'a>(report: &'a Report<'a>, document: &'a DeTable<'a>) -> Option<Config> {
    let root = Section::root(report, document);
    let app = app::read(&root.section("app"));
    let servers = app.servers;
    let state = state(&root.section("state"));
    let http = http(&root.section("http"));
    let poll = poll::read(&root.section("poll"), servers);
    let clinics = clinics::read(&root, &poll.categories, servers);
    let bodies = state.as_ref().map(|state| state.bodies);
    let stream = stream::read(&root, &clinics, bodies);
    let sinks = sinks::read(&root, &clinics, bodies, &stream);
    let enrich = enrich::read(&root, &clinics);
    let at = state.as_ref().map(|state| state.directory.as_path());
    let audit = audit::read(&root, at);
    let late = late::read(&root);
    late::is_heard(&root, &sinks, late.is_some());
    root.finish();
    Some(Config {
        app: app.app?,
        state: state?,
        http,
        poll,
        clinics: clinics.clinics,
        sinks,
        enrich: enrich.into(),
        audit,
        fingerprint: report.fingerprint(),
        stream: stream.stream,
        late,
    })
}

fn state(section: &Section<'_>) -> Option<State> {
    let directory = section.or(
        "directory",
        "/var/lib/fullscript-events".into(),
        values::path,
    );
    let seal_key = section.required(
        "seal_key",
        "where the 32-byte key is that seals tokens and bodies, such as { credential = \"seal_key\" }",
    );
    let seal_key = seal_key.as_ref().and_then(values::secret);
    let bodies = section.or("bodies", Bodies::UntilSettled, |field| {
        values::choice(
            field,
            &[
                ("until-settled", Bodies::UntilSettled),
                ("never", Bodies::Never),
            ],
        )
    });
    let bind_host = section.or("bind_host", false, Field::boolean);
    section.finish();
    Some(State {
        directory,
        seal_key: seal_key?,
        bodies,
        bind_host,
    })
}

fn http(section: &Section<'_>) -> Http {
    let proxy = section.field("proxy");
    let from_environment = section.field("proxy_from_environment");
    let proxy_from_environment = from_environment
        .as_ref()
        .and_then(Field::boolean)
        .unwrap_or(false);
    if let (Some(field), true) = (&from_environment, proxy.is_some() && proxy_from_environment) {
        field.place.problem(
            "true, beside a proxy that is named",
            "one of the two: http.proxy, or the environment's",
        );
    }
    let http = Http {
        proxy: proxy.as_ref().and_then(values::url),
        proxy_from_environment,
        ca_file: section.field("ca_file").as_ref().and_then(values::path),
    };
    section.finish();
    http
}
