//! Encrypted connections: whose certificates are trusted, and what is said of the others.
//!
//! The operating system decides, so that the authority of a company, or of its proxy, is trusted
//! here as everywhere else on the machine. On Linux `SSL_CERT_FILE` and `SSL_CERT_DIR` take the
//! place of the system's store. A system without any store, such as a small container, is served by
//! the public authorities that are built in.

use std::error::Error as StdError;
use std::io;
use std::sync::{Arc, OnceLock};

use reqwest::ClientBuilder;
use rustls::client::danger::ServerCertVerifier;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use rustls_platform_verifier::Verifier;
use tracing::warn;

/// Variables that name certificates in place of the system's.
const STORE_VARIABLES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

const UNKNOWN_ISSUER: &str = "its certificate was issued by an authority that this machine does not \
    trust; if it is your organisation's or its proxy's, add its certificate to the system's store, or \
    on Linux name a file with it in SSL_CERT_FILE";

/// The beginning of every HTTP client of this program. The certificates of the system are read once.
pub fn client_builder() -> ClientBuilder {
    static CONFIG: OnceLock<ClientConfig> = OnceLock::new();
    reqwest::Client::builder().tls_backend_preconfigured(CONFIG.get_or_init(config).clone())
}

/// What is wrong with the server's certificate, and what to do if nobody vouches for it; `None` if a
/// request failed for another reason.
pub(super) fn distrust(error: &reqwest::Error) -> Option<String> {
    let mut cause: Option<&(dyn StdError + 'static)> = error.source();
    while let Some(inner) = cause {
        if let Some(error @ rustls::Error::InvalidCertificate(problem)) = tls(inner) {
            return Some(match problem {
                CertificateError::UnknownIssuer => UNKNOWN_ISSUER.to_owned(),
                _ => error.to_string(),
            });
        }
        cause = inner.source();
    }
    None
}

/// The error of TLS, which comes wrapped in errors of reading and writing; their `source` skips it.
fn tls<'a>(mut error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    while let Some(inner) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        error = inner;
    }
    error.downcast_ref()
}

fn config() -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider's cipher suites serve TLS 1.2 and 1.3. This is a bug");
    let mut config = match Verifier::new(Arc::clone(&provider)) {
        Ok(verifier) => {
            let verifier: Arc<dyn ServerCertVerifier> = Arc::new(verifier);
            builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
        }
        Err(error) => {
            let roots = roots_without_store(&error);
            builder.with_root_certificates(roots).with_no_client_auth()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

/// Who is trusted where the system has no store: nobody if one was named, for then it is to be
/// mended; else the authorities that browsers trust.
fn roots_without_store(error: &rustls::Error) -> RootCertStore {
    let named = STORE_VARIABLES.iter().find(|name| std::env::var_os(name).is_some());
    if let Some(name) = named {
        warn!("no certificate could be read from where {name} points, so no server is trusted");
        return RootCertStore::empty();
    }
    warn!("{error}; the public authorities that are built in are trusted");
    webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect()
}
