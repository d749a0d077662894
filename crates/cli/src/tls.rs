//! TLS as a client: whose certificate is believed, and what to say when it is not.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{self, CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest as _, Sha256};

/// Whose certificate is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Whoever the system's authorities vouch for.
    System,
    /// Whoever the authorities in this PEM file vouch for, and nobody else.
    CaFile(PathBuf),
    /// Whoever has exactly the certificate with this SHA-256, in hex: the one a gateway announces in its state directory.
    Exactly(String),
}

impl Trust {
    /// How to connect. The error says why there is no way.
    pub(crate) fn client(&self) -> Result<Arc<ClientConfig>, String> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| error.to_string())?;
        let config = match self {
            Self::System => builder.with_root_certificates(system_roots()?).with_no_client_auth(),
            Self::CaFile(path) => builder.with_root_certificates(roots_of(path)?).with_no_client_auth(),
            Self::Exactly(sha256) => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Exactly { sha256: sha256.clone(), provider }))
                .with_no_client_auth(),
        };
        Ok(Arc::new(config))
    }
}

fn system_roots() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        return Err(
            "this machine has no list of certificate authorities: install its ca-certificates package, or pass \
                    --ca-file (or WATERTIGHT_CA_FILE)"
                .to_owned(),
        );
    }
    Ok(roots)
}

fn roots_of(path: &Path) -> Result<RootCertStore, String> {
    let text =
        std::fs::read(path).map_err(|error| format!("the CA file {} cannot be read: {error}", path.display()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let added = certificate.ok().and_then(|certificate| roots.add(certificate).ok());
        added.ok_or_else(|| format!("the CA file {} holds something that is no certificate", path.display()))?;
    }
    if roots.is_empty() {
        return Err(format!(
            "the CA file {} holds no certificate: PEM text with -----BEGIN CERTIFICATE----- is needed",
            path.display()
        ));
    }
    Ok(roots)
}

/// Believes one certificate, whatever name and dates are in it: who wrote its hash into the state directory is the
/// gateway itself. That the other side has its key is checked as ever.
#[derive(Debug)]
struct Exactly {
    sha256: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Exactly {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = Sha256::digest(end_entity).iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        if shown == self.sha256 {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// `DnsName("gateway.example")`, as rustls words a certificate's names, without its kind.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"')
}

/// What is wrong with the other side's TLS, and what to do about it.
pub(crate) fn explain(error: &rustls::Error) -> String {
    let wrong = match error {
        rustls::Error::InvalidCertificate(wrong) => wrong,
        rustls::Error::InvalidMessage(_) => return "it does not speak TLS; use ws:// if it must be so".to_owned(),
        rustls::Error::PeerIncompatible(_) => return format!("its TLS is not compatible with ours: {error}"),
        _ => return format!("TLS: {error}"),
    };
    match wrong {
        CertificateError::UnknownIssuer => {
            "its certificate is not signed by an authority that is trusted here: pass --ca-file (or \
             WATERTIGHT_CA_FILE) with the certificate of the authority that signed it"
                .to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired: renew it at the gateway, which takes up the new files by itself".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet: compare the clocks of both machines".to_owned()
        }
        CertificateError::NotValidForNameContext { expected, presented } => format!(
            "its certificate is not for {} but for {}: call it by a name that the certificate has",
            expected.to_str(),
            match presented.iter().map(|name| bare(name)).collect::<Vec<_>>() {
                names if names.is_empty() => "no name at all".to_owned(),
                names => names.join(", "),
            },
        ),
        CertificateError::NotValidForName => {
            "its certificate is for another name: call it by a name that the certificate has".to_owned()
        }
        CertificateError::ApplicationVerificationFailure => {
            "its certificate is not the one announced in the state directory, so it is another program, or its \
             certificate has just changed: try again"
                .to_owned()
        }
        CertificateError::Other(_) if format!("{wrong:?}").contains("CaUsedAsEndEntity") => {
            "its certificate is an authority's own: make one for the server, with openssl for instance by -addext \
             basicConstraints=critical,CA:FALSE"
                .to_owned()
        }
        other => format!("its certificate is not valid: {other}"),
    }
}
