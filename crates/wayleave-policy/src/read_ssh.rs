//! Reads the section `ssh`.

use std::time::Duration;

use crate::file::{CheckPeriod, SshRule, SshUser};
use crate::read::Reader;
use crate::selector::Selector;
use crate::source::{Text, Value};

/// How long an approval holds at most (Tailscale's documentation of `checkPeriod`).
const LONGEST_CHECK: Duration = Duration::from_secs(168 * 3600);
/// How long it holds where the policy does not say.
const USUAL_CHECK: Duration = Duration::from_secs(12 * 3600);

pub(crate) fn rule(reader: &mut Reader<'_>, value: &Value) -> Option<SshRule> {
    let known =
        ["action", "src", "dst", "users", "checkPeriod", "acceptEnv", "srcPosture", "enforceRecorder", "recorder"];
    let fields = reader.findings.fields(value, &known);
    let action = fields.get("action").and_then(|value| reader.findings.text(value));
    let period = fields.get("checkPeriod").and_then(|value| reader.findings.text(value));
    // What is wrong with a period is wrong whether or not it is used.
    let period = match period {
        Some(period) => reader.findings.keep(check_period(&period.text), &period.span),
        None => Some(CheckPeriod::For(USUAL_CHECK)),
    };
    let check = match action {
        Some(action) if action.text == "check" => Some(period?),
        Some(action) if action.text == "accept" => None,
        Some(action) if !action.text.is_empty() => {
            reader.findings.fault(format!("{:?} is not a valid action", action.text), &action.span);
            None
        }
        Some(_) | None => {
            reader.findings.fault("action must be specified", &value.span);
            None
        }
    };
    let src = reader.sources(fields.get("src"));
    if check.is_some() && src.iter().any(|src| matches!(src, Selector::Tag(_) | Selector::Tagged)) {
        let message = "tagged devices cannot be sources of a rule with action \"check\": there is no person to ask";
        reader.findings.fault(message, &value.span);
    }
    let mut dst = Vec::new();
    for text in fields.get("dst").map(|value| reader.findings.texts(value)).unwrap_or_default() {
        let target = destination(reader, &text);
        dst.extend(reader.findings.keep(target, &text.span));
    }
    let mut users = Vec::new();
    for text in fields.get("users").map(|value| reader.findings.texts(value)).unwrap_or_default() {
        let user = ssh_user(reader, text.text.trim());
        users.extend(reader.findings.keep(user, &text.span));
    }
    if fields.get("users").is_none_or(|value| value.kind == crate::source::Kind::List(Vec::new())) {
        reader.findings.fault("users must be specified", &value.span);
    }
    let mut accept_env = Vec::new();
    for text in fields.get("acceptEnv").map(|value| reader.findings.texts(value)).unwrap_or_default() {
        if text.text.is_empty() {
            reader.findings.fault("acceptEnv values cannot be empty", &text.span);
        }
        accept_env.push(text.text);
    }
    for unsupported in ["recorder", "enforceRecorder"] {
        if let Some(value) = fields.get(unsupported) {
            reader.findings.fault(format!("`{unsupported}` is not supported in ssh rules"), &value.span);
        }
    }
    if dst.contains(&Selector::SameUser) && !src.iter().all(is_people) {
        let message = "autogroup:self can only be used with users, groups, or supported autogroups";
        reader.findings.fault(message, &value.span);
    }
    // Nobody gets a shell on another user's machine (Tailscale's documentation of `ssh`; the wording is the hosted control plane's, as
    // told in public reports).
    if dst.iter().any(|dst| matches!(dst, Selector::User(_)) && src.iter().any(|src| src != dst)) {
        reader.findings.fault("users in dst are only allowed from the same user", &value.span);
    }
    (!reader.conditional(&fields)).then_some(SshRule { src, dst, users, check, accept_env })
}

/// Tagged nodes, one's own, or a user's. An address or a host's name says nothing of whose machine it is, and a group's machines are not
/// its members' in common.
fn destination(reader: &Reader<'_>, text: &Text) -> Result<Selector, String> {
    let invalid = || format!("invalid dst {:?}", text.text.trim());
    match reader.selector(&text.text) {
        Ok(target @ (Selector::Tag(_) | Selector::User(_) | Selector::SameUser | Selector::Tagged)) => Ok(target),
        Ok(
            Selector::Any
            | Selector::Everywhere
            | Selector::Domain(_)
            | Selector::Group(_)
            | Selector::Member
            | Selector::Role(_)
            | Selector::Shared
            | Selector::Internet
            | Selector::Addresses(_),
        ) => Err(invalid()),
        Err(why) if text.text.trim().contains(':') => Err(format!("dst={why}")),
        Err(_) => Err(invalid()),
    }
}

fn is_people(selector: &Selector) -> bool {
    match selector {
        Selector::User(_) | Selector::Domain(_) | Selector::Group(_) | Selector::Member | Selector::Role(_) => true,
        Selector::Any
        | Selector::Everywhere
        | Selector::Tag(_)
        | Selector::Tagged
        | Selector::Shared
        | Selector::SameUser
        | Selector::Internet
        | Selector::Addresses(_) => false,
    }
}

fn ssh_user(reader: &Reader<'_>, text: &str) -> Result<SshUser, String> {
    if text.is_empty() || text == "*" {
        return Err(format!("user {text:?} is not valid"));
    }
    if text == "autogroup:nonroot" {
        return Ok(SshUser::NonRoot);
    }
    // All other forms of `localpart:` are plain names, odd as they are (conformance case ssh-malformed-user-localpart-no-glob).
    if let Some(domain) = text.strip_prefix("localpart:*@") {
        let domain = domain.to_lowercase();
        reader.around.domains.check(&domain)?;
        return Ok(SshUser::LocalPart(domain));
    }
    Ok(SshUser::Name(text.to_owned()))
}

fn check_period(text: &str) -> Result<CheckPeriod, String> {
    if text == "always" {
        return Ok(CheckPeriod::Always);
    }
    let millis = go_duration(text).ok_or_else(|| format!("time: invalid duration {text:?}"))?;
    if millis <= 0 {
        return Err(format!("checkPeriod {} must be a positive duration", go_text(millis)));
    }
    let period = Duration::from_millis(millis.unsigned_abs());
    if period > LONGEST_CHECK {
        return Err(format!("checkPeriod {} is above the max (168h)", go_text(millis)));
    }
    Ok(CheckPeriod::For(period))
}

/// Milliseconds of a duration as Go writes it: `1h30m`, `-1m`, `1.5h`. Finer units than milliseconds are rounded down.
fn go_duration(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut millis = 0.0_f64;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let value: f64 =
            rest.get(..number).filter(|digits| digits.chars().any(|c| c.is_ascii_digit()))?.parse().ok()?;
        rest = &rest[number..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let factor = match &rest[..unit] {
            "h" => 3_600_000.0,
            "m" => 60_000.0,
            "s" => 1_000.0,
            "ms" => 1.0,
            "us" | "µs" | "μs" => 0.001,
            "ns" => 0.000_001,
            _ => return None,
        };
        millis += value * factor;
        rest = &rest[unit..];
    }
    // Go's durations end at 292 years; so do these.
    (millis < 9.2e15).then_some((sign * millis) as i64)
}

/// A duration as Go prints it: `200h0m0s`, `-1m0s`, `1.5s`.
fn go_text(millis: i64) -> String {
    let sign = if millis < 0 { "-" } else { "" };
    let all = millis.unsigned_abs();
    let (hours, minutes, rest) = (all / 3_600_000, all / 60_000 % 60, all % 60_000);
    let seconds = if rest.is_multiple_of(1000) {
        format!("{}s", rest / 1000)
    } else {
        format!("{}s", format!("{}.{:03}", rest / 1000, rest % 1000).trim_end_matches('0'))
    };
    if hours > 0 {
        format!("{sign}{hours}h{minutes}m{seconds}")
    } else if minutes > 0 {
        format!("{sign}{minutes}m{seconds}")
    } else {
        format!("{sign}{seconds}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_periods_are_go_durations_up_to_a_week() {
        assert_eq!(check_period("always"), Ok(CheckPeriod::Always));
        assert_eq!(check_period("168h"), Ok(CheckPeriod::For(LONGEST_CHECK)));
        assert_eq!(check_period("1h30m"), Ok(CheckPeriod::For(Duration::from_secs(5400))));
        assert_eq!(check_period("1.5s"), Ok(CheckPeriod::For(Duration::from_millis(1500))));
        for (bad, why) in [
            ("abc", "time: invalid duration \"abc\""),
            ("", "time: invalid duration \"\""),
            ("5", "time: invalid duration \"5\""),
            ("-1m", "checkPeriod -1m0s must be a positive duration"),
            ("168h0m1s", "checkPeriod 168h0m1s is above the max (168h)"),
            ("200h", "checkPeriod 200h0m0s is above the max (168h)"),
        ] {
            assert_eq!(check_period(bad), Err(why.to_owned()));
        }
    }
}
