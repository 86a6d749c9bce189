//! Memory: who has to go, who may wait.

use super::*;

#[tokio::test]
async fn the_least_recently_used_goes_first() {
    let (registry, loader, clock) = registry();
    for id in ["a", "b", "c"] {
        loader.bytes.lock().unwrap().insert(id.to_owned(), 40);
        registry.add(spec(id), false).await.unwrap();
    }
    for id in ["a", "b", "a", "c"] {
        clock.advance(Duration::from_secs(1));
        drop(registry.get(id).await.unwrap());
    }
    let states: Vec<_> = registry.list().iter().map(|status| status.state.clone()).collect();
    assert_eq!(states, [State::Ready, State::Unloaded, State::Ready]);
    assert_eq!((loader.loads(), loader.alive()), (3, 2));
}

#[tokio::test]
async fn busy_and_pinned_engines_are_not_evicted() {
    let (registry, loader, _) = registry();
    let sizes = [("busy", 30), ("pinned", 30), ("big", 60), ("huge", 80), ("fits", 40)];
    for (id, bytes) in sizes {
        loader.bytes.lock().unwrap().insert(id.to_owned(), bytes);
        registry.add(EngineSpec { pinned: id == "pinned", ..spec(id) }, false).await.unwrap();
    }
    let lease = registry.get("busy").await.unwrap();
    drop(registry.get("pinned").await.unwrap());
    let error = registry.get("big").await.unwrap_err();
    assert_eq!((error.kind, error.code), (Kind::Unavailable, Some("insufficient_memory")));
    assert!(error.retry_after_s.is_some());
    for number in ["60 bytes", "100 bytes", "30 bytes", "'busy'", "'pinned'"] {
        assert!(error.message.contains(number), "{number} in {error}");
    }
    assert_eq!(registry.status("big").unwrap().state, State::Unloaded, "room may come");
    let error = registry.get("huge").await.unwrap_err();
    assert!(error.message.contains("does not fit"), "{error}");
    drop(registry.get("fits").await.unwrap());
    assert!(registry.status("busy").unwrap().is_ready());
    drop(lease);
    drop(registry.get("big").await.unwrap());
    assert_eq!(registry.status("busy").unwrap().state, State::Unloaded);
    assert!(registry.status("pinned").unwrap().is_ready());
}

#[tokio::test]
async fn a_load_waits_for_a_busy_engine() {
    let (clock, loader) = (Clock::manual(), Arc::new(FakeLoader::default()));
    let config = RegistryConfig {
        max_loaded: Some(1),
        room_wait: Duration::from_secs(30),
        ..config(&clock)
    };
    let registry = Registry::new(Arc::clone(&loader) as _, config);
    registry.add(spec("a"), true).await.unwrap();
    registry.add(spec("b"), false).await.unwrap();
    let lease = registry.get("a").await.unwrap();
    let get = |id: &'static str| {
        let registry = Arc::clone(&registry);
        tokio::spawn(async move { registry.get(id).await.map(drop) })
    };
    let waiting = get("b");
    until("b waits", || registry.status("b").unwrap().waiting == 1).await;
    clock.advance(Duration::from_secs(29));
    assert!(!waiting.is_finished());
    drop(lease);
    waiting.await.unwrap().unwrap();
    assert_eq!(registry.status("a").unwrap().state, State::Unloaded);
    // In vain: somebody uses it for longer than the patience lasts.
    let lease = registry.get("b").await.unwrap();
    let waiting = get("a");
    until("a waits", || registry.status("a").unwrap().waiting == 1).await;
    // Twice, as the load may have taken its deadline after the first.
    until("a gave up", || {
        clock.advance(Duration::from_secs(30));
        waiting.is_finished()
    })
    .await;
    let error = waiting.await.unwrap().unwrap_err();
    assert!(error.message.contains("1 engines"), "{error}");
    // Nobody waits any more: the load is given up without touching anyone.
    let waiting = get("a");
    until("a waits", || registry.status("a").unwrap().waiting == 1).await;
    waiting.abort();
    until_state(&registry, "a", State::Unloaded).await;
    drop(lease);
    assert!(registry.status("b").unwrap().is_ready());
}

#[tokio::test]
async fn engines_that_were_just_loaded_stay_a_while() {
    let (clock, loader) = (Clock::manual(), Arc::new(FakeLoader::default()));
    let config = RegistryConfig {
        max_loaded: Some(1),
        room_wait: Duration::from_secs(1000),
        min_residency: Duration::from_secs(10),
        ..config(&clock)
    };
    let registry = Registry::new(Arc::clone(&loader) as _, config);
    for id in ["a", "b"] {
        registry.add(spec(id), false).await.unwrap();
    }
    loader.close("a");
    let get = |id: &'static str| {
        let registry = Arc::clone(&registry);
        tokio::spawn(async move { registry.get(id).await.map(drop) })
    };
    let first = get("a");
    until("a loads", || loader.loads() == 1).await;
    // The load takes two seconds and so earns eight.
    clock.advance(Duration::from_secs(2));
    loader.open("a");
    first.await.unwrap().unwrap();
    let waiting = get("b");
    until("b waits", || registry.status("b").unwrap().waiting == 1).await;
    clock.advance(Duration::from_millis(7999));
    for _ in 0..20 {
        drop(registry.get("a").await.unwrap());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(!waiting.is_finished(), "a serves on while b waits");
    assert_eq!(loader.loads(), 1);
    clock.advance(Duration::from_millis(1));
    waiting.await.unwrap().unwrap();
    assert_eq!(loader.loads(), 2);
}

#[tokio::test]
async fn waiting_has_limits() {
    let (clock, loader) = (Clock::manual(), Arc::new(FakeLoader::default()));
    let config = RegistryConfig { max_waiters: 2, ..config(&clock) };
    let registry = Registry::new(Arc::clone(&loader) as _, config);
    registry.add(spec("a"), false).await.unwrap();
    loader.close("a");
    let error = registry.get_with("a", Wait::Never).await.unwrap_err();
    assert_eq!((error.kind, error.code), (Kind::Unavailable, Some("engine_loading")));
    assert!(error.retry_after_s.is_some());
    let get = || {
        let registry = Arc::clone(&registry);
        tokio::spawn(async move { registry.get("a").await.map(drop) })
    };
    let waiting = [get(), get()];
    until("two wait", || registry.status("a").unwrap().waiting == 2).await;
    let error = registry.get("a").await.unwrap_err();
    assert_eq!((error.kind, error.retry_after_s.is_some()), (Kind::Unavailable, true));
    assert!(error.message.contains("limit 2"), "{error}");
    waiting[0].abort();
    until("one left", || registry.status("a").unwrap().waiting == 1).await;
    let third = get();
    until("two wait", || registry.status("a").unwrap().waiting == 2).await;
    loader.open("a");
    third.await.unwrap().unwrap();
    until("nobody has it", || registry.status("a").unwrap().leases == 0).await;
    assert!(registry.get_with("a", Wait::Never).await.is_ok());
    assert_eq!(loader.loads(), 1);
}
