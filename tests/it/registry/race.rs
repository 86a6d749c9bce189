//! Everything at once.

use super::*;

#[tokio::test]
async fn ids_come_and_go_at_once() {
    let (registry, loader, _) = registry();
    let tasks: Vec<_> = (0..50)
        .map(|i| {
            let registry = Arc::clone(&registry);
            tokio::spawn(async move {
                let id = format!("engine-{i:02}");
                registry.add(spec(&id), i % 2 == 0).await.unwrap();
                if i % 3 == 0 {
                    registry.remove(&id).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let want: Vec<String> =
        (0..50).filter(|i| i % 3 != 0).map(|i| format!("engine-{i:02}")).collect();
    let got: Vec<String> = registry.list().into_iter().map(|status| status.spec.id).collect();
    assert_eq!(got, want);
    registry.shutdown().await;
    assert_eq!(loader.alive(), 0);
}

/// Requests, idle unloads, evictions, unloads and impatient clients race on all threads: every request
/// is answered, leased engines stay alive, memory stays within the budget, nothing is left behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn races_end_well() {
    for seed in 0..8_u64 {
        let (clock, loader) = (Clock::manual(), Arc::new(FakeLoader::default()));
        let config = RegistryConfig { room_wait: Duration::from_secs(1 << 30), ..config(&clock) };
        let registry = Registry::new(Arc::clone(&loader) as _, config);
        for id in ["a", "b", "c", "d"] {
            loader.bytes.lock().unwrap().insert(id.to_owned(), 45);
            registry.add(spec(id), false).await.unwrap();
        }
        let tasks: Vec<_> = (0..16)
            .map(|task| {
                let (registry, clock) = (Arc::clone(&registry), clock.clone());
                tokio::spawn(race(registry, clock, seed * 1000 + task))
            })
            .collect();
        for task in tasks {
            let done = tokio::time::timeout(Duration::from_mins(1), task).await;
            done.unwrap_or_else(|_| panic!("seed {seed} hangs")).unwrap();
        }
        assert!(registry.list().iter().all(|status| status.leases == 0), "seed {seed}");
        registry.shutdown().await;
        assert_eq!(loader.alive(), 0, "seed {seed}");
    }
}

async fn race(registry: Arc<Registry>, clock: Clock, seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    for _ in 0..40 {
        let id = ["a", "b", "c", "d"][random(4) as usize];
        match random(10) {
            0 => {
                clock.advance(Duration::from_secs(301));
                registry.sweep();
            }
            1 => drop(registry.unload(id).await),
            2 => {
                let hurry = Duration::from_micros(random(300));
                drop(tokio::time::timeout(hurry, registry.get(id)).await);
            }
            _ => {
                let lease = registry.get(id).await.unwrap();
                assert!(lease.engine.has_failed().is_none());
                if random(2) == 0 {
                    tokio::task::yield_now().await;
                }
                let used: u64 = registry.list().iter().map(|status| status.memory_bytes).sum();
                // Twice the budget at most: victims and heir are both listed while they change over.
                assert!(used <= 200, "{used} bytes admitted");
            }
        }
    }
}
