//! A computed value on its way to the store.
//!
//! Guarantees: if its key is written or removed meanwhile, the value is removed, also if the caller is
//! cancelled. What the other caller has written is not.

use bytes::Bytes;

use super::flight::Lead;
use crate::error::Result;
use crate::store::Store;
use crate::store::values::DeleteIfEqual;

#[must_use = "call end"]
pub(super) struct Writing<'a> {
    store: &'a Store,
    lead: &'a Lead<'a>,
    /// `None` at the end.
    removal: Option<DeleteIfEqual>,
}

impl<'a> Writing<'a> {
    /// To be called before the value is sent.
    pub(super) fn new(store: &'a Store, lead: &'a Lead<'a>, key: &[u8], entry: &Bytes) -> Self {
        let (key, value) = (key.to_vec(), entry.clone());
        let removal = Some(DeleteIfEqual { key, value });
        Self {
            store,
            lead,
            removal,
        }
    }

    /// To be called after the reply.
    pub(super) async fn end(mut self) -> Result<()> {
        if let Some(removal) = &self.removal
            && self.lead.is_superseded()
        {
            self.store.value(removal).await?;
        }
        self.removal = None;
        Ok(())
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        if let Some(removal) = self.removal.take()
            && self.lead.is_superseded()
        {
            let store = self.store.clone();
            self.store.background().run(async move {
                if let Err(error) = store.value(&removal).await {
                    store.bypass().note_failure(&error);
                }
            });
        }
    }
}
