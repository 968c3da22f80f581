//! Charts, as text and as SVG in the colours of the reader's system. Written by hand: plotting
//! crates write the colours into each element, where no style sheet reaches them.

use std::fmt;

/// Lines over a few steps. The steps are equally spaced, regardless of their values.
pub(crate) struct Chart {
    pub(crate) title: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) steps_are: &'static str,
    pub(crate) steps: Vec<u32>,
    pub(crate) lines: Vec<Line>,
}

/// The name of a line, and its value at each step that has one.
pub(crate) struct Line(pub(crate) String, pub(crate) Vec<Option<f64>>);

// The size of a chart, and of the plot in it, in pixels.
const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 424.0;
const TOP: f64 = 92.0;
const BOTTOM: f64 = 268.0;

const STYLE: &str = "\
svg { background: #fff; color: #1f2328; font: 13px system-ui, sans-serif }
text { fill: currentColor }
.title { font-weight: 600; font-size: 15px }
.grid { stroke: currentColor; opacity: .15 }
polyline { fill: none; stroke: currentColor; stroke-width: 2 }
circle { fill: currentColor }
.line0 { color: #0060a8 } .line1 { color: #c2410c } .line2 { color: #00795a }
@media (prefers-color-scheme: dark) {
  svg { background: #0d1117; color: #e6edf3 }
  .line0 { color: #58b4f0 } .line1 { color: #ff9a5c } .line2 { color: #3fd0a4 }
}";

/// Returns an SVG with all charts, two in a row.
pub(crate) fn svg(charts: &[Chart]) -> String {
    let (mut drawn, mut x, mut y) = (String::new(), 0.0, 0.0);
    for chart in charts {
        drawn += &format!(
            "<g transform='translate({x} {y})'>\n{}</g>\n",
            chart.drawn()
        );
        (x, y) = if x > 0.0 {
            (0.0, y + HEIGHT)
        } else {
            (WIDTH, y)
        };
    }
    let (width, height) = (2.0 * WIDTH, if x > 0.0 { y + HEIGHT } else { y });
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' height='{height}'>\n\
        <style>\n{STYLE}\n</style>\n{drawn}</svg>\n"
    )
}

impl Chart {
    fn drawn(&self) -> String {
        let values = self.lines.iter().flat_map(|line| line.1.iter().flatten());
        let tick = tick(values.copied().fold(0.0, f64::max));
        let up = |value: f64| BOTTOM - (BOTTOM - TOP) * value / (4.0 * tick);
        let step = (RIGHT - LEFT) / f64::from(u32::try_from(self.steps.len()).unwrap_or(u32::MAX));
        let places: Vec<f64> = (0_u32..)
            .zip(&self.steps)
            .map(|(at, _)| LEFT + step * (f64::from(at) + 0.5))
            .collect();

        let Self {
            title,
            unit,
            steps_are,
            ..
        } = self;
        let mut svg = text(16.0, 28.0, "class='title'", title) + &text(16.0, TOP - 14.0, "", unit);
        for times in 0..5 {
            let (value, y) = (tick * f64::from(times), up(tick * f64::from(times)));
            svg += &format!("<line class='grid' x1='{LEFT}' x2='{RIGHT}' y1='{y}' y2='{y}'/>\n");
            svg += &text(LEFT - 8.0, y + 4.0, "text-anchor='end'", &number(value));
        }
        for (x, step) in places.iter().zip(&self.steps) {
            svg += &text(
                *x,
                BOTTOM + 20.0,
                "text-anchor='middle'",
                &number(f64::from(*step)),
            );
        }
        svg += &text(
            (LEFT + RIGHT) / 2.0,
            BOTTOM + 40.0,
            "text-anchor='middle'",
            steps_are,
        );
        let mut x = 16.0;
        for (at, Line(name, values)) in self.lines.iter().enumerate() {
            let known = places
                .iter()
                .zip(values)
                .filter_map(|(x, value)| Some((x, up((*value)?))));
            let points: String = known.clone().map(|(x, y)| format!("{x},{y:.1} ")).collect();
            svg += &format!("<polyline class='line{at}' points='{points}'/>\n");
            for (x, y) in known {
                svg += &format!("<circle class='line{at}' cx='{x}' cy='{y:.1}' r='3.5'/>\n");
            }
            svg += &format!(
                "<circle class='line{at}' cx='{}' cy='48' r='4'/>\n",
                x + 4.0
            );
            svg += &text(x + 14.0, 52.5, "", name);
            // An estimate of the width of the letters.
            x += 34.0 + 6.6 * f64::from(u32::try_from(name.len()).unwrap_or(u32::MAX));
        }
        svg
    }
}

fn text(x: f64, y: f64, attributes: &str, text: &str) -> String {
    format!("<text x='{x}' y='{y}' {attributes}>{text}</text>\n")
}

/// Returns a round number. Four of them are at least `most`.
fn tick(most: f64) -> f64 {
    let power = 10_f64.powf((most / 4.0).log10().floor());
    [1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.5]
        .map(|round| round * power)
        .into_iter()
        .find(|tick| 4.0 * tick >= most)
        .unwrap_or(10.0 * power)
}

/// Formats a number with commas between thousands.
fn number(value: f64) -> String {
    if value.fract() != 0.0 {
        return format!("{value:.2}").trim_end_matches('0').to_owned();
    }
    let mut digits = format!("{value}");
    let mut at = digits.len();
    while at > 3 {
        at -= 3;
        digits.insert(at, ',');
    }
    digits
}

impl fmt::Display for Chart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.title, self.unit)?;
        let steps: String = self
            .steps
            .iter()
            .map(|step| format!("{step:>12}"))
            .collect();
        writeln!(f, "{:<44}{steps}", self.steps_are)?;
        for Line(name, values) in &self.lines {
            let value =
                |value: &Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1}"));
            let values: String = values
                .iter()
                .map(|known| format!("{:>12}", value(known)))
                .collect();
            writeln!(f, "{name:<44}{values}")?;
        }
        Ok(())
    }
}
