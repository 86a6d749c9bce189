//! Loads that nobody waits for, too many of them, and a shutdown in the middle.

use super::*;

fn fetches(loader: &FakeLoader) -> usize {
    loader.fetches.load(Ordering::SeqCst)
}

fn far_away(loader: &FakeLoader, id: &str) {
    loader.far_away.lock().unwrap().insert(id.to_owned());
}

fn ask(registry: &Arc<Registry>, id: &str) -> tokio::task::JoinHandle<Result<()>> {
    let (registry, id) = (Arc::clone(registry), id.to_owned());
    tokio::spawn(async move { registry.get(&id).await.map(drop) })
}

#[tokio::test]
async fn a_fetch_ends_with_the_last_that_waits() {
    let (registry, loader, _) = registry();
    registry.add(spec("a"), false).await.unwrap();
    far_away(&loader, "a");
    let asking = [ask(&registry, "a"), ask(&registry, "a")];
    until("both wait", || registry.status("a").unwrap().waiting == 2).await;
    until("it is fetched", || fetches(&loader) == 1).await;
    asking[0].abort();
    until("one waits", || registry.status("a").unwrap().waiting == 1).await;
    assert_eq!((fetches(&loader), registry.status("a").unwrap().state), (1, State::Loading));
    asking[1].abort();
    until_state(&registry, "a", State::Unloaded).await;
    assert_eq!((fetches(&loader), loader.loads()), (0, 0));
    loader.far_away.lock().unwrap().clear();
    registry.get("a").await.unwrap();
}

#[tokio::test]
async fn an_engine_whose_maker_leaves_is_not_registered() {
    let (registry, loader, _) = registry();
    far_away(&loader, "a");
    let adding = tokio::spawn({
        let registry = Arc::clone(&registry);
        async move { registry.add(spec("a"), true).await.map(drop) }
    });
    until("it is fetched", || fetches(&loader) == 1).await;
    adding.abort();
    until("it is gone", || registry.status("a").is_err()).await;
    assert_eq!(fetches(&loader), 0);
}

#[tokio::test]
async fn whoever_comes_while_a_load_is_given_up_gets_one_of_its_own() {
    let (registry, loader, _) = registry();
    registry.add(spec("a"), false).await.unwrap();
    far_away(&loader, "a");
    for _ in 0..20 {
        let first = ask(&registry, "a");
        until("it is fetched", || fetches(&loader) == 1).await;
        first.abort();
        // Comes before the task of the load has seen that it was given up.
        let second = ask(&registry, "a");
        until("the second waits", || registry.status("a").unwrap().waiting == 1).await;
        until("its load is fetched", || fetches(&loader) == 1).await;
        second.abort();
        until_state(&registry, "a", State::Unloaded).await;
    }
}

#[tokio::test]
async fn weights_that_are_being_read_are_kept_for_who_asks_again() {
    let (registry, loader, _) = registry();
    registry.add(spec("a"), false).await.unwrap();
    loader.close("a");
    let impatient = ask(&registry, "a");
    until("it reads", || loader.loads() == 1).await;
    impatient.abort();
    until("nobody waits", || registry.status("a").unwrap().waiting == 0).await;
    loader.open("a");
    until_state(&registry, "a", State::Ready).await;
    assert_eq!(loader.loads(), 1);
}

#[tokio::test]
async fn loads_beyond_the_queue_are_refused() {
    let (clock, loader) = (Clock::manual(), Arc::new(FakeLoader::default()));
    let config = RegistryConfig { max_loads: 1, max_load_queue: 1, ..config(&clock) };
    let registry = Registry::new(Arc::clone(&loader) as _, config);
    for id in ["a", "b", "c"] {
        registry.add(spec(id), false).await.unwrap();
        loader.close(id);
    }
    let first = ask(&registry, "a");
    until("a reads", || loader.loads() == 1).await;
    let second = ask(&registry, "b");
    until("b waits", || registry.status("b").unwrap().waiting == 1).await;
    let error = registry.get("c").await.unwrap_err();
    assert_eq!((error.kind, error.code), (Kind::Unavailable, Some("too_many_loads")));
    assert!(error.message.contains("2 loads") && error.retry_after_s.is_some(), "{error}");
    let error = registry.add(spec("d"), true).await.unwrap_err();
    assert_eq!(error.code, Some("too_many_loads"));
    assert!(registry.status("d").is_err(), "the registry is as before");
    assert_eq!(loader.loads(), 1, "one at a time");
    ["a", "b", "c"].iter().for_each(|id| loader.open(id));
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    drop(registry.get("c").await.unwrap());
}

#[tokio::test]
async fn fetches_hold_neither_turns_nor_shutdown() {
    let (registry, loader, _) = registry();
    let ids: Vec<String> = (0..100).map(|i| format!("far-{i}")).collect();
    for id in &ids {
        far_away(&loader, id);
        registry.add(spec(id), false).await.unwrap();
    }
    let asking: Vec<_> = ids.iter().map(|id| ask(&registry, id)).collect();
    until("all are fetched", || fetches(&loader) == 100).await;
    registry.add(spec("near"), true).await.unwrap();
    registry.shutdown().await;
    assert_eq!((fetches(&loader), loader.alive()), (0, 0));
    for asked in asking {
        assert_eq!(asked.await.unwrap().unwrap_err().kind, Kind::Unavailable);
    }
}

#[tokio::test]
async fn removal_ends_a_fetch() {
    let (registry, loader, _) = registry();
    registry.add(spec("a"), false).await.unwrap();
    far_away(&loader, "a");
    let asking = ask(&registry, "a");
    until("it is fetched", || fetches(&loader) == 1).await;
    registry.remove("a").await.unwrap();
    assert_eq!(fetches(&loader), 0);
    assert_eq!(asking.await.unwrap().unwrap_err().code, Some("model_not_found"));
}

#[tokio::test]
async fn counters_go_on_over_reloads() {
    let (registry, _, _) = registry();
    registry.add(spec("a"), false).await.unwrap();
    for round in 1..=3 {
        let lease = registry.get("a").await.unwrap();
        let request = Request { prompt: vec![1, 2], max_tokens: 4, ..Request::default() };
        lease.engine.submit(request).unwrap().wait().await.unwrap();
        drop(lease);
        let totals = || registry.status("a").unwrap().totals;
        assert_eq!((totals().jobs_submitted, totals().generated_tokens), (round, 4 * round));
        registry.unload("a").await.unwrap();
        assert_eq!(totals().jobs_submitted, round, "unloaded");
    }
}
