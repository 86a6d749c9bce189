//! An answer under way: its steps go to the renderer one by one, or to the fold.

use std::collections::VecDeque;

use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;

use super::{Desk, Ledger, Render, render::Streamed};
use crate::{
    chat::generation::{Beat, Fold, Generation, Step},
    error::{Error, Result},
    registry::Lease,
    server::drain::Drain,
};

/// A generation, its renderer, and what may end it; dropping it ends the generation.
pub(super) struct Tale<R: Render> {
    course: Course,
    render: R,
    drain: Drain,
    cancel: Option<CancellationToken>,
}

/// A generation whose end gets into the ledger, also if it is dropped midway.
struct Course {
    generation: Generation,
    /// Keeps the engine loaded.
    _lease: Lease,
    ledger: Ledger,
    is_over: bool,
}

impl<R: Render> Tale<R> {
    pub(super) fn new(generation: Generation, lease: Lease, render: R, desk: &Desk<'_>) -> Self {
        let (cancel, ledger) = (render.cancelled(), desk.ledger().clone());
        let course = Course { generation, _lease: lease, ledger, is_over: false };
        Self { course, render, drain: desk.state.drain.clone(), cancel }
    }

    /// The events as they come.
    pub(super) fn events(mut self) -> Streamed<R> {
        let generation = &self.course.generation;
        let ready = VecDeque::from(self.render.begin(&|| generation.tally()));
        let events =
            futures_util::stream::unfold((ready, Some(self)), |(mut ready, mut tale)| async move {
                loop {
                    if let Some(event) = ready.pop_front() {
                        return Some((Ok(event), (ready, tale)));
                    }
                    let going = tale.as_mut()?;
                    match going.next().await {
                        Ok(Some(step)) => ready.extend(going.rendered(step)),
                        Ok(None) => {
                            let generation = &going.course.generation;
                            ready.extend(going.render.end(&|| generation.tally()));
                            tale = None;
                        }
                        Err(error) => {
                            let generation = &going.course.generation;
                            let last = going.render.fail(error, &|| generation.tally());
                            tale = None;
                            match last {
                                Ok(events) => ready.extend(events),
                                Err(error) => return Some((Err(error), (ready, None))),
                            }
                        }
                    }
                }
            });
        events.boxed()
    }

    fn rendered(&mut self, step: Step) -> Vec<R::Event> {
        let generation = &self.course.generation;
        self.render.step(step, &|| generation.tally())
    }

    /// The answer at its end.
    ///
    /// # Errors
    /// The failure of any choice, or a shutdown.
    pub(super) async fn whole(mut self) -> Result<R::Whole> {
        let mut fold = Fold::new(self.course.generation.num_choices());
        while let Some(step) = self.next().await? {
            fold.take(step)?;
        }
        let collected = self.course.generation.collected(fold);
        Ok(self.render.whole(collected))
    }

    /// The next step; `None` when all choices are complete. May be dropped and called again.
    async fn next(&mut self) -> Result<Option<Step>> {
        let step = self.awaited().await;
        let course = &mut self.course;
        match &step {
            Ok(Some(step)) => course.ledger.saw(step),
            Ok(None) => course.is_over = true,
            Err(error) => {
                course.is_over = true;
                course.ledger.failed(error);
            }
        }
        step
    }

    async fn awaited(&mut self) -> Result<Option<Step>> {
        let Self { course: Course { generation, .. }, drain, cancel, .. } = self;
        let is_cancelled = async {
            match &cancel {
                Some(cancel) => cancel.cancelled().await,
                None => std::future::pending().await,
            }
        };
        let step = tokio::select! {
            biased;
            () = is_cancelled => None,
            step = generation.next() => Some(step),
            () = drain.expired() => return Err(Drain::error()),
        };
        let step = match step {
            Some(step) => step,
            None => {
                *cancel = None;
                generation.cancel();
                generation.next().await
            }
        };
        match step {
            Some(Step { index, mut beats }) => match beats.pop() {
                Some(Beat::Failed(error)) => Err(error),
                last => {
                    beats.extend(last);
                    Ok(Some(Step { index, beats }))
                }
            },
            None => Ok(None),
        }
    }
}

impl Drop for Course {
    fn drop(&mut self) {
        self.ledger.took(&self.generation.tally());
        if self.is_over {
            return;
        }
        if std::thread::panicking() {
            self.ledger.failed(&Error::internal("a panic while an answer was made"));
        } else {
            self.ledger.left();
        }
    }
}
