//! A browser for tests: Debian's chromium, driven through its chromedriver, both surely ended.

use std::{
    fs,
    io::{BufRead, BufReader},
    iter,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use fantoccini::{Client, ClientBuilder, error::CmdError, wd::WebDriverCompatibleCommand};
use hyper_util::client::legacy::connect::HttpConnector;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{runtime::Runtime, time::timeout};

use crate::stage::{PATIENCE, ROOT, tree};

/// A window of a browser of its own, with a profile of its own.
pub struct Browser {
    driver: Child,
    client: Client,
    runtime: Runtime,
    _profile: TempDir,
}

/// A command that WebDriver itself does not have: chromedriver does.
#[derive(Debug)]
struct OfChromium {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for OfChromium {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(self.body.to_string()))
    }
}

impl Browser {
    /// Opens a window on a file.
    pub fn open(page: &Path) -> Self {
        let (mut driver, address) = drivers().find_map(Result::ok).expect("a chromedriver that listens");
        let profile = tempfile::tempdir().unwrap();
        let flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            &format!("--user-data-dir={}", profile.path().display()),
        ];
        let wanted = json!({
            "goog:chromeOptions": { "args": flags },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        });
        let Value::Object(wanted) = wanted else { unreachable!() };
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut asked = ClientBuilder::new(HttpConnector::new());
        let connect = asked.capabilities(wanted).connect(&address);
        let client = runtime.block_on(async { timeout(PATIENCE, connect).await });
        let client = match client {
            Ok(Ok(client)) => client,
            other => {
                end(&mut driver);
                panic!("no session with chromium: {other:?}");
            }
        };
        let browser = Self { driver, client, runtime, _profile: profile };
        browser.go(page);
        browser
    }

    /// Opens another file.
    #[track_caller]
    pub fn go(&self, page: &Path) {
        self.wait(self.client.goto(&format!("file://{}", page.display())));
    }

    #[track_caller]
    fn wait<T>(&self, work: impl Future<Output = Result<T, CmdError>>) -> T {
        let done = self.runtime.block_on(async { timeout(PATIENCE, work).await });
        done.expect("the browser answers in time").expect("the browser does it")
    }

    /// What a script's body returns, in the page.
    #[track_caller]
    pub fn run(&self, script: &str) -> Value {
        self.wait(self.client.execute(script, Vec::new()))
    }

    /// What a script hands to its last argument, which is a function.
    #[track_caller]
    pub fn run_until_called(&self, script: &str) -> Value {
        self.wait(self.client.execute_async(script, Vec::new()))
    }

    /// A command of the DevTools' protocol.
    #[track_caller]
    pub fn devtools(&self, name: &str, parameters: Value) -> Value {
        let body = json!({ "cmd": name, "params": parameters });
        self.wait(self.client.issue_cmd(OfChromium { path: "goog/cdp/execute", body }))
    }

    /// What was logged since the last time: `browser` is the console, `performance` what the network was asked.
    #[track_caller]
    pub fn log(&self, kind: &str) -> Vec<Value> {
        let told =
            self.wait(self.client.issue_cmd(OfChromium { path: "se/log", body: json!({ "type": kind }) }));
        told.as_array().cloned().unwrap_or_default()
    }

    /// Makes the window as wide as a telephone, or as a desk.
    pub fn widen(&self, width: u32) {
        let size = json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", size);
    }

    /// What the system prefers: `dark` or `light`.
    pub fn prefer(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// Shows the page as on paper.
    pub fn print(&self) {
        self.devtools("Emulation.setEmulatedMedia", json!({ "media": "print" }));
    }

    /// Moves the pointer to a place in the window.
    pub fn point_at(&self, x: f64, y: f64) {
        self.devtools("Input.dispatchMouseEvent", json!({ "type": "mouseMoved", "x": x, "y": y }));
    }

    /// Presses a key that has a name.
    pub fn press(&self, key: &str) {
        let code = match key {
            "Tab" => 9,
            "Enter" => 13,
            "ArrowUp" => 38,
            "ArrowRight" => 39,
            "ArrowDown" => 40,
            other => panic!("{other}?"),
        };
        // Enter writes something, and only so does it press a button.
        let text = if key == "Enter" { "\r" } else { "" };
        for kind in ["keyDown", "keyUp"] {
            let event =
                json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text });
            self.devtools("Input.dispatchKeyEvent", event);
        }
    }
}

/// Drivers, and where they listen. One that asked for a free port ends at once when the one that it was given for IPv6
/// is not free for IPv4: then another may be luckier.
fn drivers() -> impl Iterator<Item = Result<(Child, String), ExitStatus>> {
    iter::repeat_with(|| {
        let mut driver = Command::new("chromedriver");
        driver.arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let mut driver = driver.spawn().expect("chromedriver: make tools installs it");
        address(&mut driver).map(|address| (driver, address))
    })
    .take(100)
}

/// Where it listens: it says so, or ends.
fn address(driver: &mut Child) -> Result<String, ExitStatus> {
    let (tell, told) = mpsc::channel();
    let said = BufReader::new(driver.stdout.take().unwrap());
    thread::spawn(move || {
        for line in said.lines().map_while(Result::ok) {
            if let Some((_, port)) = line.split_once("started successfully on port ") {
                let _ = tell.send(format!("http://127.0.0.1:{}", port.trim_end_matches('.')));
            }
        }
    });
    match told.recv_timeout(PATIENCE) {
        Ok(address) => Ok(address),
        Err(RecvTimeoutError::Disconnected) => Err(driver.wait().expect("its end")),
        Err(RecvTimeoutError::Timeout) => {
            end(driver);
            panic!("chromedriver does not say where it listens")
        }
    }
}

/// Ends it and all that it started.
fn end(driver: &mut Child) {
    let all: Vec<i32> = tree(driver.id().cast_signed()).iter().map(|process| process.pid).collect();
    for pid in all {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    let _ = driver.wait();
}

impl Drop for Browser {
    fn drop(&mut self) {
        let close = self.client.clone().close();
        let _ = self.runtime.block_on(async { timeout(Duration::from_secs(5), close).await });
        end(&mut self.driver);
    }
}

/// What finds faults of accessibility: axe-core, as `make tools` fetches it.
pub fn axe() -> String {
    let path = Path::new(ROOT).join("target/tools/node_modules/axe-core/axe.min.js");
    fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; make tools fetches it", path.display()))
}
