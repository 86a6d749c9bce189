//! How tokens are chosen.

use super::{I64, LAST, Row, U32, count};
use crate::{
    chat::generation::{MAX_BREAKER_BYTES, MAX_BREAKERS},
    param::Kind,
    server::{
        desk::{LogitBias, bias::biases, samplers::stages, wire},
        lenient::read_at,
        schema::TextOr,
    },
};

pub(crate) const TEMPERATURE: Row = Row::number(
    "temperature",
    "0 always takes the likeliest token; 1 samples from the model's own distribution.",
    (0.0, 2.0),
    |draft, x| draft.request.sampling.temperature = x as f32,
);
pub(crate) const TOP_P: Row = Row::number(
    "top_p",
    "Sample from the likeliest tokens that together have this probability.",
    (0.0, 1.0),
    |draft, x| draft.request.sampling.top_p = x as f32,
);
pub(crate) const TOP_K: Row = Row::integer(
    "top_k",
    "Sample from so many likeliest tokens; 0 or -1: all.",
    (-1, u32::MAX as i64),
    |draft, x| draft.request.sampling.top_k = u32::try_from(x).unwrap_or(0),
);
pub(crate) const MIN_P: Row = Row::number(
    "min_p",
    "Drop tokens less likely than this share of the likeliest.",
    (0.0, 1.0),
    |draft, x| draft.request.sampling.min_p = x as f32,
);
pub(crate) const TYPICAL_P: Row = Row::number(
    "typical_p",
    "Sample from tokens whose surprise is near the mean, together of this probability; 1: off.",
    (0.0, 1.0),
    |draft, x| draft.request.sampling.typical_p = x as f32,
)
.remarking("as llama.cpp");
pub(crate) const TOP_N_SIGMA: Row = Row::number(
    "top_n_sigma",
    "Drop tokens whose score is so many standard deviations below the best; 0 or less: off.",
    (-1.0, 100.0),
    |draft, x| draft.request.sampling.top_n_sigma = x.max(0.0) as f32,
)
.remarking("as llama.cpp");
pub(crate) const PRESENCE_PENALTY: Row = Row::number(
    "presence_penalty",
    "Taken off the score of tokens that have occurred in the answer.",
    (-2.0, 2.0),
    |draft, x| draft.request.sampling.presence_penalty = x as f32,
);
pub(crate) const FREQUENCY_PENALTY: Row = Row::number(
    "frequency_penalty",
    "Taken off the score of a token for each time it has occurred in the answer.",
    (-2.0, 2.0),
    |draft, x| draft.request.sampling.frequency_penalty = x as f32,
);
pub(crate) const REPETITION_PENALTY: Row = Row::number(
    "repetition_penalty",
    "Divides the score of tokens seen in prompt or answer; 1: off.",
    (0.01, 100.0),
    |draft, x| draft.request.sampling.repetition_penalty = x as f32,
);
pub(crate) const REPEAT_PENALTY: Row = REPETITION_PENALTY.named("repeat_penalty");
pub(crate) const REPEAT_LAST_N: Row = Row::integer(
    "repeat_last_n",
    "Last tokens that repetition, presence and frequency penalty look at; 0: off, -1 or absent: all.",
    LAST,
    |draft, x| draft.request.sampling.penalty_last_n = count(x),
)
.remarking("all if absent; frequency and presence penalty count the answer alone");
pub(crate) const LOGIT_BIAS: Row = Row::json(
    "logit_bias",
    "Token ids and what to add to their scores, -100 to 100; -100 or false bans a token. Also as a list \
     of pairs, in which a text stands for each of its tokens.",
    wire::<LogitBias>(),
    |draft, value, place| {
        let request = &mut draft.request;
        (request.sampling.logit_bias, request.text_bias) = biases(read_at(value, place)?, place)?;
        Ok(())
    },
)
.remarking("also a list of pairs, texts as keys, and false as a ban, as in llama-server");
pub(crate) const SEED: Row = Row::integer(
    "seed",
    "Same request, same seed: same answer.",
    I64,
    // A negative seed is a number like any other.
    |draft, x| draft.request.seed = Some(x.cast_unsigned()),
);
/// As [`SEED`], of servers to which a negative one is none.
pub(crate) const SEED_OR_RANDOM: Row = Row::integer(
    "seed",
    "Same request, same seed: same answer; negative: random.",
    I64,
    |draft, x| draft.request.seed = u64::try_from(x).ok(),
);
pub(crate) const XTC_PROBABILITY: Row = Row::number(
    "xtc_probability",
    "How often the likeliest tokens are left out, down to the last that `xtc_threshold` allows.",
    (0.0, 1.0),
    |draft, x| draft.request.sampling.xtc.probability = x as f32,
)
.remarking("as llama.cpp");
pub(crate) const XTC_THRESHOLD: Row = Row::number(
    "xtc_threshold",
    "Tokens at least so likely may be left out by XTC; 0.1 if absent, above 0.5: none.",
    (0.0, 1.0),
    |draft, x| draft.request.sampling.xtc.threshold = x as f32,
)
.remarking("as llama.cpp");
pub(crate) const DRY_MULTIPLIER: Row = Row::number(
    "dry_multiplier",
    "Strength of DRY, which is hard on repeated sequences; 0: off.",
    (0.0, 100.0),
    |draft, x| draft.request.sampling.dry.multiplier = x as f32,
)
.remarking("as llama.cpp");
pub(crate) const DRY_BASE: Row = Row::number(
    "dry_base",
    "DRY's penalty grows by this factor with each repeated token; 1.75 if absent.",
    (1.0, 100.0),
    |draft, x| draft.request.sampling.dry.base = x as f32,
)
.remarking("from 1 to 100");
pub(crate) const DRY_ALLOWED_LENGTH: Row = Row::integer(
    "dry_allowed_length",
    "Repeated tokens that DRY allows; 2 if absent.",
    U32,
    |draft, x| draft.request.sampling.dry.allowed_length = x as u32,
);
pub(crate) const DRY_PENALTY_LAST_N: Row = Row::integer(
    "dry_penalty_last_n",
    "Last tokens that DRY looks at; 0: off, -1 or absent: all.",
    LAST,
    |draft, x| draft.request.sampling.dry.last_n = count(x),
)
.remarking("prompt and answer count");
pub(crate) const DRY_SEQUENCE_BREAKERS: Row = Row::new(
    "dry_sequence_breakers",
    "Texts over which DRY's repetitions do not reach; line break, `:`, `\"` and `*` if absent.",
    Kind::Texts {
        max: MAX_BREAKERS,
        chars: (1, MAX_BREAKER_BYTES),
        or_one: false,
        set: |draft, texts| draft.request.dry_breakers = texts,
    },
)
.remarking("up to 32 of 40 characters");
pub(crate) const MIROSTAT: Row = Row::integer(
    "mirostat",
    "1 or 2: keep the surprise of tokens near `mirostat_tau`, in place of every truncation; 0: off.",
    (0, 2),
    |draft, x| draft.mirostat.version = x,
)
.remarking("takes the place of every truncation, as in llama.cpp; penalties and temperature hold");
pub(crate) const MIROSTAT_TAU: Row = Row::number(
    "mirostat_tau",
    "The surprise that mirostat aims at, in bits; 5 if absent.",
    (0.0, 100.0),
    |draft, x| draft.mirostat.tau = x as f32,
);
pub(crate) const MIROSTAT_ETA: Row = Row::number(
    "mirostat_eta",
    "How fast mirostat learns; 0.1 if absent.",
    (0.0, 1.0),
    |draft, x| draft.mirostat.eta = x as f32,
);
pub(crate) const ADAPTIVE_TARGET: Row = Row::number(
    "adaptive_target",
    "Prefer tokens of about this probability, and keep the mean of the chosen ones there, after all \
     other samplers; negative or absent: off.",
    (-1.0, 1.0),
    |draft, x| draft.adaptive.target = x as f32,
)
.remarking(
    "as llama.cpp's `adaptive_p`, which also works without being named in `samplers`; not with `mirostat`",
);
pub(crate) const ADAPTIVE_DECAY: Row = Row::number(
    "adaptive_decay",
    "How slowly that mean forgets; 0.9 if absent.",
    (0.0, 0.99),
    |draft, x| draft.adaptive.decay = x as f32,
);
pub(crate) const DYNATEMP_RANGE: Row = Row::number(
    "dynatemp_range",
    "The temperature moves by so much around `temperature`, with the entropy; 0: off.",
    (0.0, 100.0),
    |draft, x| draft.request.sampling.temperature_range = x as f32,
)
.remarking("without `samplers`, the temperature then comes last");
pub(crate) const DYNATEMP_EXPONENT: Row = Row::number(
    "dynatemp_exponent",
    "Exponent of the entropy that moves the temperature; 1 if absent.",
    (0.0, 100.0),
    |draft, x| draft.request.sampling.temperature_exponent = x as f32,
);
pub(crate) const MIN_KEEP: Row =
    Row::integer("min_keep", "Tokens that truncations leave at least.", U32, |draft, x| {
        draft.request.sampling.min_keep = x as u32;
    });
pub(crate) const SAMPLERS: Row = Row::json(
    "samplers",
    "The samplers in their order and no others, by llama.cpp's names or as its text of letters. If \
     absent: penalties, dry, temperature, top_n_sigma, top_k, typ_p, top_p, min_p, xtc; with \
     `dynatemp_range`, temperature comes last.",
    wire::<TextOr<String>>(),
    |draft, value, place| {
        let (order, is_adaptive) = stages(read_at(value, place)?, place)?;
        draft.request.sampling.order = Some(order);
        draft.adaptive.is_on = is_adaptive;
        Ok(())
    },
)
.remarking(
    "names or letters of llama.cpp; `infill` is refused; `adaptive_p` comes last wherever it stands; if \
     absent, the temperature comes before the truncations, as OpenAI has it",
);
