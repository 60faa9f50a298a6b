//! Documents of node devices: what is in those of libvirt's test files, as far as we print that.

use patchcord_core::model::PciAddress;
use patchcord_core::nodedev::{
    BridgeKind, Capability, Express, ExpressLink, IommuGroup, Net, NodeDevice, Pci, PciId, VirtualFunctions,
};
use roxmltree::{Document, Node};

fn child<'a>(node: Node<'a, 'a>, name: &str) -> Option<Node<'a, 'a>> {
    node.children().find(|child| child.has_tag_name(name))
}

fn text(node: Node<'_, '_>, name: &str) -> Option<String> {
    Some(child(node, name)?.text()?.trim().to_owned())
}

fn number<T: std::str::FromStr<Err = std::num::ParseIntError>>(text: &str) -> T {
    text.parse().expect("a number")
}

fn hexadecimal(text: &str) -> u32 {
    u32::from_str_radix(text.trim_start_matches("0x"), 16).expect("a number")
}

fn addresses(node: Node<'_, '_>) -> Vec<PciAddress> {
    let part = |node: Node<'_, '_>, name| hexadecimal(node.attribute(name).expect(name));
    let address = |node: Node<'_, '_>| PciAddress {
        domain: part(node, "domain") as u16,
        bus: part(node, "bus") as u8,
        slot: part(node, "slot") as u8,
        function: part(node, "function") as u8,
    };
    node.children().filter(|child| child.has_tag_name("address")).map(address).collect()
}

/// What is in a document of libvirt's, or that there is more in it than we print.
pub(crate) fn read(document: &str) -> Option<NodeDevice> {
    let document = Document::parse(document).expect("XML");
    let root = document.root_element();
    let capability = child(root, "capability")?;
    Some(NodeDevice {
        name: text(root, "name")?,
        path: text(root, "path"),
        parent: text(root, "parent"),
        driver: child(root, "driver").and_then(|driver| text(driver, "name")),
        capability: match capability.attribute("type")? {
            "net" => Capability::Net(net(capability)),
            "pci" => Capability::Pci(Box::new(pci(capability)?)),
            _ => return None,
        },
    })
}

fn net(node: Node<'_, '_>) -> Net {
    const KNOWN: [&str; 12] =
        ["rx", "tx", "sg", "tso", "gso", "gro", "rxvlan", "txvlan", "rxhash", "rdma", "txudptnl", "switchdev"];
    let features = node.children().filter_map(|child| child.attribute("name"));
    Net {
        interface: text(node, "interface").expect("an interface"),
        address: text(node, "address"),
        features: features.map(|name| *KNOWN.iter().find(|known| **known == name).expect("a feature")).collect(),
        wireless: child(node, "capability").and_then(|node| node.attribute("type")) == Some("80211"),
        ..Net::default()
    }
}

fn pci(node: Node<'_, '_>) -> Option<Pci> {
    let decimal = |name| number::<u32>(&text(node, name).expect(name));
    let id = |name| {
        let node = child(node, name).expect(name);
        let name = node.text().map(str::to_owned);
        PciId { id: hexadecimal(node.attribute("id").expect("an id")) as u16, name }
    };
    let capability = |kind| node.children().find(|child| child.attribute("type") == Some(kind));
    if capability("vpd").is_some() {
        return None;
    }
    let link = |express: Node<'_, '_>, validity| {
        let node = express.children().find(|child| child.attribute("validity") == Some(validity))?;
        let width = number(node.attribute("width").expect("a width"));
        Some(ExpressLink { speed: node.attribute("speed").map(str::to_owned), width })
    };
    Some(Pci {
        class: text(node, "class").map(|class| hexadecimal(&class)),
        address: PciAddress {
            domain: decimal("domain") as u16,
            bus: decimal("bus") as u8,
            slot: decimal("slot") as u8,
            function: decimal("function") as u8,
        },
        product: id("product"),
        vendor: id("vendor"),
        physical_function: capability("phys_function").map(|node| addresses(node)[0]),
        virtual_functions: capability("virt_functions").map(|node| VirtualFunctions {
            max: node.attribute("maxCount").map_or(0, number),
            addresses: addresses(node),
        }),
        bridge: capability("pci-bridge").map(|_| BridgeKind::Pci),
        iommu_group: child(node, "iommuGroup").map(|node| IommuGroup {
            number: number(node.attribute("number").expect("a number")),
            addresses: addresses(node),
        }),
        numa_node: child(node, "numa").map(|node| number(node.attribute("node").expect("a node"))),
        express: child(node, "pci-express")
            .map(|node| Express { capable: link(node, "cap"), status: link(node, "sta") }),
    })
}

/// A document without the ports of its links.
pub(crate) fn without_ports(document: &str) -> String {
    let mut parts = document.split(" port='");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| all + part.split_once('\'').map_or("", |(_, rest)| rest))
}
