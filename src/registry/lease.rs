//! The right to use a loaded engine.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::config::KeepAlive;
use super::load::Loaded;
use crate::engine::{Engine, Tenant};

/// An engine that may be used; it is counted as a lease.
pub(super) struct Grant {
    pub(super) id: String,
    pub(super) load_id: u64,
    pub(super) loaded: Arc<Loaded>,
}

/// Where leases come from and go back to.
pub(super) trait Lender: Send + Sync {
    /// Takes back what was granted.
    fn release(&self, grant: &Grant);
    /// See [`Lease::set_idle_timeout`].
    fn set_keep_alive(&self, grant: &Grant, keep_alive: KeepAlive);
}

/// A loaded engine in use: it is neither unloaded nor evicted while the lease lives, and its idle
/// time counts from the drop of the last one.
///
/// Only [`super::Registry::remove`], [`super::Registry::unload`], a shutdown and a failure of the
/// engine itself end it earlier; submitting then fails, and what was loaded can still be read.
pub struct Lease {
    /// The engine, for requests of this lease's tenant.
    pub engine: Engine,
    lender: Arc<dyn Lender>,
    grant: Grant,
}

impl Lease {
    pub(super) fn new(lender: Arc<dyn Lender>, grant: Grant) -> Self {
        Self { engine: grant.loaded.engine.clone(), lender, grant }
    }

    /// Id of the engine.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.grant.id
    }

    /// The same for requests of a tenant.
    #[must_use]
    pub fn of(mut self, tenant: Tenant) -> Self {
        self.engine = self.engine.of(tenant);
        self
    }

    /// A handle on what is loaded that does not keep it so.
    #[must_use]
    pub fn loaded(&self) -> Arc<Loaded> {
        Arc::clone(&self.grant.loaded)
    }

    /// How long the engine stays loaded after its last use, instead of what is registered: the `ttl`
    /// or `keep_alive` of a request. Holds until another request says otherwise or the engine is
    /// unloaded. A pinned engine stays anyway.
    pub fn set_idle_timeout(&self, keep_alive: KeepAlive) {
        self.lender.set_keep_alive(&self.grant, keep_alive);
    }
}

impl Deref for Lease {
    type Target = Loaded;

    fn deref(&self) -> &Loaded {
        &self.grant.loaded
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.lender.release(&self.grant);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("id", &self.grant.id).finish_non_exhaustive()
    }
}
