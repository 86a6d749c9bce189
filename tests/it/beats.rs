//! What is told of an answer: blocks one after the other, nothing lost, and one rule about blanks.

use kolosal_server::chat::generation::{
    Beat, Block, BlockKind, End, FinishReason, Fold, Step, Teller,
};
use kolosal_server::chat::{AnswerPart, CallDelta, CallStart};
use kolosal_server::engine::{Timings, Usage};
use proptest::prelude::*;

/// What a model writes in one step.
#[derive(Clone, Debug)]
enum Written {
    Thought(String),
    Text(String),
    /// A call begins; the one before breaks off unless it has ended.
    Call,
    Arguments(String),
    CallEnds,
    /// Tokens that become no text.
    Mark,
}

fn written() -> impl Strategy<Value = Written> {
    prop_oneof![
        1 => "[ab \n]{1,3}".prop_map(Written::Thought),
        3 => "[ab \n]{1,3}".prop_map(Written::Text),
        2 => "[ \n]{1,2}".prop_map(Written::Text),
        2 => Just(Written::Call),
        2 => "[{}a]{0,3}".prop_map(Written::Arguments),
        2 => Just(Written::CallEnds),
        1 => Just(Written::Mark),
    ]
}

/// The steps of an answer of which each part came from one token, numbered from 0.
fn steps(parts: &[Written], may_call: bool, reason: FinishReason) -> Vec<Step> {
    let mut teller = Teller::new(may_call);
    let (mut num_calls, mut is_open, mut steps) = (0, false, Vec::new());
    for (token, part) in parts.iter().enumerate() {
        teller.bring(vec![token as u32], Vec::new());
        let call = |delta| AnswerPart::Call(CallDelta { index: num_calls.max(1) - 1, ..delta });
        match part {
            Written::Thought(text) => teller.think(text),
            Written::Text(text) => teller.part(AnswerPart::Text(text.clone())),
            Written::Call if may_call => {
                let start = CallStart { id: format!("id{num_calls}"), name: "f".to_owned() };
                let (index, start) = (num_calls, Some(start));
                teller.part(AnswerPart::Call(CallDelta { index, start, ..CallDelta::default() }));
                (num_calls, is_open) = (num_calls + 1, true);
            }
            Written::Arguments(text) if is_open => {
                teller.part(call(CallDelta { arguments: text.clone(), ..CallDelta::default() }));
            }
            Written::CallEnds if is_open => {
                teller.part(call(CallDelta { ends: true, ..CallDelta::default() }));
                is_open = false;
            }
            _ => {}
        }
        is_open &= !matches!(part, Written::Thought(_) | Written::Text(_));
        steps.push(Step { index: 0, beats: teller.take() });
    }
    teller.finish();
    steps.push(Step { index: 0, beats: teller.take() });
    teller.close(reason);
    let mut beats = teller.take();
    let (usage, timings) = (Usage::default(), Timings::default());
    beats.push(Beat::End(End { reason, usage, timings, stop_string: None }));
    steps.push(Step { index: 0, beats });
    steps
}

/// Blocks open and close one after the other, and pieces belong to the open one.
fn check_order(steps: &[Step]) {
    let mut open: Option<BlockKind> = None;
    let mut beats = steps.iter().flat_map(|step| &step.beats).peekable();
    while let Some(beat) = beats.next() {
        match beat {
            Beat::Open(block) => {
                assert_eq!(open.replace(block.kind()), None, "{steps:?}");
                assert!(matches!(beats.peek(), Some(Beat::Piece(_))), "{steps:?}");
            }
            Beat::Piece(piece) => match open {
                Some(kind) => assert_eq!(piece.kind, kind),
                None => assert!(piece.text.is_empty() && piece.kind == BlockKind::Text),
            },
            Beat::Close { .. } => assert!(open.take().is_some(), "{steps:?}"),
            Beat::End(_) => assert!(open.is_none() && beats.peek().is_none(), "{steps:?}"),
            Beat::Progress { .. } | Beat::Failed(_) => panic!("{beat:?}"),
        }
    }
}

proptest! {
    #[test]
    fn nothing_is_lost_and_blanks_have_one_rule(
        parts in proptest::collection::vec(written(), 0..12), may_call: bool, is_cut: bool,
    ) {
        let reason = if is_cut { FinishReason::Length } else { FinishReason::Stop };
        let steps = steps(&parts, may_call, reason);
        check_order(&steps);
        let mut fold = Fold::new(1);
        steps.iter().for_each(|step| fold.take(step.clone()).unwrap());
        let choice = fold.into_choices().remove(0);
        // Every token is told, in order.
        prop_assert_eq!(&choice.tokens, &(0..parts.len() as u32).collect::<Vec<_>>());
        let said: String = parts.iter().filter_map(|part| match part {
            Written::Text(text) => Some(text.as_str()),
            _ => None,
        }).collect();
        if choice.calls().is_empty() {
            prop_assert_eq!(choice.text(), said);
        } else {
            // Only blanks are missing.
            let dense = |text: &str| text.split_whitespace().collect::<String>();
            prop_assert_eq!(dense(&choice.text()), dense(&said));
            let texts = choice.blocks.iter().filter(|told| told.block == Block::Text);
            prop_assert!(texts.into_iter().all(|told| !told.text.trim().is_empty()));
        }
        // Unfolded and folded again it is the same.
        let mut again = Fold::new(1);
        again.take(Step { index: 0, beats: choice.beats() }).unwrap();
        let again = again.into_choices().remove(0);
        prop_assert_eq!(&again.blocks, &choice.blocks);
        prop_assert_eq!(choice.blocks.last().is_none_or(|told| told.is_whole || is_cut
            || matches!(told.block, Block::Call { .. })), true);
    }
}

#[test]
fn blanks_wait_for_what_follows() {
    let text = |text: &str| Written::Text(text.to_owned());
    let told = |parts: &[Written], may_call| -> Vec<(usize, String)> {
        let steps = steps(parts, may_call, FinishReason::Stop);
        let texts = steps.iter().enumerate().flat_map(|(at, step)| {
            step.beats.iter().filter_map(move |beat| match beat {
                Beat::Piece(piece) if piece.kind == BlockKind::Text => {
                    Some((at, piece.text.clone()))
                }
                _ => None,
            })
        });
        texts.collect()
    };
    let at = |at: usize, text: &str| (at, text.to_owned());
    assert_eq!(told(&[text("\n"), text("a")], true), [at(1, "\na")]);
    assert_eq!(told(&[text("\n"), text("a")], false), [at(0, "\n"), at(1, "a")]);
    assert_eq!(told(&[text("\n"), Written::Mark, text(" ")], true), [at(3, "\n ")]);
    assert_eq!(told(&[text("\n"), Written::Call], true), []);
    assert_eq!(told(&[text("a"), text("\n"), Written::Call], true), [at(0, "a"), at(1, "\n")]);
}
