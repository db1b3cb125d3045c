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
    /// Who.
    pub series: Vec<Series>,
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

/// A contender's points.
pub struct Series {
    /// The contender's number.
    pub contender: usize,
    /// From left to right.
    pub points: Vec<Point>,
}

/// A point of a series.
pub struct Point {
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
    /// A point in words.
    pub fn said(&self, point: &Point) -> String {
        let Estimate { median, low, high } = point.value;
        let bound = if point.at_least { ">\u{202f}" } else { "" };
        let figure = format!("{bound}{}", self.value.unit.written(median));
        match low < high {
            true => format!("{figure} {}", self.value.unit.interval(low, high)),
            false => figure,
        }
    }

    /// The names of the columns: those of the points, each once, from left to right.
    pub fn columns(&self) -> Vec<&str> {
        let mut points: Vec<&Point> = self.series.iter().flat_map(|it| &it.points).collect();
        points.sort_by(|a, b| a.along.total_cmp(&b.along));
        let mut names: Vec<&str> = Vec::new();
        for point in points.into_iter().filter(|point| !point.name.is_empty()) {
            if !names.contains(&point.name.as_str()) {
                names.push(&point.name);
            }
        }
        names
    }

    /// What stands in a column of a series' row; nothing where it has no such point.
    pub fn entry(&self, series: &Series, column: &str) -> String {
        let point = series.points.iter().find(|point| point.name == column);
        point.map_or(String::new(), |point| self.said(point))
    }
}
