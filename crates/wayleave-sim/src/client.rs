//! A client: Noise, HTTP/2, registration and maps, over one connection.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::{Buf, Bytes, BytesMut};
use h2::RecvStream;
use h2::client::SendRequest;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use wayleave_model::MachineKey;
use wayleave_server::noise_stream::NoiseStream;
use wayleave_wire::noise::{initiate, read_response};
use wayleave_wire::{CapabilityVersion, PrivateKey};

/// A client with keys of its own.
#[derive(Clone)]
pub struct Client {
    machine: PrivateKey,
    node: PrivateKey,
    disco: PrivateKey,
    server: MachineKey,
    address: SocketAddr,
    requests: SendRequest<Bytes>,
    driver: AbortHandle,
    frozen: Arc<Notify>,
}

/// A map stream, frame by frame.
pub struct MapStream {
    body: RecvStream,
    buffer: BytesMut,
}

/// What Go's HTTP/2 client lets a server send before it has read (`transportDefaultStreamFlow`, `transportDefaultConnFlow`).
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 1 << 30;
/// A version that today's clients have.
const VERSION: u16 = 142;

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |n: u32| char::from(DIGITS[usize::try_from(n & 63).unwrap_or(0)]);
    bytes
        .chunks(3)
        .flat_map(|c| {
            let n =
                u32::from(c[0]) << 16 | u32::from(*c.get(1).unwrap_or(&0)) << 8 | u32::from(*c.get(2).unwrap_or(&0));
            let third = if c.len() > 1 { digit(n >> 6) } else { '=' };
            [digit(n >> 18), digit(n >> 12), third, if c.len() > 2 { digit(n) } else { '=' }]
        })
        .collect()
}

impl Client {
    /// Connects with new keys.
    ///
    /// # Errors
    ///
    /// The server does not answer as it should.
    pub async fn connect(address: SocketAddr, server: MachineKey) -> anyhow::Result<Self> {
        let key = || PrivateKey::from_bytes(rand::random());
        Self::connect_as(address, server, key(), key()).await
    }

    /// Connects with these keys.
    ///
    /// # Errors
    ///
    /// The server does not answer as it should.
    pub async fn connect_as(
        address: SocketAddr,
        server: MachineKey,
        machine: PrivateKey,
        node: PrivateKey,
    ) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Self::over(stream, address, server, machine, node).await
    }

    /// Connects with these keys from this address of the machine.
    ///
    /// # Errors
    ///
    /// The server does not answer as it should.
    pub async fn connect_from(
        from: IpAddr,
        address: SocketAddr,
        server: MachineKey,
        machine: PrivateKey,
        node: PrivateKey,
    ) -> anyhow::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(from, 0))?;
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        Self::over(stream, address, server, machine, node).await
    }

    /// Connects with these keys over a stream that is there already, by which the server is reached as `address`.
    ///
    /// # Errors
    ///
    /// The server does not answer as it should.
    pub async fn over(
        mut stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        address: SocketAddr,
        server: MachineKey,
        machine: PrivateKey,
        node: PrivateKey,
    ) -> anyhow::Result<Self> {
        let (initiation, initiator) = initiate(&machine, &server, CapabilityVersion(VERSION), rand::random())?;
        let head = format!(
            "POST /ts2021 HTTP/1.1\r\nHost: {address}\r\nUpgrade: tailscale-control-protocol\r\nConnection: upgrade\r\n\
             X-Tailscale-Handshake: {}\r\n\r\n",
            base64(&initiation)
        );
        stream.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        let end = loop {
            if let Some(at) = answer.windows(4).position(|end| end == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut answer).await? == 0 {
                bail!("the server closed the connection: {}", String::from_utf8_lossy(&answer));
            }
        };
        if !answer.starts_with(b"HTTP/1.1 101") {
            bail!("no upgrade: {}", String::from_utf8_lossy(&answer));
        }
        while answer.len() < end + 51 {
            if stream.read_buf(&mut answer).await? == 0 {
                bail!("the server closed the connection in the handshake");
            }
        }
        let session = read_response(initiator, &answer[end..end + 51])?;
        let mut noise = NoiseStream::new(stream, session, Vec::new(), None);
        noise.feed(&answer[end + 51..]);
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
        let (requests, connection) = builder.handshake(noise).await?;
        let frozen = Arc::new(Notify::new());
        let freezes = Arc::clone(&frozen);
        let driver = async move {
            let mut connection = pin!(connection);
            tokio::select! {
                _ = &mut connection => {}
                // What was connected stays so, and nobody reads.
                () = freezes.notified() => std::future::pending().await,
            }
        };
        let driver = tokio::spawn(driver).abort_handle();
        let disco = PrivateKey::from_bytes(rand::random());
        Ok(Self { machine, node, disco, server, address, requests, driver, frozen })
    }

    /// Connects again with the same keys.
    ///
    /// # Errors
    ///
    /// The server does not answer as it should.
    pub async fn again(&self) -> anyhow::Result<Self> {
        Self::connect_as(self.address, self.server, self.machine.clone(), self.node.clone()).await
    }

    /// Closes the connection without a word, as a machine does that loses its power.
    pub fn cut(&self) {
        self.driver.abort();
    }

    /// Reads and writes nothing any more, as a process that stands still does.
    pub fn freeze(&self) {
        self.frozen.notify_one();
    }

    /// The same machine with a new node key, on the same connection.
    pub fn with_new_node_key(&self) -> Self {
        Self { node: PrivateKey::from_bytes(rand::random()), ..self.clone() }
    }

    /// The node key's text.
    pub fn node_key(&self) -> String {
        self.node.node_key().to_string()
    }

    /// Sends a request, and gives status and body.
    ///
    /// # Errors
    ///
    /// The connection is gone.
    pub async fn ask(&self, method: Method, path: &str, body: Vec<u8>) -> anyhow::Result<(StatusCode, Bytes)> {
        let (status, mut stream) = self.open(method, path, body).await?;
        let mut all = BytesMut::new();
        while let Some(chunk) = stream.data().await {
            let chunk = chunk?;
            stream.flow_control().release_capacity(chunk.len())?;
            all.extend_from_slice(&chunk);
        }
        Ok((status, all.freeze()))
    }

    async fn open(&self, method: Method, path: &str, body: Vec<u8>) -> anyhow::Result<(StatusCode, RecvStream)> {
        let uri = format!("https://{}{path}", self.address);
        let request = Request::builder().method(method).uri(uri).body(())?;
        let mut requests = self.requests.clone().ready().await?;
        let (response, mut stream) = requests.send_request(request, body.is_empty())?;
        if !body.is_empty() {
            stream.send_data(Bytes::from(body), true)?;
        }
        let response = response.await?;
        Ok((response.status(), response.into_body()))
    }

    /// Registers, with what `change` adds to the request.
    ///
    /// # Errors
    ///
    /// The server does not answer in JSON.
    pub async fn register(&self, change: Value) -> anyhow::Result<Value> {
        let mut request = json!({
            "Version": VERSION,
            "NodeKey": self.node_key(),
            "OldNodeKey": format!("nodekey:{}", "0".repeat(64)),
            "Expiry": "0001-01-01T00:00:00Z",
            "Followup": "",
            "Hostinfo": { "Hostname": "sim", "OS": "linux" },
        });
        merge(&mut request, change);
        let (status, body) = self.ask(Method::POST, "/machine/register", request.to_string().into_bytes()).await?;
        serde_json::from_slice(&body).with_context(|| format!("{status}: {}", String::from_utf8_lossy(&body)))
    }

    /// Registers with a key, under a name.
    ///
    /// # Errors
    ///
    /// The server refuses.
    pub async fn join(&self, key: &str, name: &str) -> anyhow::Result<()> {
        let answer = self.register(json!({ "Auth": { "AuthKey": key }, "Hostinfo": { "Hostname": name } })).await?;
        match answer["Error"].as_str() {
            Some("") if answer["MachineAuthorized"] == true => Ok(()),
            _ => bail!("{answer}"),
        }
    }

    /// Reports an endpoint, a relay, and these routes.
    ///
    /// # Errors
    ///
    /// The server refuses.
    pub async fn report(&self, name: &str, routes: &[&str]) -> anyhow::Result<()> {
        self.report_from(name, routes, &["127.0.0.1:41641"]).await
    }

    /// Reports these endpoints, each of an interface of its own, a relay, and these routes.
    ///
    /// # Errors
    ///
    /// The server refuses.
    pub async fn report_from(&self, name: &str, routes: &[&str], endpoints: &[&str]) -> anyhow::Result<()> {
        let request = json!({
            "Version": VERSION, "NodeKey": self.node_key(), "DiscoKey": self.disco_key(), "OmitPeers": true,
            "Endpoints": endpoints, "EndpointTypes": vec![1; endpoints.len()],
            "Hostinfo": { "Hostname": name, "RoutableIPs": routes, "NetInfo": { "PreferredDERP": 900 } },
        });
        let (status, body) = self.ask(Method::POST, "/machine/map", request.to_string().into_bytes()).await?;
        if status != StatusCode::OK {
            bail!("{status}: {}", String::from_utf8_lossy(&body));
        }
        Ok(())
    }

    fn disco_key(&self) -> String {
        self.disco.node_key().to_string().replace("nodekey:", "discokey:")
    }

    /// A whole map, once, without a stream (protocol.md 2.2: `Stream` false with `ReadOnly`).
    ///
    /// # Errors
    ///
    /// The server refuses.
    pub async fn map_once(&self) -> anyhow::Result<Value> {
        let request = json!({ "Version": VERSION, "Compress": "zstd", "Stream": false, "ReadOnly": true, "NodeKey": self.node_key() });
        let (status, body) = self.ask(Method::POST, "/machine/map", request.to_string().into_bytes()).await?;
        let frame = body.get(4..).filter(|_| status == StatusCode::OK);
        let frame = frame.with_context(|| format!("{status}: {}", String::from_utf8_lossy(&body)))?;
        Ok(serde_json::from_slice(&zstd::stream::decode_all(frame)?)?)
    }

    /// Opens a map stream.
    ///
    /// # Errors
    ///
    /// The server refuses.
    pub async fn stream(&self) -> anyhow::Result<MapStream> {
        let request = json!({
            "Version": VERSION, "Compress": "zstd", "KeepAlive": true, "Stream": true, "NodeKey": self.node_key(),
        });
        let (status, body) = self.open(Method::POST, "/machine/map", request.to_string().into_bytes()).await?;
        if status != StatusCode::OK {
            bail!("{status}");
        }
        Ok(MapStream { body, buffer: BytesMut::new() })
    }
}

fn merge(into: &mut Value, change: Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            change.into_iter().for_each(|(name, value)| merge(into.entry(name).or_insert(Value::Null), value));
        }
        (into, change) => *into = change,
    }
}

impl MapStream {
    /// The next frame; `None` once the stream has ended.
    ///
    /// # Errors
    ///
    /// The connection is gone, or what came is no frame.
    pub async fn next(&mut self) -> anyhow::Result<Option<Value>> {
        let Some(frame) = self.next_compressed().await? else { return Ok(None) };
        let json = zstd::stream::decode_all(&frame[..])?;
        Ok(Some(serde_json::from_slice(&json)?))
    }

    /// The body of the next frame as it came; `None` once the stream has ended.
    ///
    /// # Errors
    ///
    /// The connection is gone.
    pub async fn next_compressed(&mut self) -> anyhow::Result<Option<Bytes>> {
        loop {
            if let Some(length) = self.buffer.first_chunk::<4>().map(|head| u32::from_le_bytes(*head)) {
                let length = usize::try_from(length)?;
                if self.buffer.len() >= 4 + length {
                    self.buffer.advance(4);
                    let frame = self.buffer.split_to(length).freeze();
                    if self.buffer.is_empty() {
                        // A client that is idle keeps no buffer.
                        self.buffer = BytesMut::new();
                    }
                    return Ok(Some(frame));
                }
            }
            let Some(chunk) = self.body.data().await else { return Ok(None) };
            let chunk = chunk?;
            self.body.flow_control().release_capacity(chunk.len())?;
            self.buffer.extend_from_slice(&chunk);
        }
    }

    /// The next frame for which this holds; others are passed over.
    ///
    /// # Errors
    ///
    /// The stream ended before it came.
    pub async fn until(&mut self, holds: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        while let Some(frame) = self.next().await? {
            if holds(&frame) {
                return Ok(frame);
            }
        }
        bail!("the stream ended before the frame that was waited for")
    }
}
