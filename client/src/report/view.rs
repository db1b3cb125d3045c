//! What a report shows of a run: who stands where, what is to be said first, and a section for each scenario. No word of
//! HTML or SVG.

use std::{collections::BTreeSet, fmt};

use super::{changes::Changes, measure::measures, section::Section};
use crate::compare::{
    cell::Cell,
    comparison::{LEAST_BLOCKS, Ratio},
    pair::{Pair, pairs},
    results::Run,
    scenario::{Point, Scenario},
    sentence,
    verdict::Group,
};

/// A report, before it is a page or a text.
pub struct View {
    /// What became of earlier runs' figures.
    pub changes: Vec<Changes>,
    /// All who take part, those first who stand best most often. A contender's place here is its number: its colour
    /// and its mark.
    pub contenders: Vec<String>,
    /// Scenarios at a point, in the plan's order.
    pub situations: Vec<Situation>,
    /// A section a scenario.
    pub sections: Vec<Section>,
}

/// What is to be said first.
pub struct Finding {
    /// What it is about, in a few words.
    pub about: String,
    /// The finding.
    pub sentence: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.about, self.sentence)
    }
}

/// All contenders in one scenario at one point, judged.
pub struct Situation {
    /// Where.
    pub point: Point,
    /// The same in words.
    pub title: String,
    /// How many blocks there are of it.
    blocks: usize,
    /// Who was to take part.
    entered: Vec<String>,
    /// What was judged.
    pub group: Group,
    /// All figures of the two, where there are two.
    pub pair: Option<Pair>,
}

/// How a contender stands in a situation.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// Nobody has a better figure.
    Best,
    /// Not told apart from the best, whose figure is so many times better, and surely not much more.
    AsGood(Ratio),
    /// Not told apart from the best, but it may be much worse.
    Unsure(Ratio),
    /// The best has a figure so many times better.
    Worse(Ratio),
    /// Its median is not the best, but within blocks it is so many times better than the one with the best.
    Better(Ratio),
    /// There are too few blocks to say.
    Unsaid,
    /// It was not to take part here, and why.
    LeftOut(String),
    /// Its cells do not count.
    Void(String),
    /// It did not take part.
    Absent,
}

impl View {
    /// Of a run, and of earlier ones by their names.
    pub fn of(run: &Run, earlier: &[(String, Run)]) -> Self {
        let run = &by_model(run);
        let changes =
            earlier.iter().map(|(name, then)| Changes::between(name, &by_model(then), run)).collect();
        let situations: Vec<Situation> =
            run.groups().into_iter().map(|group| Situation::of(group, run)).collect();
        let contenders = ranked(&run.cells, &situations);
        let laws = run.laws();
        let trials = run.plan.trial.iter().map(|trial| trial.scenario);
        let sections = trials.map(|scenario| Section::of(scenario, run, &laws, &situations, &contenders));
        let sections = sections.filter(|section| !section.situations.is_empty()).collect();
        Self { changes, contenders, situations, sections }
    }

    /// What is to be said first: who is good nearly everywhere, and who leads in each scenario.
    pub fn findings(&self) -> Vec<Finding> {
        let leads = self.sections.iter().filter_map(|section| self.lead(section));
        let mut findings: Vec<Finding> = self.overall().into_iter().chain(leads).collect();
        if findings.is_empty() {
            let sentence = match self.situations.iter().any(|it| it.figures() > 0) {
                true => "Nobody is told apart from the best. More time (--time) may do it.",
                false => "No cell counts. Each one says why.",
            };
            findings.push(Finding { about: "over all".into(), sentence: sentence.into() });
        }
        findings
    }

    /// Who is good most often.
    fn overall(&self) -> Option<Finding> {
        let good = |name: &String| self.situations.iter().filter(|it| it.is_good(name)).count();
        let most = self.contenders.iter().map(good).max().filter(|most| *most > 0)?;
        let first: Vec<&str> =
            self.contenders.iter().filter(|name| good(name) == most).map(String::as_str).collect();
        let who = match first[..] {
            [one] => format!("{one} is"),
            [a, b] => format!("{a} and {b} are each"),
            [a, b, c] => format!("{a}, {b} and {c} are each"),
            _ => return None, // so many are nobody in particular
        };
        let in_all = self.situations.len();
        let sentence =
            format!("{who} best, or not told apart from the best, in {most} of {in_all} situations.");
        Some(Finding { about: "over all".into(), sentence })
    }

    /// Who leads in a scenario, at the point where most are told apart from the leader.
    fn lead(&self, section: &Section) -> Option<Finding> {
        let apart =
            |it: &Situation| it.group.verdicts_of_the_leader().filter(|verdict| verdict.told_apart).count();
        let situations = section.situations.iter().map(|&n| &self.situations[n]);
        let situation = situations.max_by_key(|it| apart(it))?;
        let about = format!("{}, {}", section.scenario.name(), situation.title);
        let sentence = format!("{}.", sentence::in_short(&situation.group)?);
        Some(Finding { about, sentence })
    }
}

/// Over UDP a model is still that model: a matrix has one row of it.
fn by_model(run: &Run) -> Run {
    let of_a_model = |name: &mut String| *name = name.replacen("@udp", "", 1);
    let mut run = run.in_short();
    let udp = |scenario| scenario == Scenario::Udp;
    run.cells.iter_mut().filter(|cell| udp(cell.scenario)).for_each(|cell| of_a_model(&mut cell.contender));
    run.calls.iter_mut().filter(|row| udp(row.scenario)).for_each(|row| of_a_model(&mut row.contender));
    for trial in run.plan.trial.iter_mut().filter(|trial| udp(trial.scenario)) {
        trial.contenders.iter_mut().for_each(of_a_model);
    }
    run
}

/// Those first who are best or as good most often, and of these those who are void least often.
fn ranked(cells: &[Cell], situations: &[Situation]) -> Vec<String> {
    let names: BTreeSet<&str> = cells.iter().map(|cell| cell.contender.as_str()).collect();
    let mut ranked: Vec<String> = names.into_iter().map(str::to_owned).collect();
    ranked.sort_by_cached_key(|name| {
        let standings: Vec<Standing> = situations.iter().map(|it| it.standing(name)).collect();
        let count = |is: fn(&Standing) -> bool| standings.iter().filter(|standing| is(standing)).count();
        let missing = count(|it| matches!(it, Standing::Void(_) | Standing::LeftOut(_) | Standing::Absent));
        (usize::MAX - count(Standing::is_good), missing, name.clone())
    });
    ranked
}

/// Who may be more than so many times worse than the best is not said to be as good.
const MUCH: f64 = 1.5;

impl Standing {
    fn not_told_apart(ratio: Ratio) -> Self {
        if ratio.high <= MUCH { Self::AsGood(ratio) } else { Self::Unsure(ratio) }
    }

    fn is_good(&self) -> bool {
        matches!(self, Self::Best | Self::AsGood(_) | Self::Better(_))
    }
}

impl Situation {
    fn of(group: Group, run: &Run) -> Self {
        let Group { scenario, point, .. } = group;
        let here = run.cells.iter().filter(|cell| cell.scenario == scenario && cell.point() == point);
        let entered = run.plan.trial.iter().filter(|trial| trial.scenario == scenario);
        Self {
            point,
            title: point.title(scenario),
            blocks: here.map(|cell| cell.block).collect::<BTreeSet<_>>().len(),
            entered: entered.flat_map(|trial| trial.contenders.clone()).collect(),
            pair: pairs(std::slice::from_ref(&group), &run.cells).pop(),
            group,
        }
    }

    /// How it stands.
    pub fn standing(&self, contender: &str) -> Standing {
        let Group { lines, verdicts, .. } = &self.group;
        let Some(line) = lines.iter().find(|line| line.contender == contender) else {
            let was_to = self.entered.iter().any(|name| name == contender);
            return if was_to { Standing::Void("not run yet".into()) } else { Standing::Absent };
        };
        if let Some(reason) = &line.left_out {
            return Standing::LeftOut(reason.clone());
        }
        if line.figure.is_none() {
            return Standing::Void(line.notes.join("; "));
        }
        if self.blocks < LEAST_BLOCKS {
            return Standing::Unsaid;
        }
        let best = &lines[0].contender;
        if best == contender {
            return Standing::Best;
        }
        let between = |a: &str, b: &str| verdicts.iter().find(|it| it.leader == a && it.other == b);
        match (between(best, contender), between(contender, best)) {
            (Some(verdict), _) | (_, Some(verdict)) if verdict.pairs < LEAST_BLOCKS => Standing::Unsaid,
            (Some(verdict), _) if verdict.told_apart => Standing::Worse(verdict.ratio),
            (Some(verdict), _) => Standing::not_told_apart(verdict.ratio),
            (_, Some(verdict)) if verdict.told_apart => Standing::Better(verdict.ratio),
            (_, Some(verdict)) => Standing::not_told_apart(verdict.ratio.inverse()),
            (None, None) => Standing::Unsaid,
        }
    }

    fn is_good(&self, contender: &str) -> bool {
        self.standing(contender).is_good()
    }

    /// The best one's figure.
    pub fn best_figure(&self) -> String {
        let figure = self.group.lines.first().and_then(|line| line.figure);
        figure.map_or(String::new(), |figure| measures(self.group.scenario)[0].unit.written(figure.median))
    }

    /// How many contenders have one.
    pub fn figures(&self) -> usize {
        self.group.lines.iter().filter(|line| line.figure.is_some()).count()
    }
}
