//! The control loop and the probes have a thread of their own.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::sync::mpsc;
use std::time::Duration;

use wayleave_sim::TestServer;

/// One worker serves all sessions here, and it is held up: what would need it waits until it is let go.
#[test]
fn a_held_up_worker_holds_up_no_decision() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = runtime.block_on(TestServer::start()).unwrap();
    let control = server.control().unwrap().clone();
    let (held, is_held) = mpsc::channel();
    let (let_go, lets_go) = mpsc::channel::<()>();
    runtime.spawn(async move {
        held.send(()).unwrap();
        lets_go.recv().unwrap();
    });
    is_held.recv().unwrap();
    let waits = runtime.spawn(async {});
    let asker = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answer = asker.block_on(async {
        tokio::time::timeout(Duration::from_secs(20), control.read(|tailnet| tailnet.registry().nodes().count())).await
    });
    assert!(!waits.is_finished(), "the worker is held up all the while");
    assert_eq!(answer.expect("the loop answers").unwrap(), 0);
    let_go.send(()).unwrap();
    runtime.block_on(waits).unwrap();
    drop(server);
}
