//! Rules for text of every kind.

use super::Complaint;

/// Directories of one machine, which mean nothing on another. Split, since this file is checked too.
const MACHINE_PATHS: [&str; 3] = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/tmp/ba", "sh_jobs")];

/// No file mentions a directory of the machine that it was written on.
pub(crate) fn machine_paths(text: &str) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for path in MACHINE_PATHS {
            let starts_a_path = |at: usize| {
                let before = line[..at].chars().next_back();
                before.is_none_or(|char| !char.is_alphanumeric() && !"._-}~/".contains(char))
            };
            if line.match_indices(path).any(|(at, _)| starts_a_path(at)) {
                complaints.push(Complaint(index + 1, format!("mentions {path} of some machine")));
            }
        }
    }
    complaints
}

/// Links to files of the repository lead somewhere. `exists` answers for a path relative to the
/// file's own directory.
pub(crate) fn links(markdown: &str, exists: impl Fn(&str) -> bool) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let mut in_fence = false;
    for (index, line) in markdown.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_fence = !in_fence;
        }
        if in_fence {
            continue;
        }
        // Code spans are every second piece between backquotes; their content is no link.
        let prose: String =
            line.split('`').enumerate().map(|(piece, text)| if piece % 2 == 0 { text } else { "code" }).collect();
        for target in prose.split("](").skip(1).filter_map(|rest| rest.split_once(')')) {
            let target = target.0.split([' ', '#']).next().unwrap_or_default();
            let is_elsewhere = target.contains("://") || target.starts_with("mailto:");
            if !target.is_empty() && !is_elsewhere && !exists(target) {
                complaints.push(Complaint(index + 1, format!("link to {target}, which is not there")));
            }
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_machine_paths() {
        for path in MACHINE_PATHS {
            assert_eq!(machine_paths(&format!("ok\nsee {path}x")).len(), 1, "{path}");
            assert_eq!(machine_paths(&format!("\"{path}\"")).len(), 1, "{path}");
            assert!(machine_paths(&format!("a{path}")).is_empty(), "{path}");
        }
    }

    #[test]
    fn finds_broken_links() {
        let text = "[a](there.md) [b](gone.md#x \"t\")\n```\n[c](gone)\n```\n`[d](gone)` [e](#top) [f](https://x.org/)\n[`g`](gone.rs)";
        let complaints = links(text, |link| link == "there.md");
        let lines: Vec<usize> = complaints.iter().map(|complaint| complaint.0).collect();
        assert_eq!(lines, [1, 6]);
    }
}
