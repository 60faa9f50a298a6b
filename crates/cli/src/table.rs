//! Tables for people.

use comfy_table::{Cell, ContentArrangement, Table, presets};

/// Columns under headings. What has no value is a dash.
pub(crate) fn table(headings: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings.iter().map(Cell::new));
    for row in rows {
        table.add_row(row.into_iter().map(|text| Cell::new(if text.is_empty() { "-".into() } else { clean(&text) })));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let text: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    text.join("\n") + "\n"
}

/// Text without control characters: some of it comes from guests.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Yes or no.
pub(crate) fn yes_no(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

/// A value that may be missing.
pub(crate) fn or_dash<T: ToString>(value: Option<&T>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_guests_cannot_move_the_cursor() {
        let rows = [
            vec!["lab".into(), "nat".into()],
            vec!["büro-netz".into(), String::new()],
            vec!["\u{1b}[2J".into(), "x".into()],
        ];
        insta::assert_snapshot!(table(&["NAME", "MODE"], rows), @r"
        NAME       MODE
        lab        nat
        büro-netz  -
        ?[2J       x
        ");
    }
}
