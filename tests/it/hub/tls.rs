//! Downloads over TLS from a server whose certificate a private authority issued.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::model_file;
use super::server::{Reply, Server};
use crate::program::{Run, finish, kolosal};

/// A server's side of TLS for `localhost`, and the certificate of the authority behind it as PEM.
fn private_authority(name: &str) -> (TlsAcceptor, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), pem)
}

/// `kolosal pull` where `store` holds the certificates of all who are trusted.
async fn pull(home: &Path, url: &str, store: &Path) -> Run {
    let mut command = kolosal(home);
    command.args(["pull", url]).env("SSL_CERT_FILE", store).env_remove("SSL_CERT_DIR");
    tokio::task::spawn_blocking(move || finish(&mut command, "")).await.unwrap()
}

#[tokio::test]
async fn the_certificates_of_the_system_decide_whom_to_trust() {
    let home = tempfile::tempdir().unwrap();
    let (acceptor, pem) = private_authority("ours");
    let (_, other_pem) = private_authority("another");
    let body = model_file(10_000, 0);
    let server = Server::start_tls(acceptor, move |r, _| Reply::file(r, &body, "\"1\"")).await;
    let url = format!("https://{}/m.gguf", server.address);
    let store = home.path().join("store.pem");
    for (stored, said) in [
        (other_pem.as_str(), "add its certificate to the system's store"),
        ("", "add its certificate to the system's store"),
    ] {
        std::fs::write(&store, stored).unwrap();
        let run = pull(home.path(), &url, &store).await;
        assert_ne!(run.code, 0, "{run:?}");
        assert!(run.err.contains(said) && run.err.contains("SSL_CERT_FILE"), "{run:?}");
        assert!(!run.err.contains("next try"), "trying again is of no use: {run:?}");
    }
    assert_eq!(server.seen().len(), 0, "nothing is sent to a server that is not trusted");
    std::fs::write(&store, pem).unwrap();
    let run = pull(home.path(), &url, &store).await;
    assert_eq!(run.code, 0, "{run:?}");
    assert!(Path::new(run.out.trim()).is_file(), "{run:?}");
}
