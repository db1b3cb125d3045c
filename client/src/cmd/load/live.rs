//! How a run goes, on the whole terminal; and the keys that change its rate.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use nix::sys::signal::{Signal, raise};
use ratatui::{
    Frame,
    crossterm::event::{KeyCode, KeyEvent},
    layout::{Constraint, Layout, Rect},
    style::{Color, Style, Stylize},
    symbols::Marker,
    text::{Line, Span},
    widgets::{Axis, Block, Borders, Chart, Dataset, GraphType, Paragraph, Wrap},
};
use screen::{Input, Screen};

use super::{
    Percentiles, Verdict,
    course::{Course, Display, Point},
    us,
};
use crate::load::{Audit, Pace};

/// How often it is drawn, at most: what is drawn takes the processor from what is measured.
const PERIOD: Duration = Duration::from_millis(250);

/// The smallest terminal that it has room on: columns and lines.
const LEAST: (u16, u16) = (60, 20);

/// The rates that keys lead to.
const RATES: (f64, f64) = (1.0, 1e7);

/// The whole terminal, until this is dropped.
pub struct Live {
    screen: Screen,
    stop: Arc<AtomicBool>,
    next: Instant,
    /// Whether something is to be seen that the user did.
    is_stale: bool,
    is_paused: bool,
}

impl Live {
    /// Takes the terminal; a key sets `stop`.
    ///
    /// # Errors
    /// A sentence, where there is none or it refuses.
    pub fn take(stop: &Arc<AtomicBool>) -> Result<Self, String> {
        let (screen, stop) = (Screen::take()?, Arc::clone(stop));
        Ok(Self { screen, stop, next: Instant::now(), is_stale: true, is_paused: false })
    }

    /// What the user has done since; returns how many times the rate is to be what it is.
    fn listen(&mut self) -> Result<f64, String> {
        let mut factor = 1.0;
        while let Some(input) = self.screen.input(Duration::ZERO)? {
            self.is_stale = true;
            if let Input::Key(key) = input {
                factor *= self.obey(key);
            }
        }
        Ok(factor)
    }

    fn obey(&mut self, key: KeyEvent) -> f64 {
        match key.code {
            // The first one asks for an end, the second one ends at once, as elsewhere.
            _ if screen::interrupts(key) => drop(raise(Signal::SIGINT)),
            _ if screen::ends(key) => self.stop.store(true, Relaxed),
            KeyCode::Char('p') => self.is_paused = !self.is_paused,
            KeyCode::Up => return 1.1,
            KeyCode::Down => return 0.9,
            KeyCode::PageUp => return 2.0,
            KeyCode::PageDown => return 0.5,
            _ => {}
        }
        1.0
    }
}

impl Display for Live {
    /// How long a key may wait.
    const EVERY: Duration = Duration::from_millis(50);

    fn show(&mut self, course: &Course) -> Option<f64> {
        // A terminal that is no more is as one whose user has asked for an end.
        let factor = self.listen().unwrap_or_else(|_| {
            self.stop.store(true, Relaxed);
            1.0
        });
        if Instant::now() >= self.next && (self.is_stale || !self.is_paused) {
            let is_paused = self.is_paused;
            if self.screen.draw(|frame| draw(frame, course, is_paused)).is_err() {
                self.stop.store(true, Relaxed);
            }
            (self.is_stale, self.next) = (false, Instant::now() + PERIOD);
        }
        let rate = course.rate.filter(|_| course.takes_another_rate())?;
        let wanted = ((rate * factor * 10.0).round() / 10.0).clamp(RATES.0.min(rate), RATES.1);
        (factor != 1.0 && wanted != rate).then_some(wanted)
    }
}

fn draw(frame: &mut Frame<'_>, course: &Course, is_paused: bool) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let (columns, lines) = LEAST;
        let sorry = format!("too small: {columns}x{lines} at least; q ends");
        return frame.render_widget(Paragraph::new(sorry).wrap(Wrap { trim: true }), area);
    }
    let lower = (area.height / 3).max(9);
    let rows = [Constraint::Length(1), Constraint::Length(3), Constraint::Min(0), Constraint::Length(lower)];
    let [head, figures, charts, lower, foot] =
        Layout::vertical(rows.into_iter().chain([Constraint::Length(1)])).areas(area);
    let halves = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).spacing(1);
    let [upper_left, upper_right] = halves.areas(charts);
    let [lower_left, lower_right] = halves.areas(lower);
    draw_head(frame, course, head);
    frame.render_widget(Paragraph::new(now_and_so_far(course)), figures);
    draw_rate(frame, course, upper_left);
    draw_latency(frame, course, upper_right);
    draw_histogram(frame, course, lower_left);
    draw_standing(frame, course, lower_right);
    frame.render_widget(Line::from(help(course, is_paused)).dim(), foot);
}

/// What is loaded, how, and how long it still takes.
fn draw_head(frame: &mut Frame<'_>, course: &Course, area: Rect) {
    let plan = &course.plan;
    let pace = match plan.pace {
        Pace::Open { .. } => "open loop",
        Pace::Closed { .. } => "closed loop",
    };
    let what = format!("{}  {pace}, {} bytes", plan.endpoint, plan.size);
    let doing = course.doing();
    let columns = [Constraint::Min(0), Constraint::Length(doing.chars().count() as u16 + 1)];
    let [left, right] = Layout::horizontal(columns).spacing(1).areas(area);
    frame.render_widget(Block::new().reversed(), area);
    frame.render_widget(Line::from(what).bold().reversed(), left);
    frame.render_widget(Line::from(doing).bold().reversed(), right);
}

fn now_and_so_far(course: &Course) -> Vec<Line<'static>> {
    let Some(Point { answers, latency: now, .. }) = course.last() else { return Vec::new() };
    let asked = course.rate.map_or(String::new(), |rate| format!(" of {rate} asked for"));
    let figures = |l: &Percentiles| {
        let told = |figure| course.told(l, figure);
        format!("p50 {}  p99 {}  p99.9 {}  max {}", told(l.p50), told(l.p99), told(l.p999), told(l.max))
    };
    vec![
        format!("rate     {answers:.0}/s{asked}").into(),
        format!("latency  {}", figures(now)).into(),
        format!("so far   {}", figures(&course.latency)).into(),
    ]
}

/// The seconds that there is room for, each with its end: of a run that is longer, the last.
struct Range {
    from: f64,
    to: f64,
    first: usize,
}

impl Range {
    /// Of a chart that is so wide: there are two dots in a column.
    fn of(course: &Course, area: Rect) -> Self {
        let room = 2 * usize::from(area.width);
        let first = course.seconds.len().saturating_sub(room);
        Self { from: first as f64, to: (course.seconds.len() as f64).max(first as f64 + 10.0), first }
    }

    fn points<'c>(&self, course: &'c Course) -> impl Iterator<Item = (f64, &'c Point)> {
        (1..).zip(&course.seconds).skip(self.first).map(|(end, point)| (f64::from(end), point))
    }

    fn axis(&self) -> Axis<'static> {
        let labels = [self.from, self.to].map(|second| format!("{second:.0} s"));
        Axis::default().bounds([self.from, self.to]).labels(labels).dim()
    }
}

fn curve(points: &[(f64, f64)], color: Color) -> Dataset<'_> {
    Dataset::default().data(points).graph_type(GraphType::Line).marker(Marker::Braille).style(color)
}

fn titled(title: Line<'_>) -> Block<'_> {
    Block::new().borders(Borders::TOP).border_style(Style::new().dim()).title(title)
}

fn draw_rate(frame: &mut Frame<'_>, course: &Course, area: Rect) {
    let range = Range::of(course, area);
    let answers: Vec<(f64, f64)> = range.points(course).map(|(end, point)| (end, point.answers)).collect();
    let asked: Vec<(f64, f64)> =
        range.points(course).filter_map(|(end, point)| Some((end, point.rate?))).collect();
    let most = answers.iter().chain(&asked).map(|&(_, rate)| rate).fold(1.0, f64::max) * 1.1;
    let labels = [0.0, most / 2.0, most].map(|rate| format!("{rate:.0}"));
    let mut title = vec!["answers/s ".green()];
    title.extend(course.rate.map(|_| "asked for ".blue()));
    let chart = Chart::new(vec![curve(&asked, Color::Blue), curve(&answers, Color::Green)])
        .block(titled(title.into()))
        .x_axis(range.axis())
        .y_axis(Axis::default().bounds([0.0, most]).labels(labels).dim());
    frame.render_widget(chart, area);
}

/// A latency of a second that is drawn, and its colour.
struct Curve {
    name: &'static str,
    of: fn(&Point) -> Option<f64>,
    color: Color,
}

const CURVES: [Curve; 3] = [
    Curve { name: "max ", of: |point| point.latency.max, color: Color::Red },
    Curve { name: "p99 ", of: |point| point.latency.p99, color: Color::Yellow },
    Curve { name: "p50 ", of: |point| point.latency.p50, color: Color::Green },
];

/// By the logarithm: half and the slowest are far apart.
fn draw_latency(frame: &mut Frame<'_>, course: &Course, area: Rect) {
    let range = Range::of(course, area);
    let curves = CURVES.map(|Curve { of, .. }| {
        let seen = range.points(course).filter_map(|(end, point)| Some((end, of(point)?)));
        seen.map(|(end, latency)| (end, latency.max(1e-3).log10())).collect::<Vec<_>>()
    });
    let all = || curves.iter().flatten().map(|&(_, height)| height);
    let low = all().fold(f64::INFINITY, f64::min).floor().min(9.0);
    let high = all().fold(low + 1.0, f64::max).ceil();
    let decades = (high - low) as usize;
    let is_low = decades >= usize::from(area.height.saturating_sub(3));
    let step = if is_low { decades.max(1) } else { 1 };
    let labels = (0..=decades).step_by(step).map(|decade| us(10f64.powf(low + decade as f64)));
    let labels: Vec<String> = if curves[0].is_empty() { Vec::new() } else { labels.collect() };
    let title: Vec<Span<'_>> = ["latency ".into()]
        .into_iter()
        .chain(CURVES.map(|Curve { name, color, .. }| name.fg(color)))
        .collect();
    let datasets = curves.iter().zip(CURVES).map(|(points, Curve { color, .. })| curve(points, color));
    let chart = Chart::new(datasets.collect())
        .block(titled(title.into()))
        .x_axis(range.axis())
        .y_axis(Axis::default().bounds([low, high]).labels(labels).dim());
    frame.render_widget(chart, area);
}

/// All latencies so far, in as many classes as there are lines, each as much longer than the one below it.
fn draw_histogram(frame: &mut Frame<'_>, course: &Course, area: Rect) {
    let block = titled("latency of all so far ".into());
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let all = &course.window.latency;
    if all.is_empty() {
        return;
    }
    let (classes, room) = (inner.height, f64::from(inner.width.saturating_sub(20)));
    let (least, most) = (all.min().max(1) as f64, all.max().max(2) as f64);
    let bound = |n: u16| least * (most / least).powf(f64::from(n) / f64::from(classes));
    let counts: Vec<u64> = (1..=classes)
        .map(|n| {
            let above = if n == 1 { 0 } else { bound(n - 1) as u64 + 1 };
            let to = if n == classes { all.max() } else { bound(n) as u64 };
            if above > to { 0 } else { all.count_between(above, to) }
        })
        .collect();
    let longest = counts.iter().copied().max().unwrap_or(0).max(1);
    let lines = (1..).zip(counts).map(|(n, count)| {
        let percent = 100.0 * count as f64 / all.len() as f64;
        let bar = "█".repeat((room * count as f64 / longest as f64).round() as usize);
        let bar = if count > 0 && bar.is_empty() { "▏".into() } else { bar };
        Line::from(vec![format!("{:>8} {percent:>7.3} % ", us(bound(n) / 1e3)).into(), bar.cyan()])
    });
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), inner);
}

/// Connections, errors, the schedule, this client, and what is wrong with all that.
fn draw_standing(frame: &mut Frame<'_>, course: &Course, area: Rect) {
    let named = |name: &str, value: String| Line::from(format!("{name:<12}{value}"));
    let (window, standing) = (&course.window, &course.standing);
    let mut lines = Vec::new();
    match &window.audit {
        None => {
            let (up, asked, lost) = (standing.up, course.asked, window.lost());
            lines.push(named("connections", format!("{up} of {asked} up, {lost} lost")));
        }
        Some(Audit { sent, lost, late, duplicated, .. }) => {
            lines.push(named("clients", format!("{} of {} up", standing.up, course.asked)));
            lines.push(named(
                "datagrams",
                format!("{sent} sent, {lost} lost, {late} late, {duplicated} twice"),
            ));
        }
    }
    let errors = course.errors();
    let told: Vec<String> = errors.iter().map(|(name, n)| format!("{name} {n}")).collect();
    lines.push(if told.is_empty() {
        named("errors", "none".into())
    } else {
        named("errors", told.join("  ")).red()
    });
    let verdict = |Verdict { name, why, .. }: &Verdict| Line::from(format!("{name}: {why}")).yellow();
    lines.extend(course.verdicts.iter().map(verdict));
    if let (Some(late), Some(kept)) = (&course.lateness, &window.punctuality) {
        let [p50, p99] = [late.p50, late.p99].map(|figure| course.told(late, figure));
        lines.push(named("sends", format!("late p50 {p50}  p99 {p99}")));
        lines.push(named("", format!("{} of {} did not leave", kept.dropped, kept.due)));
    }
    if !course.seconds.is_empty() {
        let percent = 100.0 * standing.busiest_thread;
        lines.push(named("client", format!("busiest thread {percent:.0} %")));
        if course.verdicts.is_empty() {
            lines.push(named("verdicts", "none so far".into()));
        }
    }
    let told = Paragraph::new(lines).wrap(Wrap { trim: false });
    frame.render_widget(told.block(titled("".into())), area);
}

fn help(course: &Course, is_paused: bool) -> String {
    let rate = if course.takes_another_rate() { "up/down rate +-10 %  PgUp/PgDn x2 /2  " } else { "" };
    let pause = if is_paused { "PAUSED: p goes on" } else { "p pauses" };
    format!("{rate}{pause}  q ends it")
}
