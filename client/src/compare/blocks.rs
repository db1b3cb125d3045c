//! The order of an experiment: each block runs every cell once, in an order of its own.

use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};

/// `blocks` times all cells, as (group, member) of groups of these sizes; the same for the same `seed`. Each block has the
/// groups in an order of its own, and in each group its members, one right after the other: they are compared.
pub fn shuffled(sizes: &[usize], blocks: usize, seed: u64) -> Vec<Vec<(usize, usize)>> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut groups: Vec<usize> = (0..sizes.len()).collect();
    let mut block = || {
        groups.shuffle(&mut random);
        let mut cells = Vec::new();
        for &group in &groups {
            let mut members: Vec<usize> = (0..sizes[group]).collect();
            members.shuffle(&mut random);
            cells.extend(members.into_iter().map(|member| (group, member)));
        }
        cells
    };
    (0..blocks).map(|_| block()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_block_has_every_cell_once_group_by_group_and_a_seed_repeats_the_order(
            sizes in prop::collection::vec(0usize..9, 0..6), blocks in 0usize..9, seed in any::<u64>(),
        ) {
            let order = shuffled(&sizes, blocks, seed);
            prop_assert_eq!(order.len(), blocks);
            let all: Vec<(usize, usize)> =
                sizes.iter().enumerate().flat_map(|(group, &n)| (0..n).map(move |m| (group, m))).collect();
            for block in &order {
                let mut sorted = block.clone();
                sorted.sort_unstable();
                prop_assert_eq!(&sorted, &all);
                let changes = block.windows(2).filter(|pair| pair[0].0 != pair[1].0).count();
                prop_assert!(changes < sizes.len().max(1), "a group is run in one go");
            }
            prop_assert_eq!(order, shuffled(&sizes, blocks, seed));
        }
    }

    #[test]
    fn blocks_differ_in_their_order() {
        let order = shuffled(&[20, 20], 2, 1);
        assert_ne!(order[0], order[1]);
    }
}
