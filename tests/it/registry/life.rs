//! Loading, idling, unloading, removing, failing.

use super::*;

#[tokio::test]
async fn fifty_requests_load_once() {
    let (registry, loader, _) = registry();
    registry.add(spec("a"), false).await.unwrap();
    assert_eq!(loader.loads(), 0);
    loader.close("a");
    let gets: Vec<_> = (0..50)
        .map(|_| {
            let registry = Arc::clone(&registry);
            tokio::spawn(async move { registry.get("a").await })
        })
        .collect();
    until("fifty wait", || registry.status("a").unwrap().waiting == 50).await;
    assert_eq!(registry.status("a").unwrap().state, State::Loading);
    loader.open("a");
    let mut leases = Vec::new();
    for get in gets {
        leases.push(get.await.unwrap().unwrap());
    }
    assert_eq!((loader.loads(), registry.status("a").unwrap().leases), (1, 50));
    leases.clear();
    assert_eq!(registry.status("a").unwrap().leases, 0);
}

#[tokio::test]
async fn others_serve_while_one_loads() {
    let (registry, loader, _) = registry();
    registry.add(spec("a"), true).await.unwrap();
    registry.add(spec("b"), false).await.unwrap();
    loader.close("b");
    let waiting = tokio::spawn({
        let registry = Arc::clone(&registry);
        async move { registry.get("b").await.map(drop) }
    });
    until("b loads", || loader.loads() == 2).await;
    drop(registry.get("a").await.unwrap());
    registry.add(spec("c"), true).await.unwrap();
    assert_eq!(registry.list().len(), 3);
    loader.open("b");
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn idle_engines_are_unloaded_and_reloaded() {
    let (registry, loader, clock) = registry();
    registry.add(spec("a"), true).await.unwrap();
    let never = EngineSpec { idle_timeout: Some(Duration::ZERO), ..spec("never") };
    registry.add(never, true).await.unwrap();
    registry.add(EngineSpec { pinned: true, ..spec("pinned") }, true).await.unwrap();
    clock.advance(Duration::from_secs(299));
    registry.sweep();
    assert!(registry.status("a").unwrap().is_ready());
    let left = registry.status("a").unwrap().expires_in;
    assert_eq!(left, Some(Duration::from_secs(1)), "looking does not refresh");
    clock.advance(Duration::from_secs(1));
    registry.sweep();
    until_state(&registry, "a", State::Unloaded).await;
    assert_eq!(loader.alive(), 2);
    for _ in 0..3 {
        let _ = registry.list();
        registry.status("a").unwrap();
    }
    assert_eq!(loader.loads(), 3, "looking does not wake");
    let lease = registry.get("a").await.unwrap();
    assert_eq!((loader.loads(), lease.id()), (4, "a"));
    clock.advance(Duration::from_secs(1_000_000));
    registry.sweep();
    for id in ["a", "never", "pinned"] {
        assert!(registry.status(id).unwrap().is_ready(), "{id}");
    }
}

#[tokio::test]
async fn engines_in_use_stay() {
    let (registry, _, clock) = registry();
    registry.add(spec("a"), true).await.unwrap();
    let lease = registry.get("a").await.unwrap();
    clock.advance(Duration::from_hours(1));
    registry.sweep();
    assert!(registry.status("a").unwrap().is_ready(), "leased");
    let job = long_job(&lease.engine);
    drop(lease);
    clock.advance(Duration::from_hours(1));
    registry.sweep();
    assert!(registry.status("a").unwrap().is_ready(), "running");
    assert!(!job.is_finished());
    job.cancel();
    let _ = job.wait().await;
    let engine = registry.get("a").await.unwrap().loaded().engine.clone();
    until("idle", || engine.is_idle()).await;
    clock.advance(Duration::from_mins(5));
    registry.sweep();
    until_state(&registry, "a", State::Unloaded).await;
}

#[tokio::test]
async fn a_request_can_set_the_idle_time() {
    let (registry, _, clock) = registry();
    registry.add(spec("a"), true).await.unwrap();
    registry.get("a").await.unwrap().set_idle_timeout(KeepAlive::Forever);
    clock.advance(Duration::from_hours(1));
    registry.sweep();
    assert!(registry.status("a").unwrap().is_ready());
    registry.get("a").await.unwrap().set_idle_timeout(KeepAlive::After(Duration::from_secs(5)));
    clock.advance(Duration::from_secs(4));
    registry.sweep();
    assert!(registry.status("a").unwrap().is_ready());
    clock.advance(Duration::from_secs(1));
    registry.sweep();
    until_state(&registry, "a", State::Unloaded).await;
    // Zero unloads without waiting for anybody's sweep, and the wish does not outlive the load.
    let lease = registry.get("a").await.unwrap();
    lease.set_idle_timeout(KeepAlive::After(Duration::ZERO));
    drop(lease);
    until_state(&registry, "a", State::Unloaded).await;
    drop(registry.get("a").await.unwrap());
    let left = registry.status("a").unwrap().expires_in;
    assert_eq!(left, Some(Duration::from_mins(5)));
}

#[tokio::test]
async fn removal_ends_what_runs() {
    let (registry, loader, _) = registry();
    registry.add(spec("a"), true).await.unwrap();
    let lease = registry.get("a").await.unwrap();
    let job = long_job(&lease.engine);
    registry.remove("a").await.unwrap();
    assert!(job.wait().await.is_err() || job.is_finished());
    assert_eq!(loader.alive(), 0);
    assert_eq!(registry.get("a").await.unwrap_err().code, Some("model_not_found"));
    assert_eq!(registry.remove("a").await.unwrap_err().kind, Kind::NotFound);
    // The lease of the engine that is gone says nothing about its successor.
    registry.add(spec("a"), true).await.unwrap();
    drop(lease);
    assert_eq!(registry.status("a").unwrap().leases, 0);
}

#[tokio::test]
async fn removal_gives_jobs_their_grace() {
    let (clock, loader) = (Clock::manual(), Arc::new(FakeLoader::default()));
    let config = RegistryConfig { drain_grace: Duration::from_secs(5), ..config(&clock) };
    let registry = Registry::new(Arc::clone(&loader) as _, config);
    registry.add(spec("a"), true).await.unwrap();
    let lease = registry.get("a").await.unwrap();
    let removal = tokio::spawn({
        let registry = Arc::clone(&registry);
        async move { registry.remove("a").await }
    });
    until_state(&registry, "a", State::Draining).await;
    assert_eq!(registry.get("a").await.unwrap_err().kind, Kind::NotFound);
    let twice = registry.add(spec("a"), false).await.unwrap_err();
    assert_eq!(twice.code, Some("engine_id_exists"));
    assert_eq!(loader.alive(), 1);
    drop(lease);
    removal.await.unwrap().unwrap();
    assert!(registry.list().is_empty());
}

#[tokio::test]
async fn removal_during_the_load() {
    let (registry, loader, _) = registry();
    registry.add(spec("a"), false).await.unwrap();
    loader.close("a");
    let get = tokio::spawn({
        let registry = Arc::clone(&registry);
        async move { registry.get("a").await.map(drop) }
    });
    until("a loads", || loader.loads() == 1).await;
    assert_eq!(registry.unload("a").await.unwrap_err().code, Some("engine_loading"));
    let removal = tokio::spawn({
        let registry = Arc::clone(&registry);
        async move { registry.remove("a").await }
    });
    assert_eq!(get.await.unwrap().unwrap_err().kind, Kind::NotFound);
    loader.open("a");
    removal.await.unwrap().unwrap();
    assert_eq!((registry.list().len(), loader.alive()), (0, 0));
}

#[tokio::test]
async fn unload_keeps_the_registration() {
    let (registry, loader, _) = registry();
    registry.add(spec("a"), true).await.unwrap();
    registry.unload("a").await.unwrap();
    registry.unload("a").await.unwrap();
    assert_eq!(registry.status("a").unwrap().state, State::Unloaded);
    assert_eq!(loader.alive(), 0);
    registry.get("a").await.unwrap();
    assert_eq!(registry.unload("b").await.unwrap_err().kind, Kind::NotFound);
}

#[tokio::test]
async fn a_failing_load_leaves_no_trace() {
    let (registry, loader, _) = registry();
    loader.failing.lock().unwrap().insert("a".to_owned(), failure("not a model"));
    let error = registry.add(spec("a"), true).await.unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (Kind::ModelLoading, "not a model"));
    assert!(registry.list().is_empty());
    assert_eq!(registry.get("a").await.unwrap_err().kind, Kind::NotFound);
    loader.failing.lock().unwrap().clear();
    registry.add(spec("a"), true).await.unwrap();
    let error = registry.add(spec("a"), true).await.unwrap_err();
    assert_eq!((error.kind, error.code), (Kind::Conflict, Some("engine_id_exists")));
    assert!(registry.status("a").unwrap().is_ready());
}

#[tokio::test]
async fn a_failed_load_is_tried_again_after_a_while() {
    let (registry, loader, clock) = registry();
    registry.add(spec("a"), false).await.unwrap();
    loader.failing.lock().unwrap().insert("a".to_owned(), failure("bad file"));
    for (round, pause) in [1, 2, 4, 8, 16, 30, 30].into_iter().enumerate() {
        for _ in 0..3 {
            assert_eq!(registry.get("a").await.unwrap_err().message, "bad file");
        }
        assert_eq!(loader.loads(), round + 1, "no storm of loads");
        assert_eq!(registry.status("a").unwrap().state, State::Failed("bad file".to_owned()));
        clock.advance(Duration::from_secs(pause));
    }
    loader.failing.lock().unwrap().clear();
    registry.get("a").await.unwrap();
    assert!(registry.status("a").unwrap().is_ready());
}

#[tokio::test]
async fn a_loader_that_panics_fails_the_load_alone() {
    let (registry, loader, clock) = registry();
    registry.add(spec("a"), false).await.unwrap();
    loader.panicking.store(true, Ordering::SeqCst);
    assert_eq!(registry.get("a").await.unwrap_err().kind, Kind::Internal);
    loader.panicking.store(false, Ordering::SeqCst);
    clock.advance(Duration::from_secs(1));
    registry.get("a").await.unwrap();
}

#[tokio::test]
async fn an_engine_that_broke_is_reloaded() {
    let (registry, loader, _) = registry();
    registry.add(spec("a"), true).await.unwrap();
    let lease = registry.get("a").await.unwrap();
    loader.broken.store(true, Ordering::SeqCst);
    let job = long_job(&lease.engine);
    assert!(job.wait().await.is_err());
    until("failure is seen", || lease.engine.has_failed().is_some()).await;
    assert_eq!(registry.status("a").unwrap().state.name(), "failed");
    loader.broken.store(false, Ordering::SeqCst);
    let fresh = registry.get("a").await.unwrap();
    assert!(fresh.engine.has_failed().is_none());
    assert_eq!((loader.loads(), loader.alive()), (2, 1));
    drop(lease);
    assert_eq!(registry.status("a").unwrap().leases, 1);
}

#[tokio::test]
async fn shutdown_drains_all() {
    let (registry, loader, _) = registry();
    for id in ["a", "b"] {
        registry.add(spec(id), true).await.unwrap();
    }
    registry.add(spec("c"), false).await.unwrap();
    loader.close("c");
    let get = tokio::spawn({
        let registry = Arc::clone(&registry);
        async move { registry.get("c").await.map(drop) }
    });
    until("c loads", || loader.loads() == 3).await;
    let lease = registry.get("a").await.unwrap();
    let job = long_job(&lease.engine);
    let shutdown = tokio::spawn({
        let registry = Arc::clone(&registry);
        async move { registry.shutdown().await }
    });
    assert_eq!(get.await.unwrap().unwrap_err().kind, Kind::Unavailable);
    loader.open("c");
    shutdown.await.unwrap();
    assert!(job.is_finished());
    assert_eq!(loader.alive(), 0);
    assert_eq!(registry.get("b").await.unwrap_err().kind, Kind::Unavailable);
    assert_eq!(registry.add(spec("d"), false).await.unwrap_err().kind, Kind::Unavailable);
    registry.shutdown().await;
}
