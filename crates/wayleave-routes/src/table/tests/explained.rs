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
