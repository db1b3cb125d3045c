//! Goes through the checks, one by one, and says of each what came of it.

use std::{
    sync::atomic::AtomicBool,
    time::{Duration, Instant},
};

use arguments::Transport;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    Check, ELEMENTARY, Needs, calibration, conversation,
    exam::{Exam, Examined, Stop},
    signals,
    target::Target,
    words::{Language, Words, words},
};

/// For how long an answer to how slow this machine is holds.
const CALIBRATED: Duration = Duration::from_secs(10);

/// How much more patience a server gets that was late, before it is said that it was.
const AGAIN: f64 = 3.0;

/// By how much all durations are stretched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TimeScale {
    /// As this machine needs it, asked every few seconds.
    Auto,
    /// By so much.
    By(f64),
}

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// The server does not have the bug.
    Pass,
    /// It has.
    Fail,
    /// Somebody should look at something that is not wrong.
    Warn,
    /// It has, and that was expected of it.
    ExpectedFailure,
    /// Not made: what it needs is not at hand. The finding says why.
    Skip,
    /// Not made, or without a result, since the server failed at something simpler or is dead: a skip that costs its
    /// points.
    #[serde(rename = "skip")]
    Unjudged,
    /// The fault is the examiner's.
    Error,
}

/// A check that was made.
#[derive(Clone, Debug)]
pub struct Record {
    /// What came of it.
    pub status: Status,
    /// That in a sentence.
    pub finding: Words,
    /// What was seen: figures, bytes, readings.
    pub evidence: Map<String, Value>,
    /// What was seen with less patience, of a server that was late.
    pub at_first: Option<Words>,
    /// Of what was random.
    pub seed: u64,
    /// How long it took.
    pub duration: Duration,
}

impl Record {
    /// What was seen, told in one language.
    pub fn evidence(&self, language: Language) -> Map<String, Value> {
        let at_first = self.at_first.as_ref().map(|seen| ("at_first".to_owned(), seen.told(language).into()));
        self.evidence.clone().into_iter().chain(at_first).collect()
    }
}

/// A check that was made, before it is judged.
struct Attempt {
    examined: Examined,
    evidence: Map<String, Value>,
    at_first: Option<Words>,
}

impl From<Stop> for Attempt {
    /// One that there was no reason for.
    fn from(why_not: Stop) -> Self {
        Self { examined: Err(why_not), evidence: Map::new(), at_first: None }
    }
}

type Look = fn(&Exam<'_>) -> Examined;

/// What every check of streams takes for granted.
#[derive(Debug)]
enum Lack {
    Nothing,
    /// Whoever says a line hears it, and may say another; or what was seen instead.
    Lines(Words),
    /// It serves somebody else when its client has left; or a check that says why it ends.
    Successors(&'static str),
}

fn is_elementary(check: &Check) -> bool {
    ELEMENTARY.iter().any(|it| it.id == check.id)
}

/// Makes checks.
pub struct Examiner<'t> {
    target: &'t Target,
    scale: TimeScale,
    seed: u64,
    expects_iterative: bool,
    /// How slow this machine was, and when that was asked.
    calibrated: Option<(Instant, f64)>,
    /// What it lacks that every check takes for granted, once it was asked.
    lack: Option<Lack>,
    /// What the server said when it was asked for that, until a check tells of it.
    words: Option<Value>,
    /// In which check a server died that we cannot start again.
    died_in: Option<&'static str>,
}

impl<'t> Examiner<'t> {
    /// One who examines `target`; where `expects_iterative`, a server may serve its clients one after the other.
    pub fn new(target: &'t Target, scale: TimeScale, seed: u64, expects_iterative: bool) -> Self {
        Self {
            target,
            scale,
            seed,
            expects_iterative,
            calibrated: None,
            lack: None,
            words: None,
            died_in: None,
        }
    }

    /// Makes a check.
    pub fn examine(&mut self, check: &Check, stop: &AtomicBool) -> Record {
        let began = Instant::now();
        let why_not = self.why_not(check).or_else(|| self.why_no_more(check, stop));
        let Attempt { examined, mut evidence, at_first } = match why_not {
            Some(why) => why.into(),
            None => self.ask(check, check.look, stop),
        };
        if let Some(words) = self.words.take() {
            evidence.entry("stderr").or_insert(words);
        }
        let (status, finding) = match examined {
            Ok(finding) => (Status::Pass, finding),
            Err(Stop::Fault(finding) | Stop::Late(finding)) => (self.failure(check), finding),
            Err(Stop::Doubt(finding)) => (Status::Warn, finding),
            Err(Stop::Skip(why)) => (Status::Skip, why),
            Err(Stop::Unjudged(why) | Stop::Masked(why)) => (Status::Unjudged, why),
            Err(Stop::Harness(sentence)) => (Status::Error, words!("{sentence}", "{sentence}")),
        };
        Record { status, finding, evidence, at_first, seed: self.seed, duration: began.elapsed() }
    }

    /// Asks once, and who was late once more, with more patience; also who was late at something simpler.
    fn ask(&mut self, check: &Check, look: Look, stop: &AtomicBool) -> Attempt {
        let scale = self.stretch();
        match self.attempt(check, look, scale, stop) {
            Attempt { examined: Err(Stop::Late(seen) | Stop::Unjudged(seen)), .. } => {
                self.calibrated = None; // it may be slower than it was
                let more = self.stretch().max(scale) * AGAIN;
                Attempt { at_first: Some(seen), ..self.attempt(check, look, more, stop) }
            }
            attempt => attempt,
        }
    }

    /// Why this cannot be asked of it: one cause does not cost thirty checks. It is found out once.
    fn why_no_more(&mut self, check: &Check, stop: &AtomicBool) -> Option<Stop> {
        // Who cannot be started again is not asked for more before the elementary checks.
        if check.transport != Transport::Tcp || (is_elementary(check) && !self.target.is_started()) {
            return None;
        }
        let lack = match self.lack.take() {
            Some(lack) => lack,
            None => self.what_it_lacks(check, stop),
        };
        match self.lack.insert(lack) {
            Lack::Lines(seen) if !is_elementary(check) => {
                let unjudged = Words::of(
                    "not judged: two plain lines do not come back, see bytes",
                    "未作判断：连两行普通文本都没有返回，见 bytes",
                );
                Some(Stop::Unjudged(unjudged.and(seen)))
            }
            Lack::Successors(see) if *see != check.id => Some(Stop::Unjudged(words!(
                "not judged: it ends when its first client has left, see {see}",
                "未作判断：第一个客户端离开后它就结束了，见 {see}"
            ))),
            Lack::Lines(_) | Lack::Successors(_) | Lack::Nothing => None,
        }
    }

    fn what_it_lacks(&mut self, check: &Check, stop: &AtomicBool) -> Lack {
        let is_started = self.target.is_started();
        let mut fault = |look| match self.ask(check, look, stop) {
            Attempt { examined: Err(Stop::Fault(seen) | Stop::Late(seen)), mut evidence, .. } => {
                self.words = evidence.remove("stderr");
                Some(seen)
            }
            _ => None,
        };
        if !is_started {
            return fault(conversation::two_lines).map_or(Lack::Nothing, Lack::Lines);
        }
        if let Some(seen) = fault(|exam| {
            let server = exam.server()?;
            server.may_end();
            conversation::say_two_lines(exam, &server)
        }) {
            return Lack::Lines(seen);
        }
        if fault(conversation::is_there_for_the_next).is_none() {
            return Lack::Nothing;
        }
        Lack::Successors(if fault(signals::at_rest).is_some() { "eintr" } else { "eof" })
    }

    /// By how much durations are stretched now.
    fn stretch(&mut self) -> f64 {
        match (self.scale, self.calibrated) {
            (TimeScale::By(factor), _) => factor,
            (TimeScale::Auto, Some((asked, factor))) if asked.elapsed() < CALIBRATED => factor,
            (TimeScale::Auto, _) => {
                let factor = calibration::stretch().unwrap_or(1.0);
                self.calibrated = Some((Instant::now(), factor));
                factor
            }
        }
    }

    /// Makes it once. Who dies of it has failed it, whatever else was seen.
    fn attempt(&mut self, check: &Check, look: Look, scale: f64, stop: &AtomicBool) -> Attempt {
        let exam = Exam::new(self.target, check, scale, self.seed, stop);
        let examined = look(&exam);
        let (mut evidence, death) = exam.end();
        evidence.insert("time_scale".into(), ((scale * 10.0).round() / 10.0).into());
        let Some(death) = death else { return Attempt { examined, evidence, at_first: None } };
        if !self.target.is_started() {
            self.died_in = Some(check.id);
        }
        let examined = match examined {
            Err(Stop::Fault(seen) | Stop::Late(seen)) => Err(Stop::Fault(death.and(&seen))),
            Ok(_) | Err(Stop::Doubt(_) | Stop::Skip(_) | Stop::Unjudged(_) | Stop::Masked(_)) => {
                Err(Stop::Fault(death))
            }
            other => other,
        };
        Attempt { examined, evidence, at_first: None }
    }

    fn failure(&self, check: &Check) -> Status {
        if self.expects_iterative && check.is_iteratives { Status::ExpectedFailure } else { Status::Fail }
    }

    /// Why a check cannot be made.
    fn why_not(&self, check: &Check) -> Option<Stop> {
        if check.needs <= self.target.offers() {
            let is_dead = |id| {
                Stop::Unjudged(words!("not run: the server died in {id}", "未执行：服务器在 {id} 中死了"))
            };
            return self.died_in.map(is_dead);
        }
        Some(Stop::Skip(match check.needs {
            Needs::BlackBox | Needs::Pid => {
                Words::of("needs the server's process: give --pid", "需要服务器的进程号：请用 --pid 给出")
            }
            Needs::Spawned | Needs::Root => Words::of(
                "needs a server that is started here: give its command behind --",
                "需要由本程序启动服务器：请在 -- 之后给出它的命令",
            ),
        }))
    }
}
