//! A thread pool for parallel regions of a few microseconds.
//!
//! The caller works as thread 0. Workers spin on the region's state for about 0.3 ms after their
//! last job, then park, so that a region costs under a microsecond while a model is running and
//! an idle server costs nothing. Work is cut in one contiguous run per thread (long sequential
//! streams for the hardware prefetcher); a thread that is done steals from the tail of another's
//! run. Nobody waits for a worker that has not begun: once all items are taken the caller closes
//! the region, and a worker that the system wakes only then finds it closed. So a machine that is
//! busy with other things costs the help of a worker and not a time slice in every region.

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
            state: AtomicU64::new(CLOSED),
            busy: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            job: UnsafeCell::new(None),
            panic: Mutex::new(None),
            num_regions: AtomicU64::new(0),
            spins,
            slots: (0..threads).map(|_| Slot::default()).collect(),
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
        self.shared.num_regions.load(Ordering::Relaxed)
    }

    /// Calls `f(thread, item)` once for every item and returns when all calls have ended. Each
    /// thread takes a contiguous run of items in rising order, then steals single items from the
    /// tails of the others. No two calls with the same `thread` overlap, and a call must not wait
    /// for another one. If a call panics, so does this, after all calls have ended; some items may
    /// then not have been called.
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
            let run = Pool::run(items, thread, threads);
            slot.items.store(pack(run.start, run.end), Ordering::Relaxed);
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

    /// The items that `thread` of `threads` begins with.
    pub(crate) fn run(items: usize, thread: usize, threads: usize) -> Range<usize> {
        items * thread / threads..items * (thread + 1) / threads
    }

    /// Claims the pool, or None when a region is running.
    #[inline]
    fn enter(&self) -> Option<Region<'_>> {
        let busy = &self.shared.busy;
        busy.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).ok()?;
        Some(Region(busy))
    }

    /// Runs `f(0)`, and `f(i)` on those workers that come before it has ended. The caller must hold
    /// the region.
    fn run_region<F: Fn(usize) + Sync>(&self, f: &F) {
        let shared = &*self.shared;
        shared.num_regions.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the region is held, so no other caller writes the job; the last region was closed
        // and left by all before its caller returned, so no worker reads it.
        unsafe { *shared.job.get() = Some(Job::new(f)) };
        shared.open();
        for (slot, worker) in shared.slots[1..].iter().zip(&self.workers) {
            if slot.parked.swap(false, Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        // `f` is borrowed by the workers, so a panic here must wait for them too.
        let own = catch_unwind(AssertUnwindSafe(|| f(0)));
        shared.close();
        let theirs = shared.take_panic();
        if let Some(payload) = own.err().or(theirs) {
            resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.state.fetch_add(EPOCH, Ordering::SeqCst);
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
    call: unsafe fn(*const (), usize),
}

impl Job {
    fn new<F: Fn(usize) + Sync>(f: &F) -> Job {
        unsafe fn call<F: Fn(usize)>(closure: *const (), thread: usize) {
            // SAFETY: `closure` was made from `&F` in `Job::new`, and `run_region` keeps that
            // borrow alive until every worker has left the region.
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

/// One region in [`Shared::state`].
const EPOCH: u64 = 1 << 32;
/// The region takes no more workers.
const CLOSED: u64 = 1 << 31;
/// The workers in it.
const INSIDE: u64 = CLOSED - 1;

struct Shared {
    /// The number of the region in the upper half, then whether it is closed, then the number of
    /// workers in it.
    state: AtomicU64,
    busy: AtomicBool,
    stop: AtomicBool,
    job: UnsafeCell<Option<Job>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    num_regions: AtomicU64,
    spins: u32,
    slots: Box<[Slot]>,
}

// SAFETY: `job` is written only by the holder of the region while no worker is in it, and read only
// by workers in it, which saw the state that was stored after the write. The closure it points to
// is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; nothing in it belongs to a particular thread.
unsafe impl Send for Shared {}

impl Shared {
    /// The life of a worker.
    fn work(&self, index: usize) {
        let mut seen = 0;
        loop {
            seen = self.wait_for_epoch_after(seen, &self.slots[index].parked);
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            if !self.join(seen) {
                continue;
            }
            // SAFETY: this worker is in the region, so the job was written before and is not
            // written again until it has left.
            let job = unsafe { *self.job.get() };
            let job = job.expect("a region was opened without a job: this is a bug");
            // SAFETY: the closure outlives the region, see `Job::new`.
            let result = catch_unwind(AssertUnwindSafe(|| unsafe {
                (job.call)(job.closure, index);
            }));
            if let Err(payload) = result {
                let mut first = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert(payload);
            }
            self.state.fetch_sub(1, Ordering::Release);
        }
    }

    /// Begins a region.
    fn open(&self) {
        let state = self.state.load(Ordering::Relaxed);
        // Nobody is inside, and a closed region's state changes nowhere else.
        self.state.store((state & !(EPOCH - 1)).wrapping_add(EPOCH), Ordering::SeqCst);
    }

    /// Ends the region, when those who are in it have left.
    fn close(&self) {
        self.state.fetch_or(CLOSED, Ordering::AcqRel);
        let mut polls = 0;
        while self.state.load(Ordering::Acquire) & INSIDE != 0 {
            polls += 1;
            if polls % SPINS_PER_YIELD == 0 {
                thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
    }

    /// Enters region `epoch`; false if it is closed or over.
    fn join(&self, epoch: u64) -> bool {
        let mut state = self.state.load(Ordering::Relaxed);
        while state & !(EPOCH - 1) == epoch && state & CLOSED == 0 {
            let (order, failed) = (Ordering::Acquire, Ordering::Relaxed);
            match self.state.compare_exchange_weak(state, state + 1, order, failed) {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
        false
    }

    /// Waits for a region other than `seen`, and says which.
    fn wait_for_epoch_after(&self, seen: u64, parked: &AtomicBool) -> u64 {
        let mut polls = 0;
        loop {
            let epoch = self.state.load(Ordering::Acquire) & !(EPOCH - 1);
            if epoch != seen {
                return epoch;
            }
            if polls < self.spins {
                polls += 1;
                std::hint::spin_loop();
                continue;
            }
            // Either the caller sees `parked` and unparks us, or we see its new epoch here.
            parked.store(true, Ordering::SeqCst);
            if self.state.load(Ordering::SeqCst) & !(EPOCH - 1) == seen {
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
        let pool = Pool::new(2);
        // A worker that holds the first region's only other item is late for the rest.
        let shared = &*pool.shared;
        shared.open();
        let late = shared.state.load(Ordering::SeqCst) & !(EPOCH - 1);
        shared.close();
        assert!(!shared.join(late), "a closed region takes nobody");
        let sum = AtomicUsize::new(0);
        pool.for_each(10, |_, item| {
            sum.fetch_add(item, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 45);
        assert!(!shared.join(late), "nor does one that is over");
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
