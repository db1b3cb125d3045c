//! JUnit's XML, as Jenkins's xunit plugin defines it (its schema is junit-10.xsd).

use std::{io, time::Duration};

use quick_xml::{
    Writer,
    events::{BytesDecl, BytesText, Event},
};

use super::{Entry, Sheet};
use crate::check::{examiner::Status, words::Language};

type Xml = Writer<Vec<u8>>;

/// The sheet as JUnit's XML.
pub fn write(sheet: &Sheet) -> String {
    let mut xml = Writer::new_with_indent(Vec::new(), b' ', 2);
    // The writer fails as what it writes to does, and memory does not.
    let _ = suites(&mut xml, sheet);
    String::from_utf8_lossy(&xml.into_inner()).into_owned() + "\n"
}

fn suites(xml: &mut Xml, sheet: &Sheet) -> io::Result<()> {
    xml.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let count = |kind| sheet.entries.iter().filter(|entry| kind_of(entry) == kind).count().to_string();
    let (tests, failures, errors) =
        (sheet.entries.len().to_string(), count(Kind::Failure), count(Kind::Error));
    let time = seconds(sheet.duration());
    let totals = [
        ("name", sheet.title.as_str()),
        ("tests", &tests),
        ("failures", &failures),
        ("errors", &errors),
        ("time", &time),
    ];
    let skipped = count(Kind::Skipped);
    xml.create_element("testsuites").with_attributes(totals).write_inner_content(|xml| {
        let suite = xml.create_element("testsuite").with_attributes(totals);
        suite.with_attribute(("skipped", skipped.as_str())).write_inner_content(|xml| {
            sheet.entries.iter().try_for_each(|entry| case(xml, entry, sheet.language))
        })?;
        Ok(())
    })?;
    Ok(())
}

/// What JUnit has for it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Success,
    Failure,
    Error,
    Skipped,
}

fn kind_of(entry: &Entry) -> Kind {
    match entry.status() {
        Some(Status::Pass | Status::Warn) => Kind::Success,
        Some(Status::Fail) => Kind::Failure,
        Some(Status::Skip | Status::Unjudged | Status::ExpectedFailure) => Kind::Skipped,
        Some(Status::Error) | None => Kind::Error,
    }
}

/// A check: its name and that of its class are its own, whatever the language, so that its history stays one.
fn case(xml: &mut Xml, entry: &Entry, language: Language) -> io::Result<()> {
    let class = format!("check.{}", entry.check.transport.name());
    let time = seconds(entry.duration());
    let case = xml.create_element("testcase").with_attributes([
        ("name", entry.check.id),
        ("classname", &class),
        ("time", &time),
    ]);
    let (finding, told) = (entry.finding(language), entry.told(language));
    let body = format!("{}\n{told}", entry.title(language));
    let element = match kind_of(entry) {
        Kind::Success => "system-out",
        Kind::Failure => "failure",
        Kind::Error => "error",
        Kind::Skipped => "skipped",
    };
    case.write_inner_content(|xml| {
        let mut element = xml.create_element(element);
        if kind_of(entry) != Kind::Success {
            element = element.with_attribute(("message", finding));
        }
        element.write_text_content(BytesText::new(&body))?;
        Ok(())
    })?;
    Ok(())
}

/// With three digits behind the point: the schema knows no more.
fn seconds(duration: Duration) -> String {
    format!("{:.3}", duration.as_secs_f64())
}
