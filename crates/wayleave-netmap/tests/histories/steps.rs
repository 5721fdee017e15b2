//! What happens in a history.

use crate::chance::Chance;

/// Nodes 0 to 4 advertise prefixes, 5 and 6 only look.
pub const NODES: u8 = 7;
pub const ROUTERS: u8 = 5;
/// The third is inside the first; the last two are the halves of an exit.
pub const PREFIXES: [&str; 5] = ["10.1.0.0/16", "10.2.0.0/16", "10.1.7.0/24", "0.0.0.0/0", "::/0"];
/// How many of them are elected.
pub const ELECTED: u8 = 3;

#[derive(Clone, Debug)]
pub enum Step {
    Opens(u8),
    Loses(u8, bool),
    /// Bits say which lose their sessions, one after the other, with so many milliseconds between.
    Storm(u8, u64),
    EndsAnOldSession(u8),
    FallsSilent(u8),
    /// It has not been heard for half of the time after which it is silent.
    Doubted(u8),
    /// Bits say which are not heard any more, known of one after the other with so many milliseconds between; so many later they are silent.
    Uplink(u8, u64, u64),
    Answers(u8),
    /// A witness that was asked just now reached it.
    Alive(u8),
    /// An echo was answered or not; the server looked late or not.
    Echo(u8, bool, bool),
    /// A round of witnesses: 0 most reached it, 1 none did, 2 nobody could say; the server looked late or not.
    Probe(u8, u8, bool),
    /// It reports addresses of its own: bits say inside which of the elected prefixes, and that it has one elsewhere.
    Endpoints(u8, u8),
    /// A path check of a prefix is set with this target, or taken back.
    Check(u8, Option<u8>),
    /// A path check that looks behind standbys too is set, with a witness or without.
    ChecksStandbys(u8, Option<u8>),
    /// The way to its target through a router is lent to a witness: for as long as nothing speaks against it, or for a moment.
    Lends(u8, u8, u8, bool),
    TakesBack(u8),
    /// A path check through it is over: 0 passed, 1 spared, 2 missed; the server looked late or not.
    Path(u8, u8, u8, bool),
    /// One of an older target, or through a router that was something else when it began.
    StalePath(u8, u8),
    /// Control is lost for so many milliseconds, by an end of the stream or by silence, and witnesses reach it all the while; in the middle
    /// of it the server stands still for so many, and asks nobody.
    LosesControl(u8, bool, u64, u64),
    /// Bits say which prefixes.
    Advertises(u8, u8),
    MovesHome(u8, u32),
    Approve(u8, u8),
    Disable(u8, u8),
    ReplaceApproved(u8, u8),
    Prefer(u8, u8, i32),
    /// Of a prefix, or of all, and which of the settings to what.
    Set(Option<u8>, u8),
    Freeze(Option<u8>, u64),
    Unfreeze(Option<u8>),
    Move(u8, u8),
    Drain(u8),
    Undrain(u8),
    Tag(u8, u8),
    Policy(u8),
    Expire(u8),
    Renew(u8),
    Delete(u8),
    Joins(u8),
    /// Milliseconds.
    Passes(u64),
    /// The server stands still for so many milliseconds, and then does all that was due.
    StandsStill(u64),
    /// From now on the store takes nothing: one commit is on its way, and what is asked for meanwhile waits.
    StoreHangs,
    StoreAnswers,
    Restart,
}

pub fn history(seed: u64, events: usize) -> Vec<Step> {
    let mut chance = Chance::new(seed);
    // Most histories begin with everybody up and approved: otherwise little could go wrong in them.
    let mut steps = Vec::new();
    if !seed.is_multiple_of(4) {
        for node in 0..ROUTERS {
            steps.push(Step::Opens(node));
            steps.push(Step::Advertises(node, 1 << (node % 3) | 1 << ((node + 1) % 3)));
            (0..ELECTED).for_each(|prefix| steps.push(Step::Approve(node, prefix)));
        }
        if seed.is_multiple_of(3) {
            (0..ELECTED).for_each(|prefix| steps.push(Step::ChecksStandbys(prefix, Some(NODES - 1))));
            steps.push(Step::Opens(NODES - 1));
        }
    }
    while steps.len() < events {
        steps.push(step(&mut chance));
    }
    steps
}

#[expect(clippy::cast_possible_truncation, reason = "all of these are below their bounds")]
fn step(chance: &mut Chance) -> Step {
    let node = chance.below(u64::from(NODES)) as u8;
    let router = chance.below(u64::from(ROUTERS)) as u8;
    let prefix = chance.below(PREFIXES.len() as u64) as u8;
    let elected = chance.below(u64::from(ELECTED)) as u8;
    let some = chance.below(32) as u8;
    // Who only looks, mostly.
    let witness = [5, 6, 6, node][chance.below(4) as usize];
    let of = (!chance.below(4).is_multiple_of(4)).then_some(elected);
    match chance.below(158) {
        0..12 => Step::Opens(node),
        12..20 => Step::Loses(router, chance.below(2) == 0),
        20..22 => Step::EndsAnOldSession(node),
        22..26 => Step::FallsSilent(router),
        26..30 => Step::Answers(router),
        30..37 => Step::Advertises(router, some),
        37..38 => Step::MovesHome(node, 900 + chance.below(3) as u32),
        38..46 => Step::Approve(router, prefix),
        46..49 => Step::Disable(router, prefix),
        49..50 => Step::ReplaceApproved(router, some),
        50..54 => Step::Prefer(router, elected, chance.below(3) as i32 - 1),
        54..59 => Step::Set(of, chance.below(12) as u8),
        59..61 => Step::Freeze(of, chance.within(1, 200)),
        61..63 => Step::Unfreeze(of),
        63..67 => Step::Move(elected, router),
        67..69 => Step::Drain(router),
        69..72 => Step::Undrain(router),
        72..74 => Step::Tag(router, chance.below(3) as u8),
        74..75 => Step::Policy(chance.below(4) as u8),
        75..76 => Step::Expire(router),
        76..78 => Step::Renew(router),
        78..79 => Step::Delete(router),
        79..82 => Step::Joins(node),
        82..89 => Step::Passes(chance.within(1, 700)),
        89..94 => Step::Passes(chance.within(1000, 4000)),
        94..99 => Step::Passes(chance.within(25_000, 75_000)),
        99..102 => Step::Alive(router),
        102..107 => Step::Echo(router, chance.below(2) == 0, chance.below(5) == 0),
        107..114 => Step::Probe(router, chance.below(3) as u8, chance.below(5) == 0),
        114..116 => Step::LosesControl(
            router,
            chance.below(2) == 0,
            match chance.below(4) {
                // With the two seconds of silence before it, and the time that the server stands still, less than the thirty that it is held.
                0 => chance.within(5000, 25_000),
                _ => chance.within(200, 5000),
            },
            match chance.below(3) {
                0 => chance.within(100, 1500),
                _ => 0,
            },
        ),
        116..118 => Step::Storm(chance.below(1 << NODES) as u8, [0, 40, 190][chance.below(3) as usize]),
        118..123 => Step::Endpoints(router, chance.below(16) as u8),
        123..126 => Step::Check(elected, [Some(98), Some(99), Some(99), None][chance.below(4) as usize]),
        126..135 => Step::Path(router, elected, [0, 0, 1, 2, 2, 2][chance.below(6) as usize], chance.below(5) == 0),
        135..136 => Step::StalePath(router, elected),
        136..138 => Step::StandsStill(chance.within(100, 4000)),
        138..141 => Step::ChecksStandbys(elected, [None, Some(witness), Some(witness)][chance.below(3) as usize]),
        141..147 => Step::Lends(elected, router, witness, chance.below(3) > 0),
        147..148 => Step::TakesBack(elected),
        148..150 => Step::StoreHangs,
        150..153 => Step::StoreAnswers,
        153..155 => Step::Doubted(router),
        155..157 => Step::Uplink(
            chance.below(1 << NODES) as u8,
            [0, 90, 190, 240][chance.below(4) as usize],
            chance.below(1000),
        ),
        _ => Step::Restart,
    }
}
