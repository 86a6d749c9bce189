//! Points in time as Ollama writes them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::chat::strftime;

/// Now, in UTC.
pub(super) fn now() -> String {
    rfc3339(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// Time since 1970 by RFC 3339, with milliseconds.
pub(super) fn rfc3339(since_1970: Duration) -> String {
    let seconds = i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX);
    format!("{}.{:03}Z", strftime(seconds, "%FT%T"), since_1970.subsec_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        let cases = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ];
        for (seconds, text) in cases {
            assert_eq!(rfc3339(Duration::from_secs(seconds)), text);
        }
    }
}
