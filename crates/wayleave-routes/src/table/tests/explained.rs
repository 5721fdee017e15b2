//! What is said of those that do not carry a prefix.

use wayleave_model::{Failback, Freeze, PrefixOverrides, PrefixRow, Spread};

use super::*;
use crate::explain::WhyNot;

impl Story {
    fn set(&mut self, overrides: PrefixOverrides) {
        self.send(Input::Overrides(PrefixRow { prefix: Some(Self::prefix()), overrides }));
    }

    fn preferred(&mut self, node: u64, priority: i32) {
        let row = self.table.row(RouteId::new(node)).unwrap();
        self.send(Input::Rows(vec![Route { priority, ..row.clone() }]));
    }

    /// Why not, in words, by node; one that carries the prefix is left out.
    fn why_not(&self) -> Vec<(u64, String)> {
        let all = self.table.explain(&Self::prefix(), None, self.now).standings;
        let words = |why: WhyNot| why.words(self.now);
        all.into_iter().filter_map(|s| Some((s.node.get(), words(s.why_not?)))).collect()
    }

    fn because(&self) -> String {
        self.table.seat(&Self::prefix()).unwrap().because.to_string()
    }
}

fn balanced(failback: Option<Failback>) -> PrefixOverrides {
    PrefixOverrides { spread: Some(Spread::Balance), failback, ..PrefixOverrides::default() }
}

#[test]
fn a_router_that_is_back_says_when_it_shares_a_balanced_prefix_again() {
    let mut story = Story::with_routers(3);
    story.wait(ms(120_000));
    story.set(balanced(None));
    let shares = |node| (node, "shares the prefix with the primary".to_owned());
    assert_eq!(story.why_not(), [shares(2), shares(3)]);
    story.lost(3);
    assert_eq!(story.why_not()[1], shares(3), "it may be back at once");
    story.wait(ms(600));
    assert_eq!(story.why_not()[1], (3, "down: connection closed".to_owned()));
    story.up(3);
    story.wait(ms(10_000));
    assert_eq!(story.why_not(), [shares(2), (3, "joins in 50 s".to_owned())]);

    story.set(balanced(Some(Failback::Never)));
    assert_eq!(story.why_not()[1], (3, "does not join by itself: failback_after is never".to_owned()));
    let frozen = Freeze { until: story.now + ms(5_000), by: Approver::Cli };
    story.set(PrefixOverrides { frozen: Some(frozen), ..balanced(None) });
    assert_eq!(story.why_not()[1], (3, "would be better, but the prefix is frozen".to_owned()));
    story.set(balanced(None));
    story.wait(ms(50_000));
    assert_eq!(story.why_not(), [shares(2), shares(3)]);
}

#[test]
fn a_primary_that_does_not_share_a_balanced_prefix_says_so() {
    let mut story = Story::with_routers(2);
    story.wait(ms(120_000));
    story.set(balanced(None));
    story.lost(2);
    story.wait(ms(600));
    story.up(2);
    story.wait(ms(10_000));
    story.send(Input::Moved(Story::prefix(), NodeId::new(2), Approver::Cli));
    assert_eq!(story.primary(), Some(2));
    assert_eq!(
        story.why_not(),
        [(1, "shares the prefix with the primary".to_owned()), (2, "joins in 50 s".to_owned())],
        "viewers are spread over the first alone"
    );
}

#[test]
fn one_that_shares_a_balanced_prefix_with_a_lower_priority_says_that_nobody_is_led_to_it() {
    let mut story = Story::with_routers(2);
    story.wait(ms(120_000));
    story.set(balanced(None));
    story.preferred(2, -1);
    assert_eq!(story.why_not(), [(2, "lower priority: -1".to_owned())]);
}

#[test]
fn only_who_ends_up_with_the_prefix_takes_over() {
    let mut story = Story::with_routers(3);
    story.wait(ms(120_000));
    story.set(PrefixOverrides { failback: Some(Failback::After(ms(180_000))), ..PrefixOverrides::default() });
    story.preferred(2, 1);
    story.preferred(3, 2);
    let says = |node, words: &str| (node, words.to_owned());
    let overtaken = "another takes over before it, and is no worse";
    assert_eq!(story.why_not(), [says(2, overtaken), says(3, "takes over in 60 s")], "both would be ready");
    story.wait(ms(60_000));
    assert_eq!(story.primary(), Some(3));

    story.preferred(3, 0);
    story.preferred(1, 2);
    assert_eq!(story.primary(), Some(1), "it has waited");
    story.lost(2);
    story.wait(ms(600));
    story.up(2);
    story.wait(ms(60_000));
    story.lost(3);
    story.wait(ms(600));
    story.up(3);
    story.preferred(2, 3);
    story.preferred(3, 4);
    let both = [says(2, "takes over in 120 s"), says(3, "takes over in 180 s")];
    assert_eq!(story.why_not(), both, "one after the other");
    story.preferred(3, 3);
    assert_eq!(story.why_not(), [says(2, "takes over in 120 s"), says(3, overtaken)]);
}

#[test]
fn an_only_candidate_is_the_incumbent_once_there_are_others() {
    let mut story = Story::with_routers(1);
    assert_eq!(story.because(), "only candidate");
    story.joins(2);
    assert_eq!(story.because(), "only candidate", "nobody has approved the other");
    story.approved(2);
    assert_eq!(story.because(), "incumbent");
    story.disabled(2);
    assert_eq!(story.because(), "only candidate");
    story.approved(2);
    story.lost(1);
    story.wait(ms(600));
    let because = story.because();
    story.disabled(1);
    assert_eq!((because.as_str(), story.because().as_str()), ("incumbent down: connection closed", because.as_str()));
}

#[test]
fn one_that_has_no_route_to_give_is_told_of_in_the_words_of_the_list() {
    let mut story = Story::with_routers(5);
    story.disabled(2);
    // Nobody has said a word about the third; the fourth was approved and is not advertised; the fifth is neither.
    let row = |story: &Story, node: u64| story.table.row(RouteId::new(node)).unwrap().clone();
    let silent = Route { enabled: false, approval: None, ..row(&story, 3) };
    story.send(Input::Rows(vec![silent]));
    story.send(Input::Advertised(NodeId::new(4), BTreeSet::new()));
    let gone = Route { enabled: false, approval: None, ..row(&story, 5) };
    story.send(Input::Rows(vec![gone]));
    story.send(Input::Advertised(NodeId::new(5), BTreeSet::new()));
    let words = ["refused", "pending", "pre-approved", "withdrawn"];
    assert_eq!([2, 3, 4, 5].map(|node| story.state(node)), words, "in the list");
    let why: Vec<String> = story.why_not().into_iter().map(|(_, why)| why).collect();
    assert_eq!(why, words, "where it is explained");
}
