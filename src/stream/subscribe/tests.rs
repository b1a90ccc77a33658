use super::*;
use crate::domain::EventType;

/// iCure's own first frame, as its SDK sends it.
const ICURE: &str = r#"{"eventTypes":["CREATE"],"entityClass":"org.taktik.icure.entities.Patient",
    "filter":{"filter":{"$type":"ByNameFilter","pattern":"*"}}}"#;

fn facts(event_type: &str, clinic: &str) -> Facts {
    let event_type = EventType::new(event_type).unwrap();
    Facts {
        event: "e".to_owned(),
        operation: event_type.operation(),
        entity_class: event_type.entity(),
        names: event_type.names(),
        event_type,
        clinic: name(clinic),
        clinic_id: None,
        patient: None,
        entity: None,
        created_at: chrono::DateTime::UNIX_EPOCH,
    }
}

fn name(text: &str) -> ClinicName {
    ClinicName::new(text).unwrap()
}

fn clinics() -> Clinics {
    vec![(name("oak"), Some("id-1".to_owned())), (name("elm"), None)]
}

fn grant(of: &[&str], entities: &[&str]) -> Grant {
    let entities: BTreeSet<String> = entities.iter().map(|text| (*text).to_owned()).collect();
    Grant {
        name: "desk".to_owned(),
        clinics: ClinicSelection::Named(of.iter().map(|text| name(text)).collect()),
        entities: if entities.is_empty() {
            EntitySelection::All
        } else {
            EntitySelection::Named(entities)
        },
        phi: Phi::Ids,
    }
}

fn from_query(query: &str) -> Result<Request, Refusal> {
    Request::from_query(query, 8, |_, _| Ok(false))
}

#[test]
fn icures_first_frame_is_understood_as_it_is() {
    let request = Request::from_json(ICURE, 8).unwrap();
    let wanted = request
        .granted(&grant(&["oak"], &[]), &clinics(), &str::to_owned)
        .unwrap();
    assert!(wanted.wants(&facts("patient.created", "oak")));
    assert!(!wanted.wants(&facts("patient.updated", "oak")));
    assert!(!wanted.wants(&facts("order.placed", "oak")));
    assert!(!wanted.wants(&facts("patient.created", "elm")));
}

#[test]
fn a_frame_and_parameters_say_the_same() {
    let frame = r#"{"eventTypes":["CREATE","UPDATE"],"entityClass":["Patient","Order"],"after":"0123abcd-7",
        "filter":{"$type":"ByClinicFilter","clinics":["oak","elm"]}}"#;
    let query =
        "eventTypes=CREATE,UPDATE&entityClass=Patient,Order&clinic=oak,elm&after=0123abcd-7";
    assert_eq!(Request::from_json(frame, 8), from_query(query));
    let whole: String = url::form_urlencoded::byte_serialize(frame.as_bytes()).collect();
    assert_eq!(
        from_query(&format!("subscribe={whole}")),
        Request::from_json(frame, 8)
    );
    assert!(from_query(&format!("subscribe={whole}&clinic=oak")).is_err());
    assert!(from_query("entity=Patient").is_err());
    // However many parameters there are, together they are one filter, and no larger than one.
    assert!(from_query(&"name=a&".repeat(7)).is_ok());
    assert!(from_query(&"name=a&".repeat(8)).is_err());
    assert!(from_query("filter=%7B").is_err());
}

#[test]
fn whoever_asks_for_nothing_in_particular_gets_what_the_token_has() {
    let request = Request::from_json("{}", 8).unwrap();
    let wanted = request.granted(&grant(&["oak"], &["Patient"]), &clinics(), &str::to_owned);
    let wanted = wanted.unwrap();
    for (event_type, clinic, expected) in [
        ("patient.created", "oak", true),
        ("patient.merged", "oak", true),
        ("patient.created", "elm", false),
        ("order.placed", "oak", false),
        // An entity that nobody has heard of is none that was granted.
        ("lab_result.created", "oak", false),
    ] {
        assert_eq!(
            wanted.wants(&facts(event_type, clinic)),
            expected,
            "{event_type}"
        );
    }
}

#[test]
fn asking_beyond_the_token_is_refused_aloud() {
    let asked = |text: &str, grant: &Grant| {
        let request = Request::from_json(text, 8).unwrap();
        request.granted(grant, &clinics(), &str::to_owned).map(drop)
    };
    let oak = grant(&["oak"], &["Patient"]);
    for frame in [
        r#"{"entityClass":"*"}"#,
        r#"{"entityClass":"Order"}"#,
        r#"{"filter":{"$type":"ByClinicFilter","clinics":["elm"]}}"#,
        r#"{"filter":{"$type":"ByClinicFilter","clinics":["oak","elm"]}}"#,
        r#"{"filter":{"$type":"ByClinicFilter","clinics":["id-2"]}}"#,
    ] {
        assert!(
            matches!(asked(frame, &oak), Err(Refusal::Forbidden(_))),
            "{frame}"
        );
    }
    for frame in [
        r#"{"entityClass":"Patient"}"#,
        r#"{"filter":{"$type":"ByClinicFilter","clinics":["oak","id-1"]}}"#,
    ] {
        assert_eq!(asked(frame, &oak), Ok(()), "{frame}");
    }
}
