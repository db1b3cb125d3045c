//! The order of an experiment: each block runs every cell once, in an order of its own.

use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};

/// `blocks` times all of `0..cells`, each block shuffled anew; the same for the same `seed`.
pub fn shuffled(cells: usize, blocks: usize, seed: u64) -> Vec<Vec<usize>> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut block: Vec<usize> = (0..cells).collect();
    (0..blocks)
        .map(|_| {
            block.shuffle(&mut random);
            block.clone()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_block_has_every_cell_once_and_a_seed_repeats_the_order(
            cells in 0usize..40, blocks in 0usize..9, seed in any::<u64>(),
        ) {
            let order = shuffled(cells, blocks, seed);
            prop_assert_eq!(order.len(), blocks);
            for block in &order {
                let mut sorted = block.clone();
                sorted.sort_unstable();
                prop_assert_eq!(sorted, (0..cells).collect::<Vec<_>>());
            }
            prop_assert_eq!(order, shuffled(cells, blocks, seed));
        }
    }

    #[test]
    fn blocks_differ_in_their_order() {
        let order = shuffled(20, 2, 1);
        assert_ne!(order[0], order[1]);
    }
}
