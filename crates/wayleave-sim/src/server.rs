//! A server as shipped, on loopback, with a data folder of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use tempfile::TempDir;
use wayleave_model::UserId;
use wayleave_server::options::{
    DerpOptions, DnsOptions, Evidence, HistoryLimits, Limits, Options, OwnDerp, Probes, WebhookOptions,
};
use wayleave_server::{Control, Server, secrets};
use wayleave_tailnet::{Command, NewAuthKey, Outcome, Settings};
use wayleave_wire::control::DnsConfig;

/// A server on loopback.
pub struct TestServer {
    server: Option<Server>,
    folder: TempDir,
    address: SocketAddr,
    options: Options,
}

/// What a server is started with where a test says nothing else.
pub fn options(folder: &Path, address: SocketAddr) -> Options {
    let own = OwnDerp {
        region_id: 900,
        region_code: "test".to_owned(),
        region_name: "Test".to_owned(),
        host: address.ip().to_string(),
        port: address.port(),
        ipv4: None,
        ipv6: None,
        cert_name: String::new(),
        stun_listen: None,
        stun_any_port: false,
        verify_clients: true,
    };
    Options {
        data_dir: folder.join("data"),
        server_url: format!("http://{address}"),
        listen: Some(address),
        http_listen: None,
        tls: None,
        socket: Some(folder.join("data").join("wayleave.sock")),
        dns: DnsOptions {
            base_domain: "tailnet.internal".to_owned(),
            config: DnsConfig { proxied: true, domains: vec!["tailnet.internal".to_owned()], ..DnsConfig::default() },
        },
        derp: DerpOptions { own: Some(own), urls: Vec::new(), files: Vec::new(), refresh: Duration::from_secs(86_400) },
        limits: Limits::default(),
        probes: Probes::default(),
        evidence: Evidence::default(),
        history: HistoryLimits::default(),
        webhooks: WebhookOptions::default(),
        policy_file: None,
        tailnet: Settings::default(),
    }
}

impl TestServer {
    /// Starts a server.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(|_| {}).await
    }

    /// Starts a server with other options than usual.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub async fn start_with(change: impl FnOnce(&mut Options)) -> anyhow::Result<Self> {
        // Another test may have done the same.
        rustls::crypto::ring::default_provider().install_default().ok();
        let folder = tempfile::tempdir()?;
        let free = std::net::TcpListener::bind("127.0.0.1:0")?;
        let address = free.local_addr()?;
        drop(free);
        let mut options = options(folder.path(), address);
        change(&mut options);
        let server = Server::start(options.clone()).await?;
        Ok(Self { server: Some(server), folder, address, options })
    }

    /// Stops it as a signal does, and starts it again on the same data.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.stop().await;
        self.server = Some(Server::start(self.options.clone()).await?);
        Ok(())
    }

    /// Stops it as a signal does.
    pub async fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop().await;
        }
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it was started with.
    pub const fn options(&self) -> &Options {
        &self.options
    }

    /// Its data folder.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The server itself.
    ///
    /// # Errors
    ///
    /// It was stopped.
    pub fn server(&self) -> anyhow::Result<&Server> {
        self.server.as_ref().context("the server was stopped")
    }

    /// Its control loop.
    ///
    /// # Errors
    ///
    /// It was stopped.
    pub fn control(&self) -> anyhow::Result<&Control> {
        self.server().map(Server::control)
    }

    /// Makes a user.
    ///
    /// # Errors
    ///
    /// It is refused.
    pub async fn user(&self, name: &str) -> anyhow::Result<UserId> {
        let command =
            Command::CreateUser { name: name.to_owned(), display_name: String::new(), email: None, role: None };
        let outcome = self.control()?.command(command).await?;
        if let Outcome::User(user) = outcome { Ok(user) } else { anyhow::bail!("{outcome:?}") }
    }

    /// Makes an API key, and gives its text.
    ///
    /// # Errors
    ///
    /// It is refused.
    pub async fn api_key(&self) -> anyhow::Result<String> {
        let secret = secrets::new_key("wl-api");
        let (name, hash) = (secret.public, secret.hash);
        let command = Command::CreateApiKey { name, hash, description: String::new(), lifetime: None };
        self.control()?.command(command).await?;
        Ok(secret.text)
    }

    /// Makes a pre-auth key, and gives its text.
    ///
    /// # Errors
    ///
    /// It is refused.
    pub async fn key(&self, user: UserId, change: impl FnOnce(&mut NewAuthKey)) -> anyhow::Result<String> {
        let secret = secrets::new_key("wl-auth");
        let mut new = NewAuthKey {
            user: Some(user),
            hint: secret.public,
            hash: secret.hash,
            reusable: true,
            ephemeral: false,
            tags: Default::default(),
            description: String::new(),
            lifetime: None,
        };
        change(&mut new);
        self.control()?.command(Command::CreateAuthKey(new)).await?;
        Ok(secret.text)
    }
}
