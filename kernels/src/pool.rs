//! A thread pool for parallel regions of a few microseconds.
//!
//! The caller works as thread 0. Workers spin on an epoch counter for about 0.3 ms after their
//! last job, then park, so that a region costs under a microsecond while a model is running and
//! an idle server costs nothing. Work is cut in one contiguous run per thread (long sequential
//! streams for the hardware prefetcher); a thread that is done steals from the tail of another's
//! run, so that a preempted thread does not hold the region up.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// Polls of the epoch before a worker parks: about 0.3 ms.
const SPINS: u32 = 20_000;
/// The same when there are more threads than processors, where spinning only delays the others.
const SPINS_OVERSUBSCRIBED: u32 = 100;
/// Polls between two yields of a caller that waits for its workers.
const SPINS_PER_YIELD: u32 = 4096;

/// A fixed set of threads that run one parallel region at a time.
///
/// A region started while another one runs (from inside a region, or from another thread) is
/// executed by its caller alone.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A pool of `threads` threads, the caller included; at least one. If the system refuses to
    /// start a thread, the pool is as large as it allowed.
    pub fn new(threads: usize) -> Pool {
        let threads = threads.max(1);
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        let spins = if threads > cpus { SPINS_OVERSUBSCRIBED } else { SPINS };
        let shared = Arc::new(Shared {
            epoch: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            busy: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            job: UnsafeCell::new(None),
            panic: Mutex::new(None),
            spins,
            slots: (0..threads).map(|_| Slot::default()).collect(),
        });
        let mut workers = Vec::with_capacity(threads - 1);
        for index in 1..threads {
            let shared = Arc::clone(&shared);
            let builder = thread::Builder::new().name(format!("kernel-{index}"));
            match builder.spawn(move || shared.work(index)) {
                Ok(worker) => workers.push(worker),
                Err(_) => break,
            }
        }
        Pool { shared, workers }
    }

    /// Number of threads, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `f(thread)` once for every thread and returns when all are done. `f` must not wait
    /// for another thread's call. If a call panics, so does this, after all calls have ended.
    #[inline]
    pub fn run<F: Fn(usize) + Sync>(&self, f: F) {
        match self.enter() {
            Some(_region) => self.run_region(&f),
            None => (0..self.threads()).for_each(f),
        }
    }

    /// Calls `f(thread, item)` once for every item. Each thread takes a contiguous run of items
    /// in rising order, then steals single items from the tails of the others. No two calls with
    /// the same `thread` overlap. Panics like [`Pool::run`].
    #[inline]
    pub fn for_each<F: Fn(usize, usize) + Sync>(&self, items: usize, f: F) {
        if items < 2 || self.workers.is_empty() {
            (0..items).for_each(|item| f(0, item));
            return;
        }
        let Some(_region) = self.enter() else {
            (0..items).for_each(|item| f(0, item));
            return;
        };
        assert!(u32::try_from(items).is_ok(), "{items} items are more than a region can hold");
        let threads = self.threads();
        let slots = &self.shared.slots[..threads];
        for (thread, slot) in slots.iter().enumerate() {
            let (start, end) = (items * thread / threads, items * (thread + 1) / threads);
            slot.items.store(pack(start, end), Ordering::Relaxed);
        }
        self.run_region(&|thread: usize| {
            while let Some(item) = take_first(&slots[thread].items) {
                f(thread, item);
            }
            for distance in 1..threads {
                let victim = &slots[(thread + distance) % threads].items;
                while let Some(item) = take_last(victim) {
                    f(thread, item);
                }
            }
        });
    }

    /// Claims the pool, or None when a region is running.
    #[inline]
    fn enter(&self) -> Option<Region<'_>> {
        let busy = &self.shared.busy;
        busy.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).ok()?;
        Some(Region(busy))
    }

    /// Runs `f` on all threads. The caller must hold the region.
    fn run_region<F: Fn(usize) + Sync>(&self, f: &F) {
        if self.workers.is_empty() {
            f(0);
            return;
        }
        let shared = &*self.shared;
        shared.running.store(self.workers.len(), Ordering::Relaxed);
        // SAFETY: the region is held, so no other caller writes the job, and all workers have
        // finished the previous one (we waited for `running` to reach zero), so none reads it.
        unsafe { *shared.job.get() = Some(Job::new(f)) };
        shared.epoch.fetch_add(1, Ordering::SeqCst);
        for (slot, worker) in shared.slots[1..].iter().zip(&self.workers) {
            if slot.parked.swap(false, Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        // `f` is borrowed by the workers, so a panic here must wait for them too.
        let own = catch_unwind(AssertUnwindSafe(|| f(0)));
        let mut polls = 0;
        while shared.running.load(Ordering::Acquire) != 0 {
            polls += 1;
            if polls % SPINS_PER_YIELD == 0 {
                thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
        let theirs = shared.take_panic();
        if let Some(payload) = own.err().or(theirs) {
            resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches the panics of its jobs, so there is nothing to report.
            drop(worker.join());
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).finish()
    }
}

/// Frees the pool at the end of a region, also when it unwinds.
struct Region<'a>(&'a AtomicBool);

impl Drop for Region<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// A borrowed closure with its type erased.
#[derive(Clone, Copy)]
struct Job {
    closure: *const (),
    call: unsafe fn(*const (), usize),
}

impl Job {
    fn new<F: Fn(usize) + Sync>(f: &F) -> Job {
        unsafe fn call<F: Fn(usize)>(closure: *const (), thread: usize) {
            // SAFETY: `closure` was made from `&F` in `Job::new`, and `run_region` keeps that
            // borrow alive until every worker has reported back.
            unsafe { (*closure.cast::<F>())(thread) }
        }
        Job { closure: std::ptr::from_ref(f).cast(), call: call::<F> }
    }
}

/// What one thread shares with the others, on its own cache lines.
#[derive(Default)]
#[repr(align(128))]
struct Slot {
    /// Items left of this thread's run: start in the high half, end in the low half.
    items: AtomicU64,
    parked: AtomicBool,
}

struct Shared {
    /// Counts regions; a change tells the workers that there is a job.
    epoch: AtomicUsize,
    /// Workers that have not finished the current job.
    running: AtomicUsize,
    busy: AtomicBool,
    stop: AtomicBool,
    job: UnsafeCell<Option<Job>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    spins: u32,
    slots: Box<[Slot]>,
}

// SAFETY: `job` is written only by the holder of the region while no worker runs, and read by
// workers only after they saw the epoch change that follows the write. The closure it points to
// is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; nothing in it belongs to a particular thread.
unsafe impl Send for Shared {}

impl Shared {
    /// The life of a worker.
    fn work(&self, index: usize) {
        let mut seen = 0;
        loop {
            self.wait_for_epoch_after(seen, &self.slots[index].parked);
            seen += 1;
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            // SAFETY: the epoch changed, so the job was written before and is not written again
            // until this worker has counted itself out of `running`.
            let job = unsafe { *self.job.get() };
            let job = job.expect("the epoch moved without a job: this is a bug");
            // SAFETY: the closure outlives the region, see `Job::new`.
            let result = catch_unwind(AssertUnwindSafe(|| unsafe {
                (job.call)(job.closure, index);
            }));
            if let Err(payload) = result {
                let mut first = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert(payload);
            }
            self.running.fetch_sub(1, Ordering::Release);
        }
    }

    fn wait_for_epoch_after(&self, seen: usize, parked: &AtomicBool) {
        let mut polls = 0;
        while self.epoch.load(Ordering::Acquire) == seen {
            if polls < self.spins {
                polls += 1;
                std::hint::spin_loop();
                continue;
            }
            // Either the caller sees `parked` and unparks us, or we see its new epoch here.
            parked.store(true, Ordering::SeqCst);
            if self.epoch.load(Ordering::SeqCst) == seen {
                thread::park();
            }
            parked.store(false, Ordering::SeqCst);
        }
    }

    fn take_panic(&self) -> Option<Box<dyn Any + Send>> {
        self.panic.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

fn pack(start: usize, end: usize) -> u64 {
    ((start as u64) << 32) | end as u64
}

#[inline]
fn take_first(items: &AtomicU64) -> Option<usize> {
    take(items, |start, end| (start, pack(start + 1, end)))
}

#[inline]
fn take_last(items: &AtomicU64) -> Option<usize> {
    take(items, |start, end| (end - 1, pack(start, end - 1)))
}

/// Takes one item off a run, or None when it is empty.
#[inline]
fn take(items: &AtomicU64, split: impl Fn(usize, usize) -> (usize, u64)) -> Option<usize> {
    let mut current = items.load(Ordering::Relaxed);
    loop {
        let (start, end) = ((current >> 32) as usize, (current & 0xffff_ffff) as usize);
        if start >= end {
            return None;
        }
        let (item, rest) = split(start, end);
        match items.compare_exchange_weak(current, rest, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return Some(item),
            Err(now) => current = now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_calls_every_thread_once() {
        for threads in [1, 2, 3, 7] {
            let pool = Pool::new(threads);
            assert_eq!(pool.threads(), threads);
            for _ in 0..100 {
                let calls: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
                pool.run(|thread| {
                    calls[thread].fetch_add(1, Ordering::Relaxed);
                });
                assert!(calls.iter().all(|c| c.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn for_each_calls_every_item_once() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads);
            for items in [0, 1, 2, 3, 10, 1000] {
                let calls: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
                pool.for_each(items, |thread, item| {
                    assert!(thread < threads);
                    calls[item].fetch_add(1, Ordering::Relaxed);
                });
                assert!(calls.iter().all(|c| c.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn parked_workers_wake_up() {
        let pool = Pool::new(2);
        for _ in 0..3 {
            thread::sleep(std::time::Duration::from_millis(20));
            let sum = AtomicUsize::new(0);
            pool.run(|thread| {
                sum.fetch_add(thread + 1, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 3);
        }
    }

    #[test]
    fn panics_reach_the_caller_and_leave_the_pool_usable() {
        let pool = Pool::new(3);
        for guilty in 0..3 {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.run(|thread| assert!(thread != guilty, "thread {thread}"));
            }));
            let payload = caught.expect_err("the panic must reach the caller");
            let text = payload.downcast_ref::<String>().expect("a formatted panic");
            assert!(text.contains(&format!("thread {guilty}")), "{text}");
            let sum = AtomicUsize::new(0);
            pool.for_each(100, |_, item| {
                sum.fetch_add(item, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 4950);
        }
    }

    #[test]
    fn nested_and_concurrent_regions_run_on_their_caller() {
        let pool = Pool::new(2);
        let sum = AtomicUsize::new(0);
        pool.for_each(8, |_, _| {
            pool.for_each(8, |_, _| {
                sum.fetch_add(1, Ordering::Relaxed);
            });
            pool.run(|_| {
                sum.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(sum.load(Ordering::Relaxed), 8 * 8 + 8 * 2);

        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        pool.for_each(5, |_, _| {
                            sum.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(sum.load(Ordering::Relaxed), 80 + 4 * 200 * 5);
    }
}
