use super::*;

#[test]
fn times_never_run_backwards() {
    let events = Events::new();
    let future = now() + 3_600_000_000_000;
    events.0.last.store(future, Ordering::Relaxed);
    let (first, second) = (events.tick(), events.tick());
    assert!(future < first && first < second, "the clock was set back by an hour");
}
