//! The certificate of the server.

use std::time::Duration;

use chrono::{DateTime, Utc};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use url::Url;
use webpki::{EndEntityCert, Error, KeyUsage};

use super::SOON;
use super::finding::Finding;
use crate::cli::tls::CertificateFiles;
use crate::commands::serve::tls;
use crate::forwarding::PublicUrl;

const RENEW: &str = "renew the certificate: a running server reads the files again within 5 s";

/// Returns what is found of the files of a certificate.
pub(super) fn examine(files: &CertificateFiles, public_url: Option<&PublicUrl>) -> Vec<Finding> {
    const CHECK: &str = "tls.files";
    let certificate = match tls::load(files) {
        Ok(certificate) => certificate,
        Err(error) => {
            return vec![Finding::error(
                CHECK,
                format!("{error:#}"),
                "a server does not start, and a running one keeps its old certificate",
                "--tls-cert and --tls-key with the files of one certificate, which the user of the \
                 server can read",
            )];
        }
    };
    let chain = &certificate.cert;
    let read = format!(
        "{} has the certificate, in a chain of {}, and {} its key",
        files.chain.display(),
        chain.len(),
        files.key.display()
    );
    let mut findings = vec![Finding::ok(CHECK, read), expiry(chain, Utc::now())];
    findings.extend(chain.first().map(|first| names(first, public_url)));
    findings
}

/// Examines the validity of all certificates: clients reject the chain if one of them has expired.
fn expiry(chain: &[CertificateDer<'_>], now: DateTime<Utc>) -> Finding {
    const CHECK: &str = "tls.expiry";
    let mut earliest_end = DateTime::<Utc>::MAX_UTC;
    for (number, certificate) in (1..).zip(chain) {
        let Some((from, to)) = validity(certificate) else {
            return Finding::error(
                CHECK,
                format!("certificate {number} of --tls-cert is not a certificate of X.509"),
                "clients reject it",
                RENEW,
            );
        };
        let rejected = |what: &str, at: DateTime<Utc>| {
            let what = format!(
                "certificate {number} of --tls-cert {what} {}",
                at.date_naive()
            );
            Finding::error(CHECK, what, "clients reject it", RENEW)
        };
        if to < now {
            return rejected("has expired on", to);
        }
        if from > now {
            return rejected("is not valid before", from);
        }
        earliest_end = earliest_end.min(to);
    }
    let what = format!("valid until {}", earliest_end.date_naive());
    if earliest_end < now + SOON {
        Finding::warning(CHECK, what, "clients reject it from then on", RENEW)
    } else {
        Finding::ok(CHECK, what)
    }
}

/// Returns the times between which a certificate is valid. Webpki names them in the errors of a
/// verification at other times, which it finds before anything else.
fn validity(certificate: &CertificateDer<'_>) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    let verify = |secs| {
        let time = UnixTime::since_unix_epoch(Duration::from_secs(secs));
        let usage = KeyUsage::server_auth();
        certificate
            .verify_for_usage(&[], &[], &[], time, usage, None, None)
            .err()
    };
    let date = |time: UnixTime| DateTime::from_timestamp(i64::try_from(time.as_secs()).ok()?, 0);
    let from = match verify(0) {
        Some(Error::CertNotValidYet { not_before, .. }) => date(not_before)?,
        _ => DateTime::UNIX_EPOCH,
    };
    let to = match verify(u64::MAX) {
        Some(Error::CertExpired { not_after, .. }) => date(not_after)?,
        _ => return None,
    };
    Some((from, to))
}

/// Examines whether the certificate is for the host of the public URL.
fn names(certificate: &CertificateDer<'_>, public_url: Option<&PublicUrl>) -> Finding {
    const CHECK: &str = "tls.names";
    let parsed = EndEntityCert::try_from(certificate);
    let names = parsed.as_ref().map(|parsed| {
        let names = parsed.valid_dns_names().collect::<Vec<_>>();
        names.join(", ")
    });
    let names = names.unwrap_or_default();
    let names = match &*names {
        "" => "the certificate has no host names, at most addresses".to_owned(),
        names => format!("the certificate is for {names}"),
    };
    let host = public_url.and_then(|url| Some(Url::parse(url.as_str()).ok()?.host()?.to_string()));
    let Some(host) = host else {
        return Finding::ok(CHECK, names);
    };
    let name = ServerName::try_from(host.trim_matches(['[', ']'])).ok();
    let is_named = parsed.ok().zip(name).is_some_and(|(certificate, name)| {
        certificate.verify_is_valid_for_subject_name(&name).is_ok()
    });
    if is_named {
        Finding::ok(CHECK, names)
    } else {
        Finding::error(
            CHECK,
            format!("{names}, and not for {host} of --public-url"),
            "clients of that URL reject it",
            format!("a certificate for {host}, or another --public-url"),
        )
    }
}
