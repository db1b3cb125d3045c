//! What checks are worth, in TOML: which count, with how many points, and who may see them.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_untagged::UntaggedEnumVisitor;

use crate::check::{Check, named};

/// The most points that one check may be worth: sums stay exact, and no figure is endless.
const MOST: f64 = 1e6;

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

/// `{ points = 5, visibility = "hidden" }`, or points alone: `5`.
#[derive(Clone, Copy, Debug, Default)]
struct Worth {
    points: Option<f64>,
    visibility: Option<Visibility>,
}

impl<'de> Deserialize<'de> for Worth {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            points: Option<f64>,
            visibility: Option<Visibility>,
        }
        let points = |points: f64| Self { points: Some(points), visibility: None };
        UntaggedEnumVisitor::new()
            .expecting("points, or a table of points and visibility")
            .i64(move |whole| Ok(points(whole as f64)))
            .f64(move |part| Ok(points(part)))
            .map(|table| table.deserialize().map(|Table { points, visibility }| Self { points, visibility }))
            .deserialize(deserializer)
    }
}

impl Rubric {
    /// Reads one.
    ///
    /// # Errors
    /// A sentence for the user: what is wrong, and where.
    pub fn read(text: &str) -> Result<Self, String> {
        let rubric: Self = toml::from_str(text).map_err(|error| {
            let line = 1 + error.span().map_or(0, |span| text[..span.start].matches('\n').count());
            format!("line {line}: {}", error.message().replace('\n', " "))
        })?;
        for (id, worth) in &rubric.checks {
            named(id)?;
            if let Some(points) = worth.points.filter(|points| !(0.0..=MOST).contains(points)) {
                return Err(format!("{id}: {points} points; give 0 to {MOST}"));
            }
        }
        Ok(rubric)
    }

    /// The checks that count.
    pub fn checks(&self) -> impl Iterator<Item = &'static Check> {
        self.checks.keys().filter_map(|id| named(id).ok())
    }

    /// What a check is worth; `None` where it does not count.
    pub fn marks(&self, check: &Check) -> Option<Marks> {
        let Worth { points, visibility } = *self.checks.get(check.id)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::CHECKS;

    #[test]
    fn a_check_is_worth_what_the_rubric_says_and_nothing_without_it() {
        let rubric = "title = 'Lab 3'\nvisibility = 'after_published'\n[checks]\nbytes = 2.5\n\
                      half-close = { visibility = 'hidden' }\n";
        let rubric = Rubric::read(rubric).unwrap();
        let marks: Vec<Option<Marks>> = CHECKS.iter().map(|check| rubric.marks(check)).collect();
        assert_eq!(marks.iter().flatten().count(), 2);
        let marks = |id| rubric.marks(named(id).unwrap()).unwrap();
        assert_eq!(marks("bytes"), Marks { points: 2.5, visibility: Visibility::AfterPublished });
        let usual = named("half-close").unwrap().points;
        assert_eq!(marks("half-close"), Marks { points: usual, visibility: Visibility::Hidden });
        assert_eq!(rubric.title.as_deref(), Some("Lab 3"));
    }

    #[test]
    fn a_wrong_rubric_is_one_line_that_says_where_and_what() {
        for (text, word) in [
            ("", "missing field `checks`"),
            ("[checks]\nbytes = -1", "bytes: -1 points; give 0 to 1000000"),
            ("[checks]\nbytes = nan", "give 0 to"),
            ("[checks]\nbytes = inf", "give 0 to"),
            ("[checks]\nbytes = 'five'", "line 2: invalid type: string \"five\", expected points"),
            ("[checks]\n\nbytes = { point = 5 }", "unknown field `point`"),
            ("[checks]\nbytes = { visibility = 'secret' }", "unknown variant `secret`"),
            ("[checks]\nbites = 5", "there is no check \"bites\"; bytes?"),
            ("[checks]\nbytes = 5\nbytes = 6", "line 3: duplicate key"),
            ("checks = [", "line 1: "),
            ("points = 5\n[checks]\nbytes = 1", "line 1: unknown field `points`"),
        ] {
            let said = Rubric::read(text).unwrap_err();
            assert!(said.contains(word) && said.lines().count() == 1, "{text:?}: {said}");
        }
    }
}
