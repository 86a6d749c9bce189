//! A thread pool for parallel regions of a few microseconds.
//!
//! The caller works as thread 0. Workers spin on their own run of items for about 0.3 ms after their
//! last job, then park, so that a region costs about a microsecond while a model is running and an
//! idle server costs nothing. Work is cut in one contiguous run per thread (long sequential streams
//! for the hardware prefetcher); a thread that is done steals from the tail of another's run.
//!
//! ```text
//!   slot of a thread, on cache lines of its own:  [ items left: start, end | job | done | parked ]
//!   caller    writes job and items of all slots, works, waits until as many are done as were taken
//!   worker    sees items in its slot, takes, works, steals, adds what it did to its `done`
//! ```
//!
//! To take an item is all that joins a worker to a region: its slot's word goes from one thread to
//! the other and back, and nothing else does. Nobody waits for a worker that has not begun: the caller
//! takes its items, and a worker that the system wakes only then finds none. So a machine that is busy
//! with other things costs the help of a worker and not a time slice in every region.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crate::affinity::{self, AffinityError};

/// Polls of the state before a worker parks: about 0.3 ms.
const SPINS: u32 = 20_000;
/// The same when there are more threads than processors, where spinning only delays the others.
const SPINS_OVERSUBSCRIBED: u32 = 100;
/// Polls between two yields of a caller that waits for its workers.
const SPINS_PER_YIELD: u32 = 512;

/// A fixed set of threads that run one parallel region at a time.
///
/// A region started while another one runs (from inside a region, or from another thread) is
/// executed by its caller alone.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Processors to which threads are bound, by their number; empty = to none.
    cpus: Vec<usize>,
}

thread_local! {
    /// The processor to which a pool has bound this thread.
    static BOUND_TO: Cell<Option<usize>> = const { Cell::new(None) };
}

impl Pool {
    /// A pool of `threads` threads, the caller included; at least one. If the system refuses to
    /// start a thread, the pool is as large as it allowed.
    pub fn new(threads: usize) -> Pool {
        Pool::start(threads, Vec::new())
    }

    /// A pool whose thread `i` runs on processor `cpus[i % cpus.len()]` alone; on any, if `cpus` is
    /// empty. The caller is bound by [`Pool::bind_caller`].
    ///
    /// # Errors
    /// The system does not allow it.
    pub fn bound(threads: usize, cpus: &[usize]) -> Result<Pool, AffinityError> {
        affinity::check(cpus)?;
        Ok(Pool::start(threads, cpus.to_vec()))
    }

    fn start(threads: usize, cpus: Vec<usize>) -> Pool {
        let threads = threads.max(1);
        let available = thread::available_parallelism().map_or(1, usize::from);
        let available = if cpus.is_empty() { available } else { available.min(cpus.len()) };
        let spins = if threads > available { SPINS_OVERSUBSCRIBED } else { SPINS };
        let shared = Arc::new(Shared {
            slots: (0..threads).map(|_| Slot::default()).collect(),
            callers: Callers::default(),
            spins,
            stop: AtomicBool::new(false),
            has_panicked: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let mut workers = Vec::with_capacity(threads - 1);
        for index in 1..threads {
            let shared = Arc::clone(&shared);
            let cpu = cpus.get(index % cpus.len().max(1)).copied();
            let builder = thread::Builder::new().name(format!("kernel-{index}"));
            let work = move || {
                // Checked before; a processor that has gone since then is no reason to fail.
                let _ = cpu.map(affinity::bind);
                shared.work(index);
            };
            match builder.spawn(work) {
                Ok(worker) => workers.push(worker),
                Err(_) => break,
            }
        }
        Pool { shared, workers, cpus }
    }

    /// Binds the calling thread to the processor of thread 0, if this pool binds its threads.
    pub fn bind_caller(&self) {
        if let Some(&cpu) = self.cpus.first()
            && BOUND_TO.get() != Some(cpu)
            && affinity::bind(cpu)
        {
            BOUND_TO.set(Some(cpu));
        }
    }

    /// Number of threads, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Regions that ran on several threads so far.
    pub fn num_regions(&self) -> u64 {
        self.shared.callers.num_regions.load(Ordering::Relaxed)
    }

    /// Calls `f(thread, item)` once for every item and returns when all calls have ended. Each
    /// thread takes a contiguous run of items in rising order, then steals single items from the
    /// tails of the others. No two calls with the same `thread` overlap, and a call must not wait
    /// for another one. If a call panics, so does this, after all calls have ended.
    #[inline]
    pub fn for_each<F: Fn(usize, usize) + Sync>(&self, items: usize, f: F) {
        let region = if items < 2 || self.workers.is_empty() { None } else { self.enter() };
        match region {
            Some(_region) => self.run(items, Job::new(&f)),
            None => (0..items).for_each(|item| f(0, item)),
        }
    }

    /// The items that `thread` of `threads` begins with.
    pub(crate) fn share(items: usize, thread: usize, threads: usize) -> Range<usize> {
        items * thread / threads..items * (thread + 1) / threads
    }

    /// Claims the pool, or None when a region is running.
    #[inline]
    fn enter(&self) -> Option<Region<'_>> {
        let busy = &self.shared.callers.busy;
        busy.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).ok()?;
        Some(Region(busy))
    }

    /// Runs a job on the caller and on those workers that come before it has ended. The caller must
    /// hold the region, and the job's closure must live until this returns.
    fn run(&self, items: usize, job: Job) {
        assert!(u32::try_from(items).is_ok(), "{items} items are more than a region can hold");
        let shared = &*self.shared;
        shared.callers.num_regions.fetch_add(1, Ordering::Relaxed);
        let threads = self.threads();
        let done_before = shared.done();
        // The workers first: they begin while the caller goes on.
        for thread in (0..threads).rev() {
            let Range { start, end } = Pool::share(items, thread, threads);
            let slot = &shared.slots[thread];
            // SAFETY: a thread reads the job of a slot only while it holds an item that it took from
            // there. The region is held, so the last one is over: no thread holds an item, and none
            // can take one before the next line.
            unsafe { *slot.job.get() = Some(job) };
            slot.items.store(pack(start, end), Ordering::Release);
        }
        for (slot, worker) in shared.slots[1..].iter().zip(&self.workers) {
            // One that parks at this moment may be missed: it sleeps until the next region.
            if slot.parked.load(Ordering::Relaxed) && slot.parked.swap(false, Ordering::AcqRel) {
                worker.thread().unpark();
            }
        }
        let own = shared.help(0);
        let theirs = items as u64 - own;
        let mut polls = 0;
        while shared.done().wrapping_sub(done_before) != theirs {
            polls += 1;
            if polls % SPINS_PER_YIELD == 0 {
                thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
        if shared.has_panicked.load(Ordering::Relaxed)
            && let Some(payload) = shared.take_panic()
        {
            resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches the panics of its jobs, so there is nothing to report.
            drop(worker.join());
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("threads", &self.threads())
            .field("cpus", &self.cpus)
            .finish_non_exhaustive()
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
    call: unsafe fn(*const (), usize, usize),
}

impl Job {
    fn new<F: Fn(usize, usize) + Sync>(f: &F) -> Job {
        unsafe fn call<F: Fn(usize, usize)>(closure: *const (), thread: usize, item: usize) {
            // SAFETY: `closure` was made from `&F` in `Job::new`, and `Pool::run` keeps that borrow
            // alive until every item that was taken is done.
            unsafe { (*closure.cast::<F>())(thread, item) }
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
    /// What is to be done with them.
    job: UnsafeCell<Option<Job>>,
    /// Items that this thread has done as a worker, of all regions.
    done: AtomicU64,
    parked: AtomicBool,
}

/// What callers alone touch, on its own cache lines.
#[derive(Default)]
#[repr(align(128))]
struct Callers {
    busy: AtomicBool,
    num_regions: AtomicU64,
}

struct Shared {
    slots: Box<[Slot]>,
    callers: Callers,
    spins: u32,
    stop: AtomicBool,
    has_panicked: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: the job of a slot is written only by the holder of the region while no item is taken or to
// be taken, and read only by those who took one, which they saw after the write. The closure it points
// to is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; nothing in it belongs to a particular thread.
unsafe impl Send for Shared {}

impl Shared {
    /// The life of a worker.
    fn work(&self, index: usize) {
        let slot = &self.slots[index];
        while self.wait_for_items(slot) {
            let done = self.help(index);
            // The only writer: no thread but this one.
            slot.done.store(slot.done.load(Ordering::Relaxed) + done, Ordering::Release);
        }
    }

    /// Takes items of the own run, then of others', and does them: how many they were.
    fn help(&self, thread: usize) -> u64 {
        let threads = self.slots.len();
        let own = &self.slots[thread];
        let mut done = 0;
        while let Some(item) = take_first(&own.items) {
            // SAFETY: the item was taken from this slot.
            unsafe { self.call(own, thread, item) };
            done += 1;
        }
        for distance in 1..threads {
            let victim = &self.slots[(thread + distance) % threads];
            while let Some(item) = take_last(&victim.items) {
                // SAFETY: as above.
                unsafe { self.call(victim, thread, item) };
                done += 1;
            }
        }
        done
    }

    /// # Safety
    /// The item must have been taken from the slot, and not be counted as done before this returns.
    unsafe fn call(&self, slot: &Slot, thread: usize, item: usize) {
        // SAFETY: while an item that was taken is not done, the region lasts and the slot's job stays.
        let job = unsafe { *slot.job.get() };
        let job = job.expect("a slot has items without a job: this is a bug");
        // SAFETY: the closure outlives the region, see `Job::new`. Its borrow must not end by a panic
        // here, so panics are kept until all items are done.
        let result = catch_unwind(AssertUnwindSafe(|| unsafe {
            (job.call)(job.closure, thread, item);
        }));
        if let Err(payload) = result {
            let mut first = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(payload);
            self.has_panicked.store(true, Ordering::Relaxed);
        }
    }

    /// Items that workers have done so far.
    fn done(&self) -> u64 {
        let each = self.slots[1..].iter().map(|slot| slot.done.load(Ordering::Acquire));
        each.fold(0, u64::wrapping_add)
    }

    /// Waits until there are items in the slot; false when there will be none.
    fn wait_for_items(&self, slot: &Slot) -> bool {
        let mut polls = 0;
        loop {
            if !is_empty(slot.items.load(Ordering::Acquire)) {
                return true;
            }
            if polls < self.spins {
                polls += 1;
                std::hint::spin_loop();
                continue;
            }
            slot.parked.store(true, Ordering::SeqCst);
            if is_empty(slot.items.load(Ordering::SeqCst)) && !self.stop.load(Ordering::SeqCst) {
                thread::park();
            }
            slot.parked.store(false, Ordering::SeqCst);
            if self.stop.load(Ordering::SeqCst) {
                return false;
            }
            polls = 0;
        }
    }

    fn take_panic(&self) -> Option<Box<dyn Any + Send>> {
        self.has_panicked.store(false, Ordering::Relaxed);
        self.panic.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

fn pack(start: usize, end: usize) -> u64 {
    ((start as u64) << 32) | end as u64
}

fn is_empty(items: u64) -> bool {
    items >> 32 >= items & 0xffff_ffff
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
        // Whoever takes an item sees the job that was written before it.
        match items.compare_exchange_weak(current, rest, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => return Some(item),
            Err(now) => current = now,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn for_each_calls_every_item_once() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads);
            assert_eq!(pool.threads(), threads);
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
    fn workers_take_part_also_after_they_parked() {
        let pool = Pool::new(2);
        for _ in 0..3 {
            thread::sleep(std::time::Duration::from_millis(20));
            // Neither call can end before the other one began, on another thread.
            let both = Barrier::new(2);
            pool.for_each(2, |_, _| {
                both.wait();
            });
        }
        assert_eq!(pool.num_regions(), 3);
    }

    #[test]
    fn nobody_waits_for_a_worker_that_has_not_begun() {
        let mut pool = Pool::new(2);
        // In the worker's place one that never does anything.
        pool.shared.stop.store(true, Ordering::SeqCst);
        let worker = std::mem::replace(&mut pool.workers[0], thread::spawn(|| ()));
        worker.thread().unpark();
        worker.join().expect("it stops");
        for _ in 0..3 {
            let sum = AtomicUsize::new(0);
            pool.for_each(10, |thread, item| {
                assert_eq!(thread, 0);
                sum.fetch_add(item, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 45);
            assert_eq!(pool.shared.help(1), 0, "who comes late finds nothing");
        }
    }

    #[test]
    fn many_short_regions_do_all_their_items() {
        for threads in [2, 3, 7] {
            let pool = Pool::new(threads);
            for region in 0..20_000 {
                let items = 2 + region % 11;
                let sum = AtomicUsize::new(0);
                pool.for_each(items, |_, item| {
                    sum.fetch_add(item + region, Ordering::Relaxed);
                });
                assert_eq!(sum.into_inner(), items * (items - 1) / 2 + items * region);
            }
        }
    }

    #[test]
    fn panics_reach_the_caller_and_leave_the_pool_usable() {
        let pool = Pool::new(3);
        for guilty in 0..3 {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.for_each(3, |_, item| assert!(item != guilty, "item {item}"));
            }));
            let payload = caught.expect_err("the panic must reach the caller");
            let text = payload.downcast_ref::<String>().expect("a formatted panic");
            assert!(text.contains(&format!("item {guilty}")), "{text}");
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
        });
        assert_eq!(sum.load(Ordering::Relaxed), 8 * 8);

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
        assert_eq!(sum.load(Ordering::Relaxed), 64 + 4 * 200 * 5);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn threads_run_where_they_are_bound() {
        let cpus = affinity::allowed().expect("Linux says");
        let bound = [cpus[cpus.len() - 1], cpus[0]];
        let pool = Pool::bound(2, &bound).expect("allowed processors");
        thread::scope(|scope| {
            scope.spawn(|| {
                pool.bind_caller();
                let both = Barrier::new(2);
                pool.for_each(2, |thread, _| {
                    both.wait();
                    assert_eq!(affinity::allowed(), Some(vec![bound[thread]]));
                });
            });
        });
        assert!(Pool::bound(2, &[usize::MAX]).is_err());
    }
}
