//! The push messages of the connections of commands.

use std::sync::Arc;

use redis::PushInfo;

use super::managed::{Connector, ManagedConnection, PushHandler};
use super::tracked::TrackedConnection;
use crate::store::redis::notifications::Notifications;

/// Receives the push messages of the connection of the commands to the only server, or to the master.
pub(super) struct CommandPushes<C: Connector> {
    notifications: Notifications,
    tracked: ManagedConnection<C>,
}

impl<C: Connector> CommandPushes<C> {
    pub(super) fn new(notifications: Notifications, tracked: &TrackedConnection<C>) -> Arc<Self> {
        let tracked = tracked.managed().clone();
        Arc::new(Self {
            notifications,
            tracked,
        })
    }
}

impl<C: Connector> PushHandler for CommandPushes<C> {
    fn pushed(&self, push: &PushInfo) {
        self.notifications.pushed(push);
    }

    fn disconnected(&self) {
        self.notifications.disconnected();
        // The next connection may lead to another server, and a value that is written there must not
        // be read from this one.
        self.tracked.close_current();
    }
}

impl PushHandler for Notifications {
    fn pushed(&self, push: &PushInfo) {
        Notifications::pushed(self, push);
    }

    fn disconnected(&self) {
        self.disconnected();
    }
}
