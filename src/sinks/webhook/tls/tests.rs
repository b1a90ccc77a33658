//! Against a real TLS server with authorities that are made for the test.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::super::tests::{at, kind, parcel, settings};
use super::super::{Secrets, WebhookError, WebhookSink};
use crate::config::{self, ClientCertificate, SecretRef};
use crate::domain::Outcome;
use crate::sinks::Sink as _;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for `localhost`, and its key.
fn issued(by: &Authority) -> (rcgen::Certificate, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    (params.signed_by(&key, by).unwrap(), key)
}

/// A server that trusts the clients of `clients`, if it asks for a certificate at all.
fn acceptor(server: &Authority, clients: Option<&Authority>, protocol: &[u8]) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = if let Some(clients) = clients {
        let mut roots = RootCertStore::empty();
        roots.add(clients.der().clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        builder.with_client_cert_verifier(verifier.build().unwrap())
    } else {
        builder.with_no_client_auth()
    };
    let (certificate, key) = issued(server);
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let chain = vec![certificate.der().clone()];
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![protocol.to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

async fn serve(acceptor: TlsAcceptor, stream: TcpStream) {
    match acceptor.accept(stream).into_fallible().await {
        Ok(mut stream) => {
            let mut request = Vec::new();
            while !request.ends_with(b"}}") {
                assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
            }
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            stream.write_all(answer).await.unwrap();
            stream.shutdown().await.unwrap();
        }
        // Reads to the end, so that the alert is not overtaken by a reset.
        Err((_, mut stream)) => {
            let mut rest = Vec::new();
            drop(stream.read_to_end(&mut rest).await);
        }
    }
}

async fn listening(acceptor: TlsAcceptor, tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            serve(acceptor.clone(), stream).await;
        }
    });
    address
}

fn write(directory: &Path, name: &str, pem: &str) -> std::path::PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, pem).unwrap();
    path
}

struct Given<'a> {
    ca: Option<&'a Authority>,
    client: Option<&'a (rcgen::Certificate, KeyPair)>,
}

fn opened(at: &Path, url: &str, given: &Given<'_>) -> Result<WebhookSink, WebhookError> {
    let client = given.client.map(|(certificate, _)| ClientCertificate {
        certificate: write(at, "client.pem", &certificate.pem()),
        key: SecretRef::Env("NOT_READ_HERE".to_owned()),
    });
    let settings = config::WebhookSink {
        ca_file: given.ca.map(|ca| write(at, "ca.pem", &ca.pem())),
        client,
        ..settings(url)
    };
    let secrets = Secrets {
        client_key: given.client.map(|(_, key)| key.serialize_pem().into()),
        ..Secrets::default()
    };
    WebhookSink::new(settings, secrets, &config::Http::default())
}

#[tokio::test]
async fn a_receivers_own_authority_and_our_certificate_are_used_and_what_tls_refuses_was_not_sent()
{
    let (servers, clients, others) = (authority(), authority(), authority());
    let (ours, strangers) = (issued(&clients), issued(&others));
    let mut tasks = JoinSet::new();
    let open = listening(acceptor(&servers, None, b"http/1.1"), &mut tasks).await;
    let mutual = listening(acceptor(&servers, Some(&clients), b"http/1.1"), &mut tasks).await;
    // Never gets so far as to speak it.
    let second = acceptor(&servers, Some(&clients), b"h2");
    let second = listening(second, &mut tasks).await;
    let directory = tempfile::tempdir().unwrap();
    let servers = Some(&servers);
    for (address, ca, client, expected) in [
        (open, servers, None, "yes"),
        (open, servers, Some(&ours), "yes"),
        (open, None, None, "not sent"),
        (open, Some(&others), None, "not sent"),
        (mutual, servers, Some(&ours), "yes"),
        (mutual, servers, None, "not sent"),
        (mutual, servers, Some(&strangers), "not sent"),
        (second, servers, None, "not sent"),
        (second, servers, Some(&strangers), "not sent"),
    ] {
        let url = format!("https://localhost:{}/", address.port());
        let given = Given { ca, client };
        let sink = opened(directory.path(), &url, &given).unwrap();
        let delivered = sink.deliver(&[parcel(1)], at(0)).await.unwrap();
        let outcome: &Outcome = &delivered.outcomes[0];
        let (has_ca, has_client) = (ca.is_some(), client.is_some());
        assert_eq!(
            kind(outcome).0,
            expected,
            "{has_ca} {has_client} {outcome:?}"
        );
    }
}

#[tokio::test]
async fn what_makes_no_identity_is_told_before_anything_is_sent_and_no_key_is_shown() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let (mine, other) = (issued(&authority()), issued(&authority()));
    let secret: String = mine.1.serialize_pem().lines().nth(1).unwrap().to_owned();
    let certificate = |path| ClientCertificate {
        certificate: path,
        key: SecretRef::Env("NOT_READ_HERE".to_owned()),
    };
    let nowhere = at.join("nowhere.pem");
    let pem = write(at, "client.pem", &mine.0.pem());
    let garbage = write(at, "garbage.pem", "no PEM");
    for (ca_file, client, key, words) in [
        (Some(nowhere.clone()), None, String::new(), "ca_file /"),
        (
            Some(garbage.clone()),
            None,
            String::new(),
            "garbage.pem holds no certificate in PEM",
        ),
        (None, Some(nowhere), mine.1.serialize_pem(), "client_cert /"),
        (
            None,
            Some(garbage),
            mine.1.serialize_pem(),
            "garbage.pem and client_key: wanted",
        ),
        (
            None,
            Some(pem.clone()),
            format!("s3cr3t {secret}"),
            "client.pem and client_key: wanted",
        ),
        (
            None,
            Some(pem),
            other.1.serialize_pem(),
            "cannot be built: ",
        ),
    ] {
        let settings = config::WebhookSink {
            ca_file,
            client: client.map(certificate),
            ..settings("https://localhost/")
        };
        let secrets = Secrets {
            client_key: Some(key.into()),
            ..Secrets::default()
        };
        let error = WebhookSink::new(settings, secrets, &config::Http::default());
        let error = error.err().unwrap().to_string();
        assert!(error.contains(words), "{error}");
        assert!(
            !error.contains("s3cr3t") && !error.contains(&secret),
            "{error}"
        );
    }
}
