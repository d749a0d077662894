//! Certificates and who trusts them.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

/// An authority that issues certificates.
pub struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, both PEM.
#[derive(Clone)]
pub struct Certificate {
    /// The certificate.
    pub cert: String,
    /// Its private key.
    pub key: String,
}

impl Authority {
    /// A new one.
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, format!("Authority {}", uuid::Uuid::new_v4()));
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// Its own certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for these names and addresses.
    pub fn issue(&self, names: &[&str]) -> Certificate {
        self.issue_until(names, 4000)
    }

    /// The same, but it ran out long ago.
    pub fn issue_expired(&self, names: &[&str]) -> Certificate {
        self.issue_until(names, 2001)
    }

    fn issue_until(&self, names: &[&str], year: i32) -> Certificate {
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.not_after = date_time_ymd(year, 1, 1);
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Certificate { cert, key: key.serialize_pem() }
    }

    /// A client that trusts this authority and nobody else.
    pub fn client(&self) -> Arc<ClientConfig> {
        self.client_of(rustls::ALL_VERSIONS)
    }

    /// The same, with these versions of TLS.
    pub fn client_of(&self, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        let own = CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("its own certificate");
        roots.add(own).expect("its own certificate is one of an authority");
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_protocol_versions(versions).expect("versions");
        Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Certificate {
    /// One of an authority, signed by itself, as `openssl req -x509` makes them.
    pub fn of_an_authority(names: &[&str]) -> Self {
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { cert: params.self_signed(&key).expect("a certificate").pem(), key: key.serialize_pem() }
    }

    /// Writes `cert.pem` and `key.pem` into a directory, the key for its owner alone, each in one step; where they are.
    pub fn write(&self, dir: &Path) -> (PathBuf, PathBuf) {
        let put = |name: &str, text: &str, mode| {
            let (path, draft) = (dir.join(name), dir.join(format!("{name}.draft")));
            fs::write(&draft, text).expect("it is written");
            fs::set_permissions(&draft, Permissions::from_mode(mode)).expect("its mode is set");
            fs::rename(&draft, &path).expect("it is put in place");
            path
        };
        (put("cert.pem", &self.cert, 0o644), put("key.pem", &self.key, 0o600))
    }
}
