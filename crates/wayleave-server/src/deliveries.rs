//! How long it took until the viewers were told of each picture: each of them, and the last.
//!
//! Each viewer stands at the picture that it was last brought to. A picture is over once nobody stands before it; then the last of the
//! writes that told somebody of it says how long it took. Viewers whom it does not concern pass it without a write.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// How many pictures are remembered while a viewer may still have to be told of them. Whoever is further behind is counted with the age of
/// the oldest that is remembered, which is less than it waited.
const REMEMBERED: usize = 4096;

#[derive(Debug)]
struct Picture {
    version: u64,
    made: Instant,
    /// When a viewer was last handed something of it.
    written: Option<Instant>,
}

/// Pictures that not all viewers have been told of, and where the viewers stand.
#[derive(Debug, Default)]
pub(crate) struct Deliveries {
    /// The oldest first.
    pictures: VecDeque<Picture>,
    /// How many viewers stand at a picture.
    at: BTreeMap<u64, usize>,
}

/// What came of a step.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// How long the viewer itself waited, if it was handed anything.
    pub(crate) own: Option<Duration>,
    /// How long the last viewer waited for each picture that is over and that concerned anybody.
    pub(crate) last: Vec<Duration>,
}

impl Deliveries {
    /// There is a new picture.
    pub(crate) fn made(&mut self, version: u64, now: Instant) -> Told {
        let mut last = Vec::new();
        if self.pictures.len() == REMEMBERED
            && let Some(oldest) = self.pictures.pop_front()
            && oldest.written.is_some()
        {
            last.push(now.saturating_duration_since(oldest.made));
        }
        self.pictures.push_back(Picture { version, made: now, written: None });
        last.extend(self.settle());
        Told { own: None, last }
    }

    /// A viewer was brought from one picture to another; `wrote`: it was handed something for that. One that is new comes from nowhere.
    pub(crate) fn moved(&mut self, from: Option<u64>, to: u64, wrote: bool, now: Instant) -> Told {
        let mut own = None;
        if let Some(from) = from {
            if wrote {
                let first = self.pictures.partition_point(|picture| picture.version <= from);
                let new = self.pictures.get(first).filter(|picture| picture.version <= to);
                own = new.map(|picture| now.saturating_duration_since(picture.made));
                for picture in self.pictures.iter_mut().skip(first).take_while(|picture| picture.version <= to) {
                    picture.written = Some(now);
                }
            }
            self.leave(from);
        }
        *self.at.entry(to).or_default() += 1;
        Told { own, last: self.settle() }
    }

    /// A viewer is gone.
    pub(crate) fn gone(&mut self, from: u64) -> Told {
        self.leave(from);
        Told { own: None, last: self.settle() }
    }

    /// How old the oldest picture is that somebody may still have to be told of.
    pub(crate) fn behind(&self, now: Instant) -> Duration {
        self.pictures.front().map_or(Duration::ZERO, |picture| now.saturating_duration_since(picture.made))
    }

    fn leave(&mut self, from: u64) {
        if let Some(count) = self.at.get_mut(&from) {
            *count -= 1;
            if *count == 0 {
                self.at.remove(&from);
            }
        }
    }

    /// Forgets pictures that are over.
    fn settle(&mut self) -> Vec<Duration> {
        let least = self.at.first_key_value().map_or(u64::MAX, |(version, _)| *version);
        let over = self.pictures.partition_point(|picture| picture.version <= least);
        let last = |picture: Picture| Some(picture.written?.saturating_duration_since(picture.made));
        self.pictures.drain(..over).filter_map(last).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn a_picture_is_over_when_its_last_viewer_was_handed_it() {
        let (mut all, began) = (Deliveries::default(), Instant::now());
        all.made(1, began);
        assert_eq!(all.behind(began + ms(9)), ms(0), "nobody has to be told");
        for _ in 0..3 {
            assert_eq!(all.moved(None, 1, true, began), Told::default());
        }
        all.made(2, began + ms(10));
        assert_eq!(all.behind(began + ms(15)), ms(5));
        let first = all.moved(Some(1), 2, true, began + ms(20));
        assert_eq!(first, Told { own: Some(ms(10)), last: vec![] });
        let second = all.moved(Some(1), 2, true, began + ms(40));
        assert_eq!(second, Told { own: Some(ms(30)), last: vec![] });
        // The third is not concerned, and hears of it late: nobody waited for that.
        assert_eq!(all.moved(Some(1), 2, false, began + ms(90)), Told { own: None, last: vec![ms(30)] });
        assert_eq!(all.behind(began + ms(95)), ms(0));
    }

    #[test]
    fn a_viewer_waited_since_the_first_picture_that_was_new_to_it_and_is_told_of_all_at_once() {
        let (mut all, began) = (Deliveries::default(), Instant::now());
        all.moved(None, 1, true, began);
        all.made(2, began);
        all.made(3, began + ms(5));
        let told = all.moved(Some(1), 3, true, began + ms(20));
        assert_eq!(told, Told { own: Some(ms(20)), last: vec![ms(20), ms(15)] });
    }

    #[test]
    fn one_that_is_cut_off_holds_back_no_figure_and_one_that_comes_has_missed_nothing() {
        let (mut all, began) = (Deliveries::default(), Instant::now());
        all.moved(None, 1, true, began);
        all.moved(None, 1, true, began);
        all.made(2, began);
        all.moved(Some(1), 2, true, began + ms(3));
        all.moved(None, 2, true, began + ms(50));
        assert_eq!(all.behind(began + ms(60)), ms(60), "the stuck one");
        assert_eq!(all.gone(1), Told { own: None, last: vec![ms(3)] });
        assert_eq!(all.behind(began + ms(60)), ms(0));
    }

    #[test]
    fn whoever_is_further_behind_than_is_remembered_is_counted_all_the_same() {
        let (mut all, began) = (Deliveries::default(), Instant::now());
        all.moved(None, 1, true, began);
        for version in 2..=REMEMBERED as u64 + 11 {
            all.made(version, began + ms(version));
        }
        let told = all.moved(Some(1), REMEMBERED as u64 + 11, true, began + ms(10_000));
        assert_eq!(told.own, Some(ms(10_000 - 12)));
        assert_eq!(told.last.len(), REMEMBERED);
    }
}
