//! What people and scripts read: data on standard output, everything else on standard error.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use super::failure::{Failure, Outcome};

/// How to print, from the global flags.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    pub(super) json: bool,
    pub(super) quiet: bool,
}

#[expect(clippy::unused_self, reason = "data and remarks are printed through one handle")]
impl Output {
    /// A line of data.
    pub(super) fn line(self, text: impl AsRef<str>) -> Outcome {
        write(&mut io::stdout().lock(), &[text.as_ref(), "\n"])
    }

    /// A piece of data without a line break, visible at once.
    pub(super) fn piece(self, text: &str) -> Outcome {
        write(&mut io::stdout().lock(), &[text])
    }

    /// Data as JSON on one line.
    pub(super) fn json(self, data: &impl Serialize) -> Outcome {
        self.line(serde_json::to_string(data).map_err(Failure::failed)?)
    }

    /// Data as JSON over several lines.
    pub(super) fn json_pretty(self, data: &impl Serialize) -> Outcome {
        self.line(serde_json::to_string_pretty(data).map_err(Failure::failed)?)
    }

    /// A remark on standard error, unless `--quiet`.
    pub(super) fn note(self, text: impl AsRef<str>) {
        if !self.quiet {
            error_line(text);
        }
    }

    /// Rows in aligned columns, the first row being the heading.
    pub(super) fn table(self, rows: &[Vec<String>]) -> Outcome {
        table_lines(rows).into_iter().try_for_each(|line| self.line(line))
    }
}

/// A line on standard error. A closed standard error is nobody's failure.
pub(super) fn error_line(text: impl AsRef<str>) {
    let _closed = writeln!(io::stderr().lock(), "{}", text.as_ref());
}

/// Whether a person types at standard input.
pub(super) fn stdin_is_terminal() -> bool {
    io::stdin().is_terminal()
}

fn write(out: &mut impl Write, parts: &[&str]) -> Outcome {
    let written = parts.iter().try_for_each(|part| out.write_all(part.as_bytes()));
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::OutputClosed),
        Err(error) => Err(Failure::Failed(format!("standard output: {error}"))),
        Ok(()) => Ok(()),
    }
}

fn table_lines(rows: &[Vec<String>]) -> Vec<String> {
    let num_columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..num_columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}  "));
        cells.collect::<String>().trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// Bytes for a person: `98.4 MB`.
pub(super) fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["NAME", "SIZE"], ["a", "1 B"], ["longer", "22 B"]];
        let rows = rows.map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table_lines(&rows), ["NAME    SIZE", "a       1 B", "longer  22 B"]);
    }

    #[test]
    fn bytes_are_readable() {
        for (bytes, text) in
            [(0, "0 B"), (999, "999 B"), (98_362_432, "98.4 MB"), (1_500_000_000, "1.5 GB")]
        {
            assert_eq!(human_bytes(bytes), text);
        }
    }
}
