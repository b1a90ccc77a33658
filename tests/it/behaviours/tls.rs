//! Certificates of receivers, right and wrong, for one authority that the sinks trust.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, crypto::ring};

type Issuer = CertifiedIssuer<'static, KeyPair>;

/// The authority that the sinks trust.
pub(super) struct Authority(Issuer);

/// What is wrong with a receiver's TLS.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Flaw {
    Nothing,
    SelfSigned,
    Expired,
    OfAnotherName,
    OfAnotherAuthority,
    /// It wants a certificate of ours.
    WantsOurs,
    /// It speaks HTTP/2 only, in name.
    OnlyHttp2,
}

impl Authority {
    pub(super) fn new() -> Self {
        Self(issuer())
    }

    pub(super) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A receiver's end of TLS.
    pub(super) fn acceptor(&self, flaw: Flaw) -> TlsAcceptor {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if flaw == Flaw::WantsOurs {
            let mut roots = RootCertStore::empty();
            roots.add(self.0.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let key = KeyPair::generate().unwrap();
        let name = match flaw {
            Flaw::OfAnotherName => "elsewhere.example",
            Flaw::Nothing
            | Flaw::SelfSigned
            | Flaw::Expired
            | Flaw::OfAnotherAuthority
            | Flaw::WantsOurs
            | Flaw::OnlyHttp2 => "127.0.0.1",
        };
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        if flaw == Flaw::Expired {
            params.not_after = date_time_ymd(2020, 1, 1);
        }
        let certificate = match flaw {
            Flaw::SelfSigned => params.self_signed(&key),
            Flaw::OfAnotherAuthority => params.signed_by(&key, &issuer()),
            Flaw::Nothing
            | Flaw::Expired
            | Flaw::OfAnotherName
            | Flaw::WantsOurs
            | Flaw::OnlyHttp2 => params.signed_by(&key, &self.0),
        };
        let chain = vec![certificate.unwrap().der().clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = builder.with_single_cert(chain, key).unwrap();
        if flaw == Flaw::OnlyHttp2 {
            config.alpn_protocols = vec![b"h2".to_vec()];
        }
        TlsAcceptor::from(Arc::new(config))
    }
}

fn issuer() -> Issuer {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}
