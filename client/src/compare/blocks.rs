//! Which blocks are run, and when it is enough.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    time::{Duration, Instant},
};

use super::{
    bench::Bench,
    cell::Cell,
    comparison::LEAST_BLOCKS,
    contender::Contender,
    gate::Gate,
    plan::Plan,
    results::Rows,
    rounds,
    scenario::{Point, Scenario},
    verdict::groups,
};
use crate::{interrupt, progress::Progress};

/// The blocks of a plan, one at a point after the other.
pub struct Blocks<'p> {
    /// What is to be run.
    pub plan: &'p Plan,
    /// What it is held to: a point is not decided while they are in doubt there.
    pub gates: &'p [Gate],
    /// How long earlier sittings took.
    pub before: Duration,
}

impl Blocks<'_> {
    /// About how long they take; where there is a time, what is left of it.
    pub fn estimate(&self, done: &[Cell]) -> Duration {
        let Self { plan, before, .. } = self;
        if let Some(time) = plan.time {
            return time.saturating_sub(*before);
        }
        let all =
            (1..=plan.blocks).flat_map(|block| plan.situations(block).into_iter().map(move |it| (block, it)));
        all.filter(|&(block, (trial, point))| !plan.left(block, trial, point, done).is_empty())
            .map(|(_, (trial, point))| plan.estimate(trial, point))
            .sum()
    }

    /// Runs those of which there are no cells; each row is on disk when its block has ended. ^C leaves out the block that it cut
    /// short.
    ///
    /// # Errors
    /// Where a row cannot be written.
    pub fn run(
        &self,
        bench: &Bench,
        contenders: &BTreeMap<&str, Contender>,
        rows: &mut Rows,
        cells: &mut Vec<Cell>,
    ) -> io::Result<()> {
        let Self { plan, before, .. } = self;
        let millis = |time: Duration| time.as_millis() as u64;
        let progress = Progress::of_steps("comparing", millis(self.estimate(cells)));
        let began = Instant::now();
        'all: for block in 1..=plan.blocks {
            let decided = self.decided(block, cells);
            let mut is_the_last = true;
            for (trial, point) in plan.situations(block) {
                let turns = plan.left(block, trial, point, cells);
                let estimate = plan.estimate(trial, point);
                let fits = |time: Duration| *before + began.elapsed() + estimate <= time;
                if turns.is_empty() {
                    is_the_last = false; // an earlier sitting has run it
                    continue;
                }
                if !plan.time.is_none_or(fits) || decided.contains(&(trial.scenario, point)) {
                    continue;
                }
                is_the_last = false;
                progress.doing(format!("{block} {}: {}", trial.scenario.name(), point.title(trial.scenario)));
                let turns: Vec<_> = turns
                    .into_iter()
                    .filter_map(|turn| contenders.get(turn.contender).map(|contender| (turn, contender)))
                    .collect();
                let seen = match trial.scenario.character().slice {
                    Some(slice) => {
                        rounds::play(bench, &turns, slice, plan.rounds(trial), &mut plan.chance(block))
                    }
                    None => rounds::alone(bench, &turns),
                };
                seen.iter().try_for_each(|cell| rows.write(cell))?;
                cells.extend(seen);
                if interrupt::requested(&bench.stop) {
                    break 'all;
                }
                progress.steps(millis(estimate));
            }
            if is_the_last {
                break;
            }
        }
        progress.end();
        Ok(())
    }

    /// Where more blocks would not say more that matters; nowhere where every point has the next one in any case.
    fn decided(&self, block: usize, cells: &[Cell]) -> BTreeSet<(Scenario, Point)> {
        if self.plan.time.is_none() || block <= LEAST_BLOCKS {
            return BTreeSet::new();
        }
        let groups = groups(self.plan, cells);
        let decided = groups.iter().filter(|group| group.is_decided()).map(|it| (it.scenario, it.point));
        let open = self.gates.iter().flat_map(|gate| gate.undecided(cells, self.plan.resolve));
        let (decided, open): (BTreeSet<_>, BTreeSet<_>) = (decided.collect(), open.collect());
        &decided - &open
    }
}
