//! What checks are worth, in TOML: which count, with how many points, and who may see them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::check::{Check, named};

/// Who sees a check's result, and when: Gradescope's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Visibility {
    /// Everybody, at once.
    #[default]
    Visible,
    /// Never a student.
    Hidden,
    /// Students, once nothing can be handed in any more.
    AfterDueDate,
    /// Students, once the grades are published.
    AfterPublished,
}

/// What one check is worth, and who sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Marks {
    /// Points.
    pub points: f64,
    /// Who sees it.
    pub visibility: Visibility,
}

/// A teacher's file. Only the checks in it are made, and count.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rubric {
    /// What the exercise is called.
    pub title: Option<String>,
    /// Who sees checks of which that is not said.
    #[serde(default)]
    visibility: Visibility,
    /// The checks, by their names.
    checks: BTreeMap<String, Worth>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
enum Worth {
    /// `bytes = 5`
    Points(f64),
    /// `bytes = { points = 5, visibility = "hidden" }`
    Marks {
        #[serde(default)]
        points: Option<f64>,
        #[serde(default)]
        visibility: Option<Visibility>,
    },
}

impl Rubric {
    /// Reads one.
    ///
    /// # Errors
    /// A sentence for the user: what is wrong, and where.
    pub fn read(text: &str) -> Result<Self, String> {
        let rubric: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start].lines().count().max(1));
            format!("line {line}: {}", error.message().replace('\n', " "))
        })?;
        for (id, worth) in &rubric.checks {
            named(id)?;
            let (Worth::Points(points) | Worth::Marks { points: Some(points), .. }) = worth else { continue };
            if !points.is_finite() || *points < 0.0 {
                return Err(format!("{id}: {points} points; give 0 or more"));
            }
        }
        Ok(rubric)
    }

    /// What a check is worth; `None` where it does not count.
    pub fn marks(&self, check: &Check) -> Option<Marks> {
        let (points, visibility) = match *self.checks.get(check.id)? {
            Worth::Points(points) => (Some(points), None),
            Worth::Marks { points, visibility } => (points, visibility),
        };
        Some(Marks {
            points: points.unwrap_or(check.points),
            visibility: visibility.unwrap_or(self.visibility),
        })
    }
}

impl Marks {
    /// Those of a check of which no rubric speaks.
    pub fn usual(check: &Check) -> Self {
        Self { points: check.points, visibility: Visibility::default() }
    }
}
