//! A table: aligned, a space of two between columns, cut where the terminal ends.

use super::{Ink, Screen, inert};

/// A column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    name: &'static str,
    right: bool,
}

impl Column {
    /// Of words.
    pub(crate) const fn left(name: &'static str) -> Column {
        Column { name, right: false }
    }

    /// Of numbers.
    pub(crate) const fn right(name: &'static str) -> Column {
        Column { name, right: true }
    }
}

/// Rows of cells. Cells are made inert on their way in.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<(String, Ink)>>,
}

const GAP: usize = 2;

impl Table {
    pub(crate) fn new<const N: usize>(columns: [Column; N]) -> Table {
        Table {
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.painted(cells.map(|cell| (cell, Ink::Plain)));
    }

    pub(crate) fn painted<const N: usize>(&mut self, cells: [(String, Ink); N]) {
        debug_assert_eq!(N, self.columns.len());
        self.rows
            .push(cells.map(|(text, ink)| (inert(&text), ink)).to_vec());
    }

    /// Prints it, its heading first.
    pub(crate) fn print(&self, screen: Screen) -> String {
        let width = |text: &str| text.chars().count();
        let widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(at, column)| {
                let cells = self.rows.iter().map(|row| width(&row[at].0));
                cells.chain([width(column.name)]).max().unwrap_or(0)
            })
            .collect();
        let heading = self
            .columns
            .iter()
            .map(|column| (column.name.to_owned(), Ink::Strong))
            .collect();
        let mut out = String::new();
        for row in std::iter::once(&heading).chain(&self.rows) {
            let mut line = String::new();
            let mut used = 0;
            for (at, (text, ink)) in row.iter().enumerate() {
                if at > 0 {
                    line.push_str(&" ".repeat(GAP));
                    used += GAP;
                }
                let room = screen
                    .width
                    .map_or(usize::MAX, |most| most.saturating_sub(used));
                if room == 0 {
                    break;
                }
                let text = clip(text, room);
                let fill = " ".repeat(widths[at].min(room).saturating_sub(width(&text)));
                used += width(&text) + fill.len();
                let painted = screen.paint(*ink, &text);
                line.push_str(&if self.columns[at].right {
                    fill + &painted
                } else {
                    painted + &fill
                });
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// Cuts a text to so many characters, and says so by `…`.
fn clip(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(most.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new([
            Column::left("NAME"),
            Column::right("TASKS"),
            Column::left("ABOUT"),
        ]);
        table.row(["batch".into(), "12".into(), "a rather long word\n".into()]);
        table.row(["x".into(), "-".into(), String::new()]);
        table
    }

    #[test]
    fn columns_are_aligned_and_cut_where_the_terminal_ends() {
        let mut screen = Screen {
            color: false,
            width: None,
        };
        assert_eq!(
            table().print(screen),
            "NAME   TASKS  ABOUT\nbatch     12  a rather long word\\n\nx          -\n"
        );
        screen.width = Some(20);
        assert_eq!(
            table().print(screen),
            "NAME   TASKS  ABOUT\nbatch     12  a rat…\nx          -\n"
        );
        for width in 0..40 {
            screen.width = Some(width);
            let widest = table()
                .print(screen)
                .lines()
                .map(|line| line.chars().count())
                .max();
            assert!(widest <= Some(width.max(1)), "{width}: {widest:?}");
        }
    }

    #[test]
    fn colours_do_not_move_columns() {
        let screen = Screen {
            color: true,
            width: None,
        };
        let mut table = Table::new([Column::left("A"), Column::left("B")]);
        table.painted([("bad".into(), Ink::Bad), ("x".into(), Ink::Plain)]);
        assert_eq!(
            table.print(screen),
            "\x1b[1mA\x1b[0m    \x1b[1mB\x1b[0m\n\x1b[31mbad\x1b[0m  x\n"
        );
    }
}
