//! Plain aligned columns for people: no borders, no colour, numbers to the right.

use unicode_width::UnicodeWidthStr;

/// Side a column is aligned to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(columns: &[(&'static str, Align)]) -> Self {
        Self {
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Missing cells are blank, surplus ones are dropped.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut cells: Vec<String> = cells.into_iter().take(self.columns.len()).collect();
        cells.resize(self.columns.len(), String::new());
        self.rows.push(cells);
    }

    /// Lines with the heading first; no trailing blanks.
    pub fn lines(&self) -> Vec<String> {
        let heading: Vec<String> = self.columns.iter().map(|c| c.0.to_owned()).collect();
        let all: Vec<&Vec<String>> = std::iter::once(&heading).chain(&self.rows).collect();
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|i| all.iter().map(|row| row[i].width()).max().unwrap_or(0))
            .collect();
        all.iter().map(|row| self.line(row, &widths)).collect()
    }

    fn line(&self, row: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for (i, cell) in row.iter().enumerate() {
            let blank = " ".repeat(widths[i] - cell.width());
            if i > 0 {
                line.push_str("  ");
            }
            match self.columns[i].1 {
                Align::Left => line.extend([cell.as_str(), &blank]),
                Align::Right => line.extend([blank.as_str(), cell]),
            }
        }
        line.truncate(line.trim_end().len());
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align() {
        let mut table = Table::new(&[("NODE", Align::Left), ("KEYS", Align::Right)]);
        table.row(["node-1".into(), "7".into()]);
        table.row(["n".into(), "12031".into()]);
        assert_eq!(
            table.lines(),
            ["NODE     KEYS", "node-1      7", "n       12031"]
        );
    }
}
