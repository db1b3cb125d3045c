//! `echo-client report`, and its page in a browser.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    stage::{echo_client, echo_server, lesson},
    suite::{
        Promise,
        browser::{Browser, axe},
        compare::is_of_the_machine,
        promises,
    },
};

pub const PROMISES: &[Promise] = promises![
    a_report_is_a_page_a_text_the_rows_and_the_pictures,
    the_page_has_no_errors_and_asks_nobody_for_anything,
    every_picture_is_a_file_that_a_browser_draws,
    a_value_shows_under_the_pointer_and_under_the_keys,
    a_series_is_switched_off_and_on_in_every_chart,
    a_telephone_shows_it_without_sideways_scroll,
    it_is_dark_where_the_system_is_or_the_switch_says_so_and_light_on_paper,
    nobody_is_kept_out_in_light_and_dark,
];

/// A name that a page must not take for its own words.
const NAME: &str = "<b>\"&'</b>";

/// A short run of three contenders, one of whom serves one client at a time.
fn results() -> &'static Path {
    static RUN: OnceLock<TempDir> = OnceLock::new();
    let made = || {
        let folder = tempfile::tempdir().unwrap();
        let server = format!("{NAME}={} 127.0.0.1:{{port}}", lesson("03_iterative").display());
        let mut command = Command::new(echo_client());
        command.args([
            "compare",
            "--models",
            "event-loop,thread",
            "--with",
            &server,
            "--scenario",
            "echo,churn",
        ]);
        command.args(["--connections", "1,2", "--blocks", "3", "--duration", "200ms", "--warmup", "50ms"]);
        command.arg("--server").arg(echo_server()).arg("--results").arg(folder.path().join("this-week"));
        let output = command.stdin(Stdio::null()).output().unwrap();
        // One of them has no figure at two connections.
        assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
        count_what_the_machine_was_too_busy_for(&folder.path().join("this-week/cells.csv"));
        folder
    };
    RUN.get_or_init(made).path()
}

/// While other tests use the processors too, a client may be the bound. That is no matter to a page.
fn count_what_the_machine_was_too_busy_for(rows: &Path) {
    let mut read = csv::Reader::from_path(rows).unwrap();
    let head = read.headers().unwrap().clone();
    let all: Vec<csv::StringRecord> = read.records().collect::<Result<_, _>>().unwrap();
    let mut written = csv::Writer::from_path(rows).unwrap();
    written.write_record(&head).unwrap();
    for row in all {
        let is_void = row.iter().any(is_of_the_machine);
        let word = |word| {
            if is_of_the_machine(word) || is_void && ["measure", "client"].contains(&word) {
                ""
            } else {
                word
            }
        };
        written.write_record(row.iter().map(word)).unwrap();
    }
    written.flush().unwrap();
}

/// A report of it, with itself as the earlier run.
fn report(folder: &Path) -> PathBuf {
    let this_week = results().join("this-week");
    let mut command = Command::new(echo_client());
    command.arg("report").arg(&this_week).arg(&this_week).arg("-o").arg(folder);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    let page = folder.join("index.html");
    assert!(said.ends_with(&format!("\nreport: {}\n", page.display())), "{said}");
    // What it finds is the machine's affair; the text finds the same.
    let text = fs::read_to_string(folder.join("report.md")).unwrap();
    let findings: Vec<String> = text
        .lines()
        .filter_map(|line| {
            Some(line.strip_prefix("1. ")?.replace('\\', "").replace("&lt;", "<").replace("&amp;", "&"))
        })
        .collect();
    let unfolded = said.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(!findings.is_empty() && findings.iter().all(|it| unfolded.contains(it)), "{findings:?} {said}");
    page
}

fn opened() -> (TempDir, Browser) {
    let folder = tempfile::tempdir().unwrap();
    let page = report(folder.path());
    (folder, Browser::open(&page))
}

fn a_report_is_a_page_a_text_the_rows_and_the_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let page = fs::read_to_string(report(folder.path())).unwrap();
    assert!(page.len() < 400_000, "{} bytes", page.len());
    assert!(!page.contains("<b>\"&"), "a name is no markup");
    let text = fs::read_to_string(folder.path().join("report.md")).unwrap();
    assert!(text.contains("| event-loop |") && text.contains("### What changed since this-week"), "{text}");
    let (told, _command) = text.split_once("\n```\n").unwrap();
    assert!(!told.contains("<b>"), "{told}");
    let rows = |path: &Path| fs::read_to_string(path).unwrap();
    assert_eq!(rows(&folder.path().join("cells.csv")), rows(&results().join("this-week/cells.csv")));
    let charts: Vec<PathBuf> =
        fs::read_dir(folder.path().join("charts")).unwrap().map(|entry| entry.unwrap().path()).collect();
    for name in ["echo-throughput", "echo-percentiles", "echo-distribution", "churn-cpu"] {
        assert!(charts.iter().any(|path| path.ends_with(format!("{name}.svg"))), "{name}: {charts:?}");
    }
    let nobody = tempfile::tempdir().unwrap();
    let refused = Command::new(echo_client()).arg("report").arg(nobody.path()).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
}

fn the_page_has_no_errors_and_asks_nobody_for_anything() {
    let (folder, browser) = opened();
    let name =
        browser.run("return [...document.querySelectorAll('.matrix tbody th')].map(e => e.textContent)");
    assert!(name.as_array().unwrap().contains(&NAME.into()), "{name}");
    let asked = browser.run("return performance.getEntriesByType('resource').map(it => it.name)");
    assert_eq!(asked, serde_json::json!([]));
    for entry in browser.log("performance") {
        let message: Value = serde_json::from_str(entry["message"].as_str().unwrap()).unwrap();
        let event = &message["message"];
        // Before the page there was a tab of the browser's own.
        let of_the_page = event["params"]["documentURL"].as_str().is_some_and(|url| url.starts_with("file:"));
        if event["method"] == "Network.requestWillBeSent" && of_the_page {
            let url = event["params"]["request"]["url"].as_str().unwrap();
            let itself = format!("file://{}", folder.path().join("index.html").display());
            assert!(url == itself || url.starts_with("data:"), "{url}");
        }
    }
    assert_eq!(browser.log("browser"), Vec::<Value>::new());
}

fn every_picture_is_a_file_that_a_browser_draws() {
    let (folder, browser) = opened();
    for entry in fs::read_dir(folder.path().join("charts")).unwrap() {
        let path = entry.unwrap().path();
        browser.go(&path);
        let drawn =
            "const s = document.documentElement; return [s.localName, s.querySelectorAll('.mark').length]";
        let drawn = browser.run(drawn);
        assert_eq!(drawn[0], "svg", "{}", path.display());
        assert!(drawn[1].as_u64() > Some(0), "{}: {drawn}", path.display());
    }
    assert_eq!(browser.log("browser"), Vec::<Value>::new());
}

fn a_value_shows_under_the_pointer_and_under_the_keys() {
    let (_folder, browser) = opened();
    let tip =
        "const t = document.querySelector('#echo-throughput .tip'); return t.hidden ? '' : t.textContent";
    assert_eq!(browser.run(tip), "");
    let place = browser.run(
        "const m = document.querySelector('#echo-throughput .mark');
         m.scrollIntoView({block: 'center'});
         const b = m.getBoundingClientRect();
         return [b.x + b.width / 2, b.y + b.height / 2, m.closest('.series').dataset.name, m.dataset.said]",
    );
    browser.point_at(place[0].as_f64().unwrap() + 2.0, place[1].as_f64().unwrap() - 1.0);
    let told = format!("{}, {}", place[2].as_str().unwrap(), place[3].as_str().unwrap());
    // Two marks may lie upon each other; one of them it is.
    let shown = browser.run(tip);
    assert!(shown.as_str().unwrap().contains("1 connection: "), "{shown}, not {told}");
    browser.point_at(1.0, 1.0);
    assert_eq!(browser.run(tip), "");

    browser.run("document.querySelector('#echo-throughput .plot').focus({focusVisible: true})");
    let who = |tip: &Value| tip.as_str().unwrap().split(", ").next().unwrap().to_owned();
    let mut first = browser.run(tip);
    if who(&first) == NAME {
        browser.press("ArrowDown"); // who serves one client at a time has no figure for two
        first = browser.run(tip);
    }
    assert!(first.as_str().unwrap().contains("1 connection: "), "{first}");
    browser.press("ArrowRight");
    let second = browser.run(tip);
    assert!(second.as_str().unwrap().contains("2 connections: "), "{second}");
    browser.press("ArrowDown");
    let other = browser.run(tip);
    assert_ne!(who(&other), who(&second));
    browser.press("Tab");
    assert_eq!(browser.run(tip), "", "where nobody looks nothing is told");
}

fn a_series_is_switched_off_and_on_in_every_chart() {
    let (_folder, browser) = opened();
    let seen = "const all = [...document.querySelectorAll('.plot .series')].filter(g => g.dataset.name === 'thread');
                return [all.length, all.filter(g => getComputedStyle(g).visibility === 'visible').length]";
    let before = browser.run(seen);
    assert_eq!(before[0], before[1]);
    assert!(before[0].as_u64() > Some(8), "{before}");
    let focus =
        "const b = [...document.querySelectorAll('.legend button')].find(b => b.textContent === 'thread');
                 b.focus(); return b.getAttribute('aria-pressed')";
    assert_eq!(browser.run(focus), "true");
    browser.press("Enter");
    assert_eq!(browser.run(focus), "false");
    assert_eq!(browser.run(seen)[1], 0);
    browser.press("Enter");
    assert_eq!(browser.run(seen), before);
}

fn a_telephone_shows_it_without_sideways_scroll() {
    let (_folder, browser) = opened();
    browser.widen(400);
    assert_eq!(browser.run("return innerWidth"), 400);
    browser.run("document.querySelectorAll('details').forEach(d => d.open = true)");
    let width = browser.run("return document.scrollingElement.scrollWidth");
    assert!(width.as_u64() <= Some(400), "{width}");
    // What is wider scrolls by itself, and the keyboard reaches it.
    let wider = "return [...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth)
                 .every(e => e.tabIndex === 0 && e.getAttribute('aria-label'))";
    assert_eq!(browser.run(wider), true);
}

fn it_is_dark_where_the_system_is_or_the_switch_says_so_and_light_on_paper() {
    let (_folder, browser) = opened();
    let paper = "return getComputedStyle(document.body).backgroundColor";
    let ink = "return getComputedStyle(document.body).color";
    let pressed = "return document.querySelector('.theme').getAttribute('aria-pressed')";
    browser.prefer("light");
    let (light, light_ink) = (browser.run(paper), browser.run(ink));
    browser.prefer("dark");
    let dark = browser.run(paper);
    assert_ne!(light, dark);
    assert_eq!(browser.run(pressed), "true");
    browser.run("document.querySelector('.theme').click()");
    assert_eq!((browser.run(paper), browser.run(pressed)), (light.clone(), "false".into()));
    browser.run("document.querySelector('.theme').click()");
    assert_eq!((browser.run(paper), browser.run(pressed)), (dark, "true".into()));
    browser.print();
    assert_eq!((browser.run(paper), browser.run(ink)), ("rgb(255, 255, 255)".into(), light_ink));
    let hidden = "return [...document.querySelectorAll('.theme, summary')]
                  .every(e => getComputedStyle(e).display === 'none')";
    assert_eq!(browser.run(hidden), true);
    let open = "dispatchEvent(new Event('beforeprint'));
                return [...document.querySelectorAll('details')].every(d => d.open)";
    assert_eq!(browser.run(open), true);
}

fn nobody_is_kept_out_in_light_and_dark() {
    let (_folder, browser) = opened();
    browser.run("document.querySelectorAll('details').forEach(d => d.open = true)");
    browser.run(&axe());
    for scheme in ["light", "dark"] {
        browser.prefer(scheme);
        let faults = browser.run_until_called(
            "const done = arguments[arguments.length - 1];
             axe.run({resultTypes: ['violations']}).then(
                 r => done(r.violations.filter(v => ['serious', 'critical'].includes(v.impact))
                     .map(v => [v.id, v.help, v.nodes.slice(0, 3).map(n => n.html.slice(0, 200) + n.failureSummary)])),
                 e => done(String(e)))",
        );
        assert_eq!(faults, serde_json::json!([]), "in {scheme}");
    }
}
