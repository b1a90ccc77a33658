//! `[sfs]`.

use std::net::{Ipv4Addr, SocketAddr};

use super::values;
use crate::config::file::{Field, Section};
use crate::config::{LateResults, SfsMode, Sink, SinkKind};

/// Where late results are taken, unless the file says otherwise.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8767);

/// Reads the section, if the file has it: without it nothing listens.
pub(super) fn read(root: &Section<'_>) -> Option<LateResults> {
    root.field("sfs")?;
    let section = root.section("sfs");
    let insecure_http = section.or("insecure_http", false, Field::boolean);
    let listen = section.or("listen", LISTEN, |field| listen(field, insecure_http));
    let emr_api_key = section.required(
        "emr_api_key",
        "where the key is that your EMR says with late results, such as { credential = \"emr_api_key\" }",
    );
    let emr_api_key = emr_api_key.as_ref().and_then(values::secret);
    section.finish();
    Some(LateResults {
        listen,
        emr_api_key: emr_api_key?,
        insecure_http,
    })
}

/// Whoever awaits results has to listen for them: otherwise each is done at its deadline, and nobody knows how it went.
pub(super) fn is_heard(root: &Section<'_>, sinks: &[Sink], listens: bool) {
    let awaits = |sink: &&Sink| match &sink.kind {
        SinkKind::Webhook(webhook) => webhook.sfs.as_ref().is_some_and(|sfs| {
            matches!(
                &sfs.mode,
                SfsMode::Treatments {
                    late_results: Some(_),
                    ..
                }
            )
        }),
        SinkKind::File(_)
        | SinkKind::Sqlite(_)
        | SinkKind::Exec(_)
        | SinkKind::Stdout
        | SinkKind::Stream(_) => false,
    };
    if let Some(sink) = sinks.iter().find(awaits).filter(|_| !listens) {
        root.place.warning(
            format_args!("no [sfs], and late_results of the sink {}", sink.name),
            "the section [sfs]: without it nobody hears the EMR's results, and what awaits one is done at its deadline",
            None,
        );
    }
}

fn listen(field: &Field<'_>, insecure_http: bool) -> Option<SocketAddr> {
    let Ok(address) = field.text()?.parse::<SocketAddr>() else {
        return field.refuse("an address and a port, such as \"127.0.0.1:8767\"");
    };
    if !address.ip().is_loopback() && !insecure_http {
        return field.refuse(
            "a loopback address, such as \"127.0.0.1:8767\", behind a proxy that speaks TLS; or, where the network between is \
             trusted with health data, insecure_http = true beside it",
        );
    }
    Some(address)
}
