//! How long a client goes without an answer.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::bail;

/// A client that pings every 50 ms.
pub struct Pinging {
    child: Child,
    /// When each answer came, and its number.
    answers: Arc<Mutex<Vec<(Instant, u64)>>>,
    reader: Option<JoinHandle<()>>,
    started: Instant,
}

impl Pinging {
    /// Starts in a namespace.
    pub fn start(namespace: &str, address: &str) -> anyhow::Result<Self> {
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "ip", "netns", "exec", namespace, "ping", "-n", "-i", "0.05", address])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let Some(out) = child.stdout.take() else { bail!("ping has no output") };
        let answers: Arc<Mutex<Vec<(Instant, u64)>>> = Arc::default();
        let seen = Arc::clone(&answers);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let number = line.split_once("icmp_seq=").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
                if let Some(number) = number.filter(|_| line.contains("bytes from")) {
                    seen.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), number));
                }
            }
        });
        Ok(Self { child, answers, reader: Some(reader), started: Instant::now() })
    }

    fn answers(&self) -> Vec<(Instant, u64)> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until so many answers came after `since`.
    pub fn wait_answers(&self, count: usize, since: Instant, most: Duration) -> anyhow::Result<()> {
        let started = Instant::now();
        while self.answers().iter().filter(|(at, _)| *at > since).count() < count {
            if started.elapsed() > most {
                bail!("no {count} answers within {most:?}");
            }
            sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// The longest time without an answer since then, the time until now among it.
    pub fn longest_gap(&self, since: Instant) -> Duration {
        let mut last = since;
        let mut longest = Duration::ZERO;
        for (at, _) in self.answers().into_iter().filter(|(at, _)| *at > since) {
            longest = longest.max(at - last);
            last = at;
        }
        longest.max(last.elapsed())
    }

    /// Where answers were longer apart than this: how long after the start, and how long.
    pub fn gaps(&self, than: Duration) -> Vec<(Duration, Duration)> {
        let answers = self.answers();
        let pairs = answers.windows(2).map(|pair| (pair[0].0, pair[1].0 - pair[0].0));
        pairs.filter(|(_, gap)| *gap > than).map(|(at, gap)| (at - self.started, gap)).collect()
    }

    /// When the first answer came.
    pub fn first_answer(&self) -> Option<Instant> {
        self.answers().first().map(|(at, _)| *at)
    }

    /// How many pings were never answered, of those before the last that was.
    pub fn lost(&self) -> u64 {
        let answers = self.answers();
        let (Some(first), Some(last)) = (answers.first(), answers.last()) else { return u64::MAX };
        (last.1 - first.1 + 1).saturating_sub(answers.len() as u64)
    }

    /// After which of the answers pings were lost: how long after `since` each came.
    pub fn lost_after(&self, since: Instant) -> Vec<Duration> {
        let answers = self.answers();
        let pairs = answers.windows(2).filter(|pair| pair[1].1 > pair[0].1 + 1);
        pairs.map(|pair| pair[0].0.saturating_duration_since(since)).collect()
    }

    /// When it started.
    pub const fn started(&self) -> Instant {
        self.started
    }
}

impl Drop for Pinging {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if let Some(reader) = self.reader.take() {
            reader.join().ok();
        }
    }
}

/// The one in the middle.
pub fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
