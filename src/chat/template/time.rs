//! `strftime` for templates that state the date, in UTC.

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const DAY_S: i64 = 86_400;

/// A moment by the calendar.
struct Moment {
    year: i64,
    month: i64,
    day: i64,
    /// 0 is Monday.
    weekday: i64,
    /// From 1.
    day_of_year: i64,
    second_of_day: i64,
}

impl Moment {
    /// From seconds since 1970, by the proleptic Gregorian calendar.
    fn new(unix_s: i64) -> Self {
        let days = unix_s.div_euclid(DAY_S);
        // Count from 1 March of year 0, so that leap days end their year.
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let from_march = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * from_march + 2) / 153;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
        let day_of_year =
            if month > 2 { from_march + 60 + i64::from(leap) } else { from_march - 305 };
        Self {
            year,
            month,
            day: from_march - (153 * march_month + 2) / 5 + 1,
            weekday: (days + 3).rem_euclid(7),
            day_of_year,
            second_of_day: unix_s.rem_euclid(DAY_S),
        }
    }
}

/// Formats seconds since 1970 as C and Python do. `%-d` drops a leading zero; an unknown letter
/// stands as it is.
pub(crate) fn strftime(unix_s: i64, format: &str) -> String {
    let moment = Moment::new(unix_s);
    let mut out = String::with_capacity(format.len() * 2);
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut letter = chars.next();
        let bare = letter == Some('-');
        if bare {
            letter = chars.next();
        }
        match letter.and_then(|letter| field(&moment, letter)) {
            Some(text) if bare => out.push_str(without_zeros(&text)),
            Some(text) => out.push_str(&text),
            None => {
                out.push('%');
                out.extend(bare.then_some('-'));
                out.extend(letter);
            }
        }
    }
    out
}

fn without_zeros(text: &str) -> &str {
    match text.trim_start_matches('0') {
        "" => "0",
        rest => rest,
    }
}

fn field(moment: &Moment, letter: char) -> Option<String> {
    let Moment { year, month, day, weekday, day_of_year, second_of_day } = *moment;
    let (hour, minute, second) =
        (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    let month_name = MONTHS.get((month - 1) as usize)?;
    let day_name = DAYS.get(weekday as usize)?;
    Some(match letter {
        'Y' => year.to_string(),
        'y' => format!("{:02}", year.rem_euclid(100)),
        'm' => format!("{month:02}"),
        'd' => format!("{day:02}"),
        'e' => format!("{day:2}"),
        'j' => format!("{day_of_year:03}"),
        'B' => (*month_name).to_owned(),
        'b' | 'h' => month_name.chars().take(3).collect(),
        'A' => (*day_name).to_owned(),
        'a' => day_name.chars().take(3).collect(),
        'u' => (weekday + 1).to_string(),
        'w' => ((weekday + 1) % 7).to_string(),
        'H' => format!("{hour:02}"),
        'I' => format!("{:02}", (hour + 11) % 12 + 1),
        'p' => if hour < 12 { "AM" } else { "PM" }.to_owned(),
        'M' => format!("{minute:02}"),
        'S' => format!("{second:02}"),
        'f' => "000000".to_owned(),
        'F' => format!("{year}-{month:02}-{day:02}"),
        'D' => format!("{month:02}/{day:02}/{:02}", year.rem_euclid(100)),
        'T' => format!("{hour:02}:{minute:02}:{second:02}"),
        'R' => format!("{hour:02}:{minute:02}"),
        'Z' => "UTC".to_owned(),
        'z' => "+0000".to_owned(),
        '%' => "%".to_owned(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::strftime;

    #[test]
    fn moments_read_as_the_calendar_says() {
        let cases = [
            (0, "%Y-%m-%d %H:%M:%S %A %j", "1970-01-01 00:00:00 Thursday 001"),
            (1_741_529_107, "%d %b %Y %I:%M %p", "09 Mar 2025 02:05 PM"),
            (951_782_400, "%F %a %j", "2000-02-29 Tue 060"),
            (1_735_603_200, "%B %-d, %Y %j", "December 31, 2024 366"),
            (1_741_529_107, "%-d %-H %-m %% %Q %-Q %", "9 14 3 % %Q %-Q %"),
            (-1, "%F %T", "1969-12-31 23:59:59"),
        ];
        for (at, format, expected) in cases {
            assert_eq!(strftime(at, format), expected, "{at} {format}");
        }
    }
}
