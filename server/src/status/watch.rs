//! The status live: what moves, twice a second.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Style, Stylize},
    text::Line,
    widgets::{Paragraph, RenderDirection, Row, Sparkline, Table},
};
use screen::{Input, Screen};

use super::{Page, Status, read, table};
use crate::shutdown::{SIGNALS, Shutdown};

/// How often the pages are read.
const PERIOD: Duration = Duration::from_millis(500);
/// How many readings the picture of those who wait goes back: as many as the widest terminals have columns.
const MEMORY: usize = 512;

/// Shows the pages until the user has seen enough.
///
/// # Errors
/// A sentence for the user, where there is no terminal, or a page can no longer be read.
pub fn run(pages: &[Page]) -> Result<(), String> {
    Screen::exists().map_err(|why| format!("--watch: {why}; use --json"))?;
    let mut views: Vec<View> = read(pages)?.into_iter().map(View::new).collect();
    // Also who is told to end leaves the terminal as it was.
    let told = Shutdown::on(SIGNALS).map_err(|error| format!("signals: {error}"))?;
    let mut screen = Screen::take()?;
    let mut next = Instant::now() + PERIOD;
    while !told.is_requested() {
        screen.draw(|frame| draw(frame, &views))?;
        match screen.input(next.saturating_duration_since(Instant::now()))? {
            Some(Input::Key(key)) if screen::ends(key) => break,
            Some(_) => continue, // another size, perhaps
            None => {}
        }
        next = Instant::now() + PERIOD;
        views.iter_mut().zip(read(pages)?).for_each(|(view, status)| view.goes_on(status));
    }
    Ok(())
}

/// A server, and what changed since it was looked at before.
struct View {
    status: Status,
    before: Status,
    /// Who waited in the queues, the newest reading first; of datagrams, what they take in the kernel.
    waiting: VecDeque<u64>,
}

impl View {
    fn new(status: Status) -> Self {
        Self { before: status.clone(), status, waiting: VecDeque::with_capacity(MEMORY) }
    }

    fn goes_on(&mut self, status: Status) {
        self.before = std::mem::replace(&mut self.status, status);
        self.waiting.truncate(MEMORY - 1);
        let status = &self.status;
        let at_the_sockets = status.receive_queue.or(status.accept_queue).unwrap_or(0);
        self.waiting.push_front(status.queued.saturating_add(at_the_sockets));
    }

    /// How fast a figure grows.
    fn per_second(&self, figure: fn(&Status) -> u64) -> f64 {
        let grown = figure(&self.status).saturating_sub(figure(&self.before)) as f64;
        let time = self.status.read.duration_since(self.before.read).as_secs_f64();
        if time > 0.0 { grown / time } else { 0.0 }
    }

    fn rates(&self) -> String {
        let come = self.per_second(|status| status.figures.messages);
        let [megabytes_in, megabytes_out] = [
            self.per_second(|status| status.figures.bytes_in),
            self.per_second(|status| status.figures.bytes_out),
        ]
        .map(|bytes| format!("{:.3} MB/s", bytes / 1e6));
        if self.status.figures.udp.is_some() {
            let left = |status: &Status| status.figures.udp.as_ref().map_or(0, |udp| udp.datagrams_out);
            let leave = self.per_second(left);
            return format!(
                "datagrams in {come:.0}/s  out {leave:.0}/s  bytes in {megabytes_in}  out {megabytes_out}"
            );
        }
        let accepted = self.per_second(|status| status.figures.accepted);
        format!("messages {come:.0}/s  in {megabytes_in}  out {megabytes_out}  accepted {accepted:.0}/s")
    }
}

/// The servers below each other, and how to leave.
fn draw(frame: &mut Frame<'_>, views: &[View]) {
    let [servers, foot] = Layout::vertical([Constraint::Min(0), Constraint::Length(1)]).areas(frame.area());
    let areas = Layout::vertical(views.iter().map(|_| Constraint::Fill(1))).split(servers);
    views.iter().zip(areas.iter()).for_each(|(view, &area)| draw_server(frame, view, area));
    frame.render_widget(Line::from("q ends the view").dim(), foot);
}

fn draw_server(frame: &mut Frame<'_>, view: &View, area: Rect) {
    let status = &view.status;
    let wrapped = |line: String| table::wrapped(&line, area.width.into()).into_iter().map(Line::from);
    let headline: Vec<Line<'_>> = wrapped(table::headline(status)).collect();
    let figures = [table::clients(status), Some(view.rates()), table::kept(status), table::dropped(status)];
    let figures = figures.into_iter().flatten().chain([table::errors(status)]);
    let figures: Vec<Line<'_>> = figures.flat_map(wrapped).collect();
    let high = |lines: &[Line<'_>]| Constraint::Length(lines.len() as u16);
    let rows = [high(&headline), high(&figures), Constraint::Length(1), Constraint::Min(0)];
    let [above, text, waiting, workers] = Layout::vertical(rows).areas(area);
    frame.render_widget(Paragraph::new(headline).bold().reversed(), above);
    frame.render_widget(Paragraph::new(figures), text);
    draw_waiting(frame, view, waiting);
    draw_workers(frame, status, workers);
}

/// Who waits in the queues now, and before.
fn draw_waiting(frame: &mut Frame<'_>, view: &View, area: Rect) {
    let now = *view.waiting.front().unwrap_or(&0);
    let now = match view.status.figures.udp.is_some() {
        true => format!("waiting {}  ", table::size(now)),
        false => format!("waiting {now}  "),
    };
    let columns = Layout::horizontal([Constraint::Length(now.len() as u16), Constraint::Min(0)]);
    let [label, picture] = columns.areas(area);
    frame.render_widget(Line::from(now), label);
    frame.render_widget(
        Sparkline::default().data(&view.waiting).direction(RenderDirection::RightToLeft),
        picture,
    );
}

fn draw_workers(frame: &mut Frame<'_>, status: &Status, area: Rect) {
    let room = usize::from(area.height.saturating_sub(1));
    let rows = table::rows(status, room).into_iter().map(row);
    let header = row(table::HEADER.map(str::to_owned)).style(Style::new().dim());
    let widths = [5, 7, 12, 6, 9, 11, 11, 11].map(Constraint::Length);
    frame.render_widget(Table::new(rows, widths).header(header), area);
}

fn row(texts: [String; 8]) -> Row<'static> {
    let cell = |(n, text)| match n == table::STATE {
        true => Line::from(text),
        false => Line::from(text).right_aligned(),
    };
    Row::new(texts.into_iter().enumerate().map(cell))
}
