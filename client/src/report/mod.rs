//! The report: a page, a text, rows and pictures, all of them views of stored results.
//!
//! `view` is what is shown of a run, `section` of a scenario, `measure` what is drawn, `changes` what became of an earlier
//! run's figures, `chart` what a picture shows; `scale` and `unit` are how
//! figures become places and words; `draw` draws SVG, `page` writes HTML, `markdown` and `csv` are the other forms.

pub mod changes;
mod chart;
mod csv;
mod draw;
mod markdown;
mod measure;
mod method;
mod page;
mod scale;
mod section;
mod unit;
mod view;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use view::{Finding, View};

use crate::compare::results::{Run, whole};

/// Writes all of it into a folder, with what changed since earlier runs, and says what is said first and where the
/// page is.
///
/// # Errors
/// Where a file cannot be written.
pub fn write(run: &Run, earlier: &[(String, Run)], folder: &Path) -> io::Result<Written> {
    let view = View::of(run, earlier);
    let charts = folder.join("charts");
    fs::create_dir_all(&charts)?;
    let page = folder.join("index.html");
    whole(&page, page::of(&view, run).map_err(io::Error::other)?)?;
    whole(&folder.join("report.md"), markdown::of(run, earlier))?;
    whole(&folder.join("cells.csv"), csv::of(&run.cells).map_err(io::Error::other)?)?;
    let style = page::style_of_a_file();
    for chart in view.sections.iter().flat_map(|section| &section.charts) {
        let drawn = draw::standalone(chart, &view.contenders, &style);
        whole(&charts.join(&chart.id).with_extension("svg"), drawn)?;
    }
    Ok(Written { page, findings: view.findings() })
}

/// What was written.
pub struct Written {
    /// Where the page is.
    pub page: PathBuf,
    /// The main findings, in words.
    pub findings: Vec<Finding>,
}
