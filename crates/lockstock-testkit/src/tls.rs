//! Certificates that a test issues.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

use crate::scratch::Scratch;

/// A private certificate authority. Its certificates are valid while it lives:
/// their files are in its folder.
///
/// ```
/// let authority = lockstock_testkit::Authority::new();
/// let text = std::fs::read_to_string(authority.file()).unwrap();
/// assert!(text.starts_with("-----BEGIN CERTIFICATE-----"));
/// ```
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: PathBuf,
    issued: AtomicU64,
    folder: Scratch,
}

/// The certificate of a server or a client, with its key.
pub struct Certificate {
    certificate: PathBuf,
    key: PathBuf,
    authority: PathBuf,
}

impl Authority {
    /// Creates an authority that no client trusts yet.
    #[expect(clippy::new_without_default, reason = "it writes files")]
    pub fn new() -> Authority {
        let folder = Scratch::new("tls");
        let mut params = params(&[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "lockstock test authority");
        let key = key();
        let certificate = params.self_signed(&key).expect("a sound authority");
        let file = folder.path().join("authority.pem");
        write(&file, &certificate.pem());
        Authority {
            issuer: Issuer::new(params, key),
            file,
            issued: AtomicU64::new(0),
            folder,
        }
    }

    /// Returns its own certificate in PEM, which a client has to trust.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Issues a certificate for host names and addresses.
    pub fn issue(&self, names: &[&str]) -> Certificate {
        self.sign(params(names))
    }

    /// Issues a certificate that expired at the end of the year 2001.
    pub fn issue_expired(&self, names: &[&str]) -> Certificate {
        let mut params = params(names);
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(2001, 12, 31);
        self.sign(params)
    }

    /// Issues a certificate that is valid between two times.
    pub fn issue_between(&self, names: &[&str], from: SystemTime, to: SystemTime) -> Certificate {
        let date = |time: SystemTime| {
            let since_epoch = time.duration_since(UNIX_EPOCH).expect("a time after 1970");
            date_time_ymd(1970, 1, 1) + since_epoch
        };
        let mut params = params(names);
        params.not_before = date(from);
        params.not_after = date(to);
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> Certificate {
        let key = key();
        let signed = params
            .signed_by(&key, &self.issuer)
            .expect("a sound certificate");
        let number = self.issued.fetch_add(1, Ordering::Relaxed);
        let path = |kind: &str| self.folder.path().join(format!("{number}.{kind}.pem"));
        let certificate = Certificate {
            certificate: path("certificate"),
            key: path("key"),
            authority: self.file.clone(),
        };
        write(&certificate.certificate, &signed.pem());
        write(&certificate.key, &key.serialize_pem());
        let private = Permissions::from_mode(0o600);
        set_permissions(&certificate.key, private).expect("permissions of a key");
        certificate
    }
}

impl Certificate {
    /// Returns the file of the certificate in PEM, which a client may present.
    pub fn file(&self) -> &Path {
        &self.certificate
    }

    /// Returns the file of its private key in PEM.
    pub fn key_file(&self) -> &Path {
        &self.key
    }

    /// Returns the arguments of `redis-server`.
    pub(crate) fn arguments(&self, port: u16) -> Vec<String> {
        let file = |path: &Path| path.to_str().expect("a path in UTF-8").to_owned();
        [
            ("--tls-port", port.to_string()),
            ("--tls-cert-file", file(&self.certificate)),
            ("--tls-key-file", file(&self.key)),
            ("--tls-ca-cert-file", file(&self.authority)),
            // Clients present no certificate.
            ("--tls-auth-clients", "no".to_owned()),
        ]
        .into_iter()
        .flat_map(|(name, value)| [name.to_owned(), value])
        .collect()
    }
}

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|&name| name.into()).collect();
    CertificateParams::new(names).expect("names of hosts")
}

fn key() -> KeyPair {
    KeyPair::generate().expect("a key")
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|error| panic!("cannot write {path:?}: {error}"));
}
