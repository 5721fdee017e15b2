//! Sets of node ids, small enough for ten thousand viewers to have one each.

/// A set of small numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bits(Vec<u64>);

impl Bits {
    pub(crate) fn insert(&mut self, number: u64) {
        let (word, bit) = place(number);
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= bit;
    }

    pub(crate) fn remove(&mut self, number: u64) {
        let (word, bit) = place(number);
        if let Some(word) = self.0.get_mut(word) {
            *word &= !bit;
        }
    }

    pub(crate) fn contains(&self, number: u64) -> bool {
        let (word, bit) = place(number);
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Whether all of `others` are in it.
    pub(crate) fn has_all(&self, others: &Self) -> bool {
        others.0.iter().enumerate().all(|(at, word)| word & !self.0.get(at).copied().unwrap_or(0) == 0)
    }

    /// Whether it holds the same as another.
    pub(crate) fn equals(&self, other: &Self) -> bool {
        self.has_all(other) && other.has_all(self)
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(|word| usize::try_from(word.count_ones()).unwrap_or(0)).sum()
    }
}

impl FromIterator<u64> for Bits {
    fn from_iter<I: IntoIterator<Item = u64>>(numbers: I) -> Self {
        let mut bits = Self::default();
        numbers.into_iter().for_each(|number| bits.insert(number));
        bits
    }
}

fn place(number: u64) -> (usize, u64) {
    (usize::try_from(number / 64).unwrap_or(usize::MAX), 1 << (number % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_knows_what_is_in_it() {
        let mut some: Bits = [1, 64, 700].into_iter().collect();
        let fewer: Bits = [700].into_iter().collect();
        assert!(some.has_all(&fewer) && !fewer.has_all(&some) && !some.equals(&fewer));
        assert_eq!((some.len(), some.contains(64), some.contains(65)), (3, true, false));
        some.remove(64);
        some.remove(1);
        assert!(some.equals(&fewer));
    }
}
