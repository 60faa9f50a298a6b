//! What the kernel has of our table.

use super::rule::{Base, Element, Key, Map};
use std::collections::{BTreeMap, BTreeSet};

/// A rule in the kernel, known by its handle and by the fingerprint in its comment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RuleRef {
    /// The kernel's handle; `None` for a rule that a change not carried out yet will make
    /// (see [`NftChange::resolve`](super::NftChange::resolve), which whoever carries out a change calls first).
    pub handle: Option<u64>,
    /// What its comment says; empty for a rule without one, which is not ours.
    pub fingerprint: String,
}

/// A chain in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedChain {
    /// Its hook, where it is one that we know.
    pub base: Option<Base>,
    /// Its rules, in order.
    pub rules: Vec<RuleRef>,
}

/// What the kernel has under the name of our table. The default is: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedTable {
    /// The table's comment, empty when it has none; `None` when there is no such table.
    pub comment: Option<String>,
    /// The maps of ours that there are.
    pub maps: BTreeSet<Map>,
    /// Its chains by name.
    pub chains: BTreeMap<String, ObservedChain>,
    elements: BTreeMap<(Map, Key), String>,
    by_chain: BTreeMap<String, BTreeSet<(Map, Key)>>,
}

impl ObservedTable {
    /// An element was read, or made. A verdict other than a jump is an empty chain name.
    pub fn set_element(&mut self, element: Element) {
        let Element { map, key, chain } = element;
        self.remove_element(map, &key);
        self.by_chain.entry(chain.clone()).or_default().insert((map, key.clone()));
        self.elements.insert((map, key), chain);
    }

    /// An element is gone.
    pub fn remove_element(&mut self, map: Map, key: &Key) {
        let at = (map, key.clone());
        let Some(chain) = self.elements.remove(&at) else { return };
        if let Some(keys) = self.by_chain.get_mut(&chain) {
            keys.remove(&at);
            if keys.is_empty() {
                self.by_chain.remove(&chain);
            }
        }
    }

    /// The chain that the element of that key jumps to.
    pub fn element(&self, map: Map, key: &Key) -> Option<&str> {
        self.elements.get(&(map, key.clone())).map(String::as_str)
    }

    /// All elements.
    pub fn elements(&self) -> impl Iterator<Item = Element> + '_ {
        self.elements.iter().map(|((map, key), chain)| Element { map: *map, key: key.clone(), chain: chain.clone() })
    }

    /// The elements that jump to that chain.
    pub fn elements_to(&self, chain: &str) -> impl Iterator<Item = &(Map, Key)> + '_ {
        self.by_chain.get(chain).into_iter().flatten()
    }
}
