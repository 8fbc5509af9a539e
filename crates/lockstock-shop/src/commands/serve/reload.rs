//! SIGHUP: reads the files of API keys and of the certificate again.
//!
//! It never stops the server: also not when the terminal of the server closes, and not during the start.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{JoinSet, spawn_blocking};
use tracing::info;

use super::tls::Tls;
use crate::access::Keys;

/// The SIGHUPs since the start of the process. Each file has its own receiver, so that one on a disk
/// that does not reply does not keep the other from being read.
pub(super) struct Hangups {
    of_keys: Signal,
    of_certificate: Signal,
}

impl Hangups {
    /// Handles SIGHUP from now on: by default it would end the process.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            of_keys: signal(SignalKind::hangup())?,
            of_certificate: signal(SignalKind::hangup())?,
        })
    }

    /// Reads the files again after each SIGHUP, and those of the certificate whenever they change.
    pub(super) fn watch(
        self,
        keys: Option<Arc<Keys>>,
        tls: Option<Tls>,
        background: &mut JoinSet<()>,
    ) {
        let Self {
            mut of_keys,
            of_certificate,
        } = self;
        let has_tls = tls.is_some();
        background.spawn(async move {
            while of_keys.recv().await.is_some() {
                match &keys {
                    Some(keys) => {
                        let keys = keys.clone();
                        // Fails if the reload panics, which is logged.
                        let _ = spawn_blocking(move || keys.reload()).await;
                    }
                    None if has_tls => {}
                    None => info!("SIGHUP: there are no API keys and no certificate to read again"),
                }
            }
        });
        if let Some(tls) = tls {
            background.spawn(tls.watch(of_certificate));
        }
    }
}
