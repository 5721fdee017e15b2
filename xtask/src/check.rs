//! Everything that has to hold.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use clap::Args;

use crate::e2e::{self, E2eArgs, Tally};
use crate::{bench, conformance, histories, say, simulate, tidy, top};

/// How to check.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// What can't run on this machine is a failure.
    #[arg(long)]
    require: bool,
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(top());
    command
}

/// Runs everything. It goes on after a failure, so that one run tells all.
pub fn run(args: &CheckArgs) -> anyhow::Result<()> {
    let mut tally = Tally::default();
    step(&mut tally, "format", || pass(cargo(&["fmt", "--all", "--check"])));
    step(&mut tally, "lints", || {
        pass(cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))
    });
    step(&mut tally, "fences", tidy::run);
    step(&mut tally, "documentation", || {
        let mut command = cargo(&["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items"]);
        command.env("RUSTDOCFLAGS", "-D warnings");
        pass(command)
    });
    if cargo(&["deny", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|done| done.success())
    {
        step(&mut tally, "dependencies", || {
            pass(cargo(&["deny", "--log-level", "error", "check", "bans", "licenses", "sources"]))
        });
    } else {
        say("SKIPPED: dependencies: there is no cargo-deny (cargo install --locked cargo-deny)");
        tally.skipped += 1;
    }
    step(&mut tally, "histories", histories::in_check);
    step(&mut tally, "simulated tailnets", simulate::in_check);
    tests(&mut tally, &["test", "--workspace", "--no-fail-fast"])?;
    let cases = conformance::tests()?;
    step(&mut tally, "a hundred simulated clients", bench::hundred);
    // One after the other: what a story waits for should not wait for another story.
    let (require, jobs) = (args.require, 1);
    let e2e = E2eArgs { only: None, list: false, require, keep: false, binary: None, runs: 3, jobs };
    let real = e2e::tests(&e2e)?;
    for part in [cases, real] {
        tally.passed += part.passed;
        tally.failed += part.failed;
        tally.skipped += part.skipped;
    }
    say(&format!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped));
    if tally.failed > 0 || (args.require && tally.skipped > 0) {
        bail!("not everything holds");
    }
    Ok(())
}

/// Formats, and mends what lints can mend.
pub fn fix() -> anyhow::Result<()> {
    pass(cargo(&["fmt", "--all"]))?;
    pass(cargo(&["clippy", "--workspace", "--all-targets", "--fix", "--allow-dirty", "--allow-staged"]))
}

fn pass(mut command: Command) -> anyhow::Result<()> {
    if command.status()?.success() { Ok(()) } else { bail!("it failed") }
}

fn step(tally: &mut Tally, name: &str, work: impl FnOnce() -> anyhow::Result<()>) {
    match work() {
        Ok(()) => {
            say(&format!("ok      {name}"));
            tally.passed += 1;
        }
        Err(error) => {
            say(&format!("FAILED  {name}: {error:#}"));
            tally.failed += 1;
        }
    }
}

/// How a test says that it could not run here: at the beginning of a line of its standard error.
const SKIPPED: &str = "==== SKIPPED:";

/// Says something beside what is counted. A reader that has gone wants no more of it.
fn note(text: &str) {
    writeln!(std::io::stderr().lock(), "{text}").ok();
}

/// Runs tests, and counts what their harness says, and what they skipped.
fn tests(tally: &mut Tally, arguments: &[&str]) -> anyhow::Result<()> {
    let mut running = cargo(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let said = running.stderr.take().context("its standard error is a pipe")?;
    let skipped = std::thread::spawn(move || {
        let lines = BufReader::new(said).lines().map_while(Result::ok);
        lines.inspect(|line| note(line)).filter(|line| line.starts_with(SKIPPED)).count()
    });
    let out = running.wait_with_output()?;
    tally.skipped += skipped.join().unwrap_or_default();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let before = tally.failed;
    for line in text.lines().filter(|line| line.starts_with("test result:")) {
        let count = |word: &str| {
            let mut words =
                line.split([' ', ';']).filter(|text| !text.is_empty()).collect::<Vec<_>>().into_iter().rev();
            words
                .find(|text| *text == word)
                .and_then(|_| words.next())
                .and_then(|number| number.parse().ok())
                .unwrap_or(0)
        };
        tally.passed += count("passed");
        tally.failed += count("failed");
        tally.skipped += count("ignored");
    }
    if !out.status.success() {
        say(&text);
        // A test that does not compile has no line of its own.
        tally.failed += usize::from(tally.failed == before);
    }
    Ok(())
}
