//! Names that were meant for others: typing errors.

/// Whether one name was meant for the other: `topP`, `max_token`, `temprature`.
#[must_use]
pub fn is_nearly(name: &str, known: &str) -> bool {
    let plain = |name: &str| name.replace(['_', '-'], "").to_lowercase();
    let (name, known) = (plain(name), plain(known));
    let allowed = match known.chars().count() {
        0..=2 => 0,
        3..=5 => 1,
        _ => 2,
    };
    name.chars().count().abs_diff(known.chars().count()) <= allowed
        && edit_distance(&name, &known) <= allowed
}

/// Insertions, deletions and substitutions between two words.
#[must_use]
pub fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
