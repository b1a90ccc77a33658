//! The pages that people see: the authorize page and the front page. Plain HTML.

use super::world::SimClinic;

/// What the authorize form carries on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form<'a> {
    pub(super) client_id: &'a str,
    pub(super) redirect_uri: &'a str,
    pub(super) state: Option<&'a str>,
}

/// The page on which a person picks a clinic and allows or denies.
pub(super) fn authorize(form: Form<'_>, clinics: &[SimClinic]) -> String {
    let mut body = String::from(
        "<h1>Authorize</h1><p>This is the simulator: nobody here exists. An app asks for access to the events of a \
         clinic.</p><form method=\"post\">",
    );
    let mut hidden = |name: &str, value: &str| {
        write_to(
            &mut body,
            format_args!(
                "<input type=\"hidden\" name=\"{name}\" value=\"{}\">",
                escape(value)
            ),
        );
    };
    hidden("client_id", form.client_id);
    hidden("redirect_uri", form.redirect_uri);
    if let Some(state) = form.state {
        hidden("state", state);
    }
    body.push_str("<p><label>Clinic <select name=\"clinic_id\">");
    for clinic in clinics {
        write_to(
            &mut body,
            format_args!(
                "<option value=\"{}\">{}</option>",
                escape(&clinic.clinic_id),
                escape(&clinic.name)
            ),
        );
    }
    body.push_str(
        "</select></label></p><p><button name=\"decision\" value=\"allow\">Allow</button> \
         <button name=\"decision\" value=\"deny\">Deny</button></p></form>",
    );
    page("Authorize", &body)
}

/// What this server is.
pub(super) fn front(clinics: &[SimClinic], events: usize) -> String {
    let mut body = format!(
        "<h1>Fullscript API simulator</h1><p>An imitation of the Fullscript events API, for tests. Everything in it is \
         made up. {events} events were made so far.</p><ul><li><a href=\"/_control/counters\">What was asked and \
         answered</a></li><li><a href=\"/_control/events\">All events</a></li></ul><h2>Clinics</h2><table>"
    );
    for clinic in clinics {
        write_to(
            &mut body,
            format_args!(
                "<tr><td>{}</td><td><code>{}</code></td></tr>",
                escape(&clinic.name),
                escape(&clinic.clinic_id)
            ),
        );
    }
    body.push_str("</table>");
    page("Fullscript API simulator", &body)
}

fn page(title: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title><style>body{{font-family:\
         sans-serif;max-width:40em;margin:3em auto}}td{{padding-right:1em}}</style></head><body>{body}</body></html>"
    )
}

fn write_to(text: &mut String, what: std::fmt::Arguments<'_>) {
    text.push_str(&what.to_string());
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_app_sent_cannot_become_markup() {
        let form = Form {
            client_id: "c",
            redirect_uri: "http://127.0.0.1/",
            state: Some("\"><script>"),
        };
        assert!(authorize(form, &[]).contains("value=\"&quot;&gt;&lt;script&gt;\""));
    }
}
