//! The command line: what there is to type, and who does it.

mod apikeys;
mod checks;
mod doctor;
mod import;
mod keys;
mod nodes;
mod policy;
mod routes;
mod ssh;
mod users;
mod via6;
mod webhooks;
mod what_if;
mod whole;

use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, CommandFactory, Parser, Subcommand};
use hyper::Method;
use serde_json::Value;

use crate::client::{Client, Refused};
use crate::config::Layers;
use crate::config_cmd::{self, ConfigCommand};
use crate::output::{self, Format};
use crate::serve::{self, ServeArgs};

/// A control server for Tailscale clients whose heart is route management.
#[derive(Debug, Parser)]
#[command(name = "wayleave", version, max_term_width = 120)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags that every command takes, before or after it.
#[derive(Debug, Args)]
pub struct Global {
    /// The folder with keys, database and socket: which server is meant.
    #[arg(long, global = true, value_name = "D", env = "WAYLEAVE_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// The configuration file; where it is not said, wayleave.toml in the data folder.
    #[arg(long, global = true, value_name = "F", env = "WAYLEAVE_CONFIG")]
    config: Option<PathBuf>,
    /// Set a key of the configuration.
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// A server elsewhere, by its address. Needs an API key.
    #[arg(long, global = true, value_name = "URL", env = "WAYLEAVE_SERVER")]
    server: Option<String>,
    /// The file that holds the API key. (Or the variable `WAYLEAVE_API_KEY`.)
    #[arg(long, global = true, value_name = "F")]
    api_key_file: Option<PathBuf>,
    /// How to print.
    #[arg(long, short, global = true, value_enum, default_value_t)]
    pub output: Format,
    /// Answer questions with yes in advance.
    #[arg(long, global = true)]
    yes: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server.
    Serve(ServeArgs),
    /// Users.
    #[command(subcommand)]
    Users(users::Command),
    /// Pre-auth keys: they let machines in without a person.
    #[command(subcommand)]
    Keys(keys::Command),
    /// Nodes.
    #[command(subcommand)]
    Nodes(nodes::Command),
    /// Routes.
    #[command(subcommand)]
    Routes(routes::Command),
    /// 4via6: sites that use the same IPv4 prefixes.
    #[command(subcommand)]
    Via6(via6::Command),
    /// Webhooks: who is told of what happens to routes.
    #[command(subcommand)]
    Webhooks(webhooks::Command),
    /// The policy: who may reach what, who approves what.
    #[command(subcommand)]
    Policy(policy::Command),
    /// Shells that wait for a person.
    #[command(subcommand)]
    Ssh(ssh::Command),
    /// Say what is wrong, or will be, and what to do about it. Ends with 1 where something does not work.
    Doctor,
    /// Keys for the admin API.
    #[command(subcommand)]
    Apikeys(apikeys::Command),
    /// Move another installation over, into an empty data folder.
    #[command(subcommand)]
    Import(import::Command),
    /// Write everything but secrets as JSON.
    Export(whole::Export),
    /// Copy the database of a server while it runs.
    Backup(whole::Backup),
    /// The configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print what a shell needs to complete commands.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

/// The exit status for what was typed and not understood.
const USAGE: u8 = 2;

impl Command {
    /// Whether a policy comes with it, in a file.
    fn brings_a_policy(&self) -> bool {
        matches!(self, Self::Policy(_)) || matches!(self, Self::Routes(command) if command.brings_a_policy())
    }
}

impl Global {
    /// The data folder: as it was said, else below the user's own.
    pub fn data_dir(&self) -> anyhow::Result<PathBuf> {
        if let Some(path) = &self.data_dir {
            return Ok(path.clone());
        }
        let from = |name: &str| std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        let data = from("XDG_DATA_HOME").or_else(|| from("HOME").map(|home| home.join(".local/share")));
        data.map(|data| data.join("wayleave")).context("there is no home folder: say with --data-dir where the data is")
    }

    /// What was configured.
    pub fn layers(&self, data_dir: &Path, flags: &[(&'static str, &'static str, String)]) -> anyhow::Result<Layers> {
        let usual = data_dir.join("wayleave.toml");
        let file = self.config.clone().or_else(|| usual.exists().then_some(usual));
        let environment =
            std::env::vars_os().filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?)));
        Ok(Layers::read(file.as_deref(), environment, &self.set, flags)?)
    }

    fn client(&self) -> anyhow::Result<Client> {
        if let Some(url) = &self.server {
            let key = match &self.api_key_file {
                Some(path) => {
                    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?
                }
                None => std::env::var("WAYLEAVE_API_KEY")
                    .context("--server needs an API key: --api-key-file, or the variable WAYLEAVE_API_KEY")?,
            };
            return Ok(Client::Network { url: url.trim_end_matches('/').to_owned(), key: key.trim().to_owned() });
        }
        let data_dir = self.data_dir()?;
        let layers = self.layers(&data_dir, &[])?;
        let socket = layers.get("socket").and_then(|(value, _)| value.as_str()).unwrap_or_default();
        match socket {
            "" => Ok(Client::Socket(data_dir.join("wayleave.sock"))),
            "off" => bail!("the admin socket is switched off (`socket`): use --server with an API key"),
            path => Ok(Client::Socket(PathBuf::from(path))),
        }
    }

    /// Asks for something that may have a consequence: if the server wants it confirmed, the person is asked.
    async fn confirmed(
        &self,
        client: &Client,
        method: Method,
        path: impl Fn(bool) -> String,
        body: impl Fn(bool) -> Option<Value>,
    ) -> anyhow::Result<Value> {
        self.confirmed_by("--yes", client, method, path, body).await
    }

    /// The same, where another flag says yes in advance.
    async fn confirmed_by(
        &self,
        flag: &str,
        client: &Client,
        method: Method,
        path: impl Fn(bool) -> String,
        body: impl Fn(bool) -> Option<Value>,
    ) -> anyhow::Result<Value> {
        let answer = client.ask(method.clone(), &path(self.yes), body(self.yes).as_ref()).await;
        let Err(error) = answer else { return answer };
        let Some(message) = error.downcast_ref::<Refused>().filter(|refused| refused.confirm).map(ToString::to_string)
        else {
            return Err(error);
        };
        if !std::io::stdin().is_terminal() {
            bail!("{message}; say {flag} if that is wanted");
        }
        ask(&format!("{message}.\nGo on?"))?;
        client.ask(method, &path(true), body(true).as_ref()).await
    }

    /// Asks the person for a yes, unless it was given in advance.
    fn agreed(&self, question: &str) -> anyhow::Result<()> {
        if self.yes {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() {
            bail!("nothing was changed: there is nobody to ask here; say --yes if it is wanted");
        }
        ask(question)
    }
}

/// An error unless the person at the terminal says yes.
fn ask(question: &str) -> anyhow::Result<()> {
    write!(std::io::stderr(), "{question} [y/N] ")?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    if matches!(line.trim(), "y" | "Y" | "yes") { Ok(()) } else { bail!("nothing was changed") }
}

/// What was typed is not understood: a usage error, found before or by the server.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Misspelt(String);

/// Does what was typed. Exit status: 0 done, 1 failed, 2 not understood.
pub async fn run(cli: Cli) -> ExitCode {
    let Err(error) = dispatch(&cli).await else { return ExitCode::SUCCESS };
    output::note(&format!("wayleave: {}", wayleave_server::words(error.as_ref())));
    let is_refused = error.downcast_ref::<Refused>().is_some_and(|refused| refused.status == 400);
    // A policy that is wrong was understood: the file is wrong, not what was typed.
    let misspelt = error.is::<Misspelt>() || (is_refused && !cli.command.brings_a_policy());
    if misspelt { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
}

async fn dispatch(cli: &Cli) -> anyhow::Result<()> {
    let global = &cli.global;
    match &cli.command {
        Command::Serve(args) => serve::run(global, args).await,
        Command::Config(command) => config_cmd::run(global, command),
        Command::Import(command) => import::run(global, command).await,
        Command::Completions { shell } => {
            clap_complete::generate(*shell, &mut Cli::command(), "wayleave", &mut std::io::stdout());
            Ok(())
        }
        Command::Policy(command) => policy::run(global, command).await,
        Command::Via6(command) => via6::run(global, command).await,
        Command::Users(command) => users::run(global, &global.client()?, command).await,
        Command::Keys(command) => keys::run(global, &global.client()?, command).await,
        Command::Nodes(command) => nodes::run(global, &global.client()?, command).await,
        Command::Routes(command) => routes::run(global, &global.client()?, command).await,
        Command::Webhooks(command) => webhooks::run(global, &global.client()?, command).await,
        Command::Doctor => doctor::run(global, &global.client()?).await,
        Command::Ssh(command) => ssh::run(global, &global.client()?, command).await,
        Command::Export(export) => whole::export(global, &global.client()?, export).await,
        Command::Backup(backup) => whole::backup(global, &global.client()?, backup).await,
        Command::Apikeys(command) => apikeys::run(global, &global.client()?, command).await,
    }
}

/// A duration as an argument.
fn duration(text: &str) -> Result<std::time::Duration, wayleave_model::duration::DurationError> {
    wayleave_model::duration::parse(text)
}

/// Prints what came of a change: the thing itself for programs, a line for people.
fn done(global: &Global, value: &Value, text: &str) -> anyhow::Result<()> {
    if global.output == Format::Table {
        output::line(text);
        return Ok(());
    }
    let value = if value.is_null() { serde_json::json!({ "done": text }) } else { value.clone() };
    output::one(global.output, &value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_that_others_script_against_are_understood() {
        Cli::command().debug_assert();
        for line in [
            "serve --data-dir D --listen 127.0.0.1:1 --server-url http://x",
            "--data-dir D serve --set nodes.ephemeral_timeout=5s --set derp.enabled=false",
            "users create anna",
            "keys create --user anna --reusable --ephemeral --tags tag:a,tag:b --expires 24h --output json",
            "--data-dir D nodes list --output json",
            "nodes show --node r1",
            "nodes register --key K --user anna",
            "nodes rename --node r1 r2",
            "nodes tag --node r1 tag:a,tag:b",
            "nodes expire --node 1",
            "nodes delete --node 100.64.0.1 --yes",
            "nodes list-routes",
            "nodes approve-routes --node r1 10.0.0.0/8 fd00::/64",
            "nodes approve-routes --node r1",
            "routes list --node r1 --prefix 10.0.0.0/8 --state pending",
            "routes approve --node r1 10.0.0.0/8",
            "routes approve --prefix 10.0.0.0/8",
            "routes approve --all-pending",
            "routes disable --node r1 10.0.0.0/8 --yes",
            "routes history --prefix 10.0.0.0/8",
            "routes prefer --node r1 10.0.0.0/8 --priority 10",
            "routes prefer --node r1 10.0.0.0/8 --priority -1",
            "routes set 10.0.0.0/8 --spread region --failback-after never",
            "routes set --default --when-down fall_back --on-withdraw keep",
            "routes move 10.0.0.0/8 --to r2",
            "routes freeze 10.0.0.0/8 --for 1h",
            "routes unfreeze --all",
            "routes drain --node r1 --wait --timeout 60s",
            "routes undrain --node r1",
            "routes undrain --node r1 --wait --timeout 60s",
            "routes explain 10.0.0.7 --from c1",
            "routes history --since 2h",
            "routes watch --output json",
            "webhooks add https://x.example/y --events primary-changed,prefix-down",
            "webhooks test 1",
            "routes collisions --output json",
            "routes what-if --down r1 r2 --approve r3:10.0.0.0/8 --disable r1:fd00::/64 --policy F",
            "via6 encode 7 192.168.1.0/24",
            "via6 decode fd7a:115c:a1e0:b1a:0:7:c0a8:100/120",
            "via6 sites add berlin --id 7",
            "via6 hosts add printer berlin 192.168.1.9",
            "routes check set 10.0.0.0/8 --target 10.0.0.9 --every 2s --witness tag:witness",
            "routes check list",
            "routes check run 10.0.0.0/8",
            "routes check remove 10.0.0.0/8",
            "apikeys create --expires 90d",
            "doctor --output json",
            "config show",
            "import headscale /var/lib/headscale/db.sqlite --check --noise-key K --policy database --output json",
            "import headscale postgres://headscale@db/headscale --deny-all --data-dir D",
            "export --format json",
            "export all.json",
            "backup wayleave-backup.db",
            "import wayleave all.json --noise-key K",
            "completions bash",
        ] {
            let words = std::iter::once("wayleave").chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_ok(), "{line}");
        }
        for line in [
            "routes approve",
            "routes what-if",
            "routes set --default",
            "routes freeze",
            "routes drain --node r1 --timeout 5s",
            "routes undrain --node r1 --timeout 5s",
            "keys create --expires soon",
            "nodes rename --node r1",
            "nonsense",
        ] {
            let words = std::iter::once("wayleave").chain(line.split(' '));
            assert_eq!(Cli::try_parse_from(words).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
