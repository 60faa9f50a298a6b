//! What libvirt's clients keep with a network, part by part: how it is taken, kept, and given back.

use patchcord_core::ErrorKind;
use patchcord_core::model::{MetadataPart as Part, Network};
use patchcord_core::xml::{Mode, annotate, annotation, read_network, write_network};

const LAB: &str = "<network><name>lab</name><portgroup name='staff'/></network>";

fn lab() -> Network {
    read_network(LAB, Mode::Strict).expect("a network")
}

fn element(uri: &str) -> Part {
    Part::Element(uri.into())
}

/// The lines of its document between name and bridge.
fn kept(network: &Network) -> String {
    let document = write_network(network);
    let lines: Vec<&str> =
        document.lines().skip(2).take_while(|line| !line.contains("<bridge")).map(|line| &line[2..]).collect();
    lines.join("\n")
}

#[test]
fn texts_are_kept_as_given_and_empty_ones_not_at_all() {
    let titled = annotate(&lab(), &Part::Title, None, Some("Staff & guests")).expect("a title");
    let both = annotate(&titled, &Part::Description, None, Some(" two\r\n\tlines <here> ")).expect("a description");
    let document = "<title>Staff &amp; guests</title>\n<description> two&#13;\n\tlines &lt;here&gt; </description>";
    assert!(write_network(&both).contains(&document.replace("\n<desc", "\n  <desc")), "{}", write_network(&both));
    assert_eq!(annotation(&both, &Part::Description).as_deref(), Some(" two\r\n\tlines <here> "));
    assert_eq!(read_network(&write_network(&both), Mode::Strict), Ok(both.clone()));
    for nothing in [None, Some("")] {
        let bare = annotate(&both, &Part::Title, None, nothing).expect("no title");
        assert_eq!(annotation(&bare, &Part::Title), None);
        assert_eq!(annotate(&bare, &Part::Description, None, nothing), Ok(lab()));
    }
}

#[test]
fn elements_go_into_their_namespace_and_come_out_without_it() {
    let uri = element("urn:a");
    let cases = [
        // What is in no namespace gets the key's; what has one keeps it.
        ("<app/>", "<k:app xmlns:k=\"urn:a\"/>", "<app/>"),
        (
            "<app x='1'><item>&lt;1&gt;</item><o:item xmlns:o='urn:o' o:x='2'/></app>",
            "<k:app xmlns:k=\"urn:a\" x=\"1\"><k:item>&lt;1&gt;</k:item><o:item xmlns:o=\"urn:o\" o:x=\"2\"/></k:app>",
            "<app x=\"1\">\n  <item>&lt;1&gt;</item>\n  <o:item xmlns:o=\"urn:o\" o:x=\"2\"/>\n</app>",
        ),
        (
            "<app xmlns='urn:a'><item/></app>",
            "<app xmlns=\"urn:a\" xmlns:k=\"urn:a\"><item/></app>",
            "<app>\n  <item/>\n</app>",
        ),
        ("<z:app xmlns:z='urn:a'/>", "<z:app xmlns:z=\"urn:a\" xmlns:k=\"urn:a\"/>", "<app/>"),
        // An attribute's prefix is not taken away.
        (
            "<app xmlns:k='urn:a' k:x='1'/>",
            "<k:app xmlns:k=\"urn:a\" k:x=\"1\"/>",
            "<app xmlns:k=\"urn:a\" k:x=\"1\"/>",
        ),
        ("<?xml version='1.0'?><!-- it --><app>text</app>", "<k:app xmlns:k=\"urn:a\">text</k:app>", "<app>text</app>"),
    ];
    for (given, inside, back) in cases {
        let network = annotate(&lab(), &uri, Some("k"), Some(given)).unwrap_or_else(|e| panic!("{given}: {e}"));
        let lines: String = kept(&network).lines().map(str::trim).collect();
        assert_eq!(lines, format!("<metadata>{inside}</metadata>"), "{given}");
        assert_eq!(annotation(&network, &uri).as_deref(), Some(back), "{given}");
        assert_eq!(read_network(&write_network(&network), Mode::Strict), Ok(network.clone()), "{given}");
        // What was got can be set, and is the same again.
        let again = annotate(&network, &uri, Some("k"), annotation(&network, &uri).as_deref()).expect(given);
        assert_eq!(annotation(&again, &uri), annotation(&network, &uri), "{given}");
        assert_eq!(annotate(&network, &uri, None, None), Ok(lab()), "{given}");
    }
    // One element of each namespace, and a new one comes last.
    let first = annotate(&lab(), &uri, Some("a"), Some("<one/>")).expect("an element");
    let second = annotate(&first, &element("urn:b"), Some("b"), Some("<two/>")).expect("another");
    let third = annotate(&second, &uri, Some("a"), Some("<three/>")).expect("another for the first");
    let document = "<metadata>\n  <b:two xmlns:b=\"urn:b\"/>\n  <a:three xmlns:a=\"urn:a\"/>\n</metadata>";
    assert_eq!(kept(&third), document);
    assert_eq!(annotation(&third, &element("urn:c")), None);
}

#[test]
fn prefixes_declared_further_out_come_along() {
    let text = "<network xmlns:far='urn:far'><name>lab</name><metadata xmlns:m='urn:m' xmlns:n='urn:n'>\
        <m:app m:x='1' n:y='2'><far:item/><m:item/></m:app></metadata></network>";
    let network = read_network(text, Mode::Strict).expect("a network");
    let back = "<app xmlns:m=\"urn:m\" xmlns:n=\"urn:n\" m:x=\"1\" n:y=\"2\">\n  <far:item xmlns:far=\"urn:far\"/>\n  <item/>\n</app>";
    assert_eq!(annotation(&network, &element("urn:m")).as_deref(), Some(back));
}

#[test]
fn tags_are_the_element_of_our_own_namespace() {
    let ours = element("urn:patchcord:1");
    let given = "<tags><tag name='blue'/><portgroup name='staff'><tag name='red'/></portgroup></tags>";
    let network = annotate(&lab(), &ours, Some("pc"), Some(given)).expect("tags");
    assert_eq!(kept(&network), "<tag name='blue'/>");
    assert_eq!(network.portgroups[0].tags.len(), 1);
    let back = "<tags>\n  <tag name=\"blue\"/>\n  <portgroup name=\"staff\">\n    <tag name=\"red\"/>\n  </portgroup>\n</tags>";
    assert_eq!(annotation(&network, &ours).as_deref(), Some(back));
    assert_eq!(annotate(&network, &ours, None, None), Ok(lab()));
}

#[test]
fn what_cannot_be_kept_is_refused() {
    let deep = format!("{}x{}", "<a>".repeat(62), "</a>".repeat(62));
    let large = format!("<a>{}</a>", "x".repeat(1 << 20));
    let uri = element("urn:a");
    let cases = [
        (&Part::Title, None, "a\nb", "<title>: a title is one line"),
        (&Part::Title, None, "a\u{1}", "<title>: '\\u{1}' can't be in it"),
        (&Part::Description, None, "\0", "<description>: '\\0' can't be in it"),
        (&Part::Description, None, large.as_str(), "<metadata>: it can't be kept: the document has "),
        (&uri, None, "<a/>", "the key: an element needs one"),
        (&uri, Some("1"), "<a/>", "the key: '1' can't be"),
        (&uri, Some("a:b"), "<a/>", "the key: 'a:b' can't be"),
        (&uri, Some("xmlns"), "<a/>", "the key: 'xmlns' can't be"),
        (&uri, Some(""), "<a/>", "the key: '' can't be"),
        (&uri, Some("k"), "", "<metadata>: not well-formed XML"),
        (&uri, Some("k"), "text", "<metadata>: not well-formed XML"),
        (&uri, Some("k"), "<a/><b/>", "<metadata>: not well-formed XML"),
        (&uri, Some("k"), "<a", "<metadata>: not well-formed XML"),
        (&uri, Some("k"), "<!DOCTYPE a><a/>", "<metadata>: document types"),
        (&uri, Some("k"), deep.as_str(), "<metadata>: it can't be kept: elements are nested more than 64 deep"),
        (&uri, Some("k"), "<o:a xmlns:o='urn:o'/>", "the namespace: <o:a> is in namespace 'urn:o', not in 'urn:a'"),
        (&uri, Some("k"), "<a><k:b xmlns:k='urn:o'/></a>", "the key: 'k' stands for another namespace"),
        (&element(""), Some("k"), "<a/>", "the namespace: it is empty"),
    ];
    for (part, key, value, cause) in cases {
        let error = annotate(&lab(), part, key, Some(value)).map(drop).expect_err(cause);
        assert!(error.to_string().starts_with(&format!("network 'lab', {cause}")), "{error}");
        let expected = if cause.contains("<metadata>: not") || cause.contains("types") {
            ErrorKind::BadXml
        } else {
            ErrorKind::InvalidArgument
        };
        assert_eq!(error.kind, expected, "{error}");
    }
}
