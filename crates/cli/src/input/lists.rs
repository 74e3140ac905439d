//! Inputs that are all there: lists, linked side by side or combined.

use std::ffi::OsString;

use flyball_core::rng::Rng;

use super::fitting;
use crate::template::Values;

/// Most commands that can be put into a random order: their order is held.
const SHUFFLED_MAX: u64 = 100_000_000;

/// Lists that go side by side.
#[derive(Debug)]
struct Group {
    columns: Vec<Vec<OsString>>,
    rows: u64,
}

/// Every combination of groups of lists, the last one changing fastest.
#[derive(Debug)]
pub(crate) struct Lists {
    groups: Vec<Group>,
    next: u64,
    total: u64,
    order: Option<Vec<u32>>,
}

impl Lists {
    /// From groups of lists. Lists of one group go side by side until the shortest ends, or with `wrap` until the longest
    /// ends, the others beginning anew.
    pub(crate) fn new(groups: Vec<Vec<Vec<OsString>>>, wrap: bool) -> Lists {
        let groups: Vec<Group> = groups
            .into_iter()
            .map(|columns| {
                let lengths = columns.iter().map(|column| column.len() as u64);
                let shortest = lengths.clone().min().unwrap_or(0);
                let rows = match wrap && shortest > 0 {
                    true => lengths.max().unwrap_or(0),
                    false => shortest,
                };
                Group { columns, rows }
            })
            .collect();
        let total = groups
            .iter()
            .map(|group| group.rows)
            .fold(1, u64::saturating_mul);
        Lists {
            groups,
            next: 0,
            total,
            order: None,
        }
    }

    /// Puts the commands into an order that follows from the seed.
    ///
    /// # Errors
    /// When there are too many.
    pub(crate) fn shuffle(&mut self, seed: u64) -> Result<(), String> {
        if self.total > SHUFFLED_MAX {
            return Err(format!(
                "--shuf: {} commands are too many to shuffle; the most is {SHUFFLED_MAX}",
                self.total
            ));
        }
        let mut rng = Rng::seeded(seed);
        if let Some(column) = self.only() {
            rng.shuffle(column);
        } else {
            let mut order: Vec<u32> = (0..self.total as u32).collect();
            rng.shuffle(&mut order);
            self.order = Some(order);
        }
        Ok(())
    }

    /// The list, if there is one only.
    fn only(&mut self) -> Option<&mut Vec<OsString>> {
        match self.groups.as_mut_slice() {
            [group] if group.columns.len() == 1 => group.columns.first_mut(),
            _ => None,
        }
    }

    /// How many commands there are with so many inputs of a single list each.
    pub(crate) fn total(&self, each: usize) -> u64 {
        match self.groups.as_slice() {
            [group] if group.columns.len() == 1 => self.total.div_ceil(each as u64),
            _ => self.total,
        }
    }

    /// The inputs of the next command: one of each list, or of a single list up to `count` within `bytes`.
    pub(crate) fn next(&mut self, count: usize, bytes: usize) -> Option<Values> {
        if self.next >= self.total {
            return None;
        }
        let next = self.next;
        if let Some(column) = self.only() {
            let rest = &column[next as usize..];
            let taken = fitting(rest.iter(), count, bytes);
            let values = rest[..taken].to_vec();
            self.next += taken as u64;
            return Some(values);
        }
        self.next += 1;
        let mut index = match &self.order {
            Some(order) => u64::from(order[next as usize]),
            None => next,
        };
        let mut values = Values::new();
        for group in self.groups.iter().rev() {
            let row = (index % group.rows) as usize;
            index /= group.rows;
            for column in group.columns.iter().rev() {
                values.push(column[row % column.len()].clone());
            }
        }
        values.reverse();
        Some(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(lists: &mut Lists, count: usize, bytes: usize) -> Vec<String> {
        let mut out = Vec::new();
        while let Some(values) = lists.next(count, bytes) {
            out.push(
                values
                    .iter()
                    .map(|value| value.to_string_lossy())
                    .collect::<Vec<_>>()
                    .join("+"),
            );
        }
        out
    }

    fn list(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    fn combined(lists: &[&str]) -> Lists {
        Lists::new(lists.iter().map(|text| vec![list(text)]).collect(), false)
    }

    #[test]
    fn lists_combine_with_the_last_changing_fastest() {
        let mut lists = combined(&["a b", "1 2 3"]);
        assert_eq!(lists.total(1), 6);
        assert_eq!(
            all(&mut lists, 1, 9),
            ["a+1", "a+2", "a+3", "b+1", "b+2", "b+3"]
        );
        assert_eq!(combined(&["a", ""]).total(1), 0);
    }

    /// TASK-12: linked inputs end with the shortest, or wrap.
    #[test]
    fn linked_lists_go_side_by_side() {
        let linked = || vec![vec![list("a b c"), list("1 2")], vec![list("x y")]];
        assert_eq!(
            all(&mut Lists::new(linked(), false), 1, 9),
            ["a+1+x", "a+1+y", "b+2+x", "b+2+y"]
        );
        assert_eq!(
            all(&mut Lists::new(vec![linked().remove(0)], true), 1, 9),
            ["a+1", "b+2", "c+1"]
        );
        assert_eq!(
            Lists::new(vec![vec![list("a"), list("")]], true).total(1),
            0
        );
    }

    #[test]
    fn commands_take_as_many_inputs_as_fit() {
        assert_eq!(all(&mut combined(&["a b c"]), 2, 1000), ["a+b", "c"]);
        assert_eq!(
            all(&mut combined(&["aaa bbb ccccccccc d"]), 9, 8),
            ["aaa+bbb", "ccccccccc", "d"]
        );
    }

    #[test]
    fn a_shuffle_keeps_every_command_and_follows_its_seed() {
        let shuffled = |seed| {
            let mut lists = combined(&["a b c d", "1 2 3"]);
            lists.shuffle(seed).unwrap();
            all(&mut lists, 1, 9)
        };
        let (first, again) = (shuffled(7), shuffled(7));
        assert_eq!(first, again);
        let mut sorted = first.clone();
        sorted.sort();
        assert_ne!(sorted, first);
        assert_eq!(sorted, all(&mut combined(&["a b c d", "1 2 3"]), 1, 9));
    }
}
