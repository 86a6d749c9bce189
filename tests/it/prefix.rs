//! What is told of the prefix cache: where a prompt left what was cached.

use kolosal_server::engine::{Engine, EngineConfig};
use kolosal_server::model::fake::{FakeConfig, FakeRunner};

use crate::engine::{prompt, request};

#[test]
fn the_first_token_that_differs_is_told() {
    let runner = Box::new(FakeRunner::new(FakeConfig::default()));
    let engine = Engine::start(runner, EngineConfig::default()).unwrap();
    let parted = |prompt: Vec<u32>| {
        let job = engine.submit(request(prompt, 2)).unwrap();
        job.wait_blocking().unwrap();
        job.result().outcome.unwrap().usage.parted_at
    };
    let first = prompt(100, 1);
    assert_eq!(parted(first.clone()), None, "there is nothing to differ from");
    let mut other = first.clone();
    other[70] = (other[70] + 1) % 64;
    assert_eq!(parted(other), Some(70));
    let mut other = first.clone();
    other[3] = (other[3] + 1) % 64;
    assert_eq!(parted(other), Some(3));
    assert_eq!(parted(first.clone()), None, "it is the same");
    assert_eq!(parted([&first[..], &prompt(40, 5)].concat()), None, "it goes on");
}
