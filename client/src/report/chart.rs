//! What a chart shows, whatever it is drawn with; and the table behind it.

use super::{scale::Spacing, unit::Unit};
use crate::compare::statistics::Estimate;

/// A chart: lines along an axis, or without one a row for each series.
pub struct Chart {
    /// Its name in the page, and its file's.
    pub id: String,
    /// Its title.
    pub title: String,
    /// What it shows, in a sentence.
    pub about: String,
    /// What is measured.
    pub value: Axis,
    /// What it is measured against.
    pub along: Option<Axis>,
    /// What its marks tell apart.
    pub marks: Marks,
    /// Who.
    pub series: Vec<Series>,
}

/// What the shapes of a chart's marks tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    /// The series.
    BySeries,
    /// The places of a row.
    ByPlace,
}

/// An axis.
pub struct Axis {
    /// What stands at it.
    pub label: String,
    /// What its figures are.
    pub unit: Unit,
    /// How it runs.
    pub spacing: Spacing,
}

/// A contender's places.
pub struct Series {
    /// The contender's number.
    pub contender: usize,
    /// From left to right.
    pub places: Vec<Place>,
    /// Where a law was fitted to them: what it says, from the first place to the last.
    pub law: Vec<(f64, f64)>,
}

/// A place of a series in a chart.
pub struct Place {
    /// Where along the axis.
    pub along: f64,
    /// Where, in words; one column of the table.
    pub name: String,
    /// Whether it is more, and nobody knows how much.
    pub at_least: bool,
    /// What was measured, with its interval, which may have no width.
    pub value: Estimate,
}

impl Chart {
    /// A value in words.
    pub fn said(&self, place: &Place) -> String {
        let Estimate { median, low, high } = place.value;
        let bound = if place.at_least { ">\u{202f}" } else { "" };
        let figure = format!("{bound}{}", self.value.unit.written(median));
        match low < high {
            true => format!("{figure} {}", self.value.unit.interval(low, high)),
            false => figure,
        }
    }

    /// The names of the columns: those of the places, each once, from left to right.
    pub fn columns(&self) -> Vec<&str> {
        let mut places: Vec<&Place> = self.series.iter().flat_map(|it| &it.places).collect();
        places.sort_by(|a, b| a.along.total_cmp(&b.along));
        let mut names: Vec<&str> = Vec::new();
        for place in places.into_iter().filter(|place| !place.name.is_empty()) {
            if !names.contains(&place.name.as_str()) {
                names.push(&place.name);
            }
        }
        names
    }

    /// What stands in a column of a series' row; nothing where it has none.
    pub fn entry(&self, series: &Series, column: &str) -> String {
        let place = series.places.iter().find(|place| place.name == column);
        place.map_or(String::new(), |place| self.said(place))
    }
}
