//! The options of TLS.

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{ArgMatches, Args, Command, Error, FromArgMatches};

/// The files of the certificate, if there is one.
#[derive(Debug, Clone)]
pub(crate) struct TlsArgs(Option<CertificateFiles>);

// Each needs the other. Not by `requires` of clap, which ignores the values of a configuration file.
#[derive(Debug, Args)]
struct Options {
    /// File with the certificate of the server in PEM, followed by those of its authorities up to
    /// one that clients trust. Serves HTTPS only, over HTTP/2 to clients that support it. Read again
    /// when it changes. Needs --tls-key
    #[arg(long, env = "LOCKSTOCK_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,

    /// File with the key of the certificate in PEM. Needs --tls-cert
    #[arg(long, env = "LOCKSTOCK_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,
}

/// The files of a certificate.
#[derive(Debug, Clone)]
pub(crate) struct CertificateFiles {
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
}

impl TlsArgs {
    /// Returns the files of the certificate, if there is one.
    pub(crate) fn files(&self) -> Option<CertificateFiles> {
        self.0.clone()
    }
}

impl FromArgMatches for TlsArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let Options { tls_cert, tls_key } = Options::from_arg_matches(matches)?;
        let (given, missing) = match (tls_cert, tls_key) {
            (Some(chain), Some(key)) => return Ok(Self(Some(CertificateFiles { chain, key }))),
            (None, None) => return Ok(Self(None)),
            (Some(_), None) => ("--tls-cert", "--tls-key"),
            (None, Some(_)) => ("--tls-key", "--tls-cert"),
        };
        let message = format!("{given} needs {missing}: give both, also in a configuration file\n");
        Err(Error::raw(ErrorKind::MissingRequiredArgument, message))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for TlsArgs {
    fn augment_args(command: Command) -> Command {
        Options::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Options::augment_args_for_update(command)
    }
}
