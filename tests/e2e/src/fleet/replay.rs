//! A recorded series as a device of its own: hourly weather that plays back on today's calendar. Pure.

use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};
use serde_json::json;
use snafu::{OptionExt, ResultExt, Snafu};

use super::{message::Reading, signal::rounded};

/// The name of the device.
pub const DEVICE: &str = "weather-seattle";
/// What stands in its topic in the place of a production line.
pub const LINE: &str = "weather";

/// Why a file is no series.
#[derive(Debug, Snafu)]
pub enum Error {
    /// A column is missing.
    #[snafu(display("failed to find the column {name} in the first line"))]
    Column {
        /// The column's name.
        name: &'static str,
    },
    /// A line cannot be read.
    #[snafu(display("failed to read line {number} of the series"))]
    Line {
        /// The line's number, from 1.
        number: usize,
    },
    /// A time cannot be read.
    #[snafu(display("failed to read the time in line {number} of the series"))]
    Time {
        /// The line's number, from 1.
        number: usize,
        /// What is wrong with it.
        source: jiff::Error,
    },
    /// There are no lines.
    #[snafu(display("failed to find any line below the first one"))]
    Empty,
}

/// One year of hourly weather, as `data/seattle-weather-hourly-normals.csv` of npm's vega-datasets has it.
#[derive(Clone, Debug)]
pub struct Series {
    hours: Vec<Hour>,
}

/// What was recorded for one hour.
#[derive(Clone, Copy, Debug)]
struct Hour {
    month: i8,
    day: i8,
    hour: i8,
    temperature_c: f64,
    pressure_hpa: f64,
    wind_m_s: f64,
}

impl Series {
    /// Reads `date,pressure,temperature,wind` lines, the columns in any order.
    ///
    /// # Errors
    /// Names the line that is no such line.
    pub fn parse(csv: &str) -> Result<Self, Error> {
        let mut lines = csv.lines();
        let names: Vec<&str> = lines.next().unwrap_or_default().split(',').map(str::trim).collect();
        let column = |name| names.iter().position(|other| *other == name).context(ColumnSnafu { name });
        let (date, temperature) = (column("date")?, column("temperature")?);
        let (pressure, wind) = (column("pressure")?, column("wind")?);
        let hours = lines
            .enumerate()
            .map(|(index, line)| {
                let number = index + 2;
                let fields: Vec<&str> = line.split(',').collect();
                let field = |column: usize| fields.get(column).copied().context(LineSnafu { number });
                let value = |column| field(column)?.trim().parse::<f64>().ok().context(LineSnafu { number });
                let time: DateTime = field(date)?.trim().parse().context(TimeSnafu { number })?;
                Ok(Hour {
                    month: time.month(),
                    day: time.day(),
                    hour: time.hour(),
                    temperature_c: value(temperature)?,
                    pressure_hpa: value(pressure)?,
                    wind_m_s: value(wind)?,
                })
            })
            .collect::<Result<Vec<_>, Error>>()?;
        if hours.is_empty() { EmptySnafu.fail() } else { Ok(Self { hours }) }
    }

    /// How many hours were recorded.
    pub fn len(&self) -> usize {
        self.hours.len()
    }

    /// Whether nothing was recorded; never so for a series that was parsed.
    pub fn is_empty(&self) -> bool {
        self.hours.is_empty()
    }

    /// The full hours of the `days` before `now`, oldest first.
    pub fn hours_before(now: Timestamp, days: i64) -> impl Iterator<Item = Timestamp> {
        let this_hour = now.as_second() / 3_600;
        (this_hour - days * 24..=this_hour).filter_map(|hour| Timestamp::from_second(hour * 3_600).ok())
    }

    /// What the station reads at `time`: the recorded values of the same hour of the year, on a straight line
    /// between full hours.
    pub fn read(&self, seq: i64, time: Timestamp) -> Reading {
        let begin = self.recorded_at(time);
        let end = self.recorded_at(time.saturating_add(SignedDuration::from_hours(1)).unwrap_or(time));
        let part = time.as_second().rem_euclid(3_600) as f64 / 3_600.0;
        let between = |value: fn(&Hour) -> f64| value(begin) + (value(end) - value(begin)) * part;
        let details = json!({
            "pressure_hpa": rounded(between(|hour| hour.pressure_hpa), 10.0),
            "wind_m_s": rounded(between(|hour| hour.wind_m_s), 10.0),
        });
        Reading {
            device: DEVICE.to_owned(),
            seq,
            time,
            temp_f: rounded(between(|hour| hour.temperature_c) * 9.0 / 5.0 + 32.0, 100.0),
            vibration: None,
            battery: None,
            details: details.as_object().cloned().unwrap_or_default(),
        }
    }

    /// The 29th of February was not recorded: such a day takes the last hour before it.
    fn recorded_at(&self, time: Timestamp) -> &Hour {
        let civil = time.to_zoned(TimeZone::UTC).datetime();
        let wanted = (civil.month(), civil.day(), civil.hour());
        let after = self.hours.partition_point(|hour| (hour.month, hour.day, hour.hour) <= wanted);
        &self.hours[after.saturating_sub(1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CSV: &str = "date,pressure,temperature,wind\n\
        2010-03-01T08:00:00,1016.6,4.0,3.8\n\
        2010-03-01T09:00:00,1016.2,6.0,3.0\n";

    #[test]
    fn a_recorded_hour_plays_back_on_the_same_hour_of_any_year() {
        let series = Series::parse(CSV).unwrap();
        let at = |time: &str| series.read(1, time.parse().unwrap());
        assert_eq!(at("2026-03-01T08:00:00Z").temp_f, 39.2);
        assert_eq!(at("2026-03-01T08:30:00Z").temp_f, 41.0);
        assert_eq!(at("2026-03-01T09:00:00Z").details["wind_m_s"], 3.0);
        assert_eq!(at("2026-07-01T09:00:00Z").temp_f, 42.8);
    }

    #[test]
    fn history_is_made_of_full_hours() {
        let now: Timestamp = "2026-03-01T08:15:00Z".parse().unwrap();
        let hours: Vec<_> = Series::hours_before(now, 1).map(|time| time.to_string()).collect();
        assert_eq!(hours.len(), 25);
        assert_eq!(hours[0], "2026-02-28T08:00:00Z");
        assert_eq!(hours[24], "2026-03-01T08:00:00Z");
    }

    #[test]
    fn what_is_no_series_is_refused_by_its_line() {
        for (csv, message) in [
            ("", "failed to find the column date in the first line"),
            ("date,pressure,temperature,wind\n", "failed to find any line below the first one"),
            (
                "date,pressure,temperature,wind\n2010-01-01T01:00:00,1,x,1\n",
                "failed to read line 2 of the series",
            ),
            (
                "date,pressure,temperature,wind\nyesterday,1,1,1\n",
                "failed to read the time in line 2 of the series",
            ),
        ] {
            assert_eq!(Series::parse(csv).unwrap_err().to_string(), message);
        }
    }
}
