//! Whose a sequence is: what sequences share with those of the same tenant alone, and how places are
//! divided, among tenants first and then among the requests of each.

use std::collections::HashMap;

use xxhash_rust::xxh3::xxh3_64;

/// Somebody who has an engine compute. All are one where nobody is told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tenant {
    /// Places are divided among those with different ids.
    pub id: u64,
    /// Cached prefixes are shared by those alone who have the same.
    pub cache: u64,
}

impl Tenant {
    /// The salt of a request's cached prefixes, from that which the request asks for.
    pub(super) fn salt(self, asked: u64) -> u64 {
        if self.cache == 0 {
            return asked;
        }
        let mut bytes = [0_u8; 16];
        bytes[..8].copy_from_slice(&self.cache.to_le_bytes());
        bytes[8..].copy_from_slice(&asked.to_le_bytes());
        xxh3_64(&bytes)
    }
}

/// Jobs in flight, of each tenant.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    of: HashMap<u64, usize>,
    all: usize,
}

impl InFlight {
    pub(super) fn all(&self) -> usize {
        self.all
    }

    /// Counts a job in, unless `limit` of the tenant or twice as many of all are in flight: so many are.
    pub(super) fn enter(&mut self, tenant: u64, limit: usize) -> Result<(), usize> {
        let own = self.of.get(&tenant).copied().unwrap_or(0);
        if own >= limit {
            return Err(own);
        }
        if self.all >= limit.saturating_mul(2) {
            return Err(self.all);
        }
        self.of.insert(tenant, own + 1);
        self.all += 1;
        Ok(())
    }

    /// Counts a job out: whether it was the last.
    pub(super) fn leave(&mut self, tenant: u64) -> bool {
        if let Some(own) = self.of.get_mut(&tenant) {
            *own -= 1;
            self.all -= 1;
            if *own == 0 {
                self.of.remove(&tenant);
            }
        }
        self.all == 0
    }
}

/// Who has a sequence computed: a tenant, and of its requests which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    pub tenant: u64,
    /// The same for all sequences of a request.
    pub group: u64,
}

/// Places that each owner has.
#[derive(Debug, Default)]
pub(super) struct Places(Vec<(Owner, usize)>);

impl Places {
    /// The places that these have.
    pub(super) fn of(owners: impl IntoIterator<Item = Owner>) -> Self {
        let mut places = Self::default();
        owners.into_iter().for_each(|owner| places.add(owner));
        places
    }

    pub(super) fn add(&mut self, owner: Owner) {
        match self.0.iter_mut().find(|(known, _)| *known == owner) {
            Some((_, count)) => *count += 1,
            None => self.0.push((owner, 1)),
        }
    }

    /// Places of the owner's tenant, and of its own.
    pub(super) fn count(&self, owner: Owner) -> (usize, usize) {
        let own = self.0.iter().find(|(known, _)| *known == owner).map_or(0, |(_, count)| *count);
        (self.of_tenant(owner.tenant), own)
    }

    /// Whose place `owner` may take that has none: of the tenant with most places if its own tenant has
    /// none either, else of the request of its tenant with most; nobody's last.
    pub(super) fn whose(&self, owner: Owner) -> Option<Owner> {
        let (of_tenant, own) = self.count(owner);
        let tenant = match (of_tenant, own) {
            (0, _) => {
                let all = self.0.iter().map(|(owner, _)| owner.tenant);
                all.max_by_key(|tenant| self.of_tenant(*tenant))?
            }
            (_, 0) => owner.tenant,
            _ => return None,
        };
        let requests = self.0.iter().filter(|(owner, _)| owner.tenant == tenant);
        let (most, count) = requests.max_by_key(|(_, count)| *count)?;
        let is_last = if of_tenant == 0 { self.of_tenant(tenant) < 2 } else { *count < 2 };
        (!is_last).then_some(*most)
    }

    fn of_tenant(&self, tenant: u64) -> usize {
        self.0.iter().filter(|(owner, _)| owner.tenant == tenant).map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tenant_leaves_room_for_others() {
        let mut jobs = InFlight::default();
        for _ in 0..3 {
            jobs.enter(1, 3).unwrap();
        }
        assert_eq!(jobs.enter(1, 3), Err(3), "its own limit");
        for tenant in 2..5 {
            jobs.enter(tenant, 3).unwrap();
        }
        assert_eq!(jobs.enter(9, 3), Err(6), "that of all");
        assert!(!jobs.leave(1));
        jobs.enter(9, 3).unwrap();
        assert_eq!(jobs.all(), 6);
        for tenant in [1, 1, 2, 3, 4] {
            assert!(!jobs.leave(tenant));
        }
        assert!(jobs.leave(9), "the last");
    }

    #[test]
    fn places_go_to_those_who_have_none() {
        let owner = |tenant, group| Owner { tenant, group };
        let mut places = Places::default();
        let held = [(1, 10, 3), (1, 11, 1), (2, 20, 1)];
        for (tenant, group, count) in held {
            (0..count).for_each(|_| places.add(owner(tenant, group)));
        }
        assert_eq!(places.count(owner(1, 10)), (4, 3));
        assert_eq!(places.count(owner(1, 19)), (4, 0));
        for (asks, gives) in [
            (owner(3, 30), Some(owner(1, 10))),
            (owner(1, 12), Some(owner(1, 10))),
            (owner(1, 11), None),
            (owner(2, 21), None),
            (owner(2, 20), None),
        ] {
            assert_eq!(places.whose(asks), gives, "{asks:?}");
        }
        let mut single = Places::default();
        (1..4).for_each(|group| single.add(owner(1, group)));
        assert!(single.whose(owner(1, 9)).is_none(), "each request keeps one place");
        assert!(single.whose(owner(2, 9)).is_some(), "not against another tenant");
    }

    #[test]
    fn caches_are_apart() {
        let [nobody, a, b] = [0, 1, 2].map(|cache| Tenant { id: 7, cache });
        assert_eq!(nobody.salt(5), 5);
        let salts = [a.salt(0), a.salt(5), b.salt(0), b.salt(5), nobody.salt(0), nobody.salt(5)];
        for (i, salt) in salts.iter().enumerate() {
            assert!(!salts[..i].contains(salt), "{i}");
        }
    }
}
