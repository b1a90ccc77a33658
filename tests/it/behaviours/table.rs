//! The behaviours, and how an attempt ends in each: `docs/webhook.md`, "What an answer means", row by row.

use super::tls::Flaw;
use super::wire::{MENDED, Step};

/// What a receiver says of itself, and nobody may repeat: it stands for health data.
pub(super) const CANARY: &str = "canary-of-the-receiver-4715";

/// How an attempt ends, in the words of the documentation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Ends {
    Yes,
    No(Wish),
    Later(Wish),
    NotSent,
    Doubt,
    Gone,
}

/// When it is due again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Wish {
    /// By our own waits.
    Ours,
    /// After so many seconds.
    Seconds(i64),
    /// At this time.
    At(&'static str),
}

/// How a connection is received.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Entry {
    Closed,
    Full,
    Unattended,
    /// Plain HTTP.
    Http,
    /// The URL says https, the script is what stands in for TLS.
    NoTls,
    Tls(Flaw),
}

/// One behaviour.
pub(super) struct Behaviour {
    pub(super) name: &'static str,
    pub(super) entry: Entry,
    pub(super) script: Vec<Step>,
    /// Whether the sinks ask for the challenge.
    pub(super) challenge: bool,
    pub(super) ends: Ends,
    /// How the reason begins.
    pub(super) says: &'static str,
}

impl Behaviour {
    fn challenged(self) -> Self {
        Self {
            challenge: true,
            ..self
        }
    }

    fn by(self, entry: Entry) -> Self {
        Self { entry, ..self }
    }
}

fn does(name: &'static str, script: Vec<Step>, ends: Ends, says: &'static str) -> Behaviour {
    Behaviour {
        name,
        entry: Entry::Http,
        script,
        challenge: false,
        ends,
        says,
    }
}

/// Reads the request and answers this, byte for byte.
fn says(name: &'static str, answer: &str, ends: Ends, says: &'static str) -> Behaviour {
    let script = vec![
        Step::Head,
        Step::Rest,
        Step::Say(answer.as_bytes().to_vec()),
    ];
    does(name, script, ends, says)
}

/// The same, then this.
fn says_then(
    name: &'static str,
    answer: &str,
    then: Step,
    ends: Ends,
    reason: &'static str,
) -> Behaviour {
    let mut behaviour = says(name, answer, ends, reason);
    behaviour.script.push(then);
    behaviour
}

/// A well-formed answer.
fn answer(status: &str, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} {CANARY}\r\nx-said: {CANARY}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn status(status: &'static str, ends: Ends, reason: &'static str) -> Behaviour {
    says(status, &answer(status, "", CANARY), ends, reason)
}

fn wishing(
    name: &'static str,
    status: &str,
    wish: &str,
    ends: Ends,
    reason: &'static str,
) -> Behaviour {
    let headers = format!("retry-after: {wish}\r\n");
    says(name, &answer(status, &headers, CANARY), ends, reason)
}

const NO: Ends = Ends::No(Wish::Ours);
const LATER: Ends = Ends::Later(Wish::Ours);
const ECHO: &str = "{\"challenge\":\"token\"}";
const NO_ANSWER: &str = "the connection ended without an answer";
const LATE: &str = "no answer in time";
const CUT_OFF: &str = "200 OK, and the answer was cut off";
const CONNECT: &str = "cannot connect: ";

/// Every behaviour.
pub(super) fn all() -> Vec<Behaviour> {
    [
        successes(),
        refusals(),
        wishes(),
        silences(),
        ends(),
        nonsense(),
        tls(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn successes() -> Vec<Behaviour> {
    let echo = |status| answer(status, "", ECHO);
    let long = " ".repeat(70_000);
    let without = "200 OK, without the challenge";
    vec![
        status("200", Ends::Yes, ""),
        status("201", Ends::Yes, ""),
        status("202", Ends::Yes, ""),
        says("204", "HTTP/1.1 204 X\r\n\r\n", Ends::Yes, ""),
        says("200 in HTTP/1.0", "HTTP/1.0 200 X\r\n\r\n", Ends::Yes, ""),
        says("200 with the challenge", &echo("200"), Ends::Yes, "").challenged(),
        says("201 with the challenge", &echo("201"), Ends::Yes, "").challenged(),
        says(
            "200 in pieces with the challenge",
            &in_pieces(ECHO),
            Ends::Yes,
            "",
        )
        .challenged(),
        says(
            "202 with the challenge",
            &echo("202"),
            NO,
            "202 Accepted, expected 200 or 201 with the challenge",
        )
        .challenged(),
        says(
            "204 where the challenge is asked for",
            "HTTP/1.1 204 X\r\nconnection: close\r\n\r\n",
            NO,
            "204 No Content, expected 200 or 201 with the challenge",
        )
        .challenged(),
        says(
            "200 without the challenge",
            &answer("200", "", CANARY),
            NO,
            without,
        )
        .challenged(),
        says(
            "200 with nothing where the challenge is asked for",
            &answer("200", "", ""),
            NO,
            without,
        )
        .challenged(),
        says(
            "200 with another challenge",
            &answer("200", "", &format!("{{\"challenge\":\"{CANARY}\"}}")),
            NO,
            "200 OK, with another challenge",
        )
        .challenged(),
        says(
            "200 with too much for a challenge",
            &answer("200", "", &long),
            NO,
            "200 OK, with more than 65536 bytes",
        )
        .challenged(),
    ]
}

fn in_pieces(body: &str) -> String {
    let (a, b) = body.split_at(7);
    format!(
        "HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n{:x}\r\n{a}\r\n{:x}\r\n{b}\r\n0\r\n\r\n",
        a.len(),
        b.len()
    )
}

fn refusals() -> Vec<Behaviour> {
    let elsewhere = |status| answer(status, "location: /elsewhere\r\n", "");
    vec![
        says(
            "101",
            "HTTP/1.1 101 X\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
            NO,
            "101 ",
        ),
        says("301", &elsewhere("301"), NO, "301 Moved Permanently"),
        says("307", &elsewhere("307"), NO, "307 Temporary Redirect"),
        says(
            "304",
            "HTTP/1.1 304 X\r\nconnection: close\r\n\r\n",
            NO,
            "304 Not Modified",
        ),
        status("400", NO, "400 Bad Request"),
        status("401", NO, "401 Unauthorized"),
        status("403", NO, "403 Forbidden"),
        status("404", NO, "404 Not Found"),
        status("408", LATER, "408 Request Timeout"),
        status("409", NO, "409 Conflict"),
        status("410", Ends::Gone, "410 Gone"),
        status("413", NO, "413 Payload Too Large"),
        status("422", NO, "422 Unprocessable Entity"),
        status("425", LATER, "425 Too Early"),
        status("429", LATER, "429 Too Many Requests"),
        status("500", NO, "500 Internal Server Error"),
        status("502", Ends::Doubt, "502 Bad Gateway"),
        status("503", NO, "503 Service Unavailable"),
        status("504", Ends::Doubt, "504 Gateway Timeout"),
        status("599", NO, "599 "),
        status("999", NO, "999 "),
    ]
}

fn wishes() -> Vec<Behaviour> {
    let later = |wish| Ends::Later(wish);
    let words = "429 Too Many Requests";
    let day = Wish::Seconds(86_400);
    vec![
        wishing(
            "429, seconds",
            "429",
            "120",
            later(Wish::Seconds(120)),
            words,
        ),
        wishing(
            "429, a date",
            "429",
            "Fri, 20 Mar 2026 12:10:00 GMT",
            later(Wish::At("2026-03-20T12:10:00Z")),
            words,
        ),
        wishing(
            "429, no wait at all",
            "429",
            "0",
            later(Wish::Seconds(1)),
            words,
        ),
        wishing("429, a year", "429", "31536000", later(day), words),
        wishing(
            "429, more than can be counted",
            "429",
            &"9".repeat(400),
            later(day),
            words,
        ),
        wishing(
            "429, a date in years",
            "429",
            "Sat, 20 Mar 2049 12:00:00 GMT",
            later(day),
            words,
        ),
        wishing(
            "429, a date that has passed",
            "429",
            "Fri, 20 Mar 2020 12:00:00 GMT",
            LATER,
            words,
        ),
        wishing("429, a negative number", "429", "-120", LATER, words),
        wishing("429, a fraction", "429", "1.5", LATER, words),
        wishing("429, nonsense", "429", CANARY, LATER, words),
        wishing(
            "408, seconds",
            "408",
            "60",
            later(Wish::Seconds(60)),
            "408 Request Timeout",
        ),
        wishing(
            "503, seconds",
            "503",
            "7200",
            Ends::No(Wish::Seconds(7200)),
            "503 ",
        ),
        wishing("503, nonsense", "503", CANARY, NO, "503 "),
        wishing(
            "301, seconds",
            "301",
            "300",
            Ends::No(Wish::Seconds(300)),
            "301 ",
        ),
        // What is in doubt waits as we say, and so does a sink that is paused.
        wishing("504, seconds", "504", "7200", Ends::Doubt, "504 "),
        wishing("410, seconds", "410", "7200", Ends::Gone, "410 "),
    ]
}

const OK_AND_A_PART: &str = "HTTP/1.1 200 X\r\ncontent-length: 21\r\n\r\n{\"chall";
const OK_IN_PIECES: &str = "HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n";

fn silences() -> Vec<Behaviour> {
    let doubt = Ends::Doubt;
    vec![
        does(
            "hangs before it takes a connection",
            vec![],
            Ends::NotSent,
            CONNECT,
        )
        .by(Entry::Full),
        does("hangs before it accepts", vec![], doubt, LATE).by(Entry::Unattended),
        does("hangs after it accepted", vec![Step::Hang], doubt, LATE),
        does(
            "hangs after the headers",
            vec![Step::Head, Step::Hang],
            doubt,
            LATE,
        ),
        says_then("hangs after the request", "", Step::Hang, doubt, LATE),
        says_then(
            "hangs in the status line",
            "HTTP/1.1 20",
            Step::Hang,
            doubt,
            LATE,
        ),
        says_then(
            "hangs in the headers of its answer",
            "HTTP/1.1 200 X\r\ncontent-le",
            Step::Hang,
            doubt,
            LATE,
        ),
        says_then(
            "hangs after a 100",
            "HTTP/1.1 100 X\r\n\r\n",
            Step::Hang,
            doubt,
            LATE,
        ),
        says_then(
            "hangs in its body",
            OK_AND_A_PART,
            Step::Hang,
            Ends::Yes,
            "",
        ),
        says_then(
            "hangs in the challenge",
            OK_AND_A_PART,
            Step::Hang,
            doubt,
            CUT_OFF,
        )
        .challenged(),
        says_then(
            "hangs in the body of a 500",
            &OK_AND_A_PART.replace("200", "500"),
            Step::Hang,
            NO,
            "500 ",
        ),
        says_then(
            "drips its headers",
            "HTTP/1.1 200 X\r\n",
            Step::Drip("x-more: 1\r\n"),
            doubt,
            "",
        ),
        says_then(
            "drips 103s",
            "",
            Step::Drip("HTTP/1.1 103 X\r\n\r\n"),
            doubt,
            "",
        ),
        says_then(
            "drips its challenge",
            OK_IN_PIECES,
            Step::Drip("1\r\n \r\n"),
            doubt,
            CUT_OFF,
        )
        .challenged(),
    ]
}

fn ends() -> Vec<Behaviour> {
    let doubt = Ends::Doubt;
    vec![
        does("nothing listens", vec![], Ends::NotSent, CONNECT).by(Entry::Closed),
        does("closes as soon as it accepted", vec![], doubt, NO_ANSWER),
        does(
            "closes after the headers",
            vec![Step::Head],
            doubt,
            NO_ANSWER,
        ),
        says("closes without a byte", "", doubt, NO_ANSWER),
        says("closes in the status line", "HTTP/1.1 20", doubt, NO_ANSWER),
        says(
            "closes in the headers of its answer",
            "HTTP/1.1 200 X\r\nx: ",
            doubt,
            NO_ANSWER,
        ),
        says("closes in its body", OK_AND_A_PART, Ends::Yes, ""),
        says("closes in the challenge", OK_AND_A_PART, doubt, CUT_OFF).challenged(),
        does(
            "resets as soon as it accepted",
            vec![Step::Reset],
            doubt,
            NO_ANSWER,
        ),
        does(
            "resets after the headers",
            vec![Step::Head, Step::Reset],
            doubt,
            NO_ANSWER,
        ),
        says_then(
            "resets after the request",
            "",
            Step::Reset,
            doubt,
            NO_ANSWER,
        ),
        says_then(
            "resets in the status line",
            "HTTP/1.1 20",
            Step::Reset,
            doubt,
            NO_ANSWER,
        ),
        says_then(
            "resets in the challenge",
            OK_AND_A_PART,
            Step::Reset,
            doubt,
            CUT_OFF,
        )
        .challenged(),
    ]
}

fn nonsense() -> Vec<Behaviour> {
    let doubt = Ends::Doubt;
    let shorter = format!("HTTP/1.1 200 X\r\ncontent-length: 9\r\nconnection: close\r\n\r\n{ECHO}");
    let head = "HTTP/1.1 200 X\r\n";
    let twice = format!("{head}content-length: 1\r\ncontent-length: 2\r\n\r\n..");
    let negative = format!("{head}content-length: -1\r\n\r\n{ECHO}");
    // The next event's answer must not be found in what is left of this one's.
    let left_over = format!("HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n{MENDED}");
    let huge = format!("{head}x: {}\r\n\r\n", CANARY.repeat(10 << 20 >> 4));
    let many = format!("{head}{}\r\n", format!("x: {CANARY}\r\n").repeat(10_000));
    vec![
        says(
            "a challenge that is longer than said",
            &shorter,
            NO,
            "200 OK, without",
        )
        .challenged(),
        says("two lengths", &twice, doubt, NO_ANSWER),
        says("a negative length", &negative, doubt, NO_ANSWER),
        says("a second answer behind the first", &left_over, NO, "500 "),
        says("a header of 10 MB", &huge, doubt, NO_ANSWER),
        says("10,000 headers", &many, doubt, NO_ANSWER),
        says("a body that never ends", OK_IN_PIECES, Ends::Yes, "").pouring(),
        says(
            "a challenge that never ends",
            OK_IN_PIECES,
            NO,
            "200 OK, with more than 65536 bytes",
        )
        .challenged()
        .pouring(),
        says(
            "pieces of no size",
            &format!("{OK_IN_PIECES}{CANARY}\r\n"),
            doubt,
            CUT_OFF,
        )
        .challenged(),
        says(
            "HTTP/0.9",
            &format!("<html>{CANARY}</html>"),
            doubt,
            NO_ANSWER,
        ),
        says("HTTP/7.3", "HTTP/7.3 200 X\r\n\r\n", doubt, NO_ANSWER),
        says(
            "another protocol",
            &format!("220 {CANARY} ESMTP\r\n"),
            doubt,
            NO_ANSWER,
        ),
        says(
            "bytes of no protocol",
            "\0\u{1}\u{2}\u{7f}\r\n\r\n",
            doubt,
            NO_ANSWER,
        ),
        says("status 000", "HTTP/1.1 000 X\r\n\r\n", doubt, NO_ANSWER),
        says("status 1000", "HTTP/1.1 1000 X\r\n\r\n", doubt, NO_ANSWER),
    ]
}

impl Behaviour {
    fn pouring(mut self) -> Self {
        let piece = format!("1000\r\n{}\r\n", " ".repeat(0x1000));
        self.script.push(Step::Pour(piece.into_bytes()));
        self
    }
}

/// The fatal alert `handshake_failure`.
const ALERT: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 40];

fn tls() -> Vec<Behaviour> {
    let (doubt, not_sent) = (Ends::Doubt, Ends::NotSent);
    let handshake = |name, script| does(name, script, not_sent, CONNECT).by(Entry::NoTls);
    let flawed = |name, flaw| says(name, MENDED, not_sent, CONNECT).by(Entry::Tls(flaw));
    let well = Entry::Tls(Flaw::Nothing);
    let plain = format!("HTTP/1.1 400 {CANARY}\r\n\r\n").into_bytes();
    vec![
        says("200 over TLS", MENDED, Ends::Yes, "").by(well),
        says("500 over TLS", &answer("500", "", CANARY), NO, "500 ").by(well),
        flawed("a certificate that signed itself", Flaw::SelfSigned),
        flawed("a certificate that has expired", Flaw::Expired),
        flawed("a certificate of another name", Flaw::OfAnotherName),
        flawed(
            "a certificate of another authority",
            Flaw::OfAnotherAuthority,
        ),
        says(
            "wants a certificate of ours",
            MENDED,
            not_sent,
            "the receiver refused our certificate: ",
        )
        .by(Entry::Tls(Flaw::WantsOurs)),
        handshake("plain text where TLS is expected", vec![Step::Say(plain)]),
        handshake("an alert instead of TLS", vec![Step::Say(ALERT.to_vec())]),
        handshake("hangs instead of TLS", vec![Step::Hang]),
        handshake("closes instead of TLS", vec![]),
        handshake("resets instead of TLS", vec![Step::Reset]),
        does("hangs after the handshake", vec![Step::Hang], doubt, LATE).by(well),
        does(
            "resets after the handshake",
            vec![Step::Reset],
            doubt,
            NO_ANSWER,
        )
        .by(well),
        says("closes without a byte over TLS", "", doubt, NO_ANSWER).by(well),
        says(
            "closes in the challenge over TLS",
            OK_AND_A_PART,
            doubt,
            CUT_OFF,
        )
        .challenged()
        .by(well),
        does(
            "HTTP/2 in name only",
            vec![Step::Say(plain_answer())],
            doubt,
            NO_ANSWER,
        )
        .by(Entry::Tls(Flaw::OnlyHttp2)),
    ]
}

fn plain_answer() -> Vec<u8> {
    answer("200", "", CANARY).into_bytes()
}
