//! TLS from certificate files.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::server::WantsServerCert;
use rustls::{ConfigBuilder, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::options::TlsFiles;

/// The certificate or its key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read, or holds no PEM of its kind.
    #[error("cannot read {what} from {}", path.display())]
    File {
        /// What was wanted.
        what: &'static str,
        /// From which file.
        path: PathBuf,
        /// Why.
        source: rustls_pki_types::pem::Error,
    },
    /// No certificate could be made for the relay.
    #[error("cannot make a certificate for the relay")]
    SelfSigned(rcgen::Error),
    /// The key of a certificate that was just made can't be used.
    #[error("cannot use the certificate that was made for the relay")]
    OwnKey,
    /// The file holds no certificate.
    #[error("{} holds no certificate", .0.display())]
    Empty(PathBuf),
    /// The two do not belong together, or are of a kind that is not served.
    #[error("the certificate {} and the key {} do not fit: are they of one pair?", cert.display(), key.display())]
    Pair {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

/// A certificate that nobody signed, for relay clients of a server that has none: they speak nothing but TLS to relays, and are told
/// not to verify it. What they relay is WireGuard's, sealed from end to end.
///
/// # Errors
///
/// It can't be made.
pub fn self_signed() -> Result<Arc<ServerConfig>, TlsError> {
    let made = rcgen::generate_simple_self_signed(["relay.invalid".to_owned()]).map_err(TlsError::SelfSigned)?;
    let key = PrivateKeyDer::try_from(made.key_pair.serialize_der()).map_err(|_| TlsError::OwnKey)?;
    let config = builder().and_then(|builder| builder.with_single_cert(vec![made.cert.der().clone()], key));
    config.map(served).map_err(|_| TlsError::OwnKey)
}

fn builder() -> Result<ConfigBuilder<ServerConfig, WantsServerCert>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_no_client_auth())
}

fn served(mut config: ServerConfig) -> Arc<ServerConfig> {
    // Clients upgrade HTTP/1.1 connections, and offer nothing else for relays.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Reads certificate and key.
///
/// # Errors
///
/// A file can't be read, or the two do not fit.
pub fn load(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let failed = |what, path: &PathBuf| {
        let path = path.clone();
        move |source| TlsError::File { what, path, source }
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(&files.cert).and_then(Iterator::collect);
    let chain = chain.map_err(failed("a certificate", &files.cert))?;
    if chain.is_empty() {
        return Err(TlsError::Empty(files.cert.clone()));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(failed("a private key", &files.key))?;
    let pair = |source| TlsError::Pair { cert: files.cert.clone(), key: files.key.clone(), source };
    builder().and_then(|builder| builder.with_single_cert(chain, key)).map(served).map_err(pair)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_read_and_a_key_of_another_pair_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: String| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let (one, other) = (
            rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap(),
            rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap(),
        );
        let cert = file("cert.pem", one.cert.pem());
        let key = file("key.pem", one.key_pair.serialize_pem());
        let wrong = file("wrong.pem", other.key_pair.serialize_pem());
        let empty = file("empty.pem", String::new());
        assert!(load(&TlsFiles { cert: cert.clone(), key: key.clone() }).is_ok());
        assert!(matches!(load(&TlsFiles { cert: cert.clone(), key: wrong }), Err(TlsError::Pair { .. })));
        assert!(matches!(load(&TlsFiles { cert: empty.clone(), key }), Err(TlsError::Empty(_))));
        assert!(matches!(load(&TlsFiles { cert: cert.clone(), key: empty }), Err(TlsError::File { .. })));
        let missing = folder.path().join("missing.pem");
        assert!(matches!(load(&TlsFiles { cert, key: missing }), Err(TlsError::File { .. })));
    }
}
