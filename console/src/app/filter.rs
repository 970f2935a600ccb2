//! The little language of `/`: a part of a word, `!` for "not", `~` for letters in order,
//! `column:` for one column only. Several words must all hold. Case does not matter.

/// A parsed filter; the empty one lets everything through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    terms: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    column: Option<String>,
    inverse: bool,
    fuzzy: bool,
    text: String,
}

impl Filter {
    pub fn parse(text: &str) -> Self {
        let terms = text.split_whitespace().map(Term::parse);
        Self {
            terms: terms.filter(|t| !t.text.is_empty()).collect(),
        }
    }

    /// `cells` are the row's texts with their column's name.
    pub fn matches(&self, cells: &[(&str, &str)]) -> bool {
        self.terms.iter().all(|t| t.matches(cells))
    }
}

impl Term {
    fn parse(word: &str) -> Self {
        let word = word.to_lowercase();
        let (inverse, rest) = match word.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, word.as_str()),
        };
        // An address has a colon as well: only letters before it name a column.
        let (column, rest) = match rest.split_once(':') {
            Some((c, text)) if !c.is_empty() && c.chars().all(|l| l.is_ascii_alphabetic()) => {
                (Some(c.to_owned()), text)
            }
            _ => (None, rest),
        };
        let (fuzzy, text) = match rest.strip_prefix('~') {
            Some(text) => (true, text),
            None => (false, rest),
        };
        Self {
            column,
            inverse,
            fuzzy,
            text: text.to_owned(),
        }
    }

    fn matches(&self, cells: &[(&str, &str)]) -> bool {
        let known = |c: &str| cells.iter().any(|(name, _)| name.starts_with(c));
        let (column, text) = match &self.column {
            Some(c) if known(c) => (Some(c.as_str()), self.text.clone()),
            // `localhost:8081` is not about a column.
            Some(c) => (None, format!("{c}:{}", self.text)),
            None => (None, self.text.clone()),
        };
        let hit = cells
            .iter()
            .filter(|(name, _)| column.is_none_or(|c| name.starts_with(c)))
            .any(|(_, cell)| {
                let cell = cell.to_lowercase();
                if self.fuzzy {
                    in_order(&text, &cell)
                } else {
                    cell.contains(&text)
                }
            });
        hit != self.inverse
    }
}

fn in_order(letters: &str, text: &str) -> bool {
    let mut rest = text.chars();
    letters.chars().all(|l| rest.any(|c| c == l))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_read_as_documented() {
        let row = [
            ("node", "node-12"),
            ("state", "dead"),
            ("zone", "eu-a"),
            ("address", "localhost:8081"),
        ];
        let cases = [
            ("", true),
            ("12", true),
            ("NODE", true),
            ("13", false),
            ("!13", true),
            ("!12", false),
            ("~n12", true),
            ("~21", false),
            ("state:dead", true),
            ("state:12", false),
            ("st:dead", true),
            ("!state:dead", false),
            ("zone:eu dead", true),
            ("zone:eu alive", false),
            ("localhost:8081", true),
            ("localhost:8082", false),
            ("state:", true),
            ("!", true),
        ];
        for (text, want) in cases {
            assert_eq!(Filter::parse(text).matches(&row), want, "{text:?}");
        }
    }
}
