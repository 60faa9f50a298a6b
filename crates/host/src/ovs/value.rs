//! OVSDB's values as JSON (RFC 7047, section 5.1), and rows read column by column.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use uuid::Uuid;

/// What of an answer can't be used, and why.
pub(super) type Problem = String;

/// A set.
pub(super) fn set<T: Into<Value>>(elements: impl IntoIterator<Item = T>) -> Value {
    let elements: Vec<Value> = elements.into_iter().map(Into::into).collect();
    json!(["set", elements])
}

/// A map from strings to strings.
pub(super) fn map<'a>(entries: impl IntoIterator<Item = (&'a String, &'a String)>) -> Value {
    let entries: Vec<Value> = entries.into_iter().map(|(key, value)| json!([key, value])).collect();
    json!(["map", entries])
}

/// A reference to a row that is there.
pub(super) fn row(id: Uuid) -> Value {
    json!(["uuid", id.to_string()])
}

/// A reference to a row that the same transaction inserts under that name.
pub(super) fn new_row(name: &str) -> Value {
    json!(["named-uuid", name])
}

/// The rows of `table` that a `select` gave as its result.
pub(super) fn rows<'a>(table: &'static str, result: &'a Value) -> Result<Vec<Row<'a>>, Problem> {
    let rows = result.get("rows").and_then(Value::as_array);
    let rows = rows.ok_or_else(|| format!("it was asked for rows of {table} and gave none"))?;
    let row = |row: &'a Value| {
        let columns = row.as_object().ok_or_else(|| format!("a row of {table} is no object"))?;
        Ok(Row { table, columns })
    };
    rows.iter().map(row).collect()
}

/// One row. Each method reads a column, and fails if its value is of another type.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    table: &'static str,
    columns: &'a Map<String, Value>,
}

impl<'a> Row<'a> {
    fn column<T>(&self, column: &str, read: impl FnOnce(&'a Value) -> Option<T>) -> Result<T, Problem> {
        let value = self.columns.get(column).and_then(read);
        value.ok_or_else(|| format!("column {column} of {} is missing or of another type", self.table))
    }

    /// The row's own id.
    pub(super) fn id(&self) -> Result<Uuid, Problem> {
        self.column("_uuid", as_row)
    }

    /// A string.
    pub(super) fn text(&self, column: &str) -> Result<&'a str, Problem> {
        self.column(column, Value::as_str)
    }

    /// An integer.
    pub(super) fn number(&self, column: &str) -> Result<i64, Problem> {
        self.column(column, Value::as_i64)
    }

    /// A string, or none.
    pub(super) fn optional_text(&self, column: &str) -> Result<Option<&'a str>, Problem> {
        self.column(column, |value| optional(value, Value::as_str))
    }

    /// An integer, or none.
    pub(super) fn optional_number(&self, column: &str) -> Result<Option<i64>, Problem> {
        self.column(column, |value| optional(value, Value::as_i64))
    }

    /// A set of integers.
    pub(super) fn numbers(&self, column: &str) -> Result<Vec<i64>, Problem> {
        self.column(column, |value| elements(value).iter().map(Value::as_i64).collect())
    }

    /// A set of references.
    pub(super) fn rows(&self, column: &str) -> Result<Vec<Uuid>, Problem> {
        self.column(column, |value| elements(value).iter().map(as_row).collect())
    }

    /// A map from strings to strings.
    pub(super) fn map(&self, column: &str) -> Result<BTreeMap<String, String>, Problem> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        self.column(column, |value| entries(value, text, text))
    }

    /// A map from integers to references.
    pub(super) fn row_map(&self, column: &str) -> Result<BTreeMap<i64, Uuid>, Problem> {
        self.column(column, |value| entries(value, Value::as_i64, as_row))
    }
}

/// The elements of a set, which is written without its brackets if it has one.
pub(super) fn elements(value: &Value) -> &[Value] {
    match value.as_array().map(Vec::as_slice) {
        Some([kind, Value::Array(elements)]) if kind == "set" => elements,
        _ => std::slice::from_ref(value),
    }
}

fn optional<'a, T>(value: &'a Value, read: impl FnOnce(&'a Value) -> Option<T>) -> Option<Option<T>> {
    match elements(value) {
        [] => Some(None),
        [one] => read(one).map(Some),
        _ => None,
    }
}

fn entries<K: Ord, V>(
    value: &Value,
    key: impl Fn(&Value) -> Option<K>,
    item: impl Fn(&Value) -> Option<V>,
) -> Option<BTreeMap<K, V>> {
    let [kind, Value::Array(entries)] = value.as_array()?.as_slice() else { return None };
    if kind != "map" {
        return None;
    }
    let entry = |entry: &Value| match entry.as_array()?.as_slice() {
        [k, v] => Some((key(k)?, item(v)?)),
        _ => None,
    };
    entries.iter().map(entry).collect()
}

/// A reference to a row.
pub(super) fn as_row(value: &Value) -> Option<Uuid> {
    match value.as_array()?.as_slice() {
        [kind, id] if kind == "uuid" => Uuid::try_parse(id.as_str()?).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_read_as_the_rfc_writes_them_and_in_no_other_way() {
        let id = "6cd6ee4f-4e64-4b4e-9e6f-9d2c1a2b3c4d";
        let result = json!({"rows": [{
            "_uuid": ["uuid", id], "name": "pct0", "error": ["set", []], "tag": 5, "trunks": ["set", [1, 2]],
            "interfaces": ["uuid", id], "external_ids": ["map", [["a", "b"]]], "queues": ["map", [[0, ["uuid", id]]]],
            "two": ["set", [1, 2]], "odd": ["map", [["a"]]], "half": ["uuid", "6cd6"]
        }]});
        let row = rows("Port", &result).unwrap()[0];
        let id: Uuid = id.parse().unwrap();
        assert_eq!(row.id(), Ok(id));
        assert_eq!(row.text("name"), Ok("pct0"));
        assert_eq!(row.optional_text("name"), Ok(Some("pct0")));
        assert_eq!(row.optional_text("error"), Ok(None));
        assert_eq!(row.optional_number("tag"), Ok(Some(5)));
        assert_eq!((row.numbers("trunks"), row.numbers("tag")), (Ok(vec![1, 2]), Ok(vec![5])));
        assert_eq!(row.rows("interfaces"), Ok(vec![id]));
        assert_eq!(row.map("external_ids").unwrap()["a"], "b");
        assert_eq!(row.row_map("queues").unwrap()[&0], id);
        let wrong = |column: &str| Some(format!("column {column} of Port is missing or of another type"));
        assert_eq!(row.optional_number("two").err(), wrong("two"));
        assert_eq!(row.number("name").err(), wrong("name"));
        assert_eq!(row.text("absent").err(), wrong("absent"));
        assert_eq!(row.map("odd").err(), wrong("odd"));
        assert_eq!(row.map("name").err(), wrong("name"));
        assert_eq!(row.rows("half").err(), wrong("half"));
        assert!(rows("Port", &json!({"count": 1})).is_err());
        assert!(rows("Port", &json!({"rows": [7]})).is_err());
    }
}
